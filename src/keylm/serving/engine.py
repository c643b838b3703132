"""The engine: takes jobs and returns events, in its own thread; the server knows nothing else about it.

It is one loop: take new jobs, read a part of the prompts, then compute one token for every text in one batch. The
logits come from slots.py: PyTorch or llama.cpp. Reading the weights is most of a step's cost, so batching pays.

Invariants: a job gets its events in order, the last one Finished or Failed, unless it was cancelled; no job waits for
another's length. A row's cached tokens stay when its text is done: a prompt with the same prefix is read only from
where it differs.
"""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from keylm.serving.grammar import GrammarFault, JsonGrammar
from keylm.serving.sampling import RequestSampling, Token, TokenSampler, scored_token
from keylm.serving.slots import Slots
from keylm.serving.writing import TextPiece, TextWriter, Vocabulary

READ_AT_ONCE = 256
"""Maximum prompt tokens read between two steps, for which running texts wait."""
WORTH_COPYING = 16
"""Minimum common prefix, in tokens, for a row to be copied."""


@dataclass(frozen=True)
class Job:
    """One text to be written."""

    prompt: Sequence[int]
    """Token ids, at least one."""
    max_tokens: int
    sampling: RequestSampling = field(default_factory=RequestSampling)
    stops: tuple[str, ...] = ()
    top: int | None = None
    """As sampling.TokenSampler's."""
    score_prompt: bool = False
    """Whether the prompt's log-probabilities are requested."""
    ignore_ends: bool = False
    grammar: JsonGrammar | None = None
    """Copied when the job is taken."""
    seconds: float = float("inf")
    """How long it may take from when it was handed in."""


@dataclass(frozen=True)
class PromptScored:
    """The prompt's tokens with their log-probabilities; the first event, if requested."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class Finished:
    """The end."""

    reason: Literal["stop", "length"]
    written: int
    """Tokens of the answer, the one that ended it included."""
    cached: int
    """Tokens of the prompt that were already cached."""


@dataclass(frozen=True)
class Failed:
    """The end, for a reason that is not in the text."""

    reason: Literal["timeout", "grammar", "closed", "fault"]
    message: str


Event = PromptScored | TextPiece | Finished | Failed
Emit = Callable[[Event], None]


class QueueFull(Exception):
    """More jobs wait than the engine takes."""


@dataclass
class _RunningText:
    job: Job
    emit: Emit
    sampler: TokenSampler
    writer: TextWriter
    begun: float
    row: int = -1
    read: int = 0
    """Tokens in the cache."""
    cached: int = 0
    written: int = 0
    last: int = -1
    """The sampled token that is not in the cache yet."""
    scores: list[Token] = field(default_factory=list)
    over: bool = False
    cancelled: bool = False


class BatchingEngine:
    """One batch of all that is to be written, on rows of any runtime."""

    def __init__(self, slots: Slots, vocabulary: Vocabulary, *, waiting: int = 64) -> None:
        """Write a text in each row and let `waiting` more wait; computes on torch's number of threads."""
        self.name, self.context, self.vocab_size = slots.name, slots.context, slots.vocab_size
        self._slots, self._vocabulary, self._waiting_most = slots, vocabulary, waiting
        rows = slots.rows
        self._held: list[list[int]] = [[] for _ in range(rows)]
        self._used = [0.0] * rows
        self._free = set(range(rows))
        self._incoming: queue.Queue[list[_RunningText] | None] = queue.Queue()
        self._waiting: deque[_RunningText] = deque()
        self._active: list[_RunningText] = []
        self._count, self._lock = 0, threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, args=(torch.get_num_threads(),), name="engine", daemon=True)
        self._thread.start()

    def submit(self, jobs: Sequence[tuple[Job, Emit]]) -> Callable[[], None]:
        """Take jobs, all or none; return what cancels them; raises QueueFull. `emit` is called in another thread."""
        now = time.monotonic()
        texts = [
            _RunningText(
                job,
                emit,
                TokenSampler(job.sampling, self.vocab_size, job.prompt, job.top, job.grammar and job.grammar.copy()),
                TextWriter(self._vocabulary, job.stops),
                now,
            )
            for job, emit in jobs
        ]
        with self._lock:
            if self._count + len(texts) > len(self._held) + self._waiting_most:
                raise QueueFull
            self._count += len(texts)
        self._incoming.put(texts)

        def cancel() -> None:
            for text in texts:
                text.cancelled = True

        return cancel

    def load(self) -> tuple[int, int]:
        """Return how many jobs are under way and how many wait."""
        active = len(self._active)
        return active, max(0, self._count - active)

    def close(self) -> None:
        """End all jobs and the thread."""
        self._incoming.put(None)
        self._thread.join()

    def _run(self, threads: int) -> None:
        torch.set_num_threads(threads)
        while not self._closed:
            self._take()
            try:
                self._sweep()
                self._admit()
                self._read_prompts()
                self._step()
            except Exception as error:  # one bad batch must not silence the server
                for text in list(self._active):
                    self._fail(text, error)
        for text in [*self._active, *self._waiting]:
            text.emit(Failed("closed", "the server is shutting down"))
        self._slots.close()

    def _take(self) -> None:
        """Take new jobs; wait for them when idle."""
        idle = not self._active and not self._waiting
        while not self._closed:
            try:
                texts = self._incoming.get(block=idle)
            except queue.Empty:
                return
            idle = False
            if texts is None:
                self._closed = True
            else:
                self._waiting.extend(texts)

    def _sweep(self) -> None:
        """Drop texts that were cancelled or have taken too long."""
        now = time.monotonic()
        for text in [*self._active, *self._waiting]:
            late = now - text.begun > text.job.seconds
            if text.cancelled or late:
                if text in self._waiting:
                    self._waiting.remove(text)
                self._end(text, Failed("timeout", f"took longer than {text.job.seconds:g} s") if late else None)

    def _admit(self) -> None:
        """Give waiting texts a row: the one that caches most of the prompt, else the least recently used."""
        while self._waiting and self._free:
            text = self._waiting.popleft()
            row = max(self._free, key=lambda n: (_common(self._held[n], text.job.prompt), -self._used[n], -n))
            self._free.remove(row)
            text.row = row
            self._active.append(text)

    def _read_prompts(self) -> None:
        """Read up to READ_AT_ONCE tokens of prompts, first come first read."""
        room = READ_AT_ONCE
        for text in list(self._active):
            if text.read < len(text.job.prompt) and room > 0:
                with self._alone(text):
                    room -= self._read(text, room)

    def _read(self, text: _RunningText, room: int) -> int:
        """Read up to `room` tokens of a prompt; return how many."""
        if text.read == 0:
            self._reuse(text)
        ids = list(text.job.prompt[text.read : text.read + room])
        last = text.read + len(ids) == len(text.job.prompt)
        wanted = len(ids) if text.job.score_prompt else int(last)
        logits = self._slots.read(text.row, text.read, ids, wanted)
        self._held[text.row][text.read :] = ids
        text.read += len(ids)
        if text.job.score_prompt:
            self._score(text, ids, logits)
        if last:
            self._begin(text, logits[-1])
        return len(ids)

    def _reuse(self, text: _RunningText) -> None:
        """Start after the cached prefix; the prompt's last token is always read, for its logits."""
        if text.job.score_prompt:
            return
        prompt = text.job.prompt
        shared = [min(_common(held, prompt), len(prompt) - 1) for held in self._held]
        best = max(range(len(shared)), key=lambda n: (shared[n], n == text.row))
        own = shared[text.row]
        if best != text.row and shared[best] >= max(WORTH_COPYING, own + 1):
            self._slots.copy(best, text.row, shared[best])
            self._held[text.row], own = self._held[best][: shared[best]], shared[best]
        text.read = text.cached = own

    def _score(self, text: _RunningText, ids: Sequence[int], logits: Tensor) -> None:
        """Add the log-probabilities of the tokens after each of `ids`, which have just been read."""
        prompt, first = text.job.prompt, text.read - len(ids)
        if first == 0:
            text.scores.append(Token(prompt[0]))
        following = prompt[first + 1 : text.read + 1]
        text.scores += [
            scored_token(row, token, text.job.top or 0) for row, token in zip(logits, following, strict=False)
        ]

    def _begin(self, text: _RunningText, logits: Tensor) -> None:
        if text.job.score_prompt:
            text.emit(PromptScored(tuple(text.scores)))
        if text.job.max_tokens == 0:
            self._end(text, Finished("length", 0, text.cached))
        else:
            self._sample(text, logits)

    def _step(self) -> None:
        """Write one token of every text whose prompt has been read."""
        texts = sorted((text for text in self._active if text.last >= 0), key=lambda text: text.row)
        if not texts:
            return
        try:
            found = self._logits(texts)
        except Exception:  # whichever text caused it, the others go on
            for text in texts:
                with self._alone(text):
                    self._advance(text, self._logits([text])[0])
            return
        for text, logits in zip(texts, found, strict=True):
            with self._alone(text):
                self._advance(text, logits)

    def _logits(self, texts: Sequence[_RunningText]) -> Tensor:
        rows, ids = [text.row for text in texts], [text.last for text in texts]
        return self._slots.step(rows, ids, [text.read for text in texts])

    def _advance(self, text: _RunningText, logits: Tensor) -> None:
        self._held[text.row][text.read :] = [text.last]
        text.read += 1
        self._sample(text, logits)

    def _sample(self, text: _RunningText, logits: Tensor) -> None:
        token = text.sampler.sample(logits)
        text.written += 1
        text.last = token.id
        if token.id in self._slots.ends and not text.job.ignore_ends:
            self._finish(text, "stop")
            return
        piece = text.writer.add(token)
        if piece.text or piece.tokens:
            text.emit(piece)
        if text.writer.stopped or (text.sampler.grammar and text.sampler.grammar.finished()):
            self._finish(text, "stop")
        elif text.written >= text.job.max_tokens or text.read + 1 > self.context:
            self._finish(text, "length")

    def _finish(self, text: _RunningText, reason: Literal["stop", "length"]) -> None:
        piece = text.writer.end()
        if piece.text or piece.tokens:
            text.emit(piece)
        self._end(text, Finished(reason, text.written, text.cached))

    @contextlib.contextmanager
    def _alone(self, text: _RunningText) -> Iterator[None]:
        """Let an exception end this text and no other."""
        try:
            yield
        except Exception as error:
            self._fail(text, error)

    def _fail(self, text: _RunningText, error: Exception) -> None:
        reason: Literal["grammar", "fault"] = "grammar" if isinstance(error, GrammarFault) else "fault"
        self._end(text, Failed(reason, str(error) if reason == "grammar" else f"{type(error).__name__}: {error}"))

    def _end(self, text: _RunningText, event: Finished | Failed | None) -> None:
        if text.over:
            return
        text.over = True
        if text in self._active:
            self._active.remove(text)
            self._free.add(text.row)
            self._used[text.row] = time.monotonic()
        with self._lock:
            self._count -= 1
        if event is not None:
            text.emit(event)


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the length of the longest common prefix."""
    shorter = min(len(left), len(right))
    return next((n for n in range(shorter) if left[n] != right[n]), shorter)
