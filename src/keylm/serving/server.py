"""The HTTP server: OpenAI's routes, suggestions for keyboards, the page, health, metrics, and their description.

Every answer of 4xx or 5xx has OpenAI's error object. `application` is a plain ASGI application; `serve` runs it with
uvicorn. The cost of a request outside the engine is some tens of microseconds a token.
"""

import asyncio
import functools
import math
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from keylm.base.errors import KeylmError
from keylm.keyboard.suggest import Keyboards
from keylm.languages.language import ENGLISH
from keylm.serving import protocol as p
from keylm.serving.answers import ChatShape, CompletionShape, Shape
from keylm.serving.description import openapi
from keylm.serving.engine import BatchingEngine
from keylm.serving.faults import ApiError, invalid
from keylm.serving.grammar import Grammars, JsonGrammar
from keylm.serving.guard import Guard, drain
from keylm.serving.metrics import Metrics
from keylm.serving.pages import page_routes
from keylm.serving.plans import RequestLimits, plan_chat, plan_completion
from keylm.serving.streams import EventStream, Running, answer_of, whole
from keylm.serving.texts import Prompts

Request_ = TypeVar("Request_", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]
SCHEMA_SECONDS = 30
"""How long a schema may take to build, waiting for others included."""
OPEN = ("/health", "/openapi.json")
"""Routes without a key. (The page needs none either, but follows the host rules.)"""


@dataclass
class Served:
    """One model and what answers for it."""

    name: str
    engine: BatchingEngine
    prompts: Prompts
    fingerprint: str
    keyboards: Keyboards | None = None
    """None: /v1/suggest is not offered."""
    guard: Guard = field(default_factory=Guard)
    choices: int = 80
    seconds: float = 300.0
    runtime: str = ""
    """What computes, and how precisely; for people."""
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def limits(self) -> RequestLimits:
        """Limits on one request."""
        return RequestLimits(self.engine.context, self.engine.vocab_size, self.choices, self.seconds)

    @cached_property
    def grammars(self) -> Grammars:
        """Loaded when first needed. Raises KeylmError where the package is missing."""
        ends = self.prompts.special
        end = ends.get("<|im_end|>", self.prompts.tokenizer.eos_token_id)
        return Grammars(self.prompts.tokenizer, self.engine.vocab_size, end)

    def check(self, model: str) -> None:
        """Raise ApiError where a request names another model."""
        if model != self.name:
            raise ApiError(
                404,
                f"The model {model[:200]!r} does not exist; here is {self.name!r}",
                param="model",
                code="model_not_found",
            )

    def card(self) -> p.ModelCard:
        """Return what /v1/models says of it."""
        return p.ModelCard(id=self.name, created=self.created, max_model_len=self.engine.context)


class Routes:
    """The handlers."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self.metrics = Metrics(served.engine.load)
        # A search runs a few tokens at a time, where a second thread costs more than it brings. That the engine's speed
        # is the same before and after was measured (docs/performance.md).
        self._typing = ThreadPoolExecutor(
            1, thread_name_prefix="suggest", initializer=torch.set_num_threads, initargs=(1,)
        )
        # One at a time and in a thread of its own, so that building schemas keeps nothing else waiting.
        self._schemas = ThreadPoolExecutor(1, thread_name_prefix="schema")

    async def health(self, request: Request) -> Response:
        """Say that requests are answered."""
        active, waiting = self._served.engine.load()
        return _json(p.Health(engine=self._served.engine.name, active=active, waiting=waiting))

    async def counters(self, request: Request) -> Response:
        """Return the metrics for Prometheus."""
        return Response(self.metrics.page(), media_type=self.metrics.content_type)

    async def description(self, request: Request) -> Response:
        """Return the OpenAPI document."""
        return JSONResponse(openapi())

    async def models(self, request: Request) -> Response:
        """List the one model."""
        return _json(p.ModelList(data=[self._served.card()]))

    async def model(self, request: Request) -> Response:
        """Describe it."""
        self._served.check(request.path_params["model"])
        return _json(self._served.card())

    async def completions(self, request: Request) -> Response:
        """Continue a text."""
        body = await self._parsed(request, p.CompletionRequest)
        served = self._served
        served.check(body.model)
        plan = await asyncio.to_thread(plan_completion, body, served.prompts, served.limits, served.fingerprint)
        return await self._answer(request, body, CompletionShape(plan, served.prompts.vocabulary))

    async def chat(self, request: Request) -> Response:
        """Answer in a conversation."""
        body = await self._parsed(request, p.ChatRequest)
        served = self._served
        served.check(body.model)
        schema = body.response_format.schema_of_answers() if body.response_format else None
        grammar = None if schema is None else await self._grammar(schema)
        plan = await asyncio.to_thread(plan_chat, body, served.prompts, served.limits, served.fingerprint, grammar)
        return await self._answer(request, body, ChatShape(plan, served.prompts.vocabulary))

    async def suggest(self, request: Request) -> Response:
        """Suggest words to a keyboard."""
        body = await self._parsed(request, p.SuggestRequest)
        served = self._served
        if body.model is not None:
            served.check(body.model)
        if served.keyboards is None:
            raise ApiError(404, "this server offers no suggestions", code="not_found")
        answer = functools.partial(served.keyboards.answer, body.text, body.k, correct=body.correct)
        found = await asyncio.get_running_loop().run_in_executor(self._typing, answer)
        words = [
            p.SuggestedWord(word=each.word, probability=math.exp(each.log_probability)) for each in found.suggestions
        ]
        milliseconds = round(found.seconds * 1000, 3)
        return _json(
            p.Suggestions(
                partial=found.partial, suggestions=words, correction=found.correction, milliseconds=milliseconds
            )
        )

    async def _grammar(self, schema: dict[str, Any]) -> JsonGrammar:
        """Return a schema's grammar. Raises ApiError where it cannot be used or takes too long."""
        served, loop = self._served, asyncio.get_running_loop()
        try:
            if "grammars" in vars(served) and (known := served.grammars.known(schema)):
                return known
            async with asyncio.timeout(SCHEMA_SECONDS):
                return await loop.run_in_executor(self._schemas, lambda: served.grammars.json(schema))
        except KeylmError as error:
            raise ApiError(400, str(error), param="response_format") from None
        except TimeoutError:
            message = f"the schema was not ready within {SCHEMA_SECONDS} s, the limit of this server"
            raise ApiError(400, message, param="response_format") from None

    async def _answer(self, request: Request, body: p.Generation, shape: Shape) -> Response:
        running = Running(self._served.engine, shape, self.metrics)
        if body.stream:
            usage = bool(body.stream_options and body.stream_options.include_usage)
            return EventStream(running, shape, self.metrics, usage=usage)
        return await whole(request, running, shape, self.metrics)

    async def _parsed(self, request: Request, kind: type[Request_]) -> Request_:
        body = await self._served.guard.body(request)
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            raise invalid(error) from None

    def page(self, name: str, handler: Handler) -> Handler:
        """Return a handler of the page: the host rules apply, and no key is needed."""
        return self.guarded(name, handler, key=False)

    def guarded(self, name: str, handler: Handler, *, key: bool = True) -> Handler:
        """Return a handler that authenticates, turns errors into answers, and counts."""

        async def handle(request: Request) -> Response:
            begun = time.monotonic()
            try:
                if request.url.path not in OPEN:
                    self._served.guard.check(request, key=key)
                response = await handler(request)
            except ApiError as error:
                response = answer_of(error)
                if error.status != 408:
                    await drain(request, self._served.guard.body_seconds)
            self.metrics.requests.labels(name, response.status_code).inc()
            self.metrics.took.labels(name).observe(time.monotonic() - begun)
            return response

        return handle


def application(served: Served) -> Starlette:
    """Return the ASGI application."""
    routes = Routes(served)
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/health", routes.health),
        ("GET", "/metrics", routes.counters),
        ("GET", "/openapi.json", routes.description),
        ("GET", "/v1/models", routes.models),
        ("GET", "/v1/models/{model:path}", routes.model),
        ("POST", "/v1/completions", routes.completions),
        ("POST", "/v1/chat/completions", routes.chat),
        ("POST", "/v1/suggest", routes.suggest),
    ]
    listed: list[Any] = [Route(path, routes.guarded(path, handler), methods=[verb]) for verb, path, handler in table]
    listed += page_routes(routes.page, served.keyboards.language if served.keyboards else ENGLISH)
    return Starlette(routes=listed, exception_handlers={HTTPException: _http_error, Exception: _fault})


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return answer_of(ApiError(error.status_code, message, code=code, headers=dict(error.headers or {})))


async def _fault(request: Request, error: Exception) -> Response:
    return answer_of(
        ApiError(500, f"internal error: {type(error).__name__}", kind="server_error", code="internal_error")
    )


def _json(value: BaseModel) -> Response:
    return Response(value.model_dump_json(), media_type="application/json")
