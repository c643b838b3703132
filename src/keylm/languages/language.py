"""A language as one typed object, read from its folder: layout, words, confusions, error rates, typing channel.

Invariant: everything that is specific to a language or its keyboard, in Python and in the page, comes from this object;
`digest` covers all of it, `noise_digest` what the typo engine reads. A second language is a second folder; the typo
engine and the page so far need letters a to z.

    languages/en/layout.toml       rows of keys, sizes, the spread of taps, the page's other keys
    languages/en/words.toml        letters, vowels, apostrophes
    languages/en/confusions.toml   words taken for one another, spellings of one sound, endings
    languages/en/channel.toml      what the corrector assumes about typists
    languages/en/contractions.toml words typed without their apostrophe, negations
    languages/en/prose.toml        where a typed word is prose, and where an address or code
    languages/en/typo_rates.json   rates fitted to real errors (tools/corpus/fit_typos.py)
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from string import ascii_lowercase
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from keylm.base.errors import KeylmError
from keylm.base.shapes import explain

_STRICT = ConfigDict(extra="forbid")
_FILES = ("layout", "words", "channel", "contractions", "prose")
_KEYBOARDS = ("contractions", "prose")


@dataclass(frozen=True, config=_STRICT)
class KeyRow:
    """A row of letter keys: left edge of the first in key widths, and how many the left thumb strikes."""

    keys: str
    offset: float
    left_thumb: int


@dataclass(frozen=True, config=_STRICT)
class SpaceBar:
    """The space bar, in the row below the letters: left edge and width in key widths."""

    offset: float
    width: float


@dataclass(frozen=True, config=_STRICT)
class PageKeys:
    """What the page draws besides the letters: the rows of the second board, the keys beside the space bar."""

    signs: tuple[str, ...]
    beside_space: tuple[str, str]


@dataclass(frozen=True, eq=False, config=_STRICT)
class Layout:
    """A keyboard; all letter keys have one size."""

    key_width: float
    key_height: float
    tap_spread: tuple[float, float]
    """Standard deviation of a tap, in key widths and key heights."""
    rows: tuple[KeyRow, ...]
    space: SpaceBar
    page: PageKeys


@dataclass(frozen=True, eq=False, config=_STRICT)
class Words:
    """What a word is: letters, with apostrophes inside. The patterns are valid in Python and in JavaScript."""

    letters: str
    """Lower case."""
    vowels: str
    apostrophe: str
    other_apostrophes: str

    @property
    def letter(self) -> str:
        """The pattern of one letter of either case."""
        return f"[{self.letters.upper()}{self.letters}]"

    @property
    def word(self) -> str:
        """The pattern of a whole word."""
        return f"{self.letter}+(?:{self.apostrophe}{self.letter}+)*"

    @property
    def unfinished(self) -> str:
        """The pattern of what can be typed of a word before its end."""
        return f"{self.word}{self.apostrophe}?"

    @property
    def part(self) -> str:
        """The pattern of one character of a word: a letter or an apostrophe."""
        return f"{self.letter[:-1]}{self.apostrophe}]"

    @property
    def piece(self) -> str:
        """The pattern of a token that is a piece of a word; it may have the space before the word, or be that space."""
        return f" ?{self.part}+| "

    @property
    def inner(self) -> str:
        """The pattern of the beginning of a token that continues a word."""
        return f"{self.apostrophe}?{self.letter}"

    @cached_property
    def whole(self) -> re.Pattern[str]:
        """A word, to match in full."""
        return re.compile(self.word)

    @cached_property
    def standing(self) -> re.Pattern[str]:
        """A word in running text, next to no digit, other letter or apostrophe."""
        return re.compile(rf"(?<![\w{self.apostrophe}]){self.word}(?![\w{self.apostrophe}])")

    @cached_property
    def typed(self) -> re.Pattern[str]:
        """The word that is being typed at the end of a text."""
        return re.compile(rf"(?<![\w{self.apostrophe}]){self.unfinished}\Z")


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

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of everything that this object holds, the order of its tables included."""
        return _digest(asdict(self))

    @cached_property
    def noise_digest(self) -> str:
        """The same without the tables that only the keyboard reads: they change no text that is trained on."""
        return _digest({name: table for name, table in asdict(self).items() if name not in _KEYBOARDS})


def load_language(folder: Traversable) -> Language:
    """Read a language's folder. Raises KeylmError where a file is missing, or has other fields or letters."""
    try:
        tables = {name: tomllib.loads(_text(folder, f"{name}.toml")) for name in _FILES}
        mistakes = tomllib.loads(_text(folder, "confusions.toml"))
        fields = {
            **tables,
            "code": folder.name,
            "confusions": confusion_table([words.split("/") for words in mistakes.pop("sets").split()]),
            "spellings": [rule.split(">") for rule in mistakes.pop("spellings").split()],
            "typo_rates": json.loads(_text(folder, "typo_rates.json")),
        }
        language = TypeAdapter(Language).validate_python(fields | mistakes)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        what = "; ".join(map(explain, error.errors())) if isinstance(error, ValidationError) else error
        raise KeylmError(f"{folder}: no language: {what}; accepted: the files and fields of languages/en") from None
    _check(folder, language)
    return language


def confusion_table(sets: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return for each word the others of its sets, each once, in the order of the sets."""
    table: dict[str, tuple[str, ...]] = {}
    for words in sets:
        for word in words:
            known = table.get(word, ())
            table[word] = known + tuple(other for other in words if other != word and other not in known)
    return table


def _digest(tables: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tables).encode()).hexdigest()


def _text(folder: Traversable, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


def _check(folder: Traversable, language: Language) -> None:
    letters = language.words.letters
    if letters != ascii_lowercase:
        raise KeylmError(f"{folder}: letters {letters!r}; accepted: a to z, as in the typo engine's tables")
    keys = "".join(row.keys for row in language.layout.rows)
    if sorted(keys) != sorted(letters):
        raise KeylmError(f"{folder}: rows with the keys {keys!r}; accepted: each of {letters!r} once")
    table, prose = language.contractions, language.prose
    if bare := [word for word in (*table.certain, *table.also_words) if language.words.apostrophe not in word]:
        raise KeylmError(f"{folder}: contractions {bare}; accepted: words with an apostrophe")
    negations = (table.negation, table.negation_by_ear, table.negation_mistyped)
    for pattern in (*negations, prose.token, *prose.not_prose, prose.continued):
        try:
            re.compile(pattern)
        except re.error as error:
            raise KeylmError(f"{folder}: pattern {pattern!r}: {error}; accepted: a regular expression") from None
    if not set(language.words.vowels) < set(letters):
        raise KeylmError(f"{folder}: vowels {language.words.vowels!r}; accepted: some of {letters!r}")


def _english() -> Language:
    folder: Any = files("keylm.languages") / "en"
    return load_language(folder)


ENGLISH = _english()
