"""Requests to jobs, and an engine's events to answers, in the formats of completions and of chat."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from keylm.base.errors import KeylmError
from keylm.serving import protocol as p
from keylm.serving.engine import Finished, Job, PromptScored
from keylm.serving.faults import ApiError, too_long
from keylm.serving.grammar import Grammars
from keylm.serving.sampling import Grammar, RequestSampling, Token
from keylm.serving.texts import Prompts
from keylm.serving.writing import TextPiece, TextWriter, Vocabulary, Written

DEFAULT_TOKENS = 16
"""For completions without max_tokens; OpenAI's figure. A chat may continue to the end of the context."""
LEAST = -9999.0
"""Floor of the log-probabilities, since JSON has no infinity; OpenAI's figure."""


@dataclass(frozen=True)
class RequestLimits:
    """Limits on one request."""

    context: int
    vocab_size: int
    choices: int
    """Texts at once."""
    seconds: float


@dataclass
class AnswerPlan:
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
) -> AnswerPlan:
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
    request: p.ChatRequest, prompts: Prompts, limits: RequestLimits, fingerprint: str, grammars: Callable[[], Grammars]
) -> AnswerPlan:
    """Return the jobs of a chat. Raises ApiError."""
    if not prompts.chats:
        raise ApiError(400, "this model has no chat template; use /v1/completions", param="model")
    ids = prompts.chat([message.plain() for message in request.messages])
    limits_given = (request.max_completion_tokens, request.max_tokens, max(1, limits.context - len(ids)))
    wanted = next(each for each in limits_given if each is not None)
    form = request.response_format
    grammar: Callable[[], Grammar] | None = None
    if form is not None and form.type != "text":
        schema = form.json_schema.schema_ if form.json_schema else {"type": "object"}
        try:
            made = grammars()
            made.json(schema)  # rejected here, not in the engine
        except KeylmError as error:
            raise ApiError(400, str(error), param="response_format") from None
        grammar = lambda: made.json(schema)  # noqa: E731
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
    return [
        prompts.completion(each) if isinstance(each, str) else list(each) for each in given if not isinstance(each, int)
    ]


def _plan(
    request: p.Generation,
    prompts: list[list[int]],
    wanted: int,
    limits: RequestLimits,
    fingerprint: str,
    *,
    top: int | None,
    echo: bool = False,
    grammar: Callable[[], Grammar] | None = None,
) -> AnswerPlan:
    n = request.n or 1
    if len(prompts) * n > limits.choices:
        raise ApiError(
            400, f"{len(prompts)} prompts, {n} choices each; accepted: {limits.choices} texts a request", param="n"
        )
    if wanted == 0 and not echo:
        raise ApiError(400, "max_tokens: 0 is only allowed with echo", param="max_tokens")
    longest = max(map(len, prompts))
    if longest + wanted > limits.context:
        raise too_long(limits.context, longest, wanted)
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
    return AnswerPlan(jobs, prompts, of_prompt, request.model, fingerprint, echo, top is not None, top or 0)


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


class Shape:
    """One protocol's chunks and answers."""

    chunk_type: type[p.Completion] | type[p.ChatChunk]

    def __init__(self, plan: AnswerPlan, vocabulary: Vocabulary) -> None:
        self.plan, self.vocabulary = plan, vocabulary

    def opening(self, index: int) -> str | None:
        """Return the chunk that comes before a choice's text, if there is one."""
        return None

    def chunk(self, index: int, piece: TextPiece, reason: p.Reason | None) -> str:
        """Return a chunk of a stream."""
        raise NotImplementedError

    def usage_chunk(self, usage: p.Usage) -> str:
        """Return the last chunk, which has no choice."""
        return self._chunk([], usage)

    def whole(self, pieces: Sequence[Sequence[TextPiece]], ends: Sequence[Finished]) -> str:
        """Return the answer that is not streamed."""
        raise NotImplementedError

    def scored(self, index: int, event: PromptScored) -> TextPiece:
        """Return the prompt as the beginning of the text."""
        return TextPiece("")

    def _chunk(self, choices: list[Any], usage: p.Usage | None = None) -> str:
        return self.chunk_type(**self.plan.head(), choices=choices, usage=usage).model_dump_json()


class CompletionShape(Shape):
    """text_completion."""

    chunk_type = p.Completion

    def __init__(self, plan: AnswerPlan, vocabulary: Vocabulary) -> None:
        super().__init__(plan, vocabulary)
        self._echoed = [self._prompt(prompt) for prompt in plan.prompts] if plan.echo else []

    def echoed(self, index: int) -> str:
        """Return the prompt's text if it is echoed."""
        return self._echoed[self.plan.of_prompt[index]] if self._echoed else ""

    def opening(self, index: int) -> str | None:
        """Return the prompt as a chunk; with log-probabilities it comes scored, later."""
        if not self.plan.echo or self.plan.logprobs:
            return None
        return self.chunk(index, TextPiece(self.echoed(index)), None, echoed=True)

    def scored(self, index: int, event: PromptScored) -> TextPiece:
        """Return the prompt as the beginning of the text."""
        writer, pieces = TextWriter(self.vocabulary, special=True), []
        for token in event.tokens:
            pieces.append(writer.add(token))
        pieces.append(writer.end())
        tokens = tuple(written for piece in pieces for written in piece.tokens)
        shift = len(self.echoed(index))  # chunk() places the completion after the prompt
        return TextPiece(
            "".join(piece.text for piece in pieces), tuple(Written(t.token, t.begin - shift) for t in tokens)
        )

    def chunk(self, index: int, piece: TextPiece, reason: p.Reason | None, *, echoed: bool = False) -> str:
        """Return a chunk of a stream."""
        logprobs = self._logprobs(index, piece.tokens) if self.plan.logprobs and not echoed else None
        choice = p.CompletionChoice(index=index, text=piece.text, logprobs=logprobs, finish_reason=reason)
        return self._chunk([choice])

    def whole(self, pieces: Sequence[Sequence[TextPiece]], ends: Sequence[Finished]) -> str:
        """Return the answer that is not streamed."""
        choices = []
        for index, (parts, end) in enumerate(zip(pieces, ends, strict=True)):
            text = "".join(piece.text for piece in parts)
            if self.plan.echo and not self.plan.logprobs:
                text = self.echoed(index) + text
            tokens = [written for piece in parts for written in piece.tokens]
            logprobs = self._logprobs(index, tokens) if self.plan.logprobs else None
            choices.append(p.CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=end.reason))
        return self._chunk(choices, self.plan.usage(ends))

    def _logprobs(self, index: int, tokens: Sequence[Written]) -> p.LegacyLogprobs:
        name, shift = self.vocabulary.name, len(self.echoed(index))
        tops: list[dict[str, float] | None] = []
        for written in tokens:
            token = written.token
            if token.log_probability is None:
                tops.append(None)
                continue
            pairs = [*token.likeliest, (token.id, token.log_probability)]
            tops.append({name(id): _finite(value) for id, value in reversed(pairs)})
        return p.LegacyLogprobs(
            tokens=[name(written.token.id) for written in tokens],
            token_logprobs=[_optional(written.token.log_probability) for written in tokens],
            top_logprobs=tops if self.plan.top else None,
            text_offset=[written.begin + shift for written in tokens],
        )

    def _prompt(self, ids: Sequence[int]) -> str:
        writer = TextWriter(self.vocabulary, special=True)
        return "".join(writer.add(Token(id)).text for id in ids) + writer.end().text


class ChatShape(Shape):
    """chat.completion and chat.completion.chunk."""

    chunk_type = p.ChatChunk

    def opening(self, index: int) -> str | None:
        """Return the chunk with the role."""
        return self._chunk([p.ChunkChoice(index=index, delta=p.Delta(role="assistant", content=""))])

    def chunk(self, index: int, piece: TextPiece, reason: p.Reason | None) -> str:
        """Return a chunk of a stream."""
        logprobs = self._logprobs(piece.tokens) if self.plan.logprobs and piece.tokens else None
        delta = p.Delta(content=piece.text) if piece.text or piece.tokens else p.Delta()
        return self._chunk([p.ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=reason)])

    def whole(self, pieces: Sequence[Sequence[TextPiece]], ends: Sequence[Finished]) -> str:
        """Return the answer that is not streamed."""
        plan, choices = self.plan, []
        for index, (parts, end) in enumerate(zip(pieces, ends, strict=True)):
            tokens = [written for piece in parts for written in piece.tokens]
            choices.append(
                p.ChatChoice(
                    index=index,
                    message=p.AnswerMessage(content="".join(piece.text for piece in parts)),
                    logprobs=self._logprobs(tokens) if plan.logprobs else None,
                    finish_reason=end.reason,
                )
            )
        return p.ChatCompletion(**plan.head(), choices=choices, usage=plan.usage(ends)).model_dump_json()

    def _logprobs(self, tokens: Sequence[Written]) -> p.ChatLogprobs:
        content = []
        for written in tokens:
            token = written.token
            assert token.log_probability is not None
            tops = [self._top(id, value) for id, value in token.likeliest]
            own = self._top(token.id, token.log_probability)
            content.append(p.TokenLogprob(token=own.token, logprob=own.logprob, bytes=own.bytes, top_logprobs=tops))
        return p.ChatLogprobs(content=content)

    def _top(self, id: int, value: float) -> p.TopLogprob:
        name, raw = self.vocabulary.name(id), self.vocabulary.shown_bytes(id)
        return p.TopLogprob(token=name, logprob=_finite(value), bytes=list(raw))


def _finite(value: float) -> float:
    return max(value, LEAST)


def _optional(value: float | None) -> float | None:
    return None if value is None else _finite(value)
