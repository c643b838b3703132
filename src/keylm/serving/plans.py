"""Requests to jobs: one for each choice."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from keylm.serving import protocol as p
from keylm.serving.engine import Finished, Job
from keylm.serving.faults import ApiError, too_long
from keylm.serving.grammar import JsonGrammar
from keylm.serving.sampling import RequestSampling
from keylm.serving.texts import Prompts

DEFAULT_TOKENS = 16
"""For completions without max_tokens; OpenAI's figure. A chat may continue to the end of the context."""


@dataclass(frozen=True)
class RequestLimits:
    """Limits on one request."""

    context: int
    vocab_size: int
    choices: int
    """Texts of a request, those that wait for a place included."""
    seconds: float


@dataclass
class RequestPlan:
    """A request as jobs, one for each choice, and what their answers have in common."""

    jobs: list[Job]
    prompts: list[list[int]]
    of_prompt: list[int]
    """For each job its prompt."""
    model: str
    fingerprint: str
    echo: bool = False
    logprobs: bool = False
    top: int = 0
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self) -> dict[str, Any]:
        """Return the fields that every answer and chunk starts with."""
        return {"id": self.id, "created": self.created, "model": self.model, "system_fingerprint": self.fingerprint}

    def usage(self, ends: Sequence[Finished]) -> p.Usage:
        """Return the tokens used, once all choices are finished."""
        read, written = sum(map(len, self.prompts)), sum(end.written for end in ends)
        cached = sum(
            min(end.cached for end, of in zip(ends, self.of_prompt, strict=True) if of == n)
            for n in range(len(self.prompts))
        )
        return p.Usage(
            prompt_tokens=read,
            completion_tokens=written,
            total_tokens=read + written,
            prompt_tokens_details=p.Cached(cached_tokens=cached),
        )


def plan_completion(
    request: p.CompletionRequest, prompts: Prompts, limits: RequestLimits, fingerprint: str
) -> RequestPlan:
    """Return the jobs of a completion. Raises ApiError."""
    ids = _prompts(request.prompt, prompts)
    for each in ids:
        if max(each) >= limits.vocab_size:
            raise ApiError(400, f"token {max(each)} is beyond the vocabulary of {limits.vocab_size}", param="prompt")
    echo = bool(request.echo)
    wanted = DEFAULT_TOKENS if request.max_tokens is None else request.max_tokens
    plan = _plan(request, ids, wanted, limits, fingerprint, top=request.logprobs, echo=echo)
    plan.id = f"cmpl-{uuid.uuid4().hex}"
    return plan


def plan_chat(
    request: p.ChatRequest, prompts: Prompts, limits: RequestLimits, fingerprint: str, grammar: JsonGrammar | None
) -> RequestPlan:
    """Return the jobs of a chat. Raises ApiError."""
    if not prompts.chats:
        raise ApiError(400, "this model has no chat template; use /v1/completions", param="model")
    ids = prompts.chat([message.plain() for message in request.messages])
    limits_given = (request.max_completion_tokens, request.max_tokens, max(1, limits.context - len(ids)))
    wanted = next(each for each in limits_given if each is not None)
    top = (request.top_logprobs or 0) if request.logprobs else None
    plan = _plan(request, [ids], wanted, limits, fingerprint, top=top, grammar=grammar)
    plan.id = f"chatcmpl-{uuid.uuid4().hex}"
    return plan


def _prompts(given: str | list[int] | list[str] | list[list[int]], prompts: Prompts) -> list[list[int]]:
    """Return each prompt's ids, in whichever of the four forms they have."""
    if isinstance(given, str):
        return [prompts.completion(given)]
    if given and isinstance(given[0], int):
        return [[each for each in given if isinstance(each, int)]]
    texts = [each for each in given if not isinstance(each, int)]
    return [prompts.completion(each) if isinstance(each, str) else list(each) for each in texts]


def _plan(
    request: p.Generation,
    prompts: list[list[int]],
    wanted: int,
    limits: RequestLimits,
    fingerprint: str,
    *,
    top: int | None,
    echo: bool = False,
    grammar: JsonGrammar | None = None,
) -> RequestPlan:
    n = request.n or 1
    if len(prompts) * n > limits.choices:
        raise ApiError(
            400, f"{len(prompts)} prompts, {n} choices each; accepted: {limits.choices} texts a request", param="n"
        )
    if wanted == 0 and not echo:
        raise ApiError(400, "max_tokens: 0 is only allowed with echo", param="max_tokens")
    longest = max(map(len, prompts))
    if longest + wanted > limits.context:
        raise too_long(limits.context, longest, wanted, "messages" if isinstance(request, p.ChatRequest) else "prompt")
    stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    jobs, of_prompt = [], []
    for number, prompt in enumerate(prompts):
        for choice in range(n):
            seed = None if request.seed is None else f"{request.seed}/{choice}"
            jobs.append(
                Job(
                    prompt,
                    wanted,
                    _sampling(request, limits.vocab_size, seed),
                    stops,
                    top,
                    score_prompt=echo and top is not None,
                    ignore_ends=bool(request.ignore_eos),
                    grammar=grammar,
                    seconds=limits.seconds,
                )
            )
            of_prompt.append(number)
    return RequestPlan(jobs, prompts, of_prompt, request.model, fingerprint, echo, top is not None, top or 0)


def _sampling(request: p.Generation, vocab_size: int, seed: str | None) -> RequestSampling:
    default = RequestSampling()
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    given = {name: getattr(request, name) for name in names}
    chosen = {name: getattr(default, name) if value is None else value for name, value in given.items()}
    bias = []
    for key, value in (request.logit_bias or {}).items():
        if not (key.isascii() and key.isdecimal() and len(key) < 10 and int(key) < vocab_size):
            raise ApiError(400, f"logit_bias: {key[:40]!r} is no token id below {vocab_size}", param="logit_bias")
        bias.append((int(key), value))
    return RequestSampling(**chosen, bias=tuple(bias), seed=seed)
