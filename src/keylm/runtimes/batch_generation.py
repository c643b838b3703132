"""Many texts at once from a CachedDecoder: what evaluation, preference pairs, samples and roll-outs are written with.

Continuous batching: a row of the cache that has finished its text is given to the next prompt. Everything that a step
needs is on the device, where the next token is sampled too; the host looks every LOOK steps which rows are done. On a
GPU a step is one CUDA graph, captured once for each size of batch in `sizes_up_to`, so that its few hundred kernels
cost one launch; attention reads each row as far as it goes, so the cache's length needs no graphs of its own.

Invariants: a text depends on its prompt, its settings and its seed (up to rounding), not on what is written beside it;
greedy texts are those of the model's argmax; log-probabilities are the decoder's own.
Cost of a step: the weights and the caches are read once; docs/performance.md has the rates.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.base.machine import free_memory
from keylm.runtimes.cached_decoder import Cache, CachedDecoder, adjacent
from keylm.runtimes.decoding import Newest, Spots
from keylm.runtimes.row_states import RowStates, RowText
from keylm.runtimes.sampling import Sampling, text_seed

LOOK = {"cuda": 8, "cpu": 1}
"""Steps between two looks at which rows are done: up to that many are wasted on a finished text."""
MOST_ROWS = {"cuda": 1024, "cpu": 16}
"""Texts at once by default."""
MEMORY = 0.6
"""Share of the free memory that caches may take."""
READ_TOKENS = {"cuda": 65_536, "cpu": 2_048}
"""Tokens of prompts that are read in one pass."""
REFILL = 32
"""Prompts are read once this part of the rows is free: a pass has its own launches."""
Stop = Callable[[int, list[int]], bool]
"""(number of the text, its tokens so far) → whether it ends here; asked at each look."""


@dataclass(frozen=True)
class Continuation:
    """What was written after a prompt."""

    ids: list[int]
    """The tokens, the one that ended it included."""
    log_probabilities: list[float]
    """Of each, in nats, by softmax(logits / temperature), before penalty and truncation; greedy: at temperature 1."""
    ended: bool
    """Whether an end token was written; else the limit, or `stop`, ended it."""


@dataclass
class _Text:
    number: int
    prompt: Sequence[int]
    limit: int
    written: int = 0


@dataclass
class Counts:
    """What one call took, for measurements."""

    steps: int = 0
    row_steps: int = 0
    """Rows computed, over all steps."""
    prompt_tokens: int = 0
    new_tokens: int = 0


@dataclass
class _Graphs:
    """Captured steps by size of batch."""

    run: Callable[[Tensor], None]
    spare: int
    device: torch.device
    found: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = field(default_factory=dict)

    def replay(self, rows: Tensor, times: int) -> None:
        """Take `times` steps with `rows` (int64 [B] on the device). Raises RuntimeError where none can be captured."""
        if len(rows) not in self.found:
            self.found[len(rows)] = self._capture(len(rows))
        graph, at = self.found[len(rows)]
        at.copy_(rows)
        for _ in range(times):
            graph.replay()

    def _capture(self, size: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Capture a step on the spare row, whose state is nobody's."""
        at = torch.full((size,), self.spare, device=self.device)
        side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):  # compiles kernels, and allocates what libraries keep
            for _ in range(2):
                self.run(at)
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self.found.values()))[0].pool() if self.found else None
        # Other threads (data loaders) may use the device meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            self.run(at)
        return graph, at


class BatchGenerator:
    """Writes many texts at once; keeps its caches and graphs from call to call."""

    def __init__(
        self, decoder: CachedDecoder, *, rows: int | None = None, graphs: bool = True, memory: float = MEMORY
    ) -> None:
        """Write up to `rows` texts at once, fewer if `memory`, a share of what is free at the time, is too small."""
        self.decoder = decoder
        self.graphs = graphs and decoder.device.type == "cuda"
        self.why_no_graphs = ""
        """What the driver said where a step could not be captured; steps are launched one by one then."""
        self.counts = Counts()
        self._rows, self._memory = rows or self._of_device(MOST_ROWS), memory
        self._cache: Cache | None = None
        self._states: RowStates | None = None
        self._captured: _Graphs | None = None
        self._penalised = self._filtered = False

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Take new weights, as CachedDecoder.take; graphs stay."""
        self.decoder.take(tensors)

    def release(self) -> None:
        """Free caches and graphs; the next call makes new ones."""
        self._captured = self._cache = self._states = None
        if self.decoder.device.type == "cuda":
            torch.cuda.empty_cache()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        each: int = 1,
        limits: Sequence[int] | None = None,
        ends: Iterable[int] | None = None,
        stop: Stop | None = None,
        done: Callable[[int, Continuation], None] | None = None,
    ) -> list[Continuation]:
        """Return `each` continuations of every prompt (token ids, at least one), those of a prompt side by side.

        Roll-outs of a policy: Sampling(tokens, temperature, top_p=1, repetition_penalty=1, top_k=0), `each` answers.
        A text ends with a token of `ends` (by default the model's), after `limits` (one a prompt; by default
        sampling.max_new_tokens) or where the context is full: a prompt that leaves no room gets no token. Without a
        seed each call is another one. `done` is called for each text that is finished. Raises KeylmError for an empty
        prompt, ids that are none of the vocabulary's, and logits that are not finite.
        """
        limits = [sampling.max_new_tokens] * len(prompts) if limits is None else limits
        self._check(prompts)
        room = [min(most, self.decoder.context - len(ids)) for ids, most in zip(prompts, limits, strict=True)]
        texts = [
            _Text(number * each + copy, ids, most)
            for number, (ids, most) in enumerate(zip(prompts, room, strict=True))
            for copy in range(each)
            if most > 0
        ]
        found = [Continuation([], [], False) for _ in range(each * len(prompts))]
        self.counts = Counts()
        if not texts:
            return found
        end_set = frozenset(self.decoder.ends if ends is None else ends)
        states = self._prepared(texts, sampling, end_set)
        for text, written in self._run(states, texts, _seed(sampling), stop):
            _check_finite(written)
            ended = bool(written.ids) and written.ids[-1] in end_set
            found[text.number] = Continuation(written.ids, written.log_probabilities, ended)
            self.counts.new_tokens += len(written.ids)
            if done:
                done(text.number, found[text.number])
        return found

    def stream(
        self, prompt: Sequence[int], sampling: Sampling, change: Callable[[list[int], Tensor], Tensor] | None = None
    ) -> Iterator[int]:
        """Yield the tokens of one text as they are drawn, those that `generate` returns of a single prompt.

        `change` (tokens so far, logits fp32 [1, V]) returns other logits. Raises KeylmError as `generate` does.
        """
        self._check([prompt])
        text = _Text(0, prompt, min(sampling.max_new_tokens, self.decoder.context - len(prompt)))
        if text.limit < 1:
            return
        states, written = self._prepared([text], sampling, self.decoder.ends), list[int]()
        row, cache = torch.zeros(1, dtype=torch.int64, device=self.decoder.device), self._cache
        assert cache is not None
        hidden = self._begun(states, cache, {0: text}, _seed(sampling))
        while True:
            self._draw(states, row, hidden, change and (lambda logits: change(written, logits)))
            [found] = states.texts([0], [len(written) + 1])
            _check_finite(found)
            written.append(found.ids[-1])
            yield written[-1]
            if states.flags([0])[0][0]:
                return
            hidden = self._read(states, cache, row, slice(0, 1))

    def _of_device(self, figures: Mapping[str, int]) -> int:
        return figures.get(self.decoder.device.type, figures["cpu"])

    def _check(self, prompts: Sequence[Sequence[int]]) -> None:
        vocabulary = self.decoder.vocab_size
        for ids in prompts:
            if not ids or min(ids) < 0 or max(ids) >= vocabulary:
                what = f"ids from {min(ids)} to {max(ids)}" if ids else "no tokens"
                raise KeylmError(f"a prompt of {what}; accepted: at least one id, each below {vocabulary}")

    def _prepared(self, texts: Sequence[_Text], sampling: Sampling, ends: frozenset[int]) -> RowStates:
        """Return the rows' state, with settings; makes caches where those of the last call are too small."""
        decoder = self.decoder
        places = max(len(text.prompt) + text.limit for text in texts)
        room = max(text.limit for text in texts)
        rows = min(self._rows, len(texts))
        cache, states = self._cache, self._states
        if cache is None or states is None or cache.context < places or states.room < room or states.rows < rows:
            if cache is not None and states is not None:
                places, room = max(places, cache.context), max(room, states.room)
                rows = max(rows, states.rows)
                self.release()
            del cache, states
            places, room = min(decoder.context, _rounded(places)), min(decoder.context, _rounded(room))
            rows = min(rows, self._fitting(places, room))
            self._cache = decoder.cache(rows + 1, places)
            self._states = RowStates(rows, room, decoder.vocab_size, ends, decoder.device)
        states = self._states
        assert states is not None
        states.set_ends(ends)
        states.set_sampling(sampling)
        self._penalised = sampling.repetition_penalty != 1
        self._filtered = sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
        return states

    def _fitting(self, places: int, room: int) -> int:
        """Return how many rows the memory has room for."""
        shape, width = self.decoder.shape, self.decoder.dtype.itemsize
        cached = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * width * places
        row = cached + 12 * room + 5 * self.decoder.vocab_size  # ids, their scores; seen tokens, logits
        free = free_memory(self.decoder.device)
        return max(1, int(free * self._memory) // row - 1) if free is not None else self._rows

    def _run(
        self, states: RowStates, texts: Sequence[_Text], seed: int, stop: Stop | None
    ) -> Iterator[tuple[_Text, RowText]]:
        """Yield each text as it is finished."""
        # The longest first, so that the end is not one row; alike ones together, as padding costs on some devices.
        waiting = deque(sorted(texts, key=lambda text: (-text.limit, -len(text.prompt))))
        free, active = deque(range(states.rows)), dict[int, _Text]()
        while waiting or active:
            if waiting and (not active or len(free) * REFILL >= states.rows):
                self._admit(states, waiting, free, active, seed)
            else:
                left = max(text.limit - text.written for text in active.values())
                self._steps(states, sorted(active), min(self._of_device(LOOK), left))
            for row, written in self._finished(states, active, stop):
                free.append(row)
                yield active.pop(row), written

    def _admit(
        self, states: RowStates, waiting: deque[_Text], free: deque[int], active: dict[int, _Text], seed: int
    ) -> None:
        """Read the next prompts into free rows and draw their first tokens, READ_TOKENS at a time."""
        left, begun = self._of_device(READ_TOKENS), dict[int, _Text]()
        while waiting and free and (not begun or len(waiting[0].prompt) <= left):
            left -= len(waiting[0].prompt)
            begun[free.popleft()] = waiting.popleft()
        active.update(begun)
        assert self._cache is not None
        hidden = self._begun(states, self._cache, begun, seed)
        self._draw(states, torch.tensor(list(begun)).to(self.decoder.device), hidden)

    def _begun(self, states: RowStates, cache: Cache, texts: Mapping[int, _Text], seed: int) -> Tensor:
        """Read the prompts of new texts into their rows; return the last hidden states [B, H]."""
        rows, prompts = list(texts), [text.prompt for text in texts.values()]
        seeds = [text_seed(seed, text.number) for text in texts.values()]
        states.begin(rows, prompts, [text.limit for text in texts.values()], seeds)
        if self._penalised:
            states.mark_seen(rows, prompts)
        self.counts.prompt_tokens += sum(map(len, prompts))
        return self.decoder.prefill_whole(cache, rows, prompts)

    def _steps(self, states: RowStates, rows: list[int], times: int) -> None:
        """Write `times` tokens of each row."""
        device, cache = self.decoder.device, self._cache
        self.counts.steps += times
        if device.type == "cuda":
            size = next(size for size in sizes_up_to(states.rows) if size >= len(rows))
            rows = rows + [states.rows] * (size - len(rows))
        self.counts.row_steps += times * len(rows)
        at = torch.tensor(rows).to(device)
        assert cache is not None
        if self.graphs:
            if self._captured is None:
                self._captured = _Graphs(lambda at: self._step(states, cache, at), states.rows, device)
            try:
                self._captured.replay(at, times)
                return
            except RuntimeError as error:
                self.graphs, self.why_no_graphs = False, str(error)
        for _ in range(times):
            self._step(states, cache, at, adjacent(rows))

    @torch.inference_mode()
    def _step(self, states: RowStates, cache: Cache, at: Tensor, together: slice | None = None) -> None:
        """Write one token of each row of `at` that is not done."""
        self._draw(states, at, self._read(states, cache, at, together))

    @torch.inference_mode()
    def _read(self, states: RowStates, cache: Cache, at: Tensor, together: slice | None = None) -> Tensor:
        """Read the newest token of each row; return the hidden states [B, H]."""
        places = states.length[at]
        longest = int(places.max()) + 1 if self.decoder.device.type == "cpu" else cache.context
        hidden = self.decoder.step_at(cache, states.token[at], Newest(Spots(at, places, places), longest, together))
        states.count_read(at)
        return hidden

    @torch.inference_mode()
    def _draw(
        self, states: RowStates, rows: Tensor, hidden: Tensor, change: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Draw the next token of each row from the hidden states of its last."""
        decoder = self.decoder
        # A graph serves all settings; the plain formulas leave out what none needs.
        every = decoder.device.type == "cuda"
        seen = states.seen if every or self._penalised else None
        written, filtered = states.written, every or self._filtered
        logits = decoder.logits(hidden) if change is None else change(decoder.logits(hidden))
        states.advance(rows, decoder.operations.choose(logits, rows, states.settings, written, seen, filtered))

    def _finished(self, states: RowStates, active: Mapping[int, _Text], stop: Stop | None) -> list[tuple[int, RowText]]:
        """Look at the active rows; return those that are done."""
        rows = sorted(active)
        done, counts = states.flags(rows)
        for row, count in zip(rows, counts, strict=True):
            active[row].written = count
        if stop is not None:
            going = [place for place, over in enumerate(done) if not over]
            texts = states.texts([rows[place] for place in going], [counts[place] for place in going]) if going else []
            stopped = [
                place for place, text in zip(going, texts, strict=True) if stop(active[rows[place]].number, text.ids)
            ]
            for place in stopped:
                done[place] = True
            states.stop([rows[place] for place in stopped])
        over = [place for place, flag in enumerate(done) if flag]
        if not over:
            return []
        ended = [rows[place] for place in over]
        return list(zip(ended, states.texts(ended, [counts[place] for place in over]), strict=True))


def _seed(sampling: Sampling) -> int:
    """Return the settings' seed, else one from torch's global generator."""
    return int(torch.randint(2**62, ())) if sampling.seed is None else sampling.seed


def _check_finite(text: RowText) -> None:
    if text.broken:
        raise KeylmError("the model's logits are not finite; accepted: weights that were not damaged")


def sizes_up_to(rows: int) -> list[int]:
    """Return the sizes of batches that graphs are captured for: powers of two, from 64 on halfway too, and `rows`."""
    powers = [1 << n for n in range(rows.bit_length())]
    sizes = {*powers, *(size + size // 2 for size in powers if size >= 64), rows}
    return sorted(size for size in sizes if size <= rows)


def _rounded(size: int) -> int:
    """Return the next multiple of 128, so that calls that are nearly alike share their caches."""
    return -(-size // 128) * 128
