"""The next token: each request's settings, applied to the logits of a batch.

In this order: biases and penalties, the grammar, temperature, then top_k, top_p and min_p on the probabilities. Each
text samples from its own generator, seeded by the request's seed and the choice's number, so what else is in
the batch changes nothing but rounding. Log-probabilities are the model's own, before any of this.

Sources: nucleus sampling (top_p), Holtzman et al., arXiv 1904.09751; min_p, arXiv 2407.01082; repetition penalty as in
CTRL, arXiv 1909.05858, over prompt and answer; presence and frequency penalties as OpenAI's, over the answer.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from keylm.runtimes.sampling import GREEDY_BELOW
from keylm.serving.grammar import JsonGrammar


@dataclass(frozen=True)
class RequestSampling:
    """How tokens are sampled."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 or less: all."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()
    """Token and what is added to its logit."""
    seed: str | None = None


@dataclass(frozen=True)
class Token:
    """A token with its log-probability and the top alternatives."""

    id: int
    log_probability: float | None = None
    """In nats; None if not requested, or if nothing precedes the token."""
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass
class TokenSampler:
    """Samples one text's tokens."""

    sampling: RequestSampling
    vocab_size: int
    prompt: Sequence[int] = ()
    top: int | None = None
    """How many top alternatives are returned with each token; None: not even its own log-probability."""
    grammar: JsonGrammar | None = None
    _random: random.Random = field(init=False)
    _bias: Tensor = field(init=False)
    _counts: Tensor | None = None
    _seen: Tensor | None = None

    def __post_init__(self) -> None:
        self._random = random.Random(self.sampling.seed)
        self._bias = torch.zeros(self.vocab_size if self.sampling.bias else 0)
        for token, bias in self.sampling.bias:
            self._bias[token] += bias
        if self.sampling.presence_penalty or self.sampling.frequency_penalty:
            self._counts = torch.zeros(self.vocab_size)
        if self.sampling.repetition_penalty != 1:
            self._seen = torch.zeros(self.vocab_size, dtype=torch.bool)
            self._seen[torch.tensor(list(self.prompt), dtype=torch.int64)] = True

    def sample(self, logits: Tensor) -> Token:
        """Return the next token by its logits, fp32 [V]."""
        chosen = self._choose(self._adjusted(logits))
        if self._counts is not None:
            self._counts[chosen] += 1
        if self._seen is not None:
            self._seen[chosen] = True
        if self.grammar is not None:
            self.grammar.accept(chosen)
        return scored_token(logits, chosen, self.top)

    def _adjusted(self, logits: Tensor) -> Tensor:
        settings = self.sampling
        if not (settings.bias or self.grammar or self._counts is not None or self._seen is not None):
            return logits
        logits = logits.clone()
        if self._seen is not None:
            weaker = torch.where(logits > 0, logits / settings.repetition_penalty, logits * settings.repetition_penalty)
            logits = torch.where(self._seen, weaker, logits)
        if self._counts is not None:
            logits -= settings.frequency_penalty * self._counts + settings.presence_penalty * (self._counts > 0)
        if settings.bias:
            logits += self._bias
        if self.grammar is not None:
            self.grammar.restrict(logits)
        return logits

    def _choose(self, logits: Tensor) -> int:
        settings = self.sampling
        if not logits.max().isfinite():  # NaN too, which max passes on
            raise FloatingPointError("the logits are not finite")
        if settings.temperature < GREEDY_BELOW or settings.top_k == 1:
            return int(logits.argmax())
        probabilities = (logits / settings.temperature).softmax(-1).numpy()
        if settings.min_p:
            probabilities = np.where(probabilities >= settings.min_p * probabilities.max(), probabilities, 0)
        if settings.top_k > 0 or settings.top_p < 1:
            probabilities = np.where(probabilities >= self._least(probabilities), probabilities, 0)
        sums = probabilities.cumsum(dtype=np.float64)
        # A token of zero probability adds nothing to the cumulative sum, so it is never sampled.
        return int(np.searchsorted(sums, self._random.random() * sums[-1], side="right"))

    def _least(self, probabilities: npt.NDArray[np.float32]) -> float:
        """Return the least probability that top_k and top_p leave; equals of it stay too."""
        values = np.sort(probabilities)[::-1]  # many times faster than sorting tokens with them
        if self.sampling.top_k > 0:
            values = values[: self.sampling.top_k]
        sums = values.cumsum(dtype=np.float64)
        place = int(np.searchsorted(sums, self.sampling.top_p * sums[-1]))
        return float(values[min(place, len(values) - 1)])


def scored_token(logits: Tensor, token: int, top: int | None) -> Token:
    """Return a token with its log-probability by `logits` [V], and the `top` likeliest (ties by the lower id first)."""
    if top is None:
        return Token(token)
    scores = logits.log_softmax(-1)
    values, ids = scores.topk(min(top, len(scores)))
    return Token(token, float(scores[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
