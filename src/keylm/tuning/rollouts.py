"""Roll-outs: what a policy answers now, with the log-probability of each token it chose.

Invariant: the log-probabilities are those of the distribution that was sampled from: temperature alone, no top-k, top-p
or penalty, whatever the model's folder has as defaults. On a GPU the sampler computes in bf16 what is trained in fp32
under autocast; metrics.jsonl has the difference (sampling_gap).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from keylm.runtimes.batch_generation import BatchGenerator
from keylm.runtimes.cached_decoder import CachedDecoder, load_weights
from keylm.runtimes.sampling import Sampling

MEMORY = 0.3
"""Share of the free memory that the sampler's caches may take; training needs the rest."""


@dataclass(frozen=True)
class RollOuts:
    """How answers are sampled."""

    max_new_tokens: int
    temperature: float
    """over 0"""
    ends: frozenset[int]
    """tokens that end an answer"""


@dataclass(frozen=True)
class SampledAnswer:
    """An answer: its tokens, the end token included where it was reached, and their log-probabilities in nats."""

    ids: list[int]
    log_probs: list[float]


class Roller:
    """Samples answers with the weights of a model in training."""

    def __init__(self, folder: Path, how: RollOuts, device: torch.device) -> None:
        """Take the shape of the model folder that training begins with. Raises KeylmError where it is damaged."""
        decoder = CachedDecoder(load_weights(folder), "bf16" if device.type == "cuda" else "fp32", device)
        self._generator, self._how = BatchGenerator(decoder, memory=MEMORY), how

    def __call__(
        self, policy: nn.Module, prompts: Sequence[Sequence[int]], seed: int, each: int = 1
    ) -> list[SampledAnswer]:
        """Return `each` answers to every prompt (token ids), side by side, sampled with the weights of `policy` now.

        The same weights, prompts and seed give the same answers on one machine. Raises KeylmError where the weights
        give no finite logits.
        """
        how = self._how
        self._generator.take({name: tensor.detach() for name, tensor in policy.named_parameters()})
        sampling = Sampling(how.max_new_tokens, how.temperature, top_p=1.0, repetition_penalty=1.0, seed=seed, top_k=0)
        written = self._generator.generate(prompts, sampling, each=each, ends=how.ends)
        return [SampledAnswer(one.ids, one.log_probabilities) for one in written]
