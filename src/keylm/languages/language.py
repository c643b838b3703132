"""A language as one typed object, read from its folder: layout, words, confusions, error rates, typing channel.

Invariant: everything that is specific to a language or its keyboard, in Python and in the page, comes from this object;
`digest` covers all of it, `noise_digest` what the typo engine reads. Another language is another folder of data; one
that lacks a file borrows or does without (defaults.py says what), and `missing` names it.

    languages/en/layout.toml       rows of keys, letters of held keys, sizes, the spread of taps, the page's other keys
    languages/en/words.toml        letters, vowels, apostrophes, clitics
    languages/en/confusions.toml   words taken for one another, spellings of one sound, endings
    languages/en/channel.toml      what the corrector assumes about typists
    languages/en/contractions.toml words typed without their apostrophe, negations
    languages/en/prose.toml        where a typed word is prose, and where an address or code
    languages/en/typo_rates.json   rates fitted to real errors (tools/corpus/fit_typos.py)
    languages/en/about.toml        name, licences, what curation calls the language (about.py)
    languages/de/layout_NAME.toml  further layouts
    languages/de/words.tsv.zst     words with their frequencies, for corrections; English takes symspellpy's dictionary
    languages/de/typo_words.jsonl  known misspellings, which the typo engine uses beside the rates
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from keylm.base.errors import KeylmError
from keylm.base.files import sha256_file
from keylm.base.shapes import explain
from keylm.languages import defaults
from keylm.languages.layout import Layout
from keylm.languages.words import Words

_STRICT = ConfigDict(extra="forbid")
_KEYBOARDS = ("contractions", "prose", "word_list")
LONGEST_ENDING = 3
"""Letters of an ending, at most: the typo engine looks no further back."""
SHIPPED = Path(str(files("keylm.languages")))
"""The folder of the languages that come with keylm."""


@dataclass(frozen=True, eq=False, config=_STRICT)
class TypoRates:
    """Rates fitted to real errors. Pairs are written "clean>noisy"; docs/typos.md has the kinds of error."""

    about: str
    hazards: dict[str, tuple[float, ...]]
    """Kind: share of candidate tokens of length 1, 2, … that get such an error; longer ones share the last."""
    positions: dict[str, tuple[float, ...]]
    """Kind of slip at one letter: shares of the classes of places in a word."""
    inserted_nearby: float
    """Share of inserted letters that are copies of ones nearby."""
    inserted: dict[str, int]
    """Letter: how often it was inserted otherwise; in the tables below, how often each pair was counted."""
    vowels: dict[str, int]
    neighbours: dict[str, int]
    substitutions: dict[str, int]
    confusions: dict[str, int]
    endings: dict[str, int]
    rules: dict[str, int]
    """Of the spellings of one sound."""


@dataclass(frozen=True, config=_STRICT)
class Channel:
    """What the corrector assumes about typists; channel.toml explains each."""

    mistyped: float
    taps: float
    one_of_few: float
    one_slip: float
    unheld: float = 0.1
    """Share of words with letters of held keys, such as accents, that are typed by tapping keys instead: an
    assumption."""


@dataclass(frozen=True, eq=False, config=_STRICT)
class Contractions:
    """Words with an apostrophe that are typed without it, and those that negate; contractions.toml explains each."""

    apostrophes: str
    certain: tuple[str, ...]
    also_words: tuple[str, ...]
    omitted: float
    negation: str
    negation_by_ear: str
    negation_mistyped: str


@dataclass(frozen=True, eq=False, config=_STRICT)
class Prose:
    """Which typed words are prose, as patterns that are valid in Python and in JavaScript; prose.toml explains each."""

    token: str
    not_prose: tuple[str, ...]
    fence: str
    code_mark: str
    continued: str


@dataclass(frozen=True, config=_STRICT)
class DataFile:
    """A file beside the tables that is read where it is used; its content is part of the language, its place is not."""

    path: str
    sha256: str


@dataclass(frozen=True, eq=False, config=_STRICT)
class Language:
    """A language and its keyboard."""

    code: str
    layout: Layout
    words: Words
    confusions: dict[str, tuple[str, ...]]
    """Lower-case word: the words written for it by mistake, each once, never itself, in a fixed order."""
    spellings: tuple[tuple[str, str], ...]
    """(letters of the clean word, letters of the noisy word), anywhere in a word but at its first letter."""
    endings: tuple[str, ...]
    """Endings that are exchanged when the wrong form of a word is written."""
    channel: Channel
    typo_rates: TypoRates
    contractions: Contractions
    prose: Prose
    word_list: DataFile | None = None
    typo_words: DataFile | None = None

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of everything that this object holds, the order of its tables included."""
        return _digest(_plain(self))

    @cached_property
    def noise_digest(self) -> str:
        """The same without the tables that only the keyboard reads: they change no text that is trained on."""
        return _digest({name: table for name, table in _plain(self).items() if name not in _KEYBOARDS})


def load_language(folder: Path, layout: str = "") -> Language:
    """Read a language's folder; `layout`: the NAME of layout_NAME.toml where it is not layout.toml.

    Raises KeylmError where words.toml is missing, or a file has other fields or letters.
    """
    name = f"layout_{layout}.toml" if layout else "layout.toml"
    try:
        if layout and not (folder / name).is_file():
            found = [path.stem.removeprefix("layout_") for path in sorted(folder.glob("layout_*.toml"))]
            raise KeylmError(f"{folder}: no layout {layout!r}; accepted: {', '.join(found) or 'none but the default'}")
        words = TypeAdapter(Words).validate_python(tomllib.loads(_text(folder, "words.toml")))
        tables = {
            "words": words,
            "layout": _table(folder, name) or _borrowed_layout(words),
            "channel": _table(folder, "channel.toml") or _table(SHIPPED / "en", "channel.toml"),
            "contractions": _table(folder, "contractions.toml") or defaults.no_contractions(words),
            "prose": defaults.prose(_table(folder, "prose.toml") or _table(SHIPPED / "en", "prose.toml"), words),
        }
        mistakes = _table(folder, "confusions.toml") or {"sets": "", "spellings": "", "endings": []}
        fields = {
            **tables,
            "code": folder.name,
            "confusions": confusion_table([words.split("/") for words in mistakes.pop("sets").split()]),
            "spellings": [rule.split(">") for rule in mistakes.pop("spellings").split()],
            "typo_rates": _rates(folder, TypeAdapter(Layout).validate_python(tables["layout"]), words),
            "word_list": _data_file(folder / "words.tsv.zst"),
            "typo_words": _data_file(folder / "typo_words.jsonl"),
        }
        language = TypeAdapter(Language).validate_python(fields | mistakes)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        what = "; ".join(map(explain, error.errors())) if isinstance(error, ValidationError) else error
        raise KeylmError(f"{folder}: no language: {what}; accepted: the files and fields of languages/en") from None
    _check(folder, language)
    return language


@lru_cache(maxsize=16)
def language_of(name: str) -> Language:
    """Return a language that comes with keylm, by its code, or code/layout. Raises KeylmError for another name."""
    code, _, layout = name.partition("/")
    codes = [path.parent.name for path in sorted(SHIPPED.glob("*/words.toml"))]
    if code not in codes:
        raise KeylmError(
            f"language {name!r}; accepted: {', '.join(codes)}, or one of these with its layout (de/german)"
        )
    return ENGLISH if name == ENGLISH.code else load_language(SHIPPED / code, layout)


def missing(folder: Path) -> list[str]:
    """Return what a language's folder lacks, each as a sentence that says what is done instead."""
    found = [f"{folder}: no {name}: {instead}" for name, instead in _WITHOUT.items() if not (folder / name).is_file()]
    if not (folder / "typo_rates.json").is_file():
        language = load_language(folder)
        code, shared = _nearest(language.layout)
        found.append(
            f"{folder}: no typo_rates.json: errors are as frequent as in {code!r}, the nearest layout with figures "
            f"({shared} of {len(language.layout.key_of)} letters in the same place)"
        )
    return found


_WITHOUT = {
    "layout.toml": "the layout with most of its letters is taken, other letters are typed by holding a key",
    "confusions.toml": "no words, spellings and endings are confused",
    "contractions.toml": "no apostrophes are added, and no negations protected from corrections",
    "typo_words.jsonl": "no known misspellings are used",
    "words.tsv.zst": "`keylm serve` corrects nothing",
    "about.toml": "licences are unknown, and curation takes the code for the language's name",
}
"""File: what is done without it. channel.toml and prose.toml are assumptions, not data: by default en's."""


def _rates(folder: Path, layout: Layout, words: Words) -> Any:
    """Return the figures of a folder, or of the nearest layout's language without what concerns its words alone."""
    if (folder / "typo_rates.json").is_file():
        return json.loads(_text(folder, "typo_rates.json"))
    code, _ = _nearest(layout)
    return defaults.without_words(json.loads(_text(SHIPPED / code, "typo_rates.json")), code, words)


def _nearest(layout: Layout) -> tuple[str, int]:
    """Return the shipped language with figures that has most letters in the same place, and how many."""
    codes = [path.parent.name for path in sorted(SHIPPED.glob("*/typo_rates.json"))]
    adapter, here = TypeAdapter(Layout), layout.places()
    there = {code: adapter.validate_python(_table(SHIPPED / code, "layout.toml")).places() for code in codes}
    shared = {code: sum(here.get(letter) == place for letter, place in there[code].items()) for code in codes}
    best = max(codes, key=lambda code: (shared[code], code == "en"))
    return best, shared[best]


def _borrowed_layout(words: Words) -> Any:
    """Return the shipped layout with most of a language's letters, the others held. Raises KeylmError."""
    tables = [_table(path, "layout.toml") for path in sorted(SHIPPED.iterdir()) if (path / "layout.toml").is_file()]
    return defaults.with_letters(tables, words)


def confusion_table(sets: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return for each word the others of its sets, each once, in the order of the sets."""
    table: dict[str, tuple[str, ...]] = {}
    for words in sets:
        for word in words:
            known = table.get(word, ())
            table[word] = known + tuple(other for other in words if other != word and other not in known)
    return table


def _plain(value: Any) -> Any:
    """Return a dataclass as tables, without files' places and fields at their default.

    The latter so that a language keeps its digest when languages can say more.
    """
    if isinstance(value, DataFile):
        return value.sha256
    if is_dataclass(value):
        return {
            one.name: _plain(found) for one in fields(value) if not _is_default(one, found := getattr(value, one.name))
        }
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _is_default(field: Any, value: Any) -> bool:
    if field.default_factory is not MISSING:
        return bool(field.default_factory() == value)
    return field.default is not MISSING and bool(field.default == value)


def _digest(tables: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tables).encode()).hexdigest()


def _text(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


def _table(folder: Path, name: str) -> dict[str, Any]:
    """Return a table's file, empty where there is none."""
    return tomllib.loads(_text(folder, name)) if (folder / name).is_file() else {}


def _data_file(path: Path) -> DataFile | None:
    return DataFile(str(path), sha256_file(path)) if path.is_file() else None


def _check(folder: Path, language: Language) -> None:
    words, layout = language.words, language.layout
    letters = words.letters
    if letters != letters.lower() or len(set(letters)) < len(letters) or not letters.isalpha():
        raise KeylmError(f"{folder}: letters {letters!r}; accepted: small letters, each once")
    keys = "".join(row.keys for row in layout.rows)
    if len(set(keys)) < len(keys) or set(letters) != set(layout.key_of) or not set(layout.long_press) <= set(keys):
        raise KeylmError(
            f"{folder}: rows with the keys {keys!r} and held {layout.long_press}; accepted: each of {letters!r} once"
        )
    table, prose = language.contractions, language.prose
    if bare := [word for word in (*table.certain, *table.also_words, *words.clitics) if words.apostrophe not in word]:
        raise KeylmError(f"{folder}: contractions {bare}; accepted: words with an apostrophe")
    for pattern in (
        words.letter,
        table.negation,
        table.negation_by_ear,
        table.negation_mistyped,
        prose.token,
        prose.continued,
        *prose.not_prose,
    ):
        try:
            re.compile(pattern)
        except re.error as error:
            raise KeylmError(f"{folder}: pattern {pattern!r}: {error}; accepted: a regular expression") from None
    written = {*language.confusions, *language.endings, *(part for rule in language.spellings for part in rule)}
    if unknown := sorted(part for part in written if set(part) - {*letters, words.apostrophe}):
        raise KeylmError(f"{folder}: confusions of {unknown}; accepted: words of the letters {letters!r}")
    if long := [ending for ending in language.endings if len(ending) > LONGEST_ENDING]:
        raise KeylmError(f"{folder}: endings {long}; accepted: of {LONGEST_ENDING} letters at most")
    if not set(words.vowels) < set(letters):
        raise KeylmError(f"{folder}: vowels {words.vowels!r}; accepted: some of {letters!r}")


ENGLISH = load_language(SHIPPED / "en")
