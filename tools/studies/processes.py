"""Commands of keylm in processes of their own, on a GPU each or by torchrun, for studies and the release's scripts."""

import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

WATCHED = """
import os, sys
from keylm.data.workers import exit_with
exit_with(int(sys.argv.pop(1)) or os.getppid())
from {module} import main
main()
"""
"""A module's command, ending with the process that began it (argument 1; 0: its parent at this moment): a study that
was killed leaves nobody in its folders."""


def command(*arguments: str, processes: int = 1) -> list[str]:
    """Return what runs a keylm command, on so many processes by torchrun, and ends when this process does."""
    watched = WATCHED.format(module="keylm.cli.main")
    if processes <= 1:
        return [sys.executable, "-c", watched, str(os.getpid()), *arguments]
    agent = [sys.executable, "-c", WATCHED.format(module="torch.distributed.run"), str(os.getpid())]
    each = ["--no-python", sys.executable, "-c", watched, "0"]
    return [*agent, "--nproc-per-node", str(processes), *each, *arguments]


def keylm(*arguments: str, log: Path, environment: dict[str, str] | None = None) -> int:
    """Run a keylm command in a process of its own, its output going to the end of `log`; return its exit code."""
    with log.open("a", encoding="utf-8") as file:
        variables = {**os.environ, **(environment or {})}
        return subprocess.run(command(*arguments), stdout=file, stderr=file, env=variables, check=False).returncode


def visible_gpus(most: int | None) -> list[str | None]:
    """Return the numbers of the GPUs to train on, as CUDA_VISIBLE_DEVICES takes them; [None] where there are none."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
    usable = names[: torch.cuda.device_count()][:most]
    return [*usable] or [None]


class Devices:
    """Devices, each lent to one job at a time."""

    def __init__(self, names: Sequence[str | None]) -> None:
        """Lend `names`, as `visible_gpus` returns them."""
        self._free: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for name in names:
            self._free.put(name)
        # Libraries take all cores for each process otherwise, and the processes stand in each other's way.
        self._threads = str(max(1, (os.cpu_count() or 1) // len(names) // 2))

    @contextmanager
    def one(self) -> Iterator[str | None]:
        """Hold one of the devices, as soon as one is free."""
        name = self._free.get()
        try:
            yield name
        finally:
            self._free.put(name)

    def keylm(self, *arguments: str, log: Path) -> int:
        """Run a keylm command on a device that is free, with its share of the cores; return its exit code."""
        with self.one() as name:
            device = {} if name is None else {"CUDA_VISIBLE_DEVICES": name}
            return keylm(*arguments, log=log, environment={**device, "OMP_NUM_THREADS": self._threads})
