"""SIGTERM and Ctrl-C: the first asks training to stop after this step, a second one stops at once."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

WATCHED = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While entered, `received` tells whether a stop was asked for."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> Self:
        self._before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in WATCHED}
        for number in WATCHED:
            signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        for watched, handler in self._before.items():
            signal.signal(watched, handler)
