"""What a person sees while something runs: a live line on a terminal, a plain line now and then elsewhere."""

import errno
import io
import os
import sys
import time
from typing import Any, Self

from rich import progress
from rich.console import Console

console = Console(highlight=False, emoji=False, markup=False)
"""Standard output. No markup is read, in tables neither: `.[eval]` stays as it is."""
errors = Console(stderr=True, highlight=False, emoji=False, markup=False)

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
"""What writing raises where the reader, the terminal or the descriptor is gone."""
LINE_SECONDS = 15.0
"""Seconds between two lines where no terminal is listening."""


class _Lasting(io.FileIO):
    """A standard stream that outlives its reader: what nobody can receive any more is dropped, and the work goes on."""

    def write(self, data: Any, /) -> int:
        """Write, or drop what is written from now on."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE:
                raise
            os.dup2(nowhere := os.open(os.devnull, os.O_RDWR), self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


def prepare_streams() -> None:
    """Make standard streams such that no text, encoding or closed descriptor ends a command that has its result."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed: a file opened later would get its number, and what was meant for a person
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        stream = getattr(sys, name) or os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False)
        if isinstance(stream, io.TextIOWrapper):
            raw = getattr(stream.buffer, "raw", stream.buffer)
            lossy = stream.errors if stream.errors not in ("strict", "surrogateescape") else "replace"
            if number and type(raw) is io.FileIO:  # a console of Windows has a class of its own
                lasting = _Lasting(number, "w", closefd=False)
                stream = io.TextIOWrapper(
                    lasting if raw is stream.buffer else io.BufferedWriter(lasting),
                    *(stream.encoding, lossy, None, stream.line_buffering, stream.write_through),
                )
            else:  # what is read is checked where it is used
                stream.reconfigure(errors=lossy if number else "surrogateescape")
        setattr(sys, name, stream)


class Status:
    """Progress of one stage: `update` as often as you like, it is cheap."""

    def __init__(self, label: str, total: int | None = None, *, start: int = 0, quiet: bool = False) -> None:
        """Show `label`, and how much of `total` is done where a total is known (`start` of it already)."""
        self._label, self._total, self._quiet = label, total, quiet
        self._live = console.is_terminal and not quiet
        self._begun = self._last = time.monotonic()
        self._start = start
        if self._live:
            text = progress.TextColumn
            columns: list[progress.ProgressColumn] = [
                progress.SpinnerColumn("dots" if console.encoding.startswith("utf") else "line"),
                text("{task.description}", markup=False),
            ]
            columns += [progress.BarColumn(bar_width=28), progress.TimeElapsedColumn()]
            if total is not None:
                columns += [text("{task.percentage:>3.0f}% left"), progress.TimeRemainingColumn()]
            columns += [text("{task.fields[facts]}", markup=False)]
            self._progress = progress.Progress(*columns, console=console, transient=True)
            self._task = self._progress.add_task(label, total=total, completed=start, facts="")

    def __enter__(self) -> Self:
        if self._live:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._progress.stop()

    def update(self, completed: int, facts: str, total: int | None = None) -> None:
        """Show `completed` (of the total, or of a `total` that is better known by now) and a few facts."""
        self._total = total or self._total
        if self._live:
            self._progress.update(self._task, completed=completed, total=self._total, facts=facts)
        elif not self._quiet and time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            say(f"{self._label}{self._outlook(completed)}  {facts}")

    def _outlook(self, completed: int) -> str:
        """Return the share that is done and the time that is left, where a total is known."""
        if not self._total or completed <= self._start:
            return ""
        each = (self._last - self._begun) / (completed - self._start)
        return f" {completed / self._total:4.0%}, {seconds(each * (self._total - completed))} left"


def say(text: str, *, quiet: bool = False) -> None:
    """Print one plain line (no markup is read in it)."""
    if not quiet:
        console.print(text, soft_wrap=True)


def seconds(value: float) -> str:
    """Return a duration as a person writes it: 4.2 s, 3 min 20 s, 5 h 10 min."""
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{int(value // 60)} min {int(value % 60)} s"
    return f"{int(value // 3600)} h {int(value % 3600 // 60)} min"


def is_leader() -> bool:
    """Return whether this process is the one of torchrun's that prints."""
    return os.environ.get("RANK", "0") == "0"
