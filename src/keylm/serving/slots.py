"""The rows that an engine generates with: texts side by side, each with a cache of its tokens.

Two implementations: PyTorch, on keylm's own decoder, and llama.cpp, on a GGUF file. Both return plain logits, so
sampling, stop strings, scores, grammars and batching are the engine's.

Invariant: the logits of a text depend on its own tokens alone (up to rounding); a row's tokens stay until they are
overwritten, and after an error too, except those being read.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.model.folder import DecoderConfig
from keylm.runtimes.cached_decoder import CachedDecoder
from keylm.runtimes.llama import LlamaModel, Place

GAP = 2
"""Idle rows that llama.cpp computes together with their neighbours; with more it splits the batch."""


class Slots(Protocol):
    """Rows of texts; V is the vocabulary."""

    name: str
    """The runtime's."""
    rows: int
    context: int
    vocab_size: int
    ends: frozenset[int]
    """Tokens that end a text or a turn."""

    def read(self, row: int, start: int, ids: Sequence[int], wanted: int) -> Tensor:
        """Read tokens of one row, overwriting it from place `start` on; return logits [wanted, V] of the last."""

    def step(self, rows: Sequence[int], ids: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Read one more token for each of B rows (ascending) with `lengths` tokens; return logits [B, V]."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Replace one row's tokens with the first `length` tokens of another."""

    def close(self) -> None:
        """Free the memory."""


class TorchSlots:
    """keylm's own decoder; its logits come to the CPU, where the engine samples."""

    name = "torch"

    def __init__(self, decoder: CachedDecoder, rows: int) -> None:
        self.rows, self.context, self.vocab_size, self.ends = rows, decoder.context, decoder.vocab_size, decoder.ends
        self.decoder, self._cache = decoder, decoder.cache(rows)

    def read(self, row: int, start: int, ids: Sequence[int], wanted: int) -> Tensor:
        """As in Slots."""
        hidden = self.decoder.prefill(self._cache, row, start, ids)
        return self.decoder.logits(hidden[len(ids) - wanted :]).cpu()

    def step(self, rows: Sequence[int], ids: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """As in Slots."""
        return self.decoder.logits(self.decoder.step(self._cache, rows, ids, lengths)).cpu()

    def copy(self, source: int, target: int, length: int) -> None:
        """As in Slots."""
        self._cache.copy(source, target, length)

    def close(self) -> None:
        """Do nothing: Python frees tensors."""


class LlamaSlots:
    """llama.cpp, on a GGUF file. Not for several threads at once."""

    name = "llama.cpp"

    def __init__(self, file: Path, facts: DecoderConfig, rows: int, threads: int) -> None:
        """Open `file`, whose `facts` are known. Raises KeylmError where llama.cpp refuses it."""
        self.rows, self.context, self.ends = rows, facts.shape.max_position_embeddings, facts.ends
        self._model = LlamaModel(file, self.context, threads, rows)
        self.vocab_size = self._model.vocab_size
        if self.vocab_size != facts.vocab_size:
            raise KeylmError(f"{file}: has {self.vocab_size:,} tokens, not {facts.vocab_size:,}")
        self._filled = [0] * rows

    def read(self, row: int, start: int, ids: Sequence[int], wanted: int) -> Tensor:
        """As in Slots."""
        found, last = [], len(ids) - wanted
        for begin in range(0, len(ids), self._model.batch):
            part = ids[begin : begin + self._model.batch]
            places = [Place(row, start + begin + n, token, begin + n >= last) for n, token in enumerate(part)]
            found.append(self._decode(places))
        return torch.cat(found)

    def step(self, rows: Sequence[int], ids: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """As in Slots. llama.cpp batches only adjacent rows: small gaps are filled with a token, removed at once."""
        places = [Place(*each, True) for each in zip(rows, lengths, ids, strict=True)]
        filling = [Place(row, self._filled[row], 0, False) for row in self._gaps(rows)]
        logits = self._decode(sorted([*places, *filling], key=lambda each: each.row))
        for each in filling:
            self._cut(each.row, each.place)
        return logits

    def copy(self, source: int, target: int, length: int) -> None:
        """As in Slots."""
        self._model.copy(source, target, length)
        self._filled[target] = length

    def close(self) -> None:
        """Give back the memory."""
        self._model.close()

    def _gaps(self, rows: Sequence[int]) -> list[int]:
        """Return the rows between `rows` that are worth filling."""
        gaps = [range(left + 1, right) for left, right in pairwise(rows)]
        small = [gap for gap in gaps if len(gap) <= GAP and all(self._filled[row] < self.context for row in gap)]
        return [row for gap in small for row in gap]

    def _decode(self, places: Sequence[Place]) -> Tensor:
        starts: dict[int, int] = {}
        for each in places:
            starts.setdefault(each.row, each.place)
        for row, start in starts.items():
            self._cut(row, start)
        try:
            logits = self._model.decode(places)
        except KeylmError:
            for row, start in starts.items():
                self._filled[row] += 1  # whatever was read of it
                self._cut(row, start)
            raise
        for each in places:
            self._filled[each.row] = each.place + 1
        return torch.from_numpy(logits)

    def _cut(self, row: int, length: int) -> None:
        if self._filled[row] > length:
            self._model.cut(row, length)
            self._filled[row] = length
