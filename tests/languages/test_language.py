"""A language's folder: one place for the layout, read whole or rejected."""

import random
import shutil
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from keylm.base.errors import KeylmError
from keylm.evaluation.touch import Typist
from keylm.evaluation.typing import typing_fingerprint
from keylm.keyboard.edit_model import EditModel
from keylm.languages.language import ENGLISH, SHIPPED, DataFile, Language, confusion_table, load_language
from keylm.page.language import language_table
from keylm.recipe.schema import Typos
from keylm.typos.model import TypoModel

FOLDER = Path(__file__).parents[2] / "src" / "keylm" / "languages" / "en"
TEXT = "She said that a quick answer was quite likely to please half of the people at the table. " * 20


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "en"))


def rewrite(folder: Path, name: str, old: str, new: str) -> Language:
    """Load a language after one change to one of its files."""
    file = folder / name
    assert old in file.read_text(encoding="utf-8")
    file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return load_language(folder)


def test_a_copy_is_the_same_language(copy: Path):
    found = load_language(copy)
    assert found.digest == ENGLISH.digest
    assert TypoModel(Typos(), found).fingerprint() == TypoModel(Typos()).fingerprint()
    assert language_table(found) == language_table()


def test_two_keys_exchanged_in_the_layouts_file_change_everything_that_types(copy: Path):
    swapped = rewrite(copy, "layout.toml", 'keys = "qwertyuiop"', 'keys = "pwertyuioq"')
    ours, theirs = TypoModel(Typos()), TypoModel(Typos(), swapped)
    noise = [[model.corrupt(TEXT, 1, number, 0, 0.3).text for number in range(20)] for model in (ours, theirs)]
    assert noise[0] != noise[1]
    assert ours.fingerprint() != theirs.fingerprint()
    assert Typist(1, 2.0).type(TEXT) != Typist(1, 2.0, swapped).type(TEXT)
    ours, theirs = EditModel(), EditModel(swapped)
    assert theirs.log_probability("wery", "pery") > ours.log_probability("wery", "pery")  # p lies beside w now
    assert theirs.log_probability("lart", "part") < ours.log_probability("lart", "part")
    assert language_table(swapped)["layout"]["rows"][0] == "pwertyuioq"
    assert language_table(swapped)["mistakes"]["neighbours"]["w"] == "aeps"


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the paths of all fields of a dataclass that are no dataclasses themselves."""
    if not is_dataclass(value):
        return [path]
    return [leaf for field in fields(value) for leaf in leaves(getattr(value, field.name), (*path, field.name))]


def altered(value: Any) -> Any:
    """Return a value of the same type that differs in one place."""
    if isinstance(value, str):
        return value[::-1] if value != value[::-1] else value + "x"
    if isinstance(value, int | float):
        return value + 1
    if value is None:
        return DataFile(str(SHIPPED / "de" / "typo_words.jsonl"), "0" * 64)
    if isinstance(value, tuple):
        return (altered(value[0]), *value[1:]) if value else ("l'",)
    if isinstance(value, dict):
        if not value:
            return {"e": "x"}
        key = next(iter(value))
        return {**value, key: altered(value[key])}
    assert is_dataclass(value)
    field = fields(value)[0].name
    return replace(value, **{field: altered(getattr(value, field))})


def with_altered(value: Any, path: tuple[str, ...]) -> Any:
    if not path:
        return altered(value)
    return replace(value, **{path[0]: with_altered(getattr(value, path[0]), path[1:])})


@pytest.mark.parametrize("path", leaves(ENGLISH), ids=".".join)
def test_every_table_is_in_the_digest(path: tuple[str, ...]):
    assert with_altered(ENGLISH, path).digest != ENGLISH.digest


@pytest.mark.parametrize("path", leaves(ENGLISH), ids=".".join)
def test_what_only_the_keyboard_reads_is_not_in_the_noise(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    """A contraction more must not make anyone build data again; it does make another evaluation of typing."""
    other = with_altered(ENGLISH, path)
    noise, typing = TypoModel(Typos()).fingerprint(), typing_fingerprint()
    is_keyboards = path[0] in ("contractions", "prose", "word_list")
    assert (TypoModel(Typos(), other).fingerprint() == noise) == is_keyboards
    monkeypatch.setattr("keylm.evaluation.typing.ENGLISH", other)
    assert typing_fingerprint() != typing


def test_data_built_so_far_keep_their_noise():
    """Whoever changes what decides the noise changes this, and has everyone's typo sources built again."""
    assert TypoModel(Typos()).fingerprint() == "424a37c1bfa6c82d083c648c54983c03c417747528c4374082ef9f84aa70e9f7"


def test_the_order_of_a_table_is_in_the_digest():
    hazards = ENGLISH.typo_rates.hazards
    names = list(hazards)
    random.Random(0).shuffle(names)
    shuffled = replace(ENGLISH.typo_rates, hazards={name: hazards[name] for name in names})
    assert replace(ENGLISH, typo_rates=shuffled).digest != ENGLISH.digest


def test_no_word_is_confused_with_itself_and_each_other_word_comes_once():
    assert all(word not in others for word, others in ENGLISH.confusions.items())
    assert all(len(set(others)) == len(others) for others in ENGLISH.confusions.values())
    assert confusion_table([["a", "b", "c"], ["b", "a"]]) == {"a": ("b", "c"), "b": ("a", "c"), "c": ("a", "b")}


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("layout.toml", 'keys = "asdfghjkl"', 'keys = "asdfghjk"', "rows with the keys"),
        ("layout.toml", "key_width = 32", "key_width = 'wide'", "key_width"),
        ("layout.toml", "key_height = 72", "key_size = 72", "key_size"),
        ("words.toml", "xyz", "xyzé", "accepted: each of 'abcdefghijklmnopqrstuvwxyzé' once"),
        ("words.toml", "xyz", "xyzZ", "letters .* accepted: small letters, each once"),
        ("words.toml", "xyz", "xyzz", "letters .* accepted: small letters, each once"),
        ("words.toml", 'vowels = "aeiouy"', 'vowels = "aeiouyå"', "vowels"),
        ("confusions.toml", "endings = [", "suffixes = [", "suffixes"),
        ("confusions.toml", '"ing"', '"ings"', r"endings \['ings'\]; accepted: of 3 letters at most"),
        ("confusions.toml", "hole/whole", "hole/whöle", r"confusions of \['whöle'\]; accepted: words of the letters"),
        ("contractions.toml", '"ain\'t"', '"aint"', r"contractions \['aint'\]; accepted: words with an apostrophe"),
        ("contractions.toml", 'negation = "[a-z]+', 'negation = "[a-z+', "pattern .* accepted: a regular expression"),
        ("prose.toml", "fence =", "fences =", "fences"),
        ("channel.toml", "taps = 0.3", "taps =", "accepted: the files and fields of languages/en"),
    ],
)
def test_a_folder_that_is_no_language_is_rejected(copy: Path, name: str, old: str, new: str, message: str):
    with pytest.raises(KeylmError, match=message):
        rewrite(copy, name, old, new)


def test_a_missing_file_is_named(copy: Path):
    (copy / "words.toml").unlink()
    with pytest.raises(KeylmError, match=r"words\.toml.*accepted"):
        load_language(copy)
