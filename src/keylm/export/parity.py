"""Whether an exported file is the same model: its logits, choices and tokens against PyTorch's in fp32.

Every runtime reads the same tokens, 50 beginnings of documents and 20 kB of text of the embedded corpus, and the logits
of all positions are compared, within LIMITS. Cost: about 9,000 tokens in each runtime.
"""

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import zstandard

from keylm.export.stress_strings import stress_strings
from keylm.recipe.load import CORPUS_FOLDER

Array = npt.NDArray[np.float32]
PROMPTS, PROMPT_CHARACTERS = 50, 160
TEXT_BYTES = 20_000
WINDOW = 512
"""Tokens of the text that are read at once, at most."""
GREEDY_PROMPTS, GREEDY_TOKENS = 8, 24
CORPUS = ("fairy_tales", "short_stories", "public_service", "chat")


@dataclass(frozen=True)
class ParityLimits:
    """What an artefact may differ by."""

    logit: float
    """Largest difference of any logit, in standard deviations of the reference's logits."""
    kl: float
    """Mean Kullback-Leibler divergence from the reference's distribution, in nats."""
    top1: float
    """Least share of positions with the same likeliest token."""
    perplexity: float
    """Largest relative change of perplexity, either way."""
    greedy: bool = False
    """Whether greedy generation must give the same tokens (but for ties)."""
    weights: float = math.inf
    """Largest relative error of a row of weights, where the runtime's file shows them."""


LIMITS = {
    "exact": ParityLimits(1e-3, 1e-6, 0.999, 1e-4, greedy=True, weights=1e-6),
    "fp32": ParityLimits(1e-3, 1e-6, 0.999, 1e-4, greedy=True, weights=1e-6),
    "f32": ParityLimits(0.05, 1e-4, 0.99, 2e-3, greedy=True, weights=1e-6),
    "f16": ParityLimits(0.1, 1e-4, 0.99, 2e-3, greedy=True, weights=2e-3),
    "bf16": ParityLimits(0.5, 5e-3, 0.95, 1e-2, weights=8e-3),
    "q8_0": ParityLimits(1.0, 2e-2, 0.9, 2e-2, weights=2e-2),
    "int8": ParityLimits(2.5, 1e-1, 0.8, 5e-2),
    "q6_k": ParityLimits(2.5, 5e-2, 0.8, 5e-2, weights=0.1),
    "q5_k_m": ParityLimits(4.0, 2e-1, 0.6, 0.1, weights=0.2),
    "q4": ParityLimits(8.0, 0.6, 0.0, 0.15, weights=0.4),
}
"""About twice what was measured or more, random and trained weights (docs/export.md): enough for rounding of that kind,
too little for a wrong weight, name, norm, rotation or token. Where weights lose no bits ("exact", fp32) the order of
sums is left. llama.cpp keeps its cache in f16 and rounds what it multiplies to the weights' type, hence the limits of
f32 and bf16. In 4 bits single tokens may change, and what counts is the text: perplexity, divergence, and the weights
themselves."""


def limits_of(kind: str) -> ParityLimits:
    """Return the limits of a precision; those of "q4" for all that are smaller than 5 bits."""
    return LIMITS.get(kind, LIMITS["q4"])


class Runtime(Protocol):
    """Any runtime that reads tokens and keeps a cache."""

    def reset(self) -> None:
        """Forget the tokens read so far."""

    def read(self, ids: Sequence[int]) -> Array:
        """Return the logits [tokens, vocab] of `ids`, read after those before."""


Encode = Callable[[str, bool], list[int]]
"""Text to tokens; the second argument says whether special tokens are read as such."""


@dataclass(frozen=True)
class Parity:
    """How an artefact compares; shares and divergences over all positions."""

    artefact: str
    kind: str
    bytes: int
    logit: float
    logit_limit: float
    kl: float
    top1: float
    perplexity: float
    reference_perplexity: float
    step_logit: float
    """Largest difference between reading token by token and at once, in logits."""
    greedy_equal: int
    greedy_ties: int
    """Texts that part where the reference's two choices are nearer to each other than rounding moved both logits; they
    are looked for only where greedy texts must be equal."""
    greedy_prompts: int
    tokenizer_mismatches: int
    tokenizer_strings: int
    weights: float | None = None
    """Largest relative error of a row of weights; None where it was not measured."""
    notes: tuple[str, ...] = ()
    """Faults that a runtime found itself."""

    @property
    def faults(self) -> list[str]:
        """Say what is over its limit; empty where the artefact is sound."""
        limits, found = limits_of(self.kind), list(self.notes)
        change = abs(self.perplexity / self.reference_perplexity - 1)
        checks = (
            (self.logit <= self.logit_limit, f"max |logit| difference {self.logit:.3g} over {self.logit_limit:.3g}"),
            (self.kl <= limits.kl, f"mean KL {self.kl:.3g} over {limits.kl:g}"),
            (self.top1 >= limits.top1, f"top-1 agreement {self.top1:.3f} under {limits.top1:g}"),
            (change <= limits.perplexity, f"perplexity off by {change:.2%}, over {limits.perplexity:.2%}"),
            (not limits.greedy or not self._greedy_unequal, f"{self._greedy_unequal} greedy texts differ"),
            (not self.tokenizer_mismatches, f"{self.tokenizer_mismatches} strings are tokenized differently"),
            ((self.weights or 0) <= limits.weights, f"a row of weights is off by {self.weights or 0:.2g}"),
        )
        return found + [text for sound, text in checks if not sound]

    @property
    def _greedy_unequal(self) -> int:
        return self.greedy_prompts - self.greedy_equal - self.greedy_ties

    def to_data(self) -> dict[str, Any]:
        """Return plain values, with limits, verdict and faults."""
        return {
            **asdict(self),
            "limits": asdict(limits_of(self.kind)),
            "passed": not self.faults,
            "faults": self.faults,
        }


@dataclass(frozen=True)
class Probe:
    """The input for all runtimes: token ids, and strings for the tokenizers."""

    prompts: list[list[int]]
    text: list[list[int]]
    strings: list[str]


def make_probe(encode: Encode, context: int, share: float = 1.0) -> Probe:
    """Return the probe for a tokenizer; nothing is longer than the model's context (in tokens).

    A `share` under 1 takes so much of prompts and texts; the strings for the tokenizer, which cost nothing, stay whole.
    """
    documents = {name: _documents(name) for name in CORPUS}
    starts = [
        documents[CORPUS[n % len(CORPUS)]][n // len(CORPUS)][:PROMPT_CHARACTERS]
        for n in range(max(1, round(share * PROMPTS)))
    ]
    room = max(2, context - GREEDY_TOKENS)
    prompts = [encode(start, True)[:room] for start in starts]
    each = round(share * TEXT_BYTES) // len(CORPUS)
    texts = ["\n\n".join(documents[name]).encode()[:each].decode(errors="ignore") for name in CORPUS]
    window = min(WINDOW, context)
    windows = [
        ids[at : at + window] for ids in (encode(text, True) for text in texts) for at in range(0, len(ids), window)
    ]
    return Probe(prompts, [ids for ids in windows if len(ids) > 1], stress_strings())


def _documents(name: str, most: int = 40) -> list[str]:
    """Return the first documents of an embedded source; a conversation as ChatML."""
    found: list[str] = []
    with (CORPUS_FOLDER / f"{name}.jsonl.zst").open("rb") as file:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
            record = json.loads(line)
            turns = [f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>" for turn in record.get("messages", [])]
            found.append(record.get("text") or "\n".join(turns))
            if len(found) == most:
                break
    return found


class Reference:
    """PyTorch's results on a probe, computed once."""

    def __init__(self, runtime: Runtime, encode: Encode, probe: Probe) -> None:
        self.runtime, self.encode, self.probe = runtime, encode, probe

    @cached_property
    def prompts(self) -> list[Array]:
        """Logits [tokens, vocab] of each prompt."""
        return [read_alone(self.runtime, ids) for ids in self.probe.prompts]

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the logits of a position, on average."""
        return float(np.mean([row.std() for logits in self.prompts for row in logits]))

    @cached_property
    def perplexity(self) -> float:
        """Of the text, by window."""
        return perplexity(self.runtime, self.probe.text)

    @cached_property
    def greedy(self) -> list[tuple[list[int], Array]]:
        """Tokens after each of the first prompts, and the logits that each was chosen by."""
        return [greedy(self.runtime, ids) for ids in self.probe.prompts[:GREEDY_PROMPTS]]

    @cached_property
    def tokens(self) -> list[tuple[list[int], list[int]]]:
        """Tokens of each string, special tokens as characters and as tokens."""
        return [(self.encode(text, False), self.encode(text, True)) for text in self.probe.strings]


@dataclass(frozen=True)
class Subject:
    """What is checked: an artefact opened by its runtime."""

    name: str
    kind: str
    bytes: int
    runtime: Runtime
    encode: Encode
    weights: float | None = None
    notes: tuple[str, ...] = ()


def compare(subject: Subject, reference: Reference) -> Parity:
    """Return how a subject's answers compare with the reference's."""
    divergences, agreements, largest, by_step = [], [], 0.0, 0.0
    for place, (ids, expected) in enumerate(zip(reference.probe.prompts, reference.prompts, strict=True)):
        logits = read_alone(subject.runtime, ids)
        largest = max(largest, _difference(logits, expected))
        divergences.append(kl(expected, logits))
        agreements.append(logits.argmax(-1) == expected.argmax(-1))
        if place < GREEDY_PROMPTS:
            by_step = max(by_step, _difference(read_by_step(subject.runtime, ids), expected))
    tie = 2 * max(largest, by_step) if limits_of(subject.kind).greedy else 0.0
    greedy_texts = [
        same_choices(greedy(subject.runtime, ids)[0], tokens, logits, tie)
        for ids, (tokens, logits) in zip(reference.probe.prompts, reference.greedy, strict=False)
    ]
    strings = zip(reference.probe.strings, reference.tokens, strict=True)
    mismatches = sum((subject.encode(text, False), subject.encode(text, True)) != tokens for text, tokens in strings)
    return Parity(
        artefact=subject.name,
        kind=subject.kind,
        bytes=subject.bytes,
        logit=max(largest, by_step),
        logit_limit=limits_of(subject.kind).logit * reference.spread,
        kl=max(0.0, float(np.concatenate(divergences).mean())),
        top1=float(np.concatenate(agreements).mean()),
        perplexity=perplexity(subject.runtime, reference.probe.text),
        reference_perplexity=reference.perplexity,
        step_logit=by_step,
        greedy_equal=greedy_texts.count("equal"),
        greedy_ties=greedy_texts.count("tie"),
        greedy_prompts=len(reference.greedy),
        tokenizer_mismatches=mismatches,
        tokenizer_strings=len(reference.probe.strings),
        weights=subject.weights,
        notes=subject.notes,
    )


def _difference(left: Array, right: Array) -> float:
    """Return the largest difference; infinity where shapes differ or something is no number."""
    if left.shape != right.shape:
        return math.inf
    found = float(np.abs(left - right).max())
    return found if math.isfinite(found) else math.inf


def read_alone(runtime: Runtime, ids: Sequence[int]) -> Array:
    """Return the logits of one text, read at once."""
    runtime.reset()
    return runtime.read(ids)


def read_by_step(runtime: Runtime, ids: Sequence[int]) -> Array:
    """Return the same through the cache: the first half at once, then token by token."""
    runtime.reset()
    half = max(1, len(ids) // 2)
    return np.concatenate([runtime.read(ids[:half]), *(runtime.read([token]) for token in ids[half:])])


def log_softmax(logits: Array) -> npt.NDArray[np.float64]:
    """Return log-probabilities [tokens, vocab]."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def kl(expected: Array, found: Array) -> npt.NDArray[np.float64]:
    """Return the divergence of `found` from `expected` at each position, in nats; infinity where shapes differ."""
    if expected.shape != found.shape:
        return np.full(len(expected), np.inf)
    wanted = log_softmax(expected)
    return np.asarray((np.exp(wanted) * (wanted - log_softmax(found))).sum(-1))


def perplexity(runtime: Runtime, windows: Sequence[Sequence[int]]) -> float:
    """Return exp of the mean loss of each window's tokens but its first."""
    total, count = 0.0, 0
    for ids in windows:
        logits = read_alone(runtime, ids)[:-1]
        total -= float(log_softmax(logits)[np.arange(len(ids) - 1), ids[1:]].sum())
        count += len(ids) - 1
    return math.exp(min(total / count, 700.0)) if math.isfinite(total) else math.inf


def greedy(runtime: Runtime, ids: Sequence[int]) -> tuple[list[int], Array]:
    """Return the likeliest tokens after `ids`, one by one, and the logits [tokens, vocab] of each choice."""
    logits = [read_alone(runtime, ids)[-1]]
    tokens = [int(logits[0].argmax())]
    while len(tokens) < GREEDY_TOKENS:
        logits.append(runtime.read(tokens[-1:])[-1])
        tokens.append(int(logits[-1].argmax()))
    return tokens, np.stack(logits)


def same_choices(found: Sequence[int], wanted: Sequence[int], logits: Array, tie: float) -> str:
    """Return "equal" or "differ" of two greedy texts; "tie" where they part at two choices within `tie` logits."""
    for ours, theirs, row in zip(found, wanted, logits, strict=True):
        if ours != theirs:
            return "tie" if row[theirs] - row[ours] <= tie else "differ"
    return "equal"
