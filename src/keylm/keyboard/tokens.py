"""Which tokens of a vocabulary spell words, and which can follow a word.

The language says what a word is: in English, letters with apostrophes inside ("don't"). Byte-level vocabularies write a
leading space as Ġ, SentencePiece's as ▁; ASCII letters are the same in both. A token that begins neither with a letter
nor with an apostrophe and a letter ends a word; so do special tokens and, as a simplification, letters beyond ASCII.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.languages.language import ENGLISH, Words

_LAST = "\x7f"
"""Sorts after every character of a piece."""


class WordTokens:
    """The tokens of which words consist."""

    def __init__(self, tokens: Sequence[str], size: int, words: Words = ENGLISH.words) -> None:
        """Take the vocabulary's spellings in order of their ids, and the number of logits (at least as many).

        Raises KeylmError where no token is a piece of a word.
        """
        self.words = words
        piece, inner = re.compile(words.piece), re.compile(words.inner)
        texts = [re.sub("^[Ġ▁]", " ", token) for token in tokens]
        pieces = sorted((text, index) for index, text in enumerate(texts) if piece.fullmatch(text))
        if not any(text.strip() for text, _ in pieces):
            raise KeylmError("the tokenizer has no tokens of ASCII letters; accepted: one that can spell English words")
        self._texts = [text for text, _ in pieces]
        self._ids = torch.tensor([index for _, index in pieces])
        self._by_text = {text: place for place, text in enumerate(self._texts)}
        self.spelling = {index: text for text, index in pieces}
        """The text of each token that is a piece of a word."""
        self._inner = [place for place, text in enumerate(self._texts) if not text.startswith(" ")]
        self._inner_ids = self._ids[self._inner]
        self.ends = torch.tensor([index for index, text in enumerate(texts) if not inner.match(text)])
        """Ids that can follow a whole word, int64 [E]."""
        assert len(texts) <= size

    def fitting(self, rest: str) -> Tensor:
        """Return the ids, int64, of tokens that agree with `rest`: one begins with the other.

        Where nothing is left of the typed letters, all tokens that continue a word.
        """
        if not rest:
            return self._inner_ids
        first, last = bisect_left(self._texts, rest), bisect_left(self._texts, rest + _LAST)
        shorter = [self._by_text[rest[:n]] for n in range(1, len(rest)) if rest[:n] in self._by_text]
        return torch.cat((self._ids[first:last], self._ids[shorter]))


def word_tokens(model: Any, tokenizer: Any) -> WordTokens:
    """Return the word tokens of a model and its tokenizer. Raises KeylmError."""
    size = int(model.get_input_embeddings().num_embeddings)
    if len(tokenizer) > size:
        raise KeylmError(
            f"the tokenizer has {len(tokenizer):,} entries, the embedding {size:,}; accepted: a tokenizer and a model "
            "that belong together"
        )
    return WordTokens(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))), size)
