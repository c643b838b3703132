"""An engine's events as an HTTP answer: whole, or as server-sent events. However a request ends, its jobs end too."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from keylm.serving.answers import Shape
from keylm.serving.engine import BatchingEngine, Event, Failed, Finished, PromptScored, QueueFull
from keylm.serving.faults import ApiError
from keylm.serving.metrics import Metrics
from keylm.serving.writing import TextPiece

STATUS = {"timeout": (408, "timeout"), "grammar": (400, "invalid_value"), "closed": (503, "shutting_down")}
ESCAPED = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
"""Common clients split lines at these too; JSON has them in strings alone."""
Indexed = tuple[int, Event]


class Running:
    """A request's jobs, under way."""

    def __init__(self, engine: BatchingEngine, shape: Shape, metrics: Metrics) -> None:
        """Submit the jobs. Raises ApiError where the engine's queue is full."""
        self._shape, self._metrics = shape, metrics
        self._queue: asyncio.Queue[Indexed] = asyncio.Queue()
        self.ends: dict[int, Finished] = {}
        self._begun, self._first = time.monotonic(), True
        loop = asyncio.get_running_loop()

        def emitter(index: int) -> Callable[[Event], None]:
            def emit(event: Event) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                    loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))

            return emit

        try:
            self.cancel = engine.submit([(job, emitter(index)) for index, job in enumerate(shape.plan.jobs)])
        except QueueFull:
            raise ApiError(
                429,
                "too many requests are waiting; try again",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                headers={"Retry-After": "1"},
            ) from None

    async def pieces(self) -> AsyncIterator[tuple[int, TextPiece | Finished]]:
        """Yield what is written, by choice, and the end of each. Raises ApiError where a job fails."""
        while len(self.ends) < len(self._shape.plan.jobs):
            index, event = await self._queue.get()
            if isinstance(event, Failed):
                status, code = STATUS.get(event.reason, (500, "internal_error"))
                kind = "invalid_request_error" if status < 500 else "server_error"
                param = "response_format" if event.reason == "grammar" else None
                raise ApiError(status, event.message, kind=kind, code=code, param=param)
            if isinstance(event, Finished):
                self.ends[index] = event
                yield index, event
                continue
            if self._first:
                self._metrics.first.observe(time.monotonic() - self._begun)
                self._first = False
            yield index, self._shape.scored(index, event) if isinstance(event, PromptScored) else event

    def count(self) -> None:
        """Count the tokens of finished choices."""
        ends = list(self.ends.values())
        self._metrics.written.inc(sum(end.written for end in ends))
        if len(ends) == len(self._shape.plan.jobs):
            usage = self._shape.plan.usage([self.ends[n] for n in sorted(self.ends)])
            self._metrics.read.inc(usage.prompt_tokens)
            self._metrics.cached.inc(usage.prompt_tokens_details.cached_tokens)


async def whole(request: Request, running: Running, shape: Shape, metrics: Metrics) -> Response:
    """Return the finished answer; the jobs end where the client hangs up before."""
    pieces: list[list[TextPiece]] = [[] for _ in shape.plan.jobs]

    async def gather() -> None:
        async for index, piece in running.pieces():
            if isinstance(piece, TextPiece):
                pieces[index].append(piece)

    try:
        if not await _before_hang_up(gather(), request.receive):
            metrics.cancelled.inc()
            return Response(status_code=499)
    finally:
        running.cancel()
        running.count()
    return Response(shape.whole(pieces, [running.ends[n] for n in range(len(pieces))]), media_type="application/json")


class EventStream(Response):
    """An answer as it is written, one `data:` line a chunk, then [DONE]."""

    media_type = "text/event-stream"

    def __init__(self, running: Running, shape: Shape, metrics: Metrics, *, usage: bool) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._running, self._shape, self._metrics, self._usage = running, shape, metrics, usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            if not await _before_hang_up(self._send(send), receive):
                self._metrics.cancelled.inc()
        finally:
            self._running.cancel()
            self._running.count()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._chunks():
            await send(
                {
                    "type": "http.response.body",
                    "body": f"data: {chunk.translate(ESCAPED)}\n\n".encode(),
                    "more_body": True,
                }
            )
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncIterator[str]:
        shape, running = self._shape, self._running
        for index in range(len(shape.plan.jobs)):
            if opening := shape.opening(index):
                yield opening
        try:
            async for index, piece in running.pieces():
                if isinstance(piece, TextPiece):
                    yield shape.chunk(index, piece, None)
                else:
                    yield shape.chunk(index, TextPiece(""), piece.reason)
        except ApiError as error:
            yield error.body.model_dump_json()
            return
        if self._usage:
            yield shape.usage_chunk(shape.plan.usage([running.ends[n] for n in sorted(running.ends)]))
        yield "[DONE]"


async def _before_hang_up(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    """Do `work` unless the client hangs up first; return whether it was done."""

    async def hang_up() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks: Sequence[asyncio.Task[None]] = (asyncio.ensure_future(work), asyncio.ensure_future(hang_up()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
            return True
        return False
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answer_of(error: ApiError) -> JSONResponse:
    """Return an error as an HTTP answer."""
    return JSONResponse(error.body.model_dump(), status_code=error.status, headers=error.headers)
