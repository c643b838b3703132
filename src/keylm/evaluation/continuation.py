"""A continuation's code length in bits under a causal language model, given its prefix.

The most sensitive measure of a prefix's effect on a small model: the same continuation after a clean and after a
mistyped prefix, or the right answer after a question. Works for any model and tokenizer that transformers opens.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.training.validation import token_losses

IGNORED = -100


@torch.no_grad()
def continuation_bits(
    model: Any, tokenizer: Any, items: Sequence[tuple[str, str]], *, context: int, batch_tokens: int = 16_384
) -> list[float]:
    """Return each continuation's code length in bits, under `model` and after its prefix.

    `items` are (prefix, continuation), encoded separately, so the continuation begins at a token boundary. Special
    tokens spelled out in a prefix are those tokens. A prefix is truncated on the left where both exceed `context`
    tokens; an empty one means the beginning of a text. Raises KeylmError where a continuation is empty or too long.
    """
    encoded = [_encode(tokenizer, prefix, continuation, context) for prefix, continuation in items]
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index][0]))
    bits = [0.0] * len(items)
    for batch in _batches(order, [len(tokens) for tokens, _ in encoded], batch_tokens):
        tokens, labels = _padded([encoded[index] for index in batch], model.device)
        losses = token_losses(model(input_ids=tokens).logits, labels)
        for index, loss in zip(batch, losses.sum(dim=1).tolist(), strict=True):
            bits[index] = loss / math.log(2)
    return bits


def _encode(tokenizer: Any, prefix: str, continuation: str, context: int) -> tuple[list[int], int]:
    """Return the ids of both, and how many are the continuation's."""
    before = tokenizer(prefix, add_special_tokens=False)["input_ids"] or [tokenizer.eos_token_id]
    after = tokenizer(continuation, add_special_tokens=False)["input_ids"]
    if not 0 < len(after) < context:
        raise KeylmError(
            f"continuation {continuation[:40]!r}: has {len(after)} tokens; accepted: 1 to {context - 1}, as the "
            f"model's context is {context}"
        )
    return [*before, *after][-context:], len(after)


def _batches(order: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Return the indices in `order` (ascending lengths) in batches of at most `batch_tokens` padded tokens."""
    batches: list[list[int]] = []
    for index in order:
        if not batches or (len(batches[-1]) + 1) * lengths[index] > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def _padded(encoded: Sequence[tuple[list[int], int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and labels, int64 [B, L], padded on the right."""
    length = max(len(tokens) for tokens, _ in encoded)
    tokens = torch.zeros(len(encoded), length, dtype=torch.int64)
    labels = torch.full((len(encoded), length), IGNORED)
    for row, (ids, scored) in enumerate(encoded):
        tokens[row, : len(ids)] = torch.tensor(ids)
        labels[row, len(ids) - scored - 1 : len(ids) - 1] = torch.tensor(ids[-scored:])
    return tokens.to(device), labels.to(device)
