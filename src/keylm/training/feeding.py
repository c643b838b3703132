"""Batches, made ready one step ahead while the device computes.

Invariant: the same batches as without; what is ready early is only earlier. A thread reads the next step's windows,
counts what the metrics need and, for a GPU, lays all in pinned memory, so that the loop never waits for data and the
device never waits for the host. The cost is one batch more in memory. On a CPU, which computes while it is told what to
compute, the reading falls together with clipping, sums and the optimizer only.
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
    """The windows that go through the model at once; shapes: B windows, L tokens."""

    tokens: Tensor
    """int64 [B, L]"""
    labels: Tensor
    """int64 [B, L]: next tokens, -100 where no loss is taken"""
    packing: Packing
    partners: Tensor | None
    """int64 [B, L] as in `Batch`, or None"""

    def to(self, device: torch.device) -> Self:
        """Return it on `device`; the copy goes on while the host does."""
        moved = self._with(lambda tensor: tensor.to(device, non_blocking=True))
        if moved.packing.begins is not None and device.type == "cuda":
            torch._dynamo.mark_dynamic(moved.packing.begins, 0)  # how many documents is no reason to compile anew
        return moved

    def pinned(self) -> Self:
        """Return it in memory that a GPU copies from without the host's help."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return it with all its tensors changed."""
        packing = Packing(*(None if tensor is None else change(tensor) for tensor in self.packing))
        partners = None if self.partners is None else change(self.partners)
        return type(self)(change(self.tokens), change(self.labels), packing, partners)


@dataclass(frozen=True)
class Feed:
    """A rank's share of a step: what the model takes, and what the host knows of it already."""

    parts: list[MicroBatch]
    sources: npt.NDArray[np.int64]
    """int64 [windows]: index of each window's source"""
    trained: npt.NDArray[np.int64]
    """int64 [windows]: tokens that carry a loss"""
    text_bytes: int
    """UTF-8 bytes that those tokens stand for"""


def suited(settings: Training, head_dim: int, device: torch.device) -> Training:
    """Return `settings` with masked attention where no variable-length kernel takes such heads on `device`."""
    return settings if has_kernel(device, head_dim) else settings.model_copy(update={"attention": "masked"})


def packs_by_kernel(settings: Training, device: torch.device) -> bool:
    """Return whether attention on `device` goes by where documents begin, without a mask; `settings` are `suited`."""
    return settings.attention == "auto" and device.type == "cuda" and settings.computes_in_bf16(device.type)


def feed(batch: Batch, settings: Training, byte_lengths: npt.NDArray[np.int64], device: torch.device) -> Feed:
    """Return `batch` in micro-batches, ready for `device`. byte_lengths: int64 [V], UTF-8 bytes of each token."""
    parts = [part.pinned() if device.type == "cuda" else part for part in micro_batches(batch, settings, device)]
    text_bytes = label_bytes(batch.labels, byte_lengths)
    return Feed(parts, batch.sources, (batch.labels >= 0).sum(axis=1), int(text_bytes.sum()))


def label_bytes(labels: npt.NDArray[np.int64], byte_lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how many UTF-8 bytes of text each label stands for, int64 like `labels`; 0 where it is -100."""
    return byte_lengths[np.maximum(labels, 0)] * (labels >= 0)


def micro_batches(batch: Batch, settings: Training, device: torch.device) -> Iterator[MicroBatch]:
    """Yield `batch` in micro-batches, still on the CPU, with the packing that `device` wants."""
    size = settings.micro_batch_windows
    for start in range(0, len(batch.tokens), size):
        part = slice(start, start + size)
        yield MicroBatch(
            torch.from_numpy(batch.tokens[part]),
            torch.from_numpy(batch.labels[part]),
            packing(batch.documents[part], settings, device),
            None if batch.partners is None else torch.from_numpy(batch.partners[part]),
        )


def packing(numbers: npt.NDArray[np.int32], settings: Training, device: torch.device) -> Packing:
    """Return what attention on `device` needs of the documents' `numbers`, int32 [B, L]."""
    if not settings.document_masks:
        numbers = np.zeros_like(numbers)
    if packs_by_kernel(settings, device):
        return Packing(begins=torch.from_numpy(document_begins(numbers)))
    return Packing(numbers=torch.from_numpy(numbers) if settings.document_masks else None)


def document_begins(numbers: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return int32 [n + 1]: where each document begins in the flattened windows, and where the last one ends.

    numbers: int32 [B, L]. No document goes from one window into the next.
    """
    begins = np.ones(numbers.shape, dtype=bool)
    begins[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
    return np.append(np.flatnonzero(begins), numbers.size).astype(np.int32)


class Ahead:
    """Work that is begun, in a thread, before its result is asked for."""

    def __init__(self, work: Callable[[int], Feed], end: int) -> None:
        """Prepare `work(step)` for steps below `end`."""
        self._work, self._end = work, end
        self._step: int | None = None

    def take(self, step: int) -> Feed:
        """Return `work(step)`, which raises here what it raises."""
        if self._step != step:
            self._begin(step)
        self._thread.join()
        found, self._step = self._found[0], None
        if not isinstance(found, Feed):
            raise found
        return found

    def prepare(self, step: int) -> None:
        """Begin `work(step)`, if there is such a step.

        To be called when the device has enough to do: the thread's Python would hold up the one that feeds the device.
        """
        if step < self._end:
            self._begin(step)

    def _begin(self, step: int) -> None:
        found: list[Feed | BaseException] = []

        def work() -> None:
            try:
                found.append(self._work(step))
            except BaseException as error:  # told to whoever takes the step
                found.append(error)

        # A daemon: who leaves does not wait for a shard that is still being fetched.
        self._step, self._found = step, found
        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()
