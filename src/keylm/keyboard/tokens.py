"""Which tokens of a vocabulary spell words, and which can follow a word.

The language says what a word is: in English, letters with apostrophes inside ("don't"). Tokens are compared as UTF-8, a
character for each byte ("Ã¼" is "ü"), because a token may begin or end within a letter. Byte-level vocabularies write a
leading space as Ġ, SentencePiece's as ▁ and a byte as <0xC3>. A token that begins neither with a letter nor with an
apostrophe and a letter ends a word; so do special tokens and, as a simplification, letters of no word of the language.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.languages.language import ENGLISH
from keylm.languages.words import Words
from keylm.text.byte_level import byte_table

_LAST = "\x7f"
"""The last character of ASCII: higher ones are bytes of other letters."""


class WordTokens:
    """The tokens of which words consist."""

    def __init__(self, tokens: Sequence[str], size: int, words: Words = ENGLISH.words) -> None:
        """Take the vocabulary's spellings in order of their ids, and the number of logits (at least as many).

        Raises KeylmError where no token is a piece of a word.
        """
        self.words = words
        self._part, self._starts = re.compile(f"{words.part}*"), re.compile(words.inner)
        texts = _spelled(tokens)
        pieces = sorted((text, index) for index, text in enumerate(texts) if self._is_piece(text))
        if not any(text.strip() for text, _ in pieces):
            letters = "ASCII letters" if words.letters.isascii() else f"the letters {words.letters!r}"
            raise KeylmError(
                f"the tokenizer has no tokens of {letters}; accepted: one that can spell the words of them"
            )
        self._texts = [text for text, _ in pieces]
        self._ids = torch.tensor([index for _, index in pieces])
        self._by_text = {text: place for place, text in enumerate(self._texts)}
        self.spelling = {index: text for text, index in pieces}
        """The bytes of each token that is a piece of a word."""
        self._inner = [place for place, text in enumerate(self._texts) if not text.startswith(" ")]
        self._inner_ids = self._ids[self._inner]
        self.ends = torch.tensor([index for index, text in enumerate(texts) if not self._continues(text)])
        """Ids that can follow a whole word, int64 [E]."""
        assert len(texts) <= size

    def fitting(self, rest: str) -> Tensor:
        """Return the ids, int64, of tokens that agree with `rest` (bytes): one begins with the other.

        Where nothing is left of the typed letters, all tokens that continue a word.
        """
        if not rest:
            return self._inner_ids
        first, last = bisect_left(self._texts, rest), bisect_left(self._texts, rest[:-1] + chr(ord(rest[-1]) + 1))
        shorter = [self._by_text[rest[:n]] for n in range(1, len(rest)) if rest[:n] in self._by_text]
        return torch.cat((self._ids[first:last], self._ids[shorter]))

    def _is_piece(self, text: str) -> bool:
        """Return whether a token is a piece of a word; it may have the space before the word, or be that space."""
        encoded = text.removeprefix(" ").encode("latin-1")
        if not encoded:
            return text == " "
        beginnings, ends = self.words.letter_bytes
        starts = [n for n in range(4) if not n or (encoded[:n] in ends and text[0] != " ")]
        stops = [n for n in range(4) if not n or encoded[-n:] in beginnings]
        middles = [
            encoded[start : len(encoded) - stop] for start in starts for stop in stops if start + stop <= len(encoded)
        ]
        found = [text_of(middle.decode("latin-1")) for middle in middles]
        return any(middle is not None and self._part.fullmatch(middle) for middle in found)

    def _continues(self, text: str) -> bool:
        """Return whether a token can only continue a word."""
        encoded = text.encode("latin-1")
        if text[:1] > _LAST and encoded[0] & 0xC0 == 0x80:
            return False  # the end of a letter, which no whole word comes before
        beginning = encoded.decode("utf-8", "ignore")
        rest = encoded.removeprefix(self.words.apostrophe.encode())
        return self._starts.match(beginning) is not None or rest in self.words.letter_bytes[0]


def bytes_of(text: str) -> str:
    """Return the UTF-8 of a text, a character for each byte."""
    return text.encode("utf-8", "replace").decode("latin-1")


def text_of(spelled: str) -> str | None:
    """Return the text of such bytes; None where they begin or end within a character."""
    try:
        return spelled if spelled.isascii() else spelled.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return None


def word_tokens(model: Any, tokenizer: Any, words: Words = ENGLISH.words) -> WordTokens:
    """Return the word tokens of a model and its tokenizer. Raises KeylmError."""
    size = int(model.get_input_embeddings().num_embeddings)
    if len(tokenizer) > size:
        raise KeylmError(
            f"the tokenizer has {len(tokenizer):,} entries, the embedding {size:,}; accepted: a tokenizer and a model "
            "that belong together"
        )
    return WordTokens(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))), size, words)


def _spelled(tokens: Sequence[str]) -> list[str]:
    """Return a vocabulary's tokens as bytes, a leading space as such."""
    if not any(token.startswith("Ġ") for token in tokens):
        bare = (re.sub(r"^<0x([0-9A-F]{2})>$", lambda found: chr(int(found[1], 16)), token) for token in tokens)
        return [
            text if text != token and len(text) == 1 else bytes_of(re.sub("^▁", " ", token))
            for token, text in zip(tokens, bare, strict=True)
        ]
    table = byte_table()
    return [
        "".join(chr(table[character]) for character in token) if table.keys() >= set(token) else bytes_of(token)
        for token in tokens
    ]
