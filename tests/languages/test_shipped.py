"""The languages that come with keylm, and folders that lack parts: data alone make a language."""

import shutil
from pathlib import Path

import pytest

from keylm.base.errors import KeylmError
from keylm.keyboard.edit_model import EditModel
from keylm.keyboard.lexicon import read_words
from keylm.languages.about import about_language
from keylm.languages.language import ENGLISH, SHIPPED, language_of, load_language, missing
from keylm.page.language import language_table
from keylm.recipe.schema import Typos
from keylm.typos.model import TypoModel
from keylm.typos.words import alphabet_of

CODES = sorted(path.parent.name for path in SHIPPED.glob("*/words.toml"))
OTHERS = [code for code in CODES if code != "en"]
TEXTS = {
    "de": "Über die Straße gehen schöne Häuser, größere Bäume und kleine Gärten, sagte der müde Bürgermeister heute. ",
    "fr": "L'été dernier, l'élève a découvert où étaient cachées les œuvres que le maître avait données à sa sœur. ",
    "es": "El niño pequeño comió también una manzana y después pidió más agua fría porque tenía muchísima sed aquí. ",
    "pl": "Żółty kot siedział na płocie i patrzył, jak dzieci biegną przez łąkę, śmiejąc się głośno z każdej książki. ",
    "el": "Ο άνθρωπος είπε ότι η θάλασσα είναι όμορφη και ότι οι φίλοι του έρχονται κάθε χρόνο στο μικρό νησί. ",
}


def test_six_languages_come_with_keylm():
    assert CODES == ["de", "el", "en", "es", "fr", "pl"]
    assert set(TEXTS) == set(OTHERS)


@pytest.mark.parametrize("code", CODES)
def test_a_shipped_language_is_whole_and_its_licences_are_known(code: str):
    language, about = language_of(code), about_language(SHIPPED / code)
    assert language.code == code
    assert len(about.name) > 3
    files = {path.name for path in (SHIPPED / code).iterdir()} - {"about.toml"}
    named = {name for origin in about.origins for name in origin.file.split(", ")}
    assert files == named
    assert all(origin.licence and origin.source for origin in about.origins)
    lacking = [sentence.split(": ")[1] for sentence in missing(SHIPPED / code)]
    assert lacking == {"en": ["no typo_words.jsonl", "no words.tsv.zst"], "el": ["no typo_words.jsonl"]}.get(code, [])


@pytest.mark.parametrize("code", OTHERS)
def test_the_word_list_has_words_of_the_language(code: str):
    language = language_of(code)
    assert language.word_list is not None
    words = dict(read_words(Path(language.word_list.path)))
    assert len(words) > 40_000
    assert all(map(language.words.whole.fullmatch, words))
    assert sum(any(letter in language.layout.held for letter in word.lower()) for word in words) > 1_000


def test_german_nouns_have_their_capital_in_the_word_list():
    german = language_of("de")
    assert german.word_list is not None
    words = dict(read_words(Path(german.word_list.path)))
    assert {"Straße", "Haus", "über", "schön"} <= set(words)
    assert "straße" not in words


@pytest.mark.parametrize("code", OTHERS)
def test_noise_mistypes_the_languages_own_letters_and_keeps_the_rest(code: str):
    """The reconstruction is exact, letters beyond ASCII are struck and written, capitals stay."""
    language, text = language_of(code), TEXTS[code] * 30
    model = TypoModel(Typos(), language)
    noisy = model.corrupt(text, 1, 2, 3, 0.3)
    restored, at = "", 0
    for edit in noisy.edits:
        restored += noisy.text[at : edit.start] + text[edit.clean_start : edit.clean_end]
        at = edit.end
        assert noisy.text[edit.start : edit.end] != text[edit.clean_start : edit.clean_end]
    assert restored + noisy.text[at:] == text
    assert len(noisy.edits) > 0.2 * len(text.split())
    beyond = [edit for edit in noisy.edits if not text[edit.clean_start : edit.clean_end].isascii()]
    assert len(beyond) > 20
    letters = {letter for letter in noisy.text.lower() if letter.isalpha()}
    assert letters <= set(language.words.letters)


@pytest.mark.parametrize("code", CODES)
def test_an_alphabet_has_a_code_for_each_letter_and_each_capital(code: str):
    words = language_of(code).words
    alphabet = alphabet_of(words)
    codes = [int(alphabet.narrow[ord(letter)]) for letter in words.letters + "".join(dict.fromkeys(words.capitals))]
    assert len(set(codes)) == len(codes)
    assert all(0 < code < 128 and chr(code) not in "'`\"([)].,;:!? \t\r\n" for code in codes)
    assert [alphabet.text[code] for code in codes] == [*words.letters, *dict.fromkeys(words.capitals)]


def test_final_sigma_and_sharp_s_have_no_capital_of_their_own():
    greek, german = alphabet_of(language_of("el").words), alphabet_of(language_of("de").words)
    assert greek.text[greek.capital[greek.code["σ"]]] == "Σ"
    assert greek.text[greek.capital[greek.code["ς"]]] == "ς"
    assert german.text[german.capital[german.code["ß"]]] == "ß"


def test_a_layout_of_its_own_is_chosen_by_name():
    german, other = language_of("de"), language_of("de/german")
    assert (german.layout.key_of["ü"], other.layout.key_of["ü"]) == ("u", "ü")
    assert german.digest != other.digest
    assert EditModel(german).log_probability("uber", "über") > EditModel(other).log_probability("uber", "über")
    with pytest.raises(KeylmError, match=r"no layout 'dvorak'; accepted: german"):
        language_of("de/dvorak")
    with pytest.raises(KeylmError, match=r"language 'xx'; accepted: de, el, en"):
        language_of("xx")


def test_keys_that_should_be_held_are_often_tapped_whatever_their_number():
    edits = EditModel(language_of("pl"))
    assert edits.log_probability("zolty", "żółty") > edits.log_probability("żóltu", "żółty")
    assert edits.log_probability("zolty", "zolty") > edits.log_probability("żółty", "żółty")
    assert edits.log_probability("żolry", "żółty") < edits.log_probability("żolty", "żółty")


def test_a_language_without_files_borrows_and_says_what_it_lacks(tmp_path: Path):
    folder = tmp_path / "xx"
    folder.mkdir()
    shutil.copyfile(SHIPPED / "de" / "words.toml", folder / "words.toml")
    bare = load_language(folder)
    said = missing(folder)
    assert [sentence.split(": ")[1] for sentence in said] == [
        *("no layout.toml", "no confusions.toml", "no contractions.toml", "no typo_words.jsonl", "no words.tsv.zst"),
        *("no about.toml", "no typo_rates.json"),
    ]
    assert "errors are as frequent as in" in said[-1]
    assert bare.layout.key_of["ü"] == "u"
    assert (bare.confusions, bare.endings, bare.word_list) == ({}, (), None)
    noisy = TypoModel(Typos(), bare).corrupt(TEXTS["de"] * 20, 1, 1, 1, 0.2)
    assert len(noisy.edits) > 20
    assert language_table(bare)["words"]["letter"] == language_table(language_of("de"))["words"]["letter"]
    (folder / "words.toml").unlink()
    with pytest.raises(KeylmError, match=r"words\.toml"):
        load_language(folder)


def test_a_language_without_figures_takes_those_of_the_nearest_layout(tmp_path: Path):
    folder = Path(shutil.copytree(SHIPPED / "fr", tmp_path / "oc"))
    (folder / "typo_rates.json").unlink()
    shutil.copyfile(SHIPPED / "pl" / "layout.toml", folder / "layout.toml")
    words = (folder / "words.toml").read_text(encoding="utf-8")
    polish = (SHIPPED / "pl" / "words.toml").read_text(encoding="utf-8")
    (folder / "words.toml").write_text(polish, encoding="utf-8")
    shutil.copyfile(SHIPPED / "pl" / "confusions.toml", folder / "confusions.toml")
    (folder / "typo_words.jsonl").unlink()
    assert words != polish
    found = load_language(folder)
    assert found.typo_rates.about.startswith("borrowed from 'pl'")
    assert found.typo_rates.hazards == language_of("pl").typo_rates.hazards
    assert found.typo_rates.endings == {}


def test_english_is_what_it_was():
    """Whoever changes these has everyone's typo sources built, and typing measured, again."""
    assert ENGLISH.digest == "ad022996a2da46ca9a39939f376ab3b6a5467e34fb77c54e93d6cbad6a9ac287"
    assert ENGLISH.noise_digest == "803027eae990a14031935f46fb2157a9506262d688a3130f4de1629ddfe1d12c"
    assert language_of("en") is ENGLISH
