"""Contrastive typos: clean documents and what noise makes of them, so that a model reads typos and writes none.

Three forms, mixed by the recipe (`sources.NAME.forms`), one drawn for each document and pass:

- `masked`: the noisy document; the tokens of corrupted words carry no loss (Kojima et al., TACL 2025, skip them).
- `correction`: `<|typo|>` noisy `<|fix|>` clean `<|endoftext|>`, passage by passage; the loss is on the clean side.
- `pair`: a clean passage and its noisy twin in one window, hidden from each other, both trained on; the prediction
  after each corrupted word is pulled towards the one after the clean word (the same paper's distribution matching).

Invariant: no token of a corrupted word is ever a target; of conversations only the user's turns become noisy.
"""

import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keylm.data.documents import Document, Fault
from keylm.data.pieces import Piece, fitting_tokens, untrain_turns
from keylm.languages.language import language_of
from keylm.recipe.load import Recipe
from keylm.text.tokenizer import END_OF_TEXT, FIX, TYPO, DocumentTokenizer, Mask, Tokens
from keylm.typos.model import Noisy, TypoModel

PASSAGE_CHARACTERS = 400
"""Longest passage of the forms `correction` and `pair`: a few sentences, what a phone shows above its keyboard."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
TURN_END = 2
"""Tokens after the content of a turn: `<|im_end|>` and a newline."""

Occurrence = tuple[Document, int, int]
"""(document, hash of its content, number of the pass)"""


class _NoisePlan(NamedTuple):
    """What a document becomes, and the texts to mistype for it, each with a seed for its noise."""

    form: str
    texts: list[str]
    names: list[int]


class Contrast:
    """Makes a typo source's pieces."""

    def __init__(self, recipe: Recipe, name: str, tokenizer: DocumentTokenizer) -> None:
        """Prepare for the source `name`. Raises KeylmError where a word list cannot be read."""
        source = recipe.sources[name]
        self._tokenizer, self._context, self._seed = tokenizer, recipe.training.context, recipe.seed
        self._model = TypoModel(recipe.typos, language_of(recipe.language_of(name)))
        self._forms, self._weights = list(source.forms), list(source.forms.values())
        # A passage has at most one token a byte; `pair` and `correction` hold it twice, with three marks.
        self._longest = min(PASSAGE_CHARACTERS, (self._context - 4) // 3)

    def pieces(self, documents: Sequence[Occurrence]) -> Iterator[list[Piece | Fault]]:
        """Yield the pieces of each document in its pass; all together, as noise for many texts is cheaper per text."""
        plans = [self._plan(*one) for one in documents]
        texts = [text for plan in plans for text in plan.texts]
        names = [name for plan in plans for name in plan.names]
        epochs = [epoch for plan, (_, _, epoch) in zip(plans, documents, strict=True) for _ in plan.texts]
        noisy = iter(self._model.corrupt_many(texts, self._seed, names, epochs))
        for plan, (document, _, _) in zip(plans, documents, strict=True):
            yield list(self._made(plan, document, list(islice(noisy, len(plan.texts)))))

    def _plan(self, document: Document, content: int, epoch: int) -> _NoisePlan:
        if document.text is None:
            users = [number for number, turn in enumerate(document.messages) if turn["role"] == "user"]
            # White space in front would share a token with the header's newline, and with it the mask.
            said = [document.messages[number]["content"].lstrip() for number in users]
            return _NoisePlan("conversation", said, [content + number for number in users])
        rng = random.Random(f"{self._seed}/{content}/{epoch}")
        [form] = rng.choices(self._forms, self._weights)
        if form == "masked":
            return _NoisePlan(form, [document.text], [content])
        passages = list(self._passages(document.text))
        return _NoisePlan(form, passages, [content + number for number in range(len(passages))])

    def _made(self, plan: _NoisePlan, document: Document, noisy: list[Noisy]) -> Iterator[Piece | Fault]:
        """Yield the pieces of a document whose planned texts have become `noisy`."""
        if plan.form == "conversation":
            yield self._conversation(document, noisy)
        elif plan.form == "masked":
            tokens, kept = self._noisy_tokens(noisy[0])
            yield Piece(_joined(tokens, [END_OF_TEXT]), _joined_mask(kept, [True]))
        else:
            for clean, one in zip(plan.texts, noisy, strict=True):
                if plan.form == "pair" and not len(one.spans):
                    continue  # twins without a difference teach nothing
                piece = self._correction(one, clean) if plan.form == "correction" else self._pair(one, clean)
                if len(piece.tokens) <= self._context:
                    yield piece

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

    def _conversation(self, document: Document, noisy: list[Noisy]) -> Piece | Fault:
        """Return a conversation whose users mistype, cut after the last answer that fits into a window."""
        typed = iter(noisy)
        said = [next(typed) if turn["role"] == "user" else None for turn in document.messages]
        messages = [
            turn if one is None else {**turn, "content": one.text}
            for turn, one in zip(document.messages, said, strict=True)
        ]
        tokens, _, ends = self._tokenizer.encode_chat(messages)
        fitting = fitting_tokens(messages, ends, self._context)
        if not fitting:
            return Fault(
                document.file, document.line, "conversation_too_long", "its first answer does not fit into a window"
            )
        trained = np.ones(len(tokens), dtype=np.bool_)
        for one, end in zip(said, ends, strict=True):
            if one is not None:
                _, kept = self._noisy_tokens(one)
                trained[end - TURN_END - len(kept) : end - TURN_END] = kept
        untrain_turns(trained, messages, ends)
        return Piece(tokens[:fitting], trained[:fitting], whole=True)

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
