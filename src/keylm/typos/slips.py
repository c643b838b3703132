"""Errors of the ear and the memory, which look at a word as a whole: for each kind, what is written for a word.

Invariant: a slip is a pure function of a lower-case word and a number. It returns another word, or None where the word
offers no such error (nothing that sounds alike); it never returns the word itself. The number's bits are the only
chance there is, and all tables are of whole numbers of slots, so that the result is the same on every platform.

Cost: about a microsecond each, so that words without a chance are passed over by a table look-up before; what sounds
alike is looked up once a word and kept for the 65,536 last words. The slips of the fingers are in typo_letters.py.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from keylm.typos.confusions import CONFUSIONS, ENDINGS, PHONETIC_RULES
from keylm.typos.layout import TAP_SLOTS, fill, miss_share, misses
from keylm.typos.letters import FINGER_KINDS, FIRST_ENDING, LETTERS, SHORTEST, SLOTS, Splices, Struck, joined
from keylm.typos.words import LONGEST, Ints, PlainWords

Slip = Callable[[str, int], str | None]
"""(lower-case word, 52 random bits) to the word with an error, or None."""

WORD_KINDS = ("inflection", "phonetic", "confusion", "apostrophe", "taps")
KINDS_OF_SLIPS = tuple(kind for kind in (*FINGER_KINDS, *WORD_KINDS) if kind not in ("case", "space_missing"))
"""The kinds that change one word and not only its case."""
KINDS_MADE = (*FINGER_KINDS, *WORD_KINDS)
"""All kinds of errors that are made; arrays have their places in it."""
_UNDOUBLING, _CONFUSION, _APOSTROPHE = map(KINDS_MADE.index, ("undoubling", "confusion", "apostrophe"))
_ENDING_LENGTHS = np.array([len(ending) for ending in ENDINGS])
_MASK = (1 << 64) - 1
_LONGEST_RULE = max(len(clean) for clean, _ in PHONETIC_RULES)


class WordSlips:
    """The slips with fitted preferences: words, rules, endings."""

    def __init__(self, figures: Mapping[str, Any]) -> None:
        """Make the tables from the figures of typo_rates.json."""
        self._confusions = _confusion_tables(figures["confusions"])
        self._sounds = lru_cache(maxsize=1 << 16)(_sound_table(figures["rules"]))
        self._endings, self._forms = _form_tables(figures["endings"])
        self._apostrophes = {w: [o for o in others if "'" in o] for w, others in CONFUSIONS.items() if "'" not in w}
        self._apostrophes = {word: others for word, others in self._apostrophes.items() if others}
        self._miss = {c: round(miss_share(c) * TAP_SLOTS) for c in LETTERS}
        self._by_kind: dict[str, Slip] = {kind: getattr(self, f"_{kind}") for kind in WORD_KINDS[1:]}
        self._offers = _offers(self._confusions, self._apostrophes)

    def offers(self, words: PlainWords, struck: Struck) -> Ints:
        """Return for each word which kinds it may offer errors of (bit n for number n); of others it has none."""
        first, last = words.letters[struck.start], words.letters[struck.start + struck.length - 1]
        offers: Ints = self._offers[first & 31, last & 31, struck.length]
        offers &= ~((struck.doubled == 0).astype(np.int64) << _UNDOUBLING)
        offers |= (struck.apostrophe > 0).astype(np.int64) << _APOSTROPHE
        return offers

    def splices(self, words: PlainWords, struck: Struck, rows: Sequence[Ints], made: list[str]) -> Splices:
        """Return the errors of words; those that offer none have no splice. See `respelled` for `made`.

        `rows` are the words of each of WORD_KINDS, as indices in `struck`.
        """
        parts = [self._inflected(words, struck, rows[0])]
        for slip, of_kind in zip(self._by_kind.values(), rows[1:], strict=True):
            if len(of_kind):
                parts.append(respelled(slip, words, struck, of_kind, made))
        return joined(parts)

    def _inflected(self, words: PlainWords, struck: Struck, rows: Ints) -> Splices:
        """Exchange the ending."""
        rows = rows[struck.apostrophe[rows] == 0]
        length = struck.length[rows]
        end = struck.start[rows] + length
        third, second, last = (words.letters[end - back] & 31 for back in (3, 2, 1))
        form = self._forms[self._endings[third, second, last], np.minimum(length, 6), struck.bits[rows] & (SLOTS - 1)]
        good = form >= 0
        form, end = form[good].astype(np.int64), end[good]
        goes = _ENDING_LENGTHS[form // len(ENDINGS)]
        return Splices(rows[good], end - goes, goes, FIRST_ENDING + form % len(ENDINGS), end)

    def _phonetic(self, word: str, bits: int) -> str | None:
        choices = self._sounds(word)
        return choices[bits % len(choices)] if choices else None

    def _confusion(self, word: str, bits: int) -> str | None:
        choices = self._confusions.get(word)
        return choices[bits % len(choices)] if choices else None

    def _apostrophe(self, word: str, bits: int) -> str | None:
        """Drop or move the apostrophe, or put one before a last s."""
        at = max(word.find("'"), word.find("’"))
        if at > 0:
            if bits & 7 or at < 2:
                return word[:at] + word[at + 1 :]
            return word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
        choices = self._apostrophes.get(word)
        if choices:
            return choices[bits % len(choices)]
        return f"{word[:-1]}'s" if len(word) > 3 and word[-1] == "s" != word[-2] else None

    def _taps(self, word: str, bits: int) -> str | None:
        """Tap the whole word again: one letter misses its key for certain, each other one by chance."""
        missed = bits % len(word)
        letters = []
        for at, letter in enumerate(word):
            bits = (bits * 6364136223846793005 + 1442695040888963407) & _MASK  # Knuth's MMIX generator
            if letter in self._miss and (at == missed or bits >> 52 < self._miss[letter]):
                letter = misses(letter)[(bits >> 40) & (TAP_SLOTS - 1)]
            letters.append(letter)
        tapped = "".join(letters)
        return None if tapped == word or tapped != tapped.strip() else tapped


def respelled(slip: Slip, words: PlainWords, struck: Struck, rows: Ints, made: list[str]) -> Splices:
    """Return splices for those of `rows` that `slip` has another word for.

    The words go to the end of `made`; -1 as `new` is its first, -2 its second …
    """
    chosen = struck.at(rows)
    columns = (rows, chosen.start, chosen.length, chosen.capital, chosen.bits)
    kept, new = [], []
    for row, start, length, capital, bits in zip(*(column.tolist() for column in columns), strict=True):
        noisy = slip(words.row[start : start + length].lower(), bits)
        if noisy is not None:
            made.append(noisy[0].upper() + noisy[1:] if capital else noisy)
            kept.append(row)
            new.append(-len(made))
    word = np.array(kept, np.int64)
    start, length = struck.start[word], struck.length[word]
    return Splices(word, start, length, np.array(new, np.int64), start + length)


def _offers(confusions: Iterable[str], contractions: Iterable[str]) -> Ints:
    """Return which kinds words offer (bit n for number n) by their first and last letter and length.

    [32, 32, LONGEST + 1], letters as places in the alphabet. For the kinds that are listed word by word this takes in
    a few words more: those that begin and end as a listed one does and are as long.
    """
    offers = np.zeros((32, 32, LONGEST + 1), np.int64)
    for number, kind in enumerate(KINDS_MADE):
        if kind not in ("confusion", "apostrophe"):
            offers[:, :, SHORTEST.get(kind, 1) :] |= 1 << number
    offers[:, ord("s") & 31, 4:] |= 1 << _APOSTROPHE
    for number, listed in ((_CONFUSION, confusions), (_APOSTROPHE, contractions)):
        for word in listed:
            offers[ord(word[0]) & 31, ord(word[-1]) & 31, len(word)] |= 1 << number
    return offers


def _confusion_tables(counts: Mapping[str, float]) -> dict[str, list[str]]:
    """Return for each word the words that stand in its place, as slots; those with ' are another kind."""
    tables = {}
    for word, others in CONFUSIONS.items():
        plain = [other for other in others if "'" not in other + word]
        if plain:
            tables[word] = fill(plain, [counts.get(f"{word}>{other}", 0) + 0.5 for other in plain], SLOTS)
    return tables


def _sound_table(counts: Mapping[str, float]) -> Callable[[str], list[str]]:
    """Return the function from a word to what PHONETIC_RULES make of it, each as often as its rule was counted."""
    rules: dict[str, list[tuple[str, int]]] = {}
    for clean, noisy in PHONETIC_RULES:
        # A fifth of a count for each rule: those that were not seen are not impossible.
        rules.setdefault(clean, []).append((noisy, 1 + round(5 * counts.get(f"{clean}>{noisy}", 0))))

    def choices(word: str) -> list[str]:
        found: list[str] = []
        for start in range(1, len(word)):
            for end in range(start + 1, min(start + _LONGEST_RULE, len(word)) + 1):
                for noisy, count in rules.get(word[start:end], ()):
                    found += [word[:start] + noisy + word[end:]] * count
        return found

    return choices


def _form_tables(counts: Mapping[str, float]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
    """Return which class of endings a word has, by its last three letters, and what is exchanged in that class.

    Letters are places in the alphabet, [32, 32, 32]. The second table is for classes, lengths of words up to 6 and
    SLOTS of chance: the place of what goes in ENDINGS, times their number, plus the place of what comes; or -1.
    """
    matching = np.zeros((32, 32, 32), np.int64)
    for number, ending in enumerate(ENDINGS):
        letters = [slice(None)] * (3 - len(ending)) + [ord(letter) & 31 for letter in ending]
        matching[tuple(letters)] |= 1 << number
    sets, classes = np.unique(matching, return_inverse=True)
    forms = np.full((len(sets), 7, SLOTS), -1, np.int16)
    for of_class, bits in zip(forms, sets.tolist(), strict=True):
        endings = [ending for number, ending in enumerate(ENDINGS) if bits >> number & 1]
        for length in range(3, 7):
            weights = _exchanges(counts, [ending for ending in endings if length - len(ending) >= 3], endings)
            if weights:
                of_class[length] = list(map(int, fill(list(map(str, weights)), list(weights.values()), SLOTS)))
    return classes.reshape(matching.shape).astype(np.uint8), forms


def _exchanges(counts: Mapping[str, float], going: Sequence[str], endings: Sequence[str]) -> dict[int, float]:
    """Return how often one of `going` was exchanged, by what for what; `endings` are all that the word has."""
    finished = not {"ing", "ed", "ly"}.isdisjoint(endings)  # "writings", not "writinged"
    return {
        ENDINGS.index(ending) * len(ENDINGS) + number: count
        for ending in going
        for number, other in enumerate(ENDINGS)
        if (ending or other == "s" or not finished) and (count := counts.get(f"{ending}>{other}", 0))
    }
