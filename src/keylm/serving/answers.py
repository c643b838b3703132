"""An engine's events to answers, in the formats of completions and of chat."""

from collections.abc import Sequence
from typing import Any

from keylm.serving import protocol as p
from keylm.serving.engine import Finished, PromptScored
from keylm.serving.plans import RequestPlan
from keylm.serving.sampling import Token
from keylm.serving.writing import TextPiece, TextWriter, Vocabulary, Written

LEAST = -9999.0
"""Floor of the log-probabilities, since JSON has no infinity; OpenAI's figure."""


class Shape:
    """One protocol's chunks and answers."""

    chunk_type: type[p.Completion] | type[p.ChatChunk]

    def __init__(self, plan: RequestPlan, vocabulary: Vocabulary) -> None:
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

    def __init__(self, plan: RequestPlan, vocabulary: Vocabulary) -> None:
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
        scores = [written.token.log_probability for written in tokens]
        return p.LegacyLogprobs(
            tokens=[name(written.token.id) for written in tokens],
            token_logprobs=[None if score is None else _finite(score) for score in scores],
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
