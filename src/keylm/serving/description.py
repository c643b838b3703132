"""The OpenAPI document, from the types of protocol.py."""

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import keylm
from keylm.serving import protocol as p

REFERENCE = "#/components/schemas/{model}"
_ROUTES: list[tuple[str, str, str, type[BaseModel] | None, list[type[BaseModel]]]] = [
    ("get", "/health", "Whether requests are answered", None, [p.Health]),
    ("get", "/v1/models", "The models that are served", None, [p.ModelList]),
    ("get", "/v1/models/{model}", "One of them", None, [p.ModelCard]),
    ("post", "/v1/completions", "Go on with a text", p.CompletionRequest, [p.Completion]),
    ("post", "/v1/chat/completions", "Answer in a conversation", p.ChatRequest, [p.ChatCompletion, p.ChatChunk]),
    ("post", "/v1/suggest", "Words for a keyboard", p.SuggestRequest, [p.Suggestions]),
]
FAULTS = {
    "400": "Not a valid request, or beyond the context",
    "401": "No or the wrong API key",
    "403": "Not this machine",
    "404": "No such model or route",
    "408": "Took too long",
    "413": "The body is too large",
    "415": "Not JSON",
    "429": "Too many requests are waiting",
    "503": "The server is shutting down",
}
EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
"""Each of the server-sent events that a stream consists of."""


@cache
def openapi() -> dict[str, Any]:
    """Return the document."""
    inputs = [(kind, "validation") for _, _, _, kind, _ in _ROUTES if kind]
    outputs = [(kind, "serialization") for *_, kinds in _ROUTES for kind in kinds]
    kinds: Any = [*inputs, *outputs, (p.Error, "serialization")]
    _, schemas = models_json_schema(kinds, ref_template=REFERENCE)
    paths: dict[str, Any] = {}
    for verb, path, summary, body, answers in _ROUTES:
        paths.setdefault(path, {})[verb] = _operation(path, summary, body, answers)
    paths["/metrics"] = {"get": {"summary": "Counters", "responses": {"200": _content("text/plain"), **_faults()}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "keylm serve", "version": keylm.__version__},
        "paths": paths,
        "components": {"schemas": schemas["$defs"], "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def _operation(path: str, summary: str, body: type[BaseModel] | None, answers: list[type[BaseModel]]) -> dict[str, Any]:
    answer = {"description": summary, "content": {"application/json": {"schema": _reference(answers[0])}}}
    if body is not None and "stream" in body.model_fields:
        answer["content"]["text/event-stream"] = {"schema": EVENT}  # type: ignore[index]
    operation: dict[str, Any] = {"summary": summary, "responses": {"200": answer, **_faults()}}
    if "{model}" in path:
        operation["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _reference(body)}}}
    return operation


def _faults() -> dict[str, Any]:
    content = {"application/json": {"schema": _reference(p.Error)}}
    return {status: {"description": text, "content": content} for status, text in FAULTS.items()}


def _content(kind: str) -> dict[str, Any]:
    return {"description": "Prometheus' text format", "content": {kind: {"schema": {"type": "string"}}}}


def _reference(kind: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=kind.__name__)}
