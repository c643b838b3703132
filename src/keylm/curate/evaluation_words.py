"""Words as numbers: a text's words, each as a 64-bit hash, for comparing texts far faster than as strings.

Invariant: a word's hash depends on its letters and digits alone: not on case, punctuation, position or neighbours, nor
on the process, the machine or the texts it is hashed together with.

Words are those of Brown et al. 2020, appendix C: lower-case, punctuation removed, split on white space; long dashes
also separate words. All words of a text are hashed at once, eight bytes of each in a step.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from keylm.typos.words import mixed

Hashes = npt.NDArray[np.uint64]

BLOCK = 8
"""Bytes of a word that are hashed in one step."""
_BREAKS = "–—―"
_ASCII = [chr(code) for code in range(128)]
_PLAIN_BYTE = bytes(ord(" ") if c.isspace() else ord(c.lower()) for c in _ASCII) + bytes(range(128, 256))
_DROPPED_BYTES = bytes(code for code, c in enumerate(_ASCII) if not c.isspace() and not c.isalnum())
_NON_ASCII = re.compile(r"[^\x00-\x7f]")
_TOKEN = re.compile(rf"[^\s{_BREAKS}]+")
_FEW_SIGNS = 48
"""Up to this many different characters are replaced one by one, which is faster than searching for all."""
_FIRST_BYTES = np.array([(1 << 8 * size) - 1 for size in range(BLOCK + 1)], dtype=np.uint64)


@dataclass(frozen=True)
class HashedWords:
    """The words of several texts in one row."""

    hashes: Hashes
    """uint64 [words]"""
    bounds: npt.NDArray[np.int64]
    """int64 [texts + 1]: text n has the words bounds[n] … bounds[n + 1] - 1"""


def hash_words(texts: Sequence[str]) -> HashedWords:
    """Return the hashes of all words of `texts`."""
    plain = [_plain(text) for text in texts]
    joined = b" ".join([b"", *plain, b" " * BLOCK])
    spaces = np.frombuffer(joined, dtype=np.uint8) == ord(" ")
    edges = np.flatnonzero(spaces[1:] != spaces[:-1]) + 1
    starts, ends = edges[0::2], edges[1::2]
    offsets = np.cumsum([1, *(len(part) + 1 for part in plain)])
    return HashedWords(_hash_spans(joined, starts, ends - starts), np.searchsorted(starts, offsets).astype(np.int64))


def _hash_spans(joined: bytes, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Hashes:
    """Return the hashes of the bytes from each of `starts`; BLOCK more bytes must follow the last span."""
    blocks: Hashes = np.ndarray((len(joined) - BLOCK + 1,), dtype="<u8", buffer=joined, strides=(1,))
    hashes = mixed(blocks[starts] & _FIRST_BYTES[np.minimum(lengths, BLOCK)])
    longer, done = np.flatnonzero(lengths > BLOCK), BLOCK
    while len(longer):
        rest = _FIRST_BYTES[np.minimum(lengths[longer] - done, BLOCK)]
        hashes[longer] = mixed(hashes[longer] * np.uint64(3) + (blocks[starts[longer] + done] & rest))
        done += BLOCK
        longer = longer[lengths[longer] > done]
    return hashes


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return the start and end, in characters of `text`, of the words that `hash_words` hashes."""
    return [match.span() for match in _TOKEN.finditer(text) if any(map(str.isalnum, match.group()))]


def _plain(text: str) -> bytes:
    """Return a text in lower case without punctuation, all white space being blanks, as UTF-8."""
    if not text.isascii():
        codes = np.frombuffer(text.encode("utf-32-le", "replace"), dtype="<u4")
        characters = [chr(code) for code in np.unique(codes[codes > 127])]
        if len(characters) > _FEW_SIGNS:
            text = _NON_ASCII.sub(lambda match: _plain_character(match[0]), text)
        else:
            for character in characters:
                text = text.replace(character, _plain_character(character))
    return text.encode("utf-8", "replace").translate(_PLAIN_BYTE, _DROPPED_BYTES)


@lru_cache(maxsize=1 << 16)
def _plain_character(character: str) -> str:
    if character.isalnum():
        return character.lower()
    return " " if character.isspace() or character in _BREAKS else ""
