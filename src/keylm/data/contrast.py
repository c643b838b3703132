"""Contrastive typos: clean documents and what noise makes of them, so that a model reads typos and writes none.

Four forms, mixed by the recipe (`sources.NAME.forms`), one drawn for each document and pass:

- `masked`: the noisy document; the tokens of corrupted words carry no loss (Kojima et al., TACL 2025, skip them).
- `correction`: `<|typo|>` noisy `<|fix|>` clean `<|endoftext|>`, passage by passage; the loss is on the clean side.
- `continuation`: a document whose first part is noisy; the loss is on the clean rest.
- `pair`: a clean passage and its noisy twin in one window, unseen by each other. Both are learnt from (the twin
  without its corrupted words), and behind each corrupted word the prediction is drawn towards the one behind the
  clean word (the same paper's matching of next-word distributions).

Of conversations what users say becomes noisy, never what assistants answer; they are `masked`.

Invariant: no token of a corrupted word is ever a target, in any form.
"""

import random
import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from keylm.data.documents import Document, Fault
from keylm.data.pieces import Piece
from keylm.data.typos import Noisy, TypoModel
from keylm.recipe import Recipe
from keylm.tokenizer import END_OF_TEXT, FIX, IM_END, IM_START, TYPO, DocumentTokenizer, Mask, Tokens

PASSAGE_CHARACTERS = 400
"""Longest passage of the forms `correction` and `pair`: a few sentences, as they stand on a keyboard's screen."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


class Contrast:
    """Makes a typo source's pieces."""

    def __init__(self, recipe: Recipe, name: str, tokenizer: DocumentTokenizer) -> None:
        """Prepare for the source `name`. Raises KeylmError where a word list cannot be read."""
        source = recipe.sources[name]
        self._tokenizer, self._context, self._seed = tokenizer, recipe.training.context, recipe.seed
        self._model = TypoModel(recipe.typos)
        self._forms, self._weights = list(source.forms), list(source.forms.values())
        # A passage has at most one token a byte; `pair` and `correction` hold it twice, with three marks.
        self._longest = min(PASSAGE_CHARACTERS, (self._context - 4) // 3)

    def pieces(self, document: Document, content: int, epoch: int) -> Iterator[Piece | Fault]:
        """Yield what becomes of a document of this content hash in pass `epoch`."""
        if document.text is None:
            yield from self._conversation(document, content, epoch)
            return
        rng = random.Random(f"{self._seed}/{content}/{epoch}")
        [form] = rng.choices(self._forms, self._weights)
        if form == "masked":
            yield self._masked(document.text, content, epoch)
        elif form == "continuation":
            yield self._continuation(document.text, content, epoch, rng.uniform(0.3, 0.7))
        else:
            for number, passage in enumerate(self._passages(document.text)):
                noisy = self._model.corrupt(passage, self._seed, content + number, epoch)
                if form == "pair" and not noisy.edits:
                    continue  # twins without a difference teach nothing
                piece = self._correction(noisy, passage) if form == "correction" else self._pair(noisy, passage)
                if len(piece.tokens) <= self._context:
                    yield piece

    def _masked(self, text: str, content: int, epoch: int) -> Piece:
        noisy = self._model.corrupt(text, self._seed, content, epoch)
        tokens, kept = self._noisy_tokens(noisy)
        return Piece(_joined(tokens, [END_OF_TEXT]), _joined_mask(kept, [True]))

    def _continuation(self, text: str, content: int, epoch: int, share: float) -> Piece:
        cut = text.rfind(" ", 0, round(len(text) * share))
        cut = max(cut, 0)
        noisy = self._model.corrupt(text[:cut], self._seed, content, epoch)
        before, _ = self._noisy_tokens(noisy)
        [after] = self._tokenizer.encode_texts([text[cut:]])
        trained = np.arange(len(before) + len(after) + 1) >= len(before)
        return Piece(_joined(before, after, [END_OF_TEXT]), trained)

    def _correction(self, noisy: Noisy, clean: str) -> Piece:
        left, right = self._tokenizer.encode_texts([noisy.text, clean])
        tokens = _joined([TYPO], left, [FIX], right, [END_OF_TEXT])
        return Piece(tokens, np.arange(len(tokens)) >= len(left) + 2, whole=True)

    def _pair(self, noisy: Noisy, clean: str) -> Piece:
        """Return clean and noisy text as two documents of one piece, each corrupted word's end with its partner."""
        right, right_characters, right_ends = self._tokenizer.encode_words(clean)
        left, left_characters, left_ends = self._tokenizer.encode_words(noisy.text)
        kept = self._kept(noisy, left_characters, left_ends, len(left))
        shift = len(right) + 1
        partners = np.zeros(shift + len(left) + 1, dtype=np.uint16)
        twins = shift + _last_token(left_characters, left_ends, noisy.spans[:, 1])
        partners[twins] = twins - _last_token(right_characters, right_ends, noisy.spans[:, 3])
        tokens = _joined(right, [END_OF_TEXT], left, [END_OF_TEXT])
        trained = _joined_mask(np.ones(shift, dtype=np.bool_), kept, [True])
        return Piece(tokens, trained, (0, shift), whole=True, partners=partners)

    def _conversation(self, document: Document, content: int, epoch: int) -> Iterator[Piece | Fault]:
        """Yield a conversation whose users mistype, cut behind the last answer that fits into a window."""
        [newline] = self._tokenizer.encode_texts(["\n"])
        tokens: list[Tokens] = []
        trained: list[Mask] = []
        length = fitting = 0
        for number, turn in enumerate(document.messages):
            [header] = self._tokenizer.encode_texts([f"{turn['role']}\n"])
            if turn["role"] == "user":
                noisy = self._model.corrupt(turn["content"], self._seed, content + number, epoch)
                body, kept = self._noisy_tokens(noisy)
            else:
                [body] = self._tokenizer.encode_texts([turn["content"]])
                kept = np.ones(len(body), dtype=np.bool_)
            tokens.append(_joined([IM_START], header, body, [IM_END], newline))
            trained.append(_joined_mask(np.ones(1 + len(header), np.bool_), kept, np.ones(1 + len(newline), np.bool_)))
            length += len(tokens[-1])
            if length > self._context:
                break
            if turn["role"] == "assistant":
                fitting = number + 1
        if not fitting:
            yield Fault(document.file, document.line, "conversation_too_long", "its first answer ends behind a window")
            return
        yield Piece(np.concatenate(tokens[:fitting]), np.concatenate(trained[:fitting]), whole=True)

    def _noisy_tokens(self, noisy: Noisy) -> tuple[Tokens, Mask]:
        """Return the noisy text's ids, and for each whether it belongs to no corrupted word."""
        tokens, characters, ends = self._tokenizer.encode_words(noisy.text)
        return tokens, self._kept(noisy, characters, ends, len(tokens))

    def _kept(self, noisy: Noisy, characters: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], count: int) -> Mask:
        """Return for each of `count` tokens whether it belongs to no corrupted word."""
        first, last = np.searchsorted(characters, noisy.spans[:, :2] - [0, 1], side="right").T
        begun = np.bincount(np.concatenate(([0], ends))[first], minlength=count + 1)
        ended = np.bincount(ends[last], minlength=count + 1)
        kept: Mask = np.cumsum(begun - ended)[:count] == 0
        return kept

    def _passages(self, text: str) -> Iterator[str]:
        """Yield a text's sentences, joined to passages of up to PASSAGE_CHARACTERS; longer ones are left out."""
        held = ""
        for sentence in SENTENCE_END.split(text):
            if held and len(held) + 1 + len(sentence) > self._longest:
                yield held
                held = ""
            held = f"{held} {sentence}".strip()
            if len(held) > self._longest:
                held = ""
        if held:
            yield held


def _last_token(
    characters: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], end: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the positions of the last tokens of the words that hold the characters before each `end`."""
    return ends[np.searchsorted(characters, end - 1, side="right")] - 1


def _joined(*parts: Tokens | list[int]) -> Tokens:
    return np.concatenate(parts).astype(np.uint16)


def _joined_mask(*parts: Mask | list[bool]) -> Mask:
    return np.concatenate(parts).astype(np.bool_)
