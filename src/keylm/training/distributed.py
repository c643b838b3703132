"""One process or many: ranks from torchrun's environment, sums over all; without torchrun, the identity."""

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from keylm.base.errors import FailedElsewhere, KeylmError

T = TypeVar("T")
LEAVE_SECONDS = 10.0
PATIENCE = timedelta(hours=6)
"""How long ranks wait for each other: rank 0 may build shards for hours before training starts."""


@dataclass(frozen=True)
class Ranks:
    """Which process of how many this is, and its device."""

    rank: int
    world_size: int
    device: torch.device
    local_rank: int = 0
    group: dist.ProcessGroup | None = None
    """For communication between CPUs, so that no GPU has to finish first; None: the default group. Gradients always use
    the default group."""

    @property
    def leads(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def lead(self, work: Callable[[], T]) -> T:
        """Return the (small) result of `work` on rank 0 on every rank; its error is raised as FailedElsewhere there."""
        if self.world_size == 1:
            return work()
        box: list[Any] = [None, None]
        error: BaseException | None = None
        if self.leads:
            try:
                box[0] = work()
            except BaseException as caught:  # also Ctrl-C: the others must be notified
                error, box[1] = caught, str(caught) or type(caught).__name__
        dist.broadcast_object_list(box, src=0, group=self.group)
        if error is not None:
            raise error
        if box[1] is not None:
            leave(box[1])
        result: T = box[0]
        return result

    def sum(self, values: Tensor) -> Tensor:
        """Return `values`, on the CPU, summed over all ranks (in place)."""
        if self.world_size > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def agree(self, answer: bool) -> bool:
        """Return rank 0's answer on every rank: clocks differ."""
        vote = torch.tensor([float(answer and self.leads)])
        return self.sum(vote).item() > 0

    def aside(self) -> "Ranks":
        """Return the same ranks with their own group, for a thread that runs during training."""
        return replace(self, group=_between_cpus())

    def wait(self) -> None:
        """Wait until all ranks are here."""
        if self.world_size > 1:
            dist.barrier(group=self.group)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return `model` with its gradients averaged over ranks in backward, where there are several."""
        if self.world_size == 1:
            return model
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def _between_cpus() -> dist.ProcessGroup:
    """Return a new group of all ranks that communicates between CPUs."""
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=PATIENCE)
    return group


def leave(reason: str) -> NoReturn:
    """Raise FailedElsewhere a while after the leader failed: it prints the error, and torchrun ends this process."""
    time.sleep(LEAVE_SECONDS)
    raise FailedElsewhere(reason)


@contextlib.contextmanager
def join(device: str) -> Iterator[Ranks]:
    """Yield this process's place among torchrun's, or the only place; `device` as in the recipe."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local_rank = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    place = choose_device(device, local_rank)
    if world_size == 1:
        yield Ranks(0, 1, place)
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(rank, world_size, place, local_rank, _between_cpus() if place.type == "cuda" else None)
    finally:
        # A wrapped model in a reference cycle would hold the group, and its threads, until the interpreter ends, which
        # then aborts now and then.
        gc.collect()
        dist.destroy_process_group()


def check_share(windows: int, processes: int) -> None:
    """Raise KeylmError where a batch of `windows` leaves one of the `processes` without any."""
    if windows < processes:
        raise KeylmError(
            f"training.batch_tokens: {windows} windows a batch cannot be shared by {processes} processes; give at "
            "least as many windows as processes"
        )


def choose_device(device: str, local_rank: int = 0) -> torch.device:
    """Return the device that `training.device` means. Raises KeylmError where it is not there."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[device]:
        here = ", ".join(name for name, there in available.items() if there)
        raise KeylmError(f"training.device: got {device!r}, which this machine or torch lacks; here: {here}, auto")
    if device == "cuda" and local_rank >= torch.cuda.device_count():
        raise KeylmError(f"torchrun started over {local_rank} processes for {torch.cuda.device_count()} GPUs")
    return torch.device(device, local_rank) if device == "cuda" else torch.device(device)
