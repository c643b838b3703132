"""Connections: how many, and how long one may take to send a header. uvicorn has neither limit.

Invariant: descriptors are left for accepting and for files, so that accept never fails; whatever clients do, the log
gets a line of a kind a minute.
"""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS, MOST_CONNECTIONS = 10.0, 1000
QUIET_SECONDS = 60
MOST_USED = 64
"""Descriptors that a server with its model has open at its start, at most; assumed where they cannot be counted."""
SPARE = 12
"""Descriptors for the event loop and for files, such as the page's."""
log = logging.getLogger("uvicorn.error")


def room() -> tuple[int, int]:
    """Return how many connections may be open, and how many may wait to be accepted."""
    try:
        import resource
    except ImportError:  # Windows counts no descriptors
        return MOST_CONNECTIONS, 128
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    limit = 65_536 if limit == resource.RLIM_INFINITY else limit
    try:
        used = sum(1 for _ in Path("/dev/fd").iterdir())
    except OSError:
        used = MOST_USED
    free = limit - used - SPARE
    backlog = min(128, max(4, free // 4))  # a wake-up accepts all of these before one of them is closed
    return max(4, min(MOST_CONNECTIONS, free - backlog)), backlog


def limited_protocol(most: int, seconds: float = HEADER_SECONDS) -> type[H11Protocol]:
    """Return uvicorn's protocol with limits: `most` connections, `seconds` for a header."""

    class Limited(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                log.warning("more than %d connections; the newest are closed", most)
                transport.abort()
            else:
                self._timer = self.loop.call_later(seconds, transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._stop_timer()
            elif self._timer is None:  # the next request of a connection; its bytes do not prolong the time
                self._timer = self.loop.call_later(seconds, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Limited


class OneLine(logging.Filter):
    """A line of a kind a minute, and no traceback of what clients cause."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is written."""
        kind, now = str(record.msg).partition("\n")[0], time.monotonic()
        if record.levelno < logging.ERROR or "accept()" in kind:
            record.msg, record.exc_info = kind, None
        elif record.exc_info:
            return True
        if now - self._last.get(kind, -QUIET_SECONDS) < QUIET_SECONDS:
            return False
        self._last[kind] = now
        return True


def quieten_logs() -> None:
    """Let what clients cause be one line."""
    line = OneLine()
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(line)
