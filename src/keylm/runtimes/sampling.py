"""The next token of many texts at once, on the device of their logits: settings, and the plain formulas.

A token is drawn by the Gumbel-max trick (Gumbel 1954; Maddison et al., arXiv 1411.0030, section 1): each token's logit
gets noise that is a hash of the text's seed, the number of tokens written and the token, and the largest wins. So a
text is the same alone and in company, up to the rounding of its logits, and on a CPU as on a GPU.

In this order, as in transformers: repetition penalty (CTRL, arXiv 1909.05858, over prompt and answer), temperature,
top_k, top_p (Holtzman et al., arXiv 1904.09751), min_p (arXiv 2407.01082). Tokens as likely as the last that is kept
are kept too. decoding_kernels.py has the same in one kernel. B texts, V vocabulary.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

TOP_K = 50
"""Of transformers' generate, where nothing else is asked for: so also of a model folder's settings."""
GREEDY_BELOW = 0.01
"""Temperatures under this overflow the logits and mean the likeliest token anyway."""
WORD = 0xFFFFFFFF
GOLDEN = 0x9E3779B9
"""2^32 divided by the golden ratio: multiples of it are spread evenly."""
SMALL = 1 / 64
"""Below this, -log(1 - u) is taken from its series, which 32 bits compute exactly where the difference is not."""
_NOT_SAMPLING = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "max_new_tokens", "use_cache"),
    *("transformers_version", "_from_model_config"),
}
_NEUTRAL = (("num_beams", 1), ("num_return_sequences", 1))
_DEFAULTS = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": TOP_K,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
"""Of transformers' generate."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is sampled; the defaults suit a small model."""

    max_new_tokens: int = 200
    temperature: float = 0.7
    top_p: float = 0.9
    repetition_penalty: float = 1.1
    seed: int | None = None
    loop_guard: int = 0
    """Tokens in a row that an answer may not say twice; 0: no matter. See generation.NoLoops."""
    top_k: int = TOP_K
    """Likeliest tokens that may be drawn; 0: all, as a roll-out wants it."""
    min_p: float = 0.0
    """Share of the likeliest token's probability that others must have."""

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature < GREEDY_BELOW or self.top_k == 1

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of transformers' generate; temperature 0 is greedy."""
        if self.greedy:
            return {"do_sample": False, "repetition_penalty": self.repetition_penalty}
        drawn = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p}
        more = {name: getattr(self, name) for name in ("top_k", "min_p") if getattr(self, name) != _DEFAULTS[name]}
        return {**drawn, **more, "repetition_penalty": self.repetition_penalty}


class RowSettings(NamedTuple):
    """The settings of B texts, on the device."""

    temperature: Tensor
    """fp32 [B]; 0: greedy."""
    top_k: Tensor
    """int32 [B]; 0: all."""
    top_p: Tensor
    min_p: Tensor
    penalty: Tensor
    """fp32 [B] each."""
    seed: Tensor
    """int64 [B]: 64 random bits."""


class Chosen(NamedTuple):
    """The next tokens."""

    ids: Tensor
    """int64 [B]."""
    log_probabilities: Tensor
    """fp32 [B], by softmax(logits / temperature), before penalty and truncation; of greedy texts at temperature 1."""
    broken: Tensor
    """bool [B]: logits that are no numbers, or infinite."""


def sampling_of(arguments: Mapping[str, Any], configuration: Any, seed: int | None = None) -> Sampling | None:
    """Return what transformers' generate does with `arguments` and a model's generation configuration.

    None where that is more than sampling: beams, other processors of logits. Limits are not looked at.
    """
    known = {**configuration.to_diff_dict(), **arguments}
    asked = {name: value for name, value in known.items() if value is not None and name not in _NOT_SAMPLING}
    more = {name: value for name, value in asked.items() if name not in _DEFAULTS and value is not False}
    if any((name, value) not in _NEUTRAL for name, value in more.items()):
        return None
    settings = {name: asked.get(name, usual) for name, usual in _DEFAULTS.items()}
    temperature = settings["temperature"] if settings.pop("do_sample") else 0.0
    return Sampling(**{**settings, "temperature": temperature, "seed": seed})


def text_seed(seed: int, number: int) -> int:
    """Return the 64 random bits (signed) of text `number` of a call with `seed`."""
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def choose(
    logits: Tensor, settings: RowSettings, written: Tensor, seen: Tensor | None, *, filtered: bool = True
) -> Chosen:
    """Return the next token of each text.

    logits [B, V]; written int64 [B]: tokens already drawn; seen bool [B, V]: tokens of prompt and answer, None where no
    text has a penalty. `filtered`: whether any text has top_k, top_p or min_p.
    """
    logits = logits.float()
    scores = logits
    if seen is not None:
        penalty = settings.penalty[:, None]
        scores = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    greedy = settings.temperature < GREEDY_BELOW
    temperature = torch.where(greedy, 1.0, settings.temperature)[:, None]
    scores = (scores - scores.amax(1, keepdim=True)) / temperature
    noisy = scores - waiting_times(settings.seed, written, logits.shape[1]).log()
    if filtered:
        noisy = noisy.masked_fill(~kept(scores.exp(), settings), -torch.inf)
    ids = torch.where(greedy[:, None], scores, noisy).argmax(1)
    tempered = logits / temperature
    total = tempered.logsumexp(1)
    return Chosen(ids, tempered.gather(1, ids[:, None])[:, 0] - total, ~total.isfinite())


def kept(odds: Tensor, settings: RowSettings) -> Tensor:
    """Return which tokens may be drawn, bool [B, V]. odds fp32 [B, V]: probabilities over that of the likeliest."""
    bits = odds.view(torch.int32)  # positive floats order as their bits do
    some = (settings.top_k > 0) & (settings.top_k < odds.shape[1])
    least = _bound(bits, torch.ones_like(odds), settings.top_k.float(), some)
    left = odds.masked_fill(bits < least, 0)
    nucleus = _bound(bits, left, settings.top_p * left.sum(1), settings.top_p < 1)
    return (bits >= torch.maximum(least, nucleus)) & (odds >= settings.min_p[:, None])


def _bound(bits: Tensor, measures: Tensor, target: Tensor, needed: Tensor) -> Tensor:
    """Return the largest bound [B, 1] such that measures at or above it reach `target` [B]; 0 where not `needed`.

    By bisection, exact after 30 steps from 0 to just above 1.0, and several times quicker than sorting.
    """
    low = torch.zeros(len(bits), 1, dtype=torch.int32, device=bits.device)
    if bits.device.type == "cpu" and not needed.any():
        return low
    high = torch.full_like(low, 0x3F800001)
    for _ in range(30):
        middle = (low + high) // 2
        enough = measures.masked_fill(bits < middle, 0).sum(1, keepdim=True) >= target[:, None]
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return torch.where(needed[:, None], low, 0)


def waiting_times(seed: Tensor, written: Tensor, size: int) -> Tensor:
    """Return exponential noise of mean 1, fp32 [B, size]; its negative logarithm is Gumbel noise."""
    low, high = (seed & WORD)[:, None], ((seed >> 32) & WORD)[:, None]
    stream = mixed((low + written[:, None] * GOLDEN) & WORD)
    bits = mixed(mixed((torch.arange(size, device=seed.device) + stream) & WORD) ^ high)
    uniform = (bits.float() * 2.0**-32 + 2.0**-33).clamp(max=1 - 2.0**-24)
    series = uniform * (1 + uniform * (0.5 + uniform * (1 / 3 + uniform * 0.25)))
    return torch.where(uniform < SMALL, series, -(1 - uniform).log())


def mixed(word: Tensor) -> Tensor:
    """Return 32-bit words (int64) mixed: the finaliser of MurmurHash3 (Appleby, public domain)."""
    word = ((word ^ (word >> 16)) * 0x85EBCA6B) & WORD
    word = ((word ^ (word >> 13)) * 0xC2B2AE35) & WORD
    return word ^ (word >> 16)
