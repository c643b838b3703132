"""Text that a policy is not to forget: rows of tokens with a supervised loss beside the rewards.

Invariant: a step's rows are a function of (text, step), so a resumed run takes the same. The first HELD documents are
never trained on; they tell what the tuning cost in perplexity. A document gives one row, its first ROW_TOKENS tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.data.documents import Document
from keylm.data.sources import read_source
from keylm.model.opening import chat_ids
from keylm.recipe.schema import Source

ROW_TOKENS = 512
ROWS = 16
"""of a step"""
HELD = 64
"""Documents to measure on, or a quarter of them where they are few."""
IGNORED = -100
"""The label of a token without loss."""


@dataclass(frozen=True)
class ReplayRow:
    """Token ids [T] and which of them carry loss, bool [T]."""

    ids: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class Replay:
    """Rows to train on and rows to measure on."""

    learnt: list[ReplayRow]
    held: list[ReplayRow]
    pad: int

    def batch(self, number: int, rows: int) -> dict[str, Tensor]:
        """Return batch `number` of so many rows; after the last row comes the first again."""
        start = number * rows
        return self.tensors([self.learnt[(start + row) % len(self.learnt)] for row in range(rows)])

    def tensors(self, rows: Sequence[ReplayRow]) -> dict[str, Tensor]:
        """Return rows as a model's arguments: input_ids, attention_mask and labels, int64 [rows, T] each."""
        width = max(len(row.ids) for row in rows)
        padded = {"input_ids": [], "attention_mask": [], "labels": []}  # type: dict[str, list[list[int]]]
        for row in rows:
            room = width - len(row.ids)
            labels = [token if trained else IGNORED for token, trained in zip(row.ids, row.trained, strict=True)]
            padded["input_ids"].append(row.ids + [self.pad] * room)
            padded["attention_mask"].append([1] * len(row.ids) + [0] * room)
            padded["labels"].append(labels + [IGNORED] * room)
        return {name: torch.tensor(values) for name, values in padded.items()}


def read_replay(files: Sequence[Path], tokenizer: Any, context: int, steps: int) -> Replay:
    """Return the first documents of files and folders, as many as `steps` steps need. Raises KeylmError without any.

    Of texts every token carries loss, of conversations the assistant's where the chat template marks them.
    """
    rows = list(islice(_rows(files, tokenizer, min(context, ROW_TOKENS)), HELD + steps * ROWS))
    if len(rows) < 2:
        raise KeylmError(
            f"{', '.join(map(str, files))}: {len(rows)} texts to replay; accepted: at least two, as text or messages"
        )
    held = min(HELD, max(1, len(rows) // 4))
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return Replay(rows[held:], rows[:held], pad)


def _rows(files: Sequence[Path], tokenizer: Any, most: int) -> Iterator[ReplayRow]:
    for file in files:
        for document in read_source("replay", Source(path=str(file))):
            if isinstance(document, Document):
                row = _row(document, tokenizer)
                if any(row.trained[1:most]):  # the first token is never predicted
                    yield ReplayRow(row.ids[:most], row.trained[:most])


def _row(document: Document, tokenizer: Any) -> ReplayRow:
    if document.text is not None:
        ids = [*tokenizer(document.text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        return ReplayRow(ids, [True] * len(ids))
    messages = [{"role": turn["role"], "content": turn["content"]} for turn in document.messages]
    ids = chat_ids(tokenizer, messages)
    if "{% generation %}" not in tokenizer.chat_template:
        return ReplayRow(ids, [True] * len(ids))
    marked = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    return ReplayRow(ids, [bool(mark) for mark in marked["assistant_masks"]])


@torch.no_grad()
def perplexity(model: Any, replay: Replay) -> float:
    """Return the perplexity per trained token of the rows held out."""
    nats, tokens = 0.0, 0
    for start in range(0, len(replay.held), ROWS):
        batch = {
            name: value.to(model.device) for name, value in replay.tensors(replay.held[start : start + ROWS]).items()
        }
        count = int((batch["labels"][:, 1:] != IGNORED).sum())
        nats += float(model(**batch).loss) * count
        tokens += count
    return float(torch.tensor(nats / tokens).exp())  # inf where it is beyond a float's range
