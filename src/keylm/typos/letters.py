"""Slips of the fingers, for all words struck at once: which letters go, and which come in their place.

Invariant: a slip is a pure function of a word, its place in the text, and a number whose bits are the only chance there
is; all tables are of whole numbers of slots, so that the result is the same on every platform. A slip changes its
word, or says that the word offers no such error (two equal letters to swap, no doubled letter to drop).

A slip is written as a splice: `cut` characters from `at` on go, and up to two characters come. Words are read from the
row of `Words` in small letters; a capital is put back at the end, where the first letter was touched.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from keylm.typos.confusions import ENDINGS
from keylm.typos.kinds import VOWELS, position_class
from keylm.typos.layout import CENTRES, fill, neighbours
from keylm.typos.words import CURLED, LONGEST, Bools, Ints, Masks, PlainWords, below, lowest

SLOTS = 256
LETTERS = "abcdefghijklmnopqrstuvwxyz"
LETTER_KINDS = ("transposition", "omission", "insertion", "doubling", "neighbour", "vowel", "substitution")
"""The kinds of which `multiple` is two."""
FINGER_KINDS = (*LETTER_KINDS, "multiple", "undoubling", "space_extra", "space_missing", "case")
"""All kinds that this module makes, by their numbers."""
SHORTEST = {"transposition": 2, "omission": 2, "multiple": 5, "space_extra": 4, "inflection": 3, "phonetic": 2}
"""Letters that a word must have for some kinds."""
_TRANSPOSITION, _MULTIPLE = 0, len(LETTER_KINDS)
_CUTS = np.array([2, 1, 0, 0, 1, 1, 1])
"""How many letters go, for each of LETTER_KINDS."""
_A, _SPACE = ord("a"), ord(" ")
_PAIRS = (chr(first) * (first > 0) + chr(second) * (second > 0) for second in range(128) for first in range(128))
FIRST_ENDING = 128 * 128
STRINGS = (*(pair.replace(CURLED, "’") for pair in _PAIRS), *ENDINGS)
"""What comes: by the number first + 128 * second up to two characters (0 is none), behind these the endings."""


class Struck(NamedTuple):
    """Plain words [n] that an error strikes: where they are, what they are like, and 52 random bits each."""

    start: Ints
    length: Ints
    capital: Bools
    """Whether the first letter is one."""
    apostrophe: Ints
    """Place of the first apostrophe in the word; 0 where it has none."""
    doubled: Masks
    """Bit n is set where the word's letter n comes again behind it."""
    bits: Ints

    def at(self, rows: Ints | Bools) -> "Struck":
        """Return those that indices or a mask select."""
        return Struck(*(column[rows] for column in self))  # type: ignore[arg-type]


class Splices(NamedTuple):
    """Changes of the row [m], of which a word may have two: `cut` characters from `at` on become number `new`."""

    word: Ints
    """Whose they are: index in what was struck."""
    at: Ints
    cut: Ints
    new: Ints
    """Index in STRINGS; the negative ones are other lists' affair."""
    end: Ints
    """Where the last clean word ends that is part of the error."""

    def only(self, rows: Ints | Bools) -> "Splices":
        """Return those that indices or a mask select."""
        return Splices(*(column[rows] for column in self))


class FingerSlips:
    """The slips with fitted preferences: places in the word, letters."""

    def __init__(self, figures: Mapping[str, Any]) -> None:
        """Make the tables from the figures of typo_rates.json."""
        self._places = np.stack([_place_table(figures["positions"][kind]) for kind in LETTER_KINDS])
        inserted = fill(list(LETTERS), [figures["inserted"].get(c, 0) + 1 for c in LETTERS], SLOTS)
        self._inserted = np.array([ord(c) for c in inserted], np.uint8)
        self._copied = round(figures["inserted_nearby"] * SLOTS)
        self._written = np.zeros((len(LETTER_KINDS), 128, SLOTS), np.uint8)
        self._written[-3] = _letter_table(LETTERS, _near, figures["neighbours"])
        self._written[-2] = _letter_table(VOWELS, _other_vowels, figures["vowels"])
        self._written[-1] = _letter_table(LETTERS, _far, figures["substitutions"])

    def splices(self, words: PlainWords, struck: Struck, rows: Sequence[Ints]) -> Splices:
        """Return the errors of words; those that offer none have no splice.

        `rows` are the words of each of FINGER_KINDS, as indices in `struck`.
        """
        made = [self._letters(words, struck, rows[: _MULTIPLE + 1])]
        for slip, of_kind in zip((_undoubled, _spread, _run_together, _recased), rows[_MULTIPLE + 1 :], strict=True):
            if len(of_kind):
                made.append(slip(words, struck, of_kind))
        return joined(made)

    def _letters(self, words: PlainWords, struck: Struck, rows: Sequence[Ints]) -> Splices:
        """Return slips at one letter, and at two of one word, where they must not touch."""
        *single, multiple = rows
        multiple = multiple[struck.length[multiple] > 4]
        kind = np.repeat(np.arange(len(single)), [len(of_kind) for of_kind in single])
        one, other = struck.bits[multiple], struck.bits[multiple] >> 24
        kind = np.concatenate((kind, (one >> 20) % len(single), (other >> 20) % len(single)))
        word = np.concatenate((*single, multiple, multiple))
        slipping = struck.at(word)
        slipping.bits[len(word) - len(multiple) :] = other
        good, at, first, second = self._slipped(words, slipping, kind)
        cut = _CUTS[kind]
        if len(multiple):
            left, right = slice(-2 * len(multiple), -len(multiple)), slice(-len(multiple), None)
            apart = (at[left] > at[right] + cut[right]) | (at[right] > at[left] + cut[left])
            good[left] = good[right] = good[left] & good[right] & apart
        made = good.nonzero()[0]
        at, cut = at[made], cut[made]
        slipping = slipping.at(made)
        raised = slipping.capital & (at == slipping.start)
        new, cut = _capitalised(words, raised, at, cut, first[made], second[made])
        return Splices(word[made], at, cut, new, slipping.start + slipping.length)

    def _slipped(self, words: PlainWords, struck: Struck, kind: Ints) -> tuple[Bools, Ints, Ints, Ints]:
        """Return whether one of LETTER_KINDS fits each word, where, and up to two letters that come."""
        start, length, bits = struck.start, struck.length, struck.bits
        at = start + self._places[kind, length, bits & 255]
        at = np.where(kind == _TRANSPOSITION, np.minimum(at, start + length - 2), at)
        # What stands outside the word is no letter, so that none of its letters equals it.
        before, here, after = words.letters[at - 1], words.letters[at], words.letters[at + 1]
        number = bits >> 8 & 255
        near = np.maximum(at - 2, start) + (bits >> 8) % np.minimum(length, 3)  # an early or a late finger
        inserted = np.where(bits >> 16 & 255 < self._copied, words.letters[near], self._inserted[number])
        written = self._written[kind, here, number]
        none = np.zeros_like(here)
        first = np.choose(kind, (after, none, inserted, here, written, written, written))
        second = np.where(kind == _TRANSPOSITION, here, none)
        longer, replaced = length > 1, written > 0
        good = np.choose(
            kind,
            (
                longer & (here != after),
                longer & (here != after) & (here != before),
                (inserted != before) & (inserted != here),
                (here >= _A) & (here != before),
                *(replaced, replaced, replaced),
            ),
        )
        return good, at, first.astype(np.int64), second.astype(np.int64)


def _undoubled(words: PlainWords, struck: Struck, rows: Ints) -> Splices:
    """Drop one of two equal letters: the first pair from a random place on, or from the beginning."""
    rows = rows[struck.doubled[rows] != 0]
    start, length, doubled = struck.start[rows], struck.length[rows], struck.doubled[rows]
    later = doubled & ~below(struck.bits[rows] % length)
    chosen = lowest(np.where(later, later, doubled))
    at = start + np.bitwise_count(chosen - np.uint32(1)) + 1  # the second of the pair: never a capital
    return _replaced(rows, at, 1, np.zeros_like(at), start + length)


def _spread(words: PlainWords, struck: Struck, rows: Ints) -> Splices:
    """Put a space into a word."""
    rows = rows[struck.length[rows] > 3]
    start, length = struck.start[rows], struck.length[rows]
    at = start + 1 + struck.bits[rows] % (length - 1)
    return _replaced(rows, at, 0, np.full_like(at, _SPACE), start + length)


def _run_together(words: PlainWords, struck: Struck, rows: Ints) -> Splices:
    """Leave out the space before a plain small word."""
    end = struck.start[rows] + struck.length[rows]
    spaced = words.letters[end] == _SPACE
    rows, end = rows[spaced], end[spaced]
    start, length = words.tokens(end + 1)
    short = ((length > 0) & (length <= LONGEST)).nonzero()[0]
    plain = words.plain(start[short], length[short])
    whole = (plain.start == start[short[plain.token]]) & ~plain.capital
    chosen = short[plain.token[whole]]
    rows, end = rows[chosen], end[chosen]
    return _replaced(rows, end, 1, np.zeros_like(end), (plain.start + plain.length)[whole])


def _recased(words: PlainWords, struck: Struck, rows: Ints) -> Splices:
    """Write a capital that should not be, or none where one should be, or two."""
    start, length, capital = struck.start[rows], struck.length[rows], struck.capital[rows]
    two = capital & (struck.bits[rows] & 3 == 0) & (length > 2) & (words.letters[start + 1] >= _A)
    at = start + two
    letter = words.letters[at].astype(np.int64)
    return _replaced(rows, at, 1, np.where(capital & ~two, letter, letter - 32), start + length)


def _replaced(rows: Ints, at: Ints, cut: int, new: Ints, end: Ints) -> Splices:
    return Splices(rows, at, np.full_like(at, cut), new, end)


def joined(parts: Sequence[Splices]) -> Splices:
    """Return one or more splices one after the other."""
    return Splices(*map(np.concatenate, zip(*parts, strict=True)))


def _capitalised(words: PlainWords, raised: Bools, at: Ints, cut: Ints, first: Ints, second: Ints) -> tuple[Ints, Ints]:
    """Return what comes and how much goes such that a word touched at its capital begins with one again."""
    none, kept = raised & (first == 0), raised & (cut == 0)
    first = np.where(none, words.letters[at + 1], first)  # the first letter is dropped: the next becomes the capital
    second = np.where(kept, words.letters[at], second)  # a letter comes before it: the old capital becomes small
    first = first - 32 * (raised & (first >= _A))
    return first + 128 * second, cut + (none | kept)


def _place_table(weights: list[float]) -> npt.NDArray[np.uint8]:
    """Return for each word length (row) SLOTS places, shared out by the weights of their position classes."""
    table = np.zeros((LONGEST + 1, SLOTS), np.uint8)
    for length in range(2, LONGEST + 1):
        classes = [position_class(at, length) for at in range(length)]
        shares = [weights[c] / classes.count(c) for c in classes]
        table[length] = [int(at) for at in fill([str(n) for n in range(length)], shares, SLOTS)]
    return table


def _letter_table(letters: str, written: Callable[[str], str], counts: Mapping[str, float]) -> npt.NDArray[np.uint8]:
    """Return for each ASCII code (row) SLOTS codes that are written for it, or 0 where it is none of `letters`.

    The counted ones, and each that `written` gives half a time more.
    """
    table = np.zeros((128, SLOTS), np.uint8)
    for letter in letters:
        others = list(written(letter))
        weights = [counts.get(f"{letter}>{other}", 0) + 0.5 for other in others]
        table[ord(letter)] = [ord(other) for other in fill(others, weights, SLOTS)]
    return table


def _other_vowels(letter: str) -> str:
    return VOWELS.replace(letter, "")


def _near(letter: str) -> str:
    return "".join(c for c in neighbours(letter) if not (c in VOWELS and letter in VOWELS))


def _far(letter: str) -> str:
    near = neighbours(letter) + letter if letter in CENTRES else ""
    return "".join(c for c in LETTERS if c not in near and not (c in VOWELS and letter in VOWELS))
