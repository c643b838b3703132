"""SIGTERM and Ctrl-C: the first stops training after this step, a later one at once.

Copies within GRACE_SECONDS count as the first: torchrun and a terminal may both pass one signal on, and the second
must not cut short the checkpoint that the first requested.
"""

import signal
import time
from types import FrameType
from typing import Any, Self

WATCHED = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 2.0


class StopSignals:
    """While entered, `received` says whether a stop was requested."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> Self:
        self._before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in WATCHED}
        for number in WATCHED:
            signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._first = True, time.monotonic()
        elif time.monotonic() - self._first > GRACE_SECONDS:
            self.__exit__()
            signal.raise_signal(number)
