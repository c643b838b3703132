"""Batches, prepared one step ahead while the device computes.

Invariant: the batches are the same as without prefetching. A thread reads the next step's windows, counts what the
metrics need and, for a GPU, copies everything to pinned memory, so that the loop never waits for data and the device
never waits for the host. It costs one more batch in memory. On a CPU, prefetching overlaps only with clipping,
reductions and the optimizer step.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from keylm.data.curriculum import Batch
from keylm.model.attention import Packing, has_kernel
from keylm.recipe.schema import Training


class MicroBatch(NamedTuple):
    """The windows of one forward pass; shapes: B windows, L tokens."""

    tokens: Tensor
    """int64 [B, L]"""
    labels: Tensor
    """int64 [B, L]: next tokens, -100 where no loss is taken"""
    packing: Packing
    partners: Tensor | None
    """int64 [B, L] as in `Batch`, or None"""

    def to(self, device: torch.device) -> Self:
        """Return it on `device`; the copy is asynchronous."""
        moved = self._with(lambda tensor: tensor.to(device, non_blocking=True))
        if moved.packing.cu_seqlens is not None and device.type == "cuda":
            # The number of documents must not trigger recompilation.
            torch._dynamo.mark_dynamic(moved.packing.cu_seqlens, 0)
        return moved

    def pinned(self) -> Self:
        """Return it in pinned memory."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return it with `change` applied to all its tensors."""
        packing = Packing(*(None if tensor is None else change(tensor) for tensor in self.packing))
        partners = None if self.partners is None else change(self.partners)
        return type(self)(change(self.tokens), change(self.labels), packing, partners)


@dataclass(frozen=True)
class Feed:
    """A rank's share of a step: the model's inputs, and what the host already knows about them."""

    parts: list[MicroBatch]
    sources: npt.NDArray[np.int64]
    """int64 [windows]: index of each window's source"""
    trained: npt.NDArray[np.int64]
    """int64 [windows]: tokens that carry a loss"""
    text_bytes: int
    """UTF-8 bytes of those tokens"""


def suited(settings: Training, head_dim: int, device: torch.device) -> Training:
    """Return `settings` with masked attention where no variable-length kernel supports such heads on `device`."""
    return settings if has_kernel(device, head_dim) else settings.model_copy(update={"attention": "masked"})


def packs_by_kernel(settings: Training, device: torch.device) -> bool:
    """Return whether attention on `device` takes cu_seqlens instead of a mask; `settings` are `suited`."""
    return settings.attention == "auto" and device.type == "cuda" and settings.computes_in_bf16(device.type)


def feed(batch: Batch, settings: Training, byte_lengths: npt.NDArray[np.int64], device: torch.device) -> Feed:
    """Return `batch` in micro-batches, ready for `device`. byte_lengths: int64 [V], UTF-8 bytes of each token."""
    parts = [part.pinned() if device.type == "cuda" else part for part in micro_batches(batch, settings, device)]
    text_bytes = label_bytes(batch.labels, byte_lengths)
    return Feed(parts, batch.sources, (batch.labels >= 0).sum(axis=1), int(text_bytes.sum()))


def label_bytes(labels: npt.NDArray[np.int64], byte_lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return each label's length in UTF-8 bytes of text, int64 like `labels`; 0 where it is -100."""
    return byte_lengths[np.maximum(labels, 0)] * (labels >= 0)


def micro_batches(batch: Batch, settings: Training, device: torch.device) -> Iterator[MicroBatch]:
    """Yield `batch` in micro-batches, still on the CPU, with the packing that `device` needs."""
    size = settings.micro_batch_windows
    for start in range(0, len(batch.tokens), size):
        part = slice(start, start + size)
        yield MicroBatch(
            torch.from_numpy(batch.tokens[part]),
            torch.from_numpy(batch.labels[part]),
            packing(batch.documents[part], settings, device),
            None if batch.partners is None else torch.from_numpy(batch.partners[part]),
        )


def packing(document_ids: npt.NDArray[np.int32], settings: Training, device: torch.device) -> Packing:
    """Return what attention on `device` needs of `document_ids`, int32 [B, L]."""
    if not settings.document_masks:
        document_ids = np.zeros_like(document_ids)
    if packs_by_kernel(settings, device):
        return Packing(cu_seqlens=torch.from_numpy(cumulative_lengths(document_ids)))
    return Packing(document_ids=torch.from_numpy(document_ids) if settings.document_masks else None)


def cumulative_lengths(document_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return cu_seqlens, int32 [n + 1]: the start of each document in the flattened windows, and the last one's end.

    document_ids: int32 [B, L]. No document continues from one window into the next.
    """
    starts = np.ones(document_ids.shape, dtype=bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return np.append(np.flatnonzero(starts), document_ids.size).astype(np.int32)


class Prefetcher:
    """Work that a thread starts before its result is needed."""

    def __init__(self, work: Callable[[int], Feed], end: int) -> None:
        """Prepare `work(step)` for steps below `end`."""
        self._work, self._end = work, end
        self._step: int | None = None

    def take(self, step: int) -> Feed:
        """Return `work(step)`; what it raises is raised here."""
        if self._step != step:
            self._begin(step)
        self._thread.join()
        found, self._step = self._found[0], None
        if not isinstance(found, Feed):
            raise found
        return found

    def prepare(self, step: int) -> None:
        """Start `work(step)`, if there is one; best while the device is busy, as Python would delay its kernels."""
        if step < self._end:
            self._begin(step)

    def _begin(self, step: int) -> None:
        found: list[Feed | BaseException] = []

        def work() -> None:
            try:
                found.append(self._work(step))
            except BaseException as error:  # raised by `take`
                found.append(error)

        # A daemon: exiting does not wait for a shard that is still being fetched.
        self._step, self._found = step, found
        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()
