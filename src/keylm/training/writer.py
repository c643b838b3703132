"""Writing in the background, one write at a time, from copies; an error of a write is raised by the next call."""

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Self

import torch
from torch import Tensor

from keylm.base.console import errors


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies, each on its tensor's device: quick, and no later update changes them. They take its memory."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU, contiguous; those of a GPU by way of pinned memory.

    A copy into ordinary memory would hold the driver's lock, and the thread that launches kernels would wait for it.
    """
    copies = {}
    for name, tensor in tensors.items():
        if tensor.is_cuda:
            copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            copies[name].copy_(tensor.detach(), non_blocking=True)
        else:
            copies[name] = tensor.detach().cpu().contiguous()
    if any(tensor.is_cuda for tensor in tensors.values()):
        torch.cuda.current_stream().synchronize()
    return copies


class BackgroundWriter:
    """Runs one piece of work at a time in its own thread.

    As a context it waits for the work at the end, also when an exception passes through; but not when the process is
    to end at once (a second Ctrl-C): what is half written then is swept at the next start, as after a kill.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], object]) -> None:
        """Wait for earlier work and raise what it raised; then start `work`, in parallel with the GPU."""
        self.wait()
        stream: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if self._device.type == "cuda":
            aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream(self._device))  # the copies are on their way there
            stream = torch.cuda.stream(aside)

        def run() -> None:
            try:
                if self._device.type == "cuda":
                    torch.cuda.set_device(self._device)  # a new thread begins on GPU 0
                with stream:
                    work()
            except BaseException as error:  # raised again in the calling thread
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def idle(self) -> bool:
        """Return whether nothing is being written. Raises what the last work raised."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self.wait()
        return True

    def wait(self) -> None:
        """Wait until nothing is being written. Raises what the work raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        elif issubclass(kind, Exception):
            try:
                self.wait()
            except Exception as second:  # the first error is raised; this one is printed
                errors.print(f"the last checkpoint was not written: {second}")
