"""Roll-outs: what a policy answers now, with the log-probability of each token it chose.

`roll_out` is all that reinforcement learning asks of a sampler, so that a faster one can take its place. Invariant:
the log-probabilities are those of the distribution that was sampled from: temperature alone, no top-k, top-p or
penalty, whatever the model's folder has as defaults. Cost: one pass a token for `rows_at_once` answers together.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keylm.runtimes.generation import FiniteLogits, rows_at_once


@dataclass(frozen=True)
class RollOuts:
    """How answers are sampled."""

    max_new_tokens: int
    temperature: float
    """over 0"""
    ends: frozenset[int]
    """tokens that end an answer"""
    pad: int


@dataclass(frozen=True)
class SampledAnswer:
    """An answer: its tokens, the end token included where it was reached, and their log-probabilities in nats."""

    ids: list[int]
    log_probs: list[float]


def roll_out(model: Any, prompts: Sequence[Sequence[int]], how: RollOuts, seed: int) -> list[SampledAnswer]:
    """Return an answer to each prompt (token ids), sampled with the weights that `model` has now.

    The same weights, prompts, settings and seed give the same answers on one machine. Raises KeylmError where the
    weights give no finite logits.
    """
    torch.manual_seed(seed)
    found = list[SampledAnswer]()
    longest = max(map(len, prompts), default=0) + how.max_new_tokens
    size = rows_at_once(model.config, model.device, longest)
    for start in range(0, len(prompts), size):
        found += _rolled_out(model, prompts[start : start + size], how)
    return found


def _rolled_out(model: Any, prompts: Sequence[Sequence[int]], how: RollOuts) -> list[SampledAnswer]:
    from transformers import LogitsProcessorList

    width, device = max(map(len, prompts)), model.device
    ids = torch.tensor([[how.pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    chosen = _ChosenLogProbs(how.temperature)
    faster = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()
    with torch.no_grad(), faster:
        drawn = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=how.max_new_tokens,
            do_sample=True,
            temperature=how.temperature,
            top_p=1.0,
            top_k=0,
            repetition_penalty=1.0,
            eos_token_id=sorted(how.ends),
            pad_token_id=how.pad,
            use_cache=True,
            logits_processor=LogitsProcessorList([FiniteLogits(), chosen]),
        )
    answers, log_probs = drawn[:, width:].tolist(), chosen.all(drawn[:, -1]).tolist()
    return [_ended(answer, values, how.ends) for answer, values in zip(answers, log_probs, strict=True)]


def _ended(ids: list[int], log_probs: list[float], ends: frozenset[int]) -> SampledAnswer:
    """Return an answer up to its first end token."""
    length = next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))
    return SampledAnswer(ids[:length], log_probs[:length])


class _ChosenLogProbs:
    """Keeps the log-probability of each token that was chosen, and of the vocabulary's only for the step at hand."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._before: Tensor | None = None
        self._found: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return `scores` [rows, V] as they are. input_ids: int64 [rows, tokens so far]."""
        self._take(input_ids[:, -1])
        self._before = (scores.float() / self._temperature).log_softmax(-1)
        return scores

    def _take(self, tokens: Tensor) -> None:
        if self._before is not None:
            self._found.append(self._before.gather(1, tokens[:, None])[:, 0])

    def all(self, last: Tensor) -> Tensor:
        """Return the log-probabilities [rows, tokens] of all steps; `last` [rows]: the tokens of the last one."""
        self._take(last)
        return torch.stack(self._found, 1)
