"""Words to token ids, each computed once: fast tokenization on one core.

ByteLevel BPE parts a text into words (pre-tokens) and merges bytes within each; the same word gives the same ids
everywhere. So a table from word to ids, filled by the `tokenizers` library, answers for most of a text.

Invariant: the ids are those of the library, for every text. A text with a character whose class is not certain to
be the same in every Unicode version goes to the library whole.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

MOST_WORDS = 400_000
"""Words remembered at a time, about 80 MB; then the table is cleared."""
LONGEST_WORD = 64
"""Words of more characters are not remembered: they seldom come again."""
WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""Unicode's White_Space as a character class; Python's own `\\s` has four more."""
PICTURES = "\U0001f300-\U0001faff"
"""Emoji and their unassigned neighbours: neither letters, digits nor space in any version of Unicode."""


class WordTable:
    """Encodes texts through a table of words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Serve `tokenizer`, a ByteLevel BPE with GPT-2's regular expression and ids below 65,536."""
        self._tokenizer = tokenizer
        self._ids: dict[str, bytes] = {}
        self._words, self._uncertain = _patterns()

    def encode(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint16]]:
        """Return each text's ids, uint16 [tokens]."""
        return [np.frombuffer(self._bytes(text), np.uint16) for text in texts]

    def encode_words(self, text: str) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return a text's ids, and where each word ends: int64 [words] in characters, and in tokens."""
        words = self._split(text)
        pieces = self._look_up(words)
        characters = np.cumsum([len(word) for word in words], dtype=np.int64)
        tokens = np.cumsum([len(piece) // 2 for piece in pieces], dtype=np.int64)
        return np.frombuffer(b"".join(pieces), np.uint16), characters, tokens

    def _bytes(self, text: str) -> bytes:
        if self._uncertain.search(text):
            [encoding] = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
            return np.array(encoding.ids, np.uint16).tobytes()
        words = self._words.findall(text)
        try:
            return b"".join(map(self._ids.__getitem__, words))
        except KeyError:
            return b"".join(self._look_up(words))

    def _split(self, text: str) -> list[str]:
        if self._uncertain.search(text):
            spans = self._tokenizer.pre_tokenizer.pre_tokenize_str(text)
            return [text[start:end] for _, (start, end) in spans]
        return self._words.findall(text)

    def _look_up(self, words: list[str]) -> list[bytes]:
        """Return each word's ids as bytes, asking the library for those that the table has not."""
        known = self._ids
        missing = list(dict.fromkeys(word for word in words if word not in known))
        if not missing:
            return [known[word] for word in words]
        encodings = self._tokenizer.encode_batch_fast(missing, add_special_tokens=False)
        new = {
            word: np.array(encoding.ids, np.uint16).tobytes() for word, encoding in zip(missing, encodings, strict=True)
        }
        pieces = [known[word] if word in known else new[word] for word in words]
        if len(known) + len(new) > MOST_WORDS:
            known.clear()
        known.update((word, ids) for word, ids in new.items() if len(word) <= LONGEST_WORD)
        return pieces


@lru_cache(maxsize=1)
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return GPT-2's regular expression (its encoder.py of 2019) in Python's, and one of uncertain characters.

    A character is certain if it was a letter, a number or neither already in Unicode 3.2, and is the same today.
    """
    letters: list[int] = []
    digits: list[int] = []
    certain: list[int] = []
    for code in range(0x10000):
        character = chr(code)
        kind = unicodedata.category(character)
        if _class(kind) != "other":
            (letters if kind[0] == "L" else digits).append(code)
        before = unicodedata.ucd_3_2_0.category(character)
        if before != "Cn" and _class(before) == _class(kind):
            certain.append(code)
    letter, digit = _ranges(letters), _ranges(digits)
    words = re.compile(
        f"'(?:[stmd]|re|ve|ll)| ?[{letter}]+| ?[{digit}]+| ?[^{WHITE_SPACE}{letter}{digit}]+"
        f"|[{WHITE_SPACE}]+(?![^{WHITE_SPACE}])|[{WHITE_SPACE}]+"
    )
    return words, re.compile(f"[^{_ranges(certain)}{PICTURES}]")


def _class(category: str) -> str:
    return category[0] if category[0] in "LN" else "other"


def _ranges(codes: list[int]) -> str:
    """Return sorted code points as the inside of a character class."""
    parts, start = [], 0
    for index, code in enumerate(codes):
        if index + 1 == len(codes) or codes[index + 1] != code + 1:
            first, last = chr(codes[start]), chr(code)
            parts.append(f"{re.escape(first)}-{re.escape(last)}")
            start = index + 1
    return "".join(parts)
