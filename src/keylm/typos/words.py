r"""The words of many texts at once: the places of tokens, which of them are plain words, and random draws of them.

Invariant: every answer about a text depends on that text (and its key) alone, never on the texts processed with it, and
all arithmetic is on integers, so that results are the same on every platform.

Each character has a byte of flags (_FLAGS: small letter, capital, apostrophe …). The flags of a token of up to 24
characters form masks of 32 bits, one for each flag, in which bit n is the token's n-th character. A few bit
operations on these find what this regular expression would, for all tokens at once:

    ["'(\[“‘]*[A-Za-z][a-z]*(['’][a-z]+)*["')\]”’.,;:!?…]*

A language's letters beyond a to z get codes below 128 that its alphabet does not need (`Alphabet`), so that every
table of letters has 128 rows.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from keylm.base.errors import KeylmError
from keylm.languages.language import ENGLISH
from keylm.languages.words import Words

Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]
Masks = npt.NDArray[np.uint32]
Bools = npt.NDArray[np.bool_]

LONGEST = 24
"""Longer tokens are never changed: few are words."""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""The step between two numbers that `mixed` turns into random bits."""
_WINDOW = 32
assert _WINDOW > LONGEST
_BEFORE = 28
"""Characters examined before a place to find the start of its token; of 64 bits 57 are left, so 28 after it."""
_BITS_BEFORE, _ONE = np.uint64((1 << _BEFORE) - 1), np.uint64(1)
_SMALL, _CAPITAL, _APOSTROPHE, _OPENING, _CLOSING, _BLANK = (1 << bit for bit in range(6))
_WORD_FLAGS = np.array([_SMALL, _CAPITAL, _APOSTROPHE, _OPENING, _CLOSING], np.uint8)

# So that each character is one byte, marks outside Latin-1 are replaced by others of the same class. Everything else
# outside Latin-1 becomes a question mark, which must not count as a mark: real ones become "!".
CURLED = "`"
"""Represents ’ in the bytes of `PlainWords`; a real one becomes ~."""
_STAND_INS = (("?", "!"), (CURLED, "~"), ("’", CURLED), ("“", "("), ("‘", "("), ("”", ")"), ("…", "."))


def _flags(letters: str) -> bytes:
    flags = [0] * 256
    for characters, flag in (
        (letters, _SMALL),
        (letters.upper(), _CAPITAL),
        ("'" + CURLED, _APOSTROPHE),
        ("\"'([", _OPENING),
        ("\"')].,;:!" + CURLED, _CLOSING),
        (" \t\r\n", _BLANK),
    ):
        for character in characters:
            flags[ord(character)] |= flag
    return bytes(flags)


_FLAGS = _flags(ENGLISH.words.letters)


class Alphabet:
    """A byte for each character: the letters of a language have codes of their own, below 128, and so have capitals.

    a to z keep their ASCII codes where the language has them. Raises KeylmError for more letters than there are codes.
    """

    def __init__(self, words: Words) -> None:
        self.letters = words.letters
        self.code: dict[str, int] = {}
        """Small letter: its code."""
        self.text = [chr(code) for code in range(128)]
        """The character of each code."""
        self.capital = np.arange(128)
        """The code of each letter's capital; its own where it has none ("ß")."""
        self.narrow = np.full(1 << 16, ord("?"), np.uint8)
        """The code of each character; everything beyond is a question mark, which counts as no mark."""
        self.narrow[:256] = np.arange(256)
        lower, flags = np.arange(256, dtype=np.uint8), bytearray(_FLAGS)
        for character, other in _STAND_INS:
            self.narrow[ord(character)] = ord(other)
        for letter, small, capital in self._codes(words):
            self.narrow[ord(letter)] = self.code[letter] = small
            self.text[small], flags[small] = letter, _SMALL
            if capital is not None:
                self.narrow[ord(letter.upper())] = self.capital[small] = capital
                self.text[capital], flags[capital], lower[capital] = letter.upper(), _CAPITAL, small
        for other in words.other_apostrophes:
            self.narrow[ord(other)] = ord(CURLED)
        self.lower, self.flags = lower.tobytes(), bytes(flags)
        self.place = np.zeros(256, np.int64)
        """The place of each letter in the alphabet, from 1 on."""
        self.place[[self.code[letter] for letter in self.letters]] = np.arange(1, len(self.letters) + 1)

    def __len__(self) -> int:
        return len(self.letters)

    def _codes(self, words: Words) -> list[tuple[str, int, int | None]]:
        """Return each letter with its code and that of its capital; free their places from what had them before."""
        own = [letter for letter in words.letters if letter in ENGLISH.words.letters]
        taken = {ord(letter) for letter in (*own, *"".join(own).upper())}
        free = [code for code in range(1, 128) if not _FLAGS[code] & ~(_SMALL | _CAPITAL) and code not in taken]
        free = [code for code in free if chr(code) not in "?~"]
        found: list[tuple[str, int, int | None]] = [(letter, ord(letter), ord(letter.upper())) for letter in own]
        known = set("".join(own).upper())
        for letter in words.letters:
            if letter in own:
                continue
            upper = letter.upper()
            has_capital = len(upper) == 1 and upper != letter and upper not in known
            if len(free) < 1 + has_capital:
                raise KeylmError(f"letters {words.letters!r}; accepted: {len(found)} at most, as many as have codes")
            known.add(upper)
            found.append((letter, free.pop(0), free.pop(0) if has_capital else None))
        used = {code for _, small, capital in found for code in (small, capital) if code is not None}
        ours = [code for code in range(128) if code in used or _FLAGS[code] & (_SMALL | _CAPITAL)]
        self.narrow[ours] = ord("?")
        return found


@lru_cache(maxsize=8)
def alphabet_of(words: Words) -> Alphabet:
    """Return the alphabet of a language's words, made once."""
    return Alphabet(words)


class Plain(NamedTuple):
    """Plain words [n]: their index among the tokens that were examined, and their properties."""

    token: Ints
    start: Ints
    length: Ints
    capital: Bools
    """Whether the first letter is one."""
    apostrophe: Ints
    """Place of the first apostrophe in the word; 0 where it has none."""


class PlainWords:
    """Texts in a row, with a line end after each. Places in all its arrays are characters of that row."""

    def __init__(self, texts: Sequence[str], alphabet: Alphabet | None = None) -> None:
        """Take texts and the codes of their language's letters, by default of English."""
        alphabet = alphabet or alphabet_of(ENGLISH.words)
        self.row = "\n".join(texts)
        characters = np.frombuffer(self.row.encode("utf-32-le", "surrogatepass"), np.uint32)
        raw = alphabet.narrow.take(characters, mode="clip").tobytes() + b"\n" + bytes(_WINDOW)
        self.letters = np.frombuffer(raw.translate(alphabet.lower), np.uint8)
        """Lower case; ’ as CURLED."""
        self.sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        """Characters of each text."""
        self.begins = np.cumsum(self.sizes + 1) - self.sizes - 1
        """Where each text begins."""
        self._flags = raw.translate(alphabet.flags)
        blank = np.frombuffer(self._flags, np.uint8) == _BLANK
        self._blank_bits = np.packbits(np.concatenate((np.ones(_BEFORE, np.bool_), blank)), bitorder="little").tobytes()
        self._word_ends = blank[1:] > blank[:-1]

    def counts(self) -> list[int]:
        """Return the number of tokens (runs between blanks) of each text."""
        bounds = zip(self.begins.tolist(), (self.begins + self.sizes).tolist(), strict=True)
        return [int(np.count_nonzero(self._word_ends[begin:end])) for begin, end in bounds]

    def draw(self, texts: Ints, keys: Bits, first: Ints, counts: Ints) -> tuple[Ints, Ints, Ints, Bits]:
        """Draw places in `texts`; return for each its text, the start and length of the token there, and 64 bits.

        A place at a blank belongs to the token before it. All arguments are [texts]: the text, its key, and the part of
        its endless sequence of draws: `counts` from number `first` on. The upper half of the bits chose the place.
        """
        text = np.repeat(texts, counts)
        number = np.arange(len(text)) + np.repeat(first - np.cumsum(counts) + counts, counts)
        bits = mixed(np.repeat(keys, counts) + number.astype(np.uint64) * GOLDEN)
        place = (bits >> np.uint64(32)).astype(np.int64) * self.sizes[text] >> 32
        return text, *self.tokens(self.begins[text] + place), bits

    def tokens(self, place: Ints) -> tuple[Ints, Ints]:
        """Return start and length of the tokens at places; of tokens longer than LONGEST only that they are longer."""
        eights = np.ndarray((len(self._blank_bits) - 7,), "V8", self._blank_bits, strides=(1,))
        blank = eights[place >> 3].view("<u8") >> (place & 7).astype(np.uint64)  # bit _BEFORE is the place itself
        before = blank & _BITS_BEFORE
        after = blank >> np.uint64(_BEFORE)
        for shift in (1, 2, 4, 8, 16):
            before |= before >> np.uint64(shift)
        start = place - _BEFORE + np.bitwise_count(before)
        end = place + np.bitwise_count((after & (~after + _ONE)) - _ONE)
        return start, end - start

    def plain(self, start: Ints, length: Ints) -> Plain:
        """Return the plain words among tokens of 1 to LONGEST characters."""
        windows = np.ndarray((len(self._flags) - _WINDOW,), f"V{_WINDOW}", self._flags, strides=(1,))
        flags = windows[start].view(np.uint8)
        small, capital, apostrophe, opening, closing = masks(flags & _WORD_FLAGS[:, None]).reshape(len(_WORD_FLAGS), -1)
        token = below(length)
        letters = (small | capital) & token
        first = lowest(letters)
        before = first - np.uint32(1)
        word = _filled(letters) & ~before
        faults = before & ~opening
        faults |= token & ~(before | word | closing)
        faults |= word & ~(letters | apostrophe)
        faults |= word & apostrophe & apostrophe >> np.uint32(1)
        faults |= token & capital & ~first
        kept = np.flatnonzero((letters != 0) & (faults == 0))
        before, word = before[kept], word[kept]
        apostrophe = lowest(apostrophe[kept] & word)
        skipped = np.bitwise_count(before).astype(np.int64)
        apostrophes = np.where(apostrophe, np.bitwise_count(apostrophe - np.uint32(1)) - skipped, 0)
        lengths = np.bitwise_count(word).astype(np.int64)
        return Plain(kept, start[kept] + skipped, lengths, (capital & first)[kept] != 0, apostrophes)

    def doubled(self, start: Ints, length: Ints) -> Masks:
        """Return masks of the letters of words that the same letter follows."""
        windows = np.ndarray((len(self.letters) - _WINDOW,), f"V{_WINDOW}", self.letters, strides=(1,))
        letters = windows[start].view(np.uint8)
        same = np.zeros(len(letters), np.bool_)
        np.equal(letters[1:], letters[:-1], out=same[:-1])
        return masks(same) & below(length - 1)


def mixed(numbers: Bits) -> Bits:
    """Return numbers of which every bit depends on all bits of the given ones.

    The finaliser of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
    """
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> np.uint64(31)


def masks(bits: npt.NDArray[Any]) -> Masks:
    """Return for every 32 values the mask of those that are not 0."""
    return np.packbits(bits, bitorder="little").view("<u4")


def below(count: Ints) -> Masks:
    """Return masks of the lowest `count` bits."""
    return (np.uint32(1) << count.astype(np.uint32)) - np.uint32(1)


def lowest(bits: Masks) -> Masks:
    """Return the lowest set bit of each mask."""
    return bits & (~bits + np.uint32(1))


def _filled(bits: Masks) -> Masks:
    """Return the masks with all bits below their highest one."""
    for shift in (1, 2, 4, 8, 16):
        bits = bits | bits >> np.uint32(shift)
    return bits
