"""Faster log-likelihoods for lm_eval: a context is read once for all its choices, which `HFLM` reads again for each.

A context and its continuations share a row,

    tokens     c0 c1 c2 | a0 a1 | b0 b1 b2      (each continuation without its last token)
    positions   0  1  2 |  3  4 |  3  4  5

under a mask by which a continuation attends to the context and itself: tree attention with one fork (SpecInfer, arXiv
2305.09781, section 4.2). The first tokens of all continuations are predicted at the context's last token. A row with at
most one continuation of several tokens is an ordinary causal row, without a mask.

Invariant: the figures are those of `HFLM` up to rounding. Whether a model respects such a mask and explicit positions
is measured when it is opened, on rows as long as the longest shared ones; ALiBi, sliding windows and recurrent layers
do not, and get one continuation a row.
"""

import contextlib
import inspect
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from keylm.base.errors import KeylmError
from keylm.evaluation.harness_generation import decodable, written
from keylm.runtimes.batch_generation import BatchGenerator

SHARED_ROW = 512
"""Maximum tokens of a shared row: its mask grows with the square."""
SAVING = 0.1
"""Minimum share of a question's tokens saved, for a mask to be worth its cost."""
BATCH_TOKENS = {"cpu": 1_024, "gpu": 65_536}
"""Padded tokens of a batch."""
BATCH_LOGITS = {"cpu": 1 << 27, "gpu": 1 << 31}
"""Maximum logits of a batch: fewer tokens where the vocabulary is large."""
SOFTMAX_LOGITS = 1 << 26
"""Logits converted to fp32 at a time."""
TOLERANCE = 1e-3
"""Nats by which a token's log-likelihood may differ in a shared row, in fp32."""
DOUBT = 0.01
"""The same, as a share of the difference where a continuation does see the previous one."""
NO_BARS = "TQDM_DISABLE"
"""tqdm's own switch, which the harness overrides."""

Tokens = tuple[int, ...]
Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""Cache key (None: a piece of a longer text), context, continuation."""
Answer = tuple[float, bool]
"""A continuation's log-likelihood in nats, and whether greedy decoding gives it."""
_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ScoringRow:
    """A context, then its continuations without their last tokens."""

    context: Tokens
    continuations: Sequence[Tokens]

    @property
    def length(self) -> int:
        """Tokens that are read."""
        return len(self.context) + sum(map(len, self.continuations)) - len(self.continuations)

    @property
    def forks(self) -> bool:
        """Whether several continuations are read: those of one token are not."""
        return sum(len(continuation) > 1 for continuation in self.continuations) > 1

    def read(self) -> Iterator[int]:
        """Return the tokens that are read."""
        return chain(self.context, *(continuation[:-1] for continuation in self.continuations))

    def predicting(self) -> Iterator[int]:
        """Return the columns that predict the continuations' tokens, in their order."""
        begin = len(self.context)
        for continuation in self.continuations:
            yield len(self.context) - 1
            yield from range(begin, begin + len(continuation) - 1)
            begin += len(continuation) - 1


def rows_of(context: Tokens, continuations: Iterable[Tokens], limit: int) -> Iterator[ScoringRow]:
    """Return a context's rows: several continuations up to `limit` tokens, those of one for free, else one each."""
    part: list[Tokens] = []
    length = len(context)
    for continuation in sorted(continuations, key=len):
        read = len(continuation) - 1
        if length > len(context) and length + read > limit:
            yield ScoringRow(context, part)
            part, length = [], len(context)
        part.append(continuation)
        length += read
    yield ScoringRow(context, part)


def worth_sharing(context: Tokens, continuations: Iterable[Tokens]) -> bool:
    """Return whether one row saves enough tokens over a row for each continuation."""
    read = [len(continuation) - 1 for continuation in continuations if len(continuation) > 1]
    saved = (len(read) - 1) * len(context)
    return saved > 0 and saved >= SAVING * (len(read) * len(context) + sum(read))


class RequestBatch(NamedTuple):
    """Rows side by side: B rows padded to L columns, K columns that predict, N tokens that are scored."""

    ids: _Ints
    """[B, L]"""
    layout: _Ints | None
    """[2, B, L]: positions, and the continuation that a token belongs to (0: the context, -1: padding); None: causal"""
    columns: _Ints
    """[K], ascending"""
    scored: _Ints
    """[3, N]: row, index in `columns`, token; row by row, continuation by continuation"""


def collate(rows: Sequence[ScoringRow], multiple: int = 1) -> RequestBatch:
    """Return rows as arrays, padded to a multiple of `multiple` columns; rows are all branching or all causal."""
    lengths = np.array([row.length for row in rows])
    width = -(-int(lengths.max()) // multiple) * multiple
    filled = np.arange(width) < lengths[:, None]
    ids = np.zeros((len(rows), width), np.int64)
    ids[filled] = np.fromiter(chain.from_iterable(row.read() for row in rows), np.int64, int(lengths.sum()))
    continuations = [continuation for row in rows for continuation in row.continuations]
    total = sum(map(len, continuations))
    predicting = np.fromiter(chain.from_iterable(row.predicting() for row in rows), np.int64, total)
    columns, kept = np.unique(predicting, return_inverse=True)
    owners = np.repeat(np.arange(len(rows)), [sum(map(len, row.continuations)) for row in rows])
    tokens = np.fromiter(chain.from_iterable(continuations), np.int64, total)
    layout = _layout(rows, filled) if any(row.forks for row in rows) else None
    return RequestBatch(ids, layout, columns, np.stack((owners, kept, tokens)))


def _layout(rows: Sequence[ScoringRow], filled: npt.NDArray[np.bool_]) -> _Ints:
    """Return positions and continuations' numbers, int64 [2, B, L]."""
    lengths: list[int] = []
    firsts: list[int] = []
    numbers: list[int] = []
    for row in rows:
        lengths += [len(row.context), *(len(continuation) - 1 for continuation in row.continuations)]
        firsts += [0, *[len(row.context)] * len(row.continuations)]
        numbers += range(1 + len(row.continuations))
    begins = np.cumsum(lengths) - lengths
    layout = np.zeros((2, *filled.shape), np.int64)
    layout[1] = -1
    layout[0][filled] = np.arange(sum(lengths)) + np.repeat(np.array(firsts) - begins, lengths)
    layout[1][filled] = np.repeat(numbers, lengths)
    return layout


def branch_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the additive attention mask [B, 1, L, L]: 0 where a token may attend, else the dtype's minimum.

    `segments`: the second part of `RequestBatch.layout`. Every token, padding too, attends at least to itself.
    """
    keys, queries = segments[:, None, :], segments[:, :, None]
    seen = (keys == 0) | (keys == queries)
    seen &= torch.ones(seen.shape[1:], dtype=torch.bool, device=seen.device).tril()
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


class SharedContextLM(HFLM):  # type: ignore[misc]  # lm_eval is untyped
    """lm_eval's wrapper of a causal language model, with faster log-likelihoods; same arguments as `HFLM`.

    `batch_size` is for generation by transformers alone; log-likelihoods are batched by tokens, fewer after running
    out of memory.
    """

    writer: BatchGenerator | None = None
    """keylm's decoder with the model's weights, which generates instead of transformers where it can."""
    shares_contexts: bool
    """Whether continuations share their context's row."""
    mixed_precision_dtype: torch.dtype | None

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """Open the model and try a few rows on it."""
        super().__init__(*arguments, **settings)
        self._encoded: dict[tuple[str, bool | None], list[int]] = {}
        self._accepts = set(inspect.signature(self.model.forward).parameters)
        kind = "cpu" if self.device.type == "cpu" else "gpu"
        self._multiple = 1 if kind == "cpu" else 8  # attention with a mask wants its rows aligned
        embeddings = self.model.get_input_embeddings().num_embeddings
        self._batch_tokens = min(BATCH_TOKENS[kind], BATCH_LOGITS[kind] // embeddings)
        self._row_limit = min(SHARED_ROW, self.max_length)
        sharing = self.backend == "causal" and self._row_limit >= 16
        self.shares_contexts = sharing and self._sharing_works(min(embeddings, len(self.tokenizer)))

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[Answer]:
        """Return each request's log-likelihood, as `HFLM` does; texts are encoded together, each once."""
        self._encoded.clear()
        texts: dict[tuple[str, bool | None], None] = {}
        for context, continuation in (request.args for request in requests):
            if context:
                texts[context.rstrip(), None] = texts[context + continuation, None] = None
            else:
                texts[continuation, False] = None
        self._encode(texts)
        answers: list[Answer] = super().loglikelihood(requests, disable_tqdm=disable_tqdm or NO_BARS in os.environ)
        self._encoded.clear()
        return answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return each request's text, as `HFLM` does."""
        if self.writer is None or not decodable(self, requests):
            texts: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm or NO_BARS in os.environ)
            return texts
        hidden = disable_tqdm or NO_BARS in os.environ
        with tqdm(total=len(requests), disable=hidden, desc="Running generate_until requests") as bar:

            def told(number: int, text: str) -> None:
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
                bar.update(1)

            return written(self, self.writer, requests, told)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **settings: Any
    ) -> list[int]:
        """Return a text's tokens, as `HFLM` does."""
        tokens = self._encoded.get((string, add_special_tokens)) if not (left_truncate_len or settings) else None
        if tokens is None:
            tokens = super().tok_encode(string, add_special_tokens, left_truncate_len, **settings)
        return tokens

    def _encode(self, texts: Iterable[tuple[str, bool | None]], together: int = 4096) -> None:
        """Cache the tokens of (text, whether special tokens are added) for `tok_encode`, by its rules."""
        start = self.tokenizer.decode(self.prefix_token_id)
        alike: dict[bool | None, list[tuple[str, bool | None]]] = {}
        for text, special in texts:
            added = special if special is not None else False if text.startswith(start) else self.add_bos_token
            alike.setdefault(added, []).append((text, special))
        for added, keys in alike.items():
            settings = {} if added is None else {"add_special_tokens": added}
            for begin in range(0, len(keys), together):
                part = keys[begin : begin + together]
                encoded = self.tokenizer([text for text, _ in part], return_attention_mask=False, **settings)
                self._encoded.update(zip(part, encoded["input_ids"], strict=True))

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Answer]:
        """Return the answers to requests, in their order.

        A context is truncated on the left where both have more than `max_length` + 1 tokens, as in `HFLM`. Raises
        KeylmError where either is empty, or a continuation alone is longer than the model's context.
        """
        if self.backend != "causal":
            answers: list[Answer] = super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
            return answers
        groups = self._grouped(requests)
        found: list[Answer] = [(0.0, False)] * len(requests)
        hidden = disable_tqdm or self.rank != 0 or NO_BARS in os.environ
        with tqdm(total=len(requests), disable=hidden, desc="Running loglikelihood requests") as bar:
            for row, continuation, answer in self._answers(self._rows(groups)):
                numbers = groups[row.context][continuation]
                for number in numbers:
                    found[number] = answer
                    if (key := requests[number][0]) is not None:
                        self.cache_hook.add_partial("loglikelihood", key, answer)
                bar.update(len(numbers))
        return found

    def _grouped(self, requests: Sequence[Request]) -> dict[Tokens, dict[Tokens, list[int]]]:
        """Return the numbers of the requests for each context and each of its continuations."""
        longest, cut = self.max_length, 0
        groups: dict[Tokens, dict[Tokens, list[int]]] = {}
        for number, (key, context, continuation) in enumerate(requests):
            if not context or not 0 < len(continuation) <= longest:
                raise KeylmError(
                    f"request {number} {'' if key is None else repr(key[1][:60])}: {len(context)} tokens of context, "
                    f"{len(continuation)} to score; accepted: at least 1 of context, 1 to {longest} to score"
                )
            left = longest + 1 - len(continuation)
            cut += len(context) > left
            groups.setdefault(tuple(context[-left:]), {}).setdefault(tuple(continuation), []).append(number)
        if cut:
            logging.getLogger(__name__).warning("%d contexts are cut: the model reads %d tokens", cut, longest)
        return groups

    def _rows(self, groups: Mapping[Tokens, Iterable[Tokens]]) -> Iterator[ScoringRow]:
        for context, continuations in groups.items():
            share = self.shares_contexts and worth_sharing(context, continuations)
            yield from rows_of(context, continuations, self._row_limit if share else 0)

    def _answers(self, rows: Iterable[ScoringRow]) -> Iterator[tuple[ScoringRow, Tokens, Answer]]:
        """Return the answer for each row's continuations, a batch late: the device already works on the next one."""
        # Longest first, so that running out of memory shows at once; rows with a mask apart from those without.
        ordered = sorted(rows, key=lambda row: (not row.forks, -row.length, len(row.context)))
        forks = sum(row.forks for row in ordered)
        waiting: tuple[Sequence[ScoringRow], Tensor] = ((), torch.zeros(2, 0))
        begin = 0
        while begin < len(ordered):
            end = forks if begin < forks else len(ordered)
            width = -(-ordered[begin].length // self._multiple) * self._multiple
            batch = ordered[begin : min(end, begin + max(1, self._batch_tokens // width))]
            scores = self._fitting(batch, width)
            if scores is not None:
                yield from _summed(*waiting)
                waiting = batch, scores
                begin += len(batch)
        yield from _summed(*waiting)

    def _fitting(self, rows: Sequence[ScoringRow], width: int) -> Tensor | None:
        """Return the rows' scores, None where memory ran out (batches are halved). Raises KeylmError for one row."""
        try:
            return self._score(rows)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise KeylmError(
                    f"{width} tokens do not fit into the memory of {self.device}; accepted: a smaller model, or "
                    "another device"
                ) from None
        torch.cuda.empty_cache()
        self._batch_tokens = len(rows) // 2 * width
        return None

    @torch.inference_mode()
    def _score(self, rows: Sequence[ScoringRow]) -> Tensor:
        """Return [2, N] on the device: each scored token's log-likelihood, and 1 where it is the likeliest."""
        batch = collate(rows, self._multiple)
        logits = self._logits(batch)
        owners, columns, tokens = self._placed(batch.scored)
        parts = []
        step = max(1, SOFTMAX_LOGITS // logits.shape[-1])
        for begin in range(0, len(tokens), step):
            part = slice(begin, begin + step)
            chosen = logits[owners[part], columns[part]].to(self.softmax_dtype or torch.float32)
            own = chosen.gather(1, tokens[part, None])[:, 0] - chosen.logsumexp(1)
            parts.append(torch.stack((own, (chosen.argmax(1) == tokens[part]).to(own.dtype))))
        return torch.cat(parts, dim=1)

    def _logits(self, batch: RequestBatch) -> Tensor:
        """Return the logits at the predicting columns, [B, K, vocabulary]."""
        columns = self._placed(batch.columns)
        inputs: dict[str, Any] = {"input_ids": self._placed(batch.ids)}
        if batch.layout is not None:
            inputs["position_ids"], segments = self._placed(batch.layout)
            inputs["attention_mask"] = branch_mask(segments, self.mixed_precision_dtype or self.model.dtype)
        if "use_cache" in self._accepts:
            inputs["use_cache"] = False
        keeps = "logits_to_keep" in self._accepts
        if keeps:
            inputs["logits_to_keep"] = columns
        mixed = self.mixed_precision_dtype
        with torch.autocast(self.device.type, dtype=mixed, enabled=mixed is not None):
            logits: Tensor = self.model(**inputs).logits
        # Adapters may prepend tokens of their own.
        return logits if keeps else logits[:, -batch.ids.shape[1] :][:, columns]

    def _placed(self, array: _Ints) -> Tensor:
        """Return an array on the device; the host does not wait for the copy."""
        tensor = torch.from_numpy(array)
        return (tensor.pin_memory() if self.device.type == "cuda" else tensor).to(self.device, non_blocking=True)

    def _sharing_works(self, vocabulary: int) -> bool:
        """Return whether random continuations get the same log-likelihoods in a shared row as in rows of their own.

        The tolerance is relative to the difference that seeing another continuation makes.
        """
        rng = np.random.default_rng(0)
        length = self._row_limit // 2
        shapes = [(length, (length // 3 + 1,) * 3), (5, (4, 1, 6))]  # the first fills the longest row: its last counts
        differences: list[Tensor] = []
        try:
            with self._in_32_bits():
                for size, sizes in shapes:
                    context, *others = (tuple(rng.integers(vocabulary, size=n).tolist()) for n in (size, *sizes))
                    apart = self._score([ScoringRow(context, [other]) for other in others[-1 if size > 5 else 0 :]])[0]
                    together = self._score([ScoringRow(context, others)])[0, -len(apart) :]
                    differences.append((together - apart).abs())
                joined = self._score([ScoringRow(context + others[0], others[-1:])])[0]
                contrast = (joined - apart[-len(others[-1]) :]).abs().max()
        except Exception:  # whatever a model's own code raises at a mask that it does not expect
            return False
        return bool(torch.cat(differences).max() <= (DOUBT * contrast).clamp(max=TOLERANCE))

    @contextlib.contextmanager
    def _in_32_bits(self) -> Iterator[None]:
        """Hold the weights in fp32 for a while: rounding to 16 bits would hide the differences."""
        halves = [(weight, weight.data) for weight in self.model.parameters() if weight.dtype.itemsize == 2]
        mixed, self.mixed_precision_dtype = self.mixed_precision_dtype, None
        try:
            for weight, data in halves:
                weight.data = data.float()
            yield
        finally:
            for weight, data in halves:
                weight.data = data
            self.mixed_precision_dtype = mixed


def _summed(rows: Sequence[ScoringRow], scores: Tensor) -> Iterator[tuple[ScoringRow, Tokens, Answer]]:
    """Return the answer for each continuation from its tokens' scores; waits for the device."""
    owned = [(row, continuation) for row in rows for continuation in row.continuations]
    lengths = np.array([len(continuation) for _, continuation in owned], np.int64)
    begins = np.cumsum(lengths) - lengths
    likelihoods, greedy = scores.cpu().double().numpy()
    sums = np.add.reduceat(likelihoods, begins).tolist()
    exact = (np.minimum.reduceat(greedy, begins) > 0).tolist()
    for (row, continuation), total, every in zip(owned, sums, exact, strict=True):
        yield row, continuation, (total, every)
