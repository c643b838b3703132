"""Correctors and predictors without a language model, to compare with: word frequencies, SymSpell, Hunspell.

- SymSpell (github.com/wolfgarbe/SymSpell, here symspellpy with its English frequency dictionary of 82,765 words, or
  with another language's word list): a word that is in the dictionary stays, another becomes the most frequent one of
  the least edit distance, up to 2.
- Hunspell's algorithm and en_US dictionary, both as spylls ships them: a word that it accepts stays, another becomes
  its first suggestion.

Neither takes the context into account.
"""

from bisect import bisect_left
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import zstandard

from keylm.base.errors import KeylmError, how_to_install
from keylm.languages.language import ENGLISH, Language

DISTANCE = 2
SHORT = 4
"""Words of fewer letters are tried at distance 1 only: at 2 almost any short word is near."""


class Lexicon:
    """A dictionary with frequencies: which words are near a typed one, and which complete it."""

    def __init__(self, language: Language = ENGLISH) -> None:
        """Read the language's word list, symspellpy's English dictionary by default.

        Raises KeylmError where that package or the list is missing or damaged.
        """
        try:
            from symspellpy import SymSpell, Verbosity
        except ImportError:
            raise KeylmError(f"symspellpy's dictionary is missing; accepted: {how_to_install('eval')}") from None
        self._symspell, self._all, self._top = SymSpell(DISTANCE), Verbosity.ALL, Verbosity.TOP
        self._forms: dict[str, str] = {}
        if language.word_list:
            for word, count in read_words(Path(language.word_list.path)):
                self._symspell.create_dictionary_entry(word.lower(), count)
                if word != word.lower() and language.words.listed_capitals:
                    self._forms[word.lower()] = word
        elif language.code == ENGLISH.code:
            self._symspell.load_dictionary(str(files("symspellpy") / "frequency_dictionary_en_82_765.txt"), 0, 1)
        else:
            raise KeylmError(f"language {language.code!r} has no word list; accepted: words.tsv.zst in its folder")
        self.counts: dict[str, int] = self._symspell.words
        """Word, lower case: how often it occurs, in the dictionary's own corpus."""
        self._layout, self._by_bare = language.layout, dict[str, list[str]]()
        for word in self.counts:
            if (bare := self._layout.bare(word)) != word:
                self._by_bare.setdefault(bare, []).append(word)
        self._sorted = sorted(self.counts)
        self._taken_for: dict[str, list[str]] = {}
        for meant, others in language.confusions.items():
            for typed in others:
                self._taken_for.setdefault(typed, []).append(meant)

    def form(self, word: str) -> str:
        """Return a lower-case word as it is written: with the capital that the language's list gives it."""
        return self._forms.get(word, word)

    def near(self, typed: str) -> Iterator[str]:
        """Yield dictionary words that lower-case `typed` may stand for, other than itself."""
        found = self._symspell.lookup(typed, self._all, 1 if len(typed) < SHORT else DISTANCE)
        unheld = self._by_bare.get(self._layout.bare(typed), ())
        words = dict.fromkeys([*(item.term for item in found), *self._taken_for.get(typed, ()), *unheld])
        yield from (word for word in words if word != typed)

    def corrected(self, typed: str) -> str:
        """Return SymSpell's correction of a word, the capital kept."""
        found = self._symspell.lookup(typed.lower(), self._top, DISTANCE)
        return cased(self.form(found[0].term), typed) if found else typed

    @lru_cache(maxsize=1 << 12)  # noqa: B019  # one lexicon lives as long as the evaluation
    def completions(self, partial: str, k: int) -> tuple[str, ...]:
        """Return the `k` most frequent words that are longer than `partial` and begin with it, the capital kept."""
        low = partial.lower()
        words = self._sorted[bisect_left(self._sorted, low) : bisect_left(self._sorted, low + "\U0010ffff")]
        likeliest = sorted((word for word in words if word != low), key=lambda word: (-self.counts[word], word))
        return tuple(cased(self.form(word), partial) for word in likeliest[:k])


class Hunspell:
    """Hunspell's spelling and suggestions, by spylls."""

    def __init__(self) -> None:
        """Read the en_US dictionary that spylls ships. Raises KeylmError where it is missing."""
        try:
            from spylls.hunspell import Dictionary
        except ImportError:
            raise KeylmError(f"spylls is not installed; accepted: {how_to_install('eval')}") from None
        path = Path(str(files("spylls"))) / "hunspell" / "data" / "en" / "en_US"
        if not path.with_suffix(".aff").is_file():
            raise KeylmError(f"{path}.aff: this spylls ships no en_US dictionary; accepted: spylls 0.1.7")
        self._dictionary: Any = Dictionary.from_files(str(path))
        self.corrected = lru_cache(maxsize=None)(self._corrected)

    def _corrected(self, typed: str) -> str:
        """Return the first suggestion for a word that the dictionary does not accept; any other as it is."""
        if self._dictionary.lookup(typed):
            return typed
        return str(next(iter(self._dictionary.suggest(typed)), typed))


@cache
def lexicon(language: Language = ENGLISH) -> Lexicon:
    """Return a language's lexicon, read once: it takes seconds. Raises KeylmError."""
    return Lexicon(language)


def read_words(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the words of a .tsv.zst file and how often each occurs. Raises KeylmError for a damaged one."""
    line = ""
    try:
        text = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().decode()
        for line in text.splitlines():
            word, count = line.split("\t")
            yield word, int(count)
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise KeylmError(f"{path}, {line[:40]!r}: {error}; accepted: lines of a word, a tab and a count") from None


@cache
def hunspell() -> Hunspell:
    """Return Hunspell, read once, with the answers that it gave before. Raises KeylmError."""
    return Hunspell()


def cased(word: str, like: str) -> str:
    """Return `word` with an initial capital where `like` has one."""
    return word[:1].upper() + word[1:] if like[:1].isupper() else word
