"""Slips of the fingers, for many words at once: which letters go, and which replace them.

Invariant: a slip is a pure function of a word, its place in the text, and a number whose bits are the only randomness;
all tables consist of whole slots, so that the result is the same on every platform. A slip changes its word, or reports
that the word offers no such error (two equal letters to swap, no doubled letter to drop).

A slip is a splice: `cut` characters from `at` on are replaced by up to two characters. Words are read from the row of
`PlainWords` in lower case; a capital is restored at the end where the first letter was changed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keylm.languages.language import Language
from keylm.typos.keys import fill, keys_of
from keylm.typos.kinds import position_class
from keylm.typos.words import CURLED, LONGEST, Alphabet, Bools, Ints, Masks, PlainWords, alphabet_of, below, lowest

SLOTS = 256
LETTER_KINDS = ("transposition", "omission", "insertion", "doubling", "neighbour", "vowel", "substitution")
"""Slips at one letter; an error of the kind "multiple" is two of them."""
FINGER_KINDS = (*LETTER_KINDS, "multiple", "undoubling", "space_extra", "space_missing", "case")
"""All kinds that this module makes, in the order of their numbers."""
SHORTEST = {"transposition": 2, "omission": 2, "multiple": 5, "space_extra": 4, "inflection": 3, "phonetic": 2}
"""Least number of letters of a word for some kinds."""
_TRANSPOSITION, _MULTIPLE = 0, len(LETTER_KINDS)
_CUTS = np.array([2, 1, 0, 0, 1, 1, 1])
"""Letters that are cut, for each of LETTER_KINDS."""
_A, _SPACE = ord("a"), ord(" ")
FIRST_ENDING = 128 * 128
"""Number of the first ending; lower numbers are pairs of characters."""


class Struck(NamedTuple):
    """Plain words [n] that get an error: their places and properties, and 52 random bits each."""

    start: Ints
    length: Ints
    capital: Bools
    """Whether the first letter is one."""
    apostrophe: Ints
    """Place of the first apostrophe in the word; 0 where it has none."""
    doubled: Masks
    """Bit n is set where the word's letter n is followed by the same letter."""
    bits: Ints

    def at(self, rows: Ints | Bools) -> "Struck":
        """Return those selected by indices or a mask."""
        return Struck(*(column[rows] for column in self))  # type: ignore[arg-type]


class Splices(NamedTuple):
    """Changes of the row [m], of which a word may have two: `cut` characters from `at` on become string `new`."""

    word: Ints
    """Index of the word in `Struck`."""
    at: Ints
    cut: Ints
    new: Ints
    """Index in `strings_of`; negative ones are for other lists (see edits.spliced)."""
    end: Ints
    """End of the last clean word that is part of the error."""

    def only(self, rows: Ints | Bools) -> "Splices":
        """Return those selected by indices or a mask."""
        return Splices(*(column[rows] for column in self))


def strings_of(language: Language) -> tuple[str, ...]:
    """Return the strings of `Splices.new`: up to two characters by first + 128 * second (0 is none), then endings."""
    text = ["", *(character.replace(CURLED, "’") for character in alphabet_of(language.words).text[1:])]
    return (*(first + second for second in text for first in text), *language.endings)


class FingerSlips:
    """The slips, with fitted preferences for places and letters."""

    def __init__(self, language: Language) -> None:
        """Make the tables from a language's layout, letters and rates."""
        rates, words, preferred = language.typo_rates, language.words, _Letters(language)
        self._alphabet = alphabet = alphabet_of(words)
        self._small = np.arange(256) >= _A
        self._small[list(alphabet.code.values())] = True
        self._places = np.stack([_place_table(rates.positions[kind]) for kind in LETTER_KINDS])
        inserted = fill(list(words.letters), [rates.inserted.get(c, 0) + 1 for c in words.letters], SLOTS)
        self._inserted = np.array([alphabet.code[c] for c in inserted], np.uint8)
        self._copied = round(rates.inserted_nearby * SLOTS)
        self._written = np.zeros((len(LETTER_KINDS), 128, SLOTS), np.uint8)
        self._written[-3] = _letter_table(alphabet, words.letters, preferred.near, rates.neighbours)
        self._written[-2] = _letter_table(
            alphabet, words.vowels, lambda letter: words.vowels.replace(letter, ""), rates.vowels
        )
        self._written[-1] = _letter_table(alphabet, words.letters, preferred.far, rates.substitutions)

    def splices(self, words: PlainWords, struck: Struck, rows: Sequence[Ints]) -> Splices:
        """Return the errors of words that offer one; `rows`: the words of each of FINGER_KINDS, indices in `struck`."""
        made = [self._letters(words, struck, rows[: _MULTIPLE + 1])]
        for slip, of_kind in zip(
            (_undoubled, _spread, _run_together, self._recased), rows[_MULTIPLE + 1 :], strict=True
        ):
            if len(of_kind):
                made.append(slip(words, struck, of_kind))
        return joined(made)

    def _letters(self, words: PlainWords, struck: Struck, rows: Sequence[Ints]) -> Splices:
        """Return slips at one letter, and at two letters of one word, which must not touch."""
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
        new, cut = self._capitalised(words, raised, at, cut, first[made], second[made])
        return Splices(word[made], at, cut, new, slipping.start + slipping.length)

    def _slipped(self, words: PlainWords, struck: Struck, kind: Ints) -> tuple[Bools, Ints, Ints, Ints]:
        """Return whether one of LETTER_KINDS fits each word, its place, and up to two new letters."""
        start, length, bits = struck.start, struck.length, struck.bits
        at = start + self._places[kind, length, bits & 255]
        at = np.where(kind == _TRANSPOSITION, np.minimum(at, start + length - 2), at)
        # The characters around a word are no letters, so none of its letters equals them.
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
                self._small[here] & (here != before),
                *(replaced, replaced, replaced),
            ),
        )
        return good, at, first.astype(np.int64), second.astype(np.int64)

    def _recased(self, words: PlainWords, struck: Struck, rows: Ints) -> Splices:
        """Write a wrong capital, none where one should be, or two."""
        start, length, capital = struck.start[rows], struck.length[rows], struck.capital[rows]
        two = capital & (struck.bits[rows] & 3 == 0) & (length > 2) & self._small[words.letters[start + 1]]
        at = start + two
        letter = words.letters[at].astype(np.int64)
        small, raised = capital & ~two, self._alphabet.capital[letter]
        made = small | (raised != letter)  # "ß" has no capital
        new = np.where(small, letter, raised)
        return _replaced(rows[made], at[made], 1, new[made], (start + length)[made])

    def _capitalised(
        self, words: PlainWords, raised: Bools, at: Ints, cut: Ints, first: Ints, second: Ints
    ) -> tuple[Ints, Ints]:
        """Return the new string and the cut such that a word changed at its capital begins with one again."""
        none, kept = raised & (first == 0), raised & (cut == 0)
        first = np.where(
            none, words.letters[at + 1], first
        )  # the first letter is dropped: the next becomes the capital
        second = np.where(kept, words.letters[at], second)  # a letter is put before it: the old capital becomes small
        first = np.where(raised, self._alphabet.capital[first], first)
        return first + 128 * second, cut + (none | kept)


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
    """Leave out the space before a plain lower-case word."""
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


def _replaced(rows: Ints, at: Ints, cut: int, new: Ints, end: Ints) -> Splices:
    return Splices(rows, at, np.full_like(at, cut), new, end)


def joined(parts: Sequence[Splices]) -> Splices:
    """Return one or more groups of splices as one."""
    return Splices(*map(np.concatenate, zip(*parts, strict=True)))


def _place_table(weights: Sequence[float]) -> npt.NDArray[np.uint8]:
    """Return for each word length (row) SLOTS places, in proportion to the weights of their position classes."""
    table = np.zeros((LONGEST + 1, SLOTS), np.uint8)
    for length in range(2, LONGEST + 1):
        classes = [position_class(at, length) for at in range(length)]
        shares = [weights[c] / classes.count(c) for c in classes]
        table[length] = [int(at) for at in fill([str(n) for n in range(length)], shares, SLOTS)]
    return table


def _letter_table(
    alphabet: Alphabet, letters: str, written: Callable[[str], str], counts: Mapping[str, float]
) -> npt.NDArray[np.uint8]:
    """Return for each code (row) SLOTS codes that are written for it, or 0 where it is none of `letters`.

    In proportion to their counts, plus a half for each letter that `written` gives.
    """
    table = np.zeros((128, SLOTS), np.uint8)
    for letter in letters:
        others = list(written(letter))
        weights = [counts.get(f"{letter}>{other}", 0) + 0.5 for other in others]
        table[alphabet.code[letter]] = [alphabet.code[other] for other in fill(others, weights, SLOTS)]
    return table


class _Letters:
    """Which letters may be written for a letter by each kind of substitution."""

    def __init__(self, language: Language) -> None:
        self._letters, self._vowels = language.words.letters, language.words.vowels
        self._keys = keys_of(language.layout)

    def near(self, letter: str) -> str:
        """Return letters of touching keys that are not a vowel for a vowel."""
        return "".join(c for c in self._keys.neighbours(letter) if not self._two_vowels(c, letter))

    def far(self, letter: str) -> str:
        """Return letters of other keys that are not a vowel for a vowel."""
        near = self._keys.neighbours(letter) + letter
        return "".join(c for c in self._letters if c not in near and not self._two_vowels(c, letter))

    def _two_vowels(self, left: str, right: str) -> bool:
        return left in self._vowels and right in self._vowels
