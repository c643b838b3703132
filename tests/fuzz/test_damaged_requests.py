"""Damaged requests, against the application itself: each gets an answer that is whole, or OpenAI's error object.

Nothing is lost in silence: every choice that is asked for is in the answer with the reason of its end, a field that the
server does not honour is an error, and after each request the engine holds no job of it.
"""

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fuzz.mutation import ODD, budget, dice, mutate_bytes, mutate_json, probe, report
from support.fake_server import model_folder, served  # noqa: F401

from keylm.serving import protocol
from keylm.serving.server import Served, application

ASK = {"model": "tiny", "max_tokens": 3, "seed": 1, "temperature": 0.5}
TURNS = [{"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "the cat?"}]}]
SCHEMA = {
    **{"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["a"]},
    **{"$defs": {"n": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n/anyOf/0"}]}}},
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
SAMPLING = {"top_k": 4, "min_p": 0.1, "top_p": 0.9, "repetition_penalty": 1.1, "logit_bias": {"5": 1.5}, "stop": ["a"]}
BODIES: tuple[tuple[str, dict[str, Any], type[protocol.Body]], ...] = (
    ("/v1/completions", {**ASK, **SAMPLING, "prompt": ["the", "a cat"], "n": 2}, protocol.CompletionRequest),
    ("/v1/completions", {**ASK, "prompt": [[5, 6], [7]], "echo": True, "logprobs": 2}, protocol.CompletionRequest),
    ("/v1/completions", {**ASK, "prompt": "the", "stream": True}, protocol.CompletionRequest),
    ("/v1/chat/completions", {**ASK, **SAMPLING, "messages": TURNS, "n": 2}, protocol.ChatRequest),
    ("/v1/chat/completions", {**ASK, "messages": TURNS, "response_format": FORMAT}, protocol.ChatRequest),
    (
        "/v1/chat/completions",
        {**ASK, "messages": TURNS, "logprobs": True, "top_logprobs": 1, "stream": True}
        | {"stream_options": {"include_usage": True}, "presence_penalty": 0.5, "metadata": {"a": "b"}},
        protocol.ChatRequest,
    ),
    ("/v1/suggest", {"text": "the ca", "k": 2, "correct": True}, protocol.SuggestRequest),
)
PATHS = ("/", "/health", "/metrics", "/openapi.json", "/v1/models", "/v1/models/tiny", "/v1/tokenize", "//", "/v1/\x00")
KEY = "secret"
HEADERS = (b"content-type", b"content-length", b"authorization", b"host", b"expect", b"transfer-encoding", b"x")
VALUES = (
    *(b"", b"application/json", b"APPLICATION/JSON; charset=utf-16", b"text/plain", b"Bearer secret", b"Bearer \xff"),
    *(
        b"Basic c2VjcmV0",
        b"localhost",
        b"[::1]:80",
        b"[",
        b"evil.example",
        b"-1",
        b"9" * 5000,
        b"\xff\x00",
        b"100-continue",
    ),
)


@dataclass(frozen=True)
class Answer:
    status: int
    kind: str
    body: bytes


def send(app: Any, method: str, path: str, headers: list[tuple[bytes, bytes]], parts: list[bytes]) -> Answer:
    """Return the answer of an ASGI application to a request whose body comes in parts, without a network."""
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})
    inbox: Iterator[dict[str, Any]] = iter(waiting)
    url, _, query = path.partition("?")
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http"}
    scope |= {"path": url, "raw_path": url.encode(), "query_string": query.encode(), "root_path": ""}
    scope |= {"headers": headers, "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80)}

    async def receive() -> dict[str, Any]:
        if (message := next(inbox, None)) is None:
            await asyncio.Event().wait()  # the client waits for its answer
        return message or {}

    async def answer(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, answer))
    kinds = dict(sent[0]["headers"])
    body = b"".join(message.get("body", b"") for message in sent[1:])
    assert not sent[-1].get("more_body"), "an answer without an end"
    return Answer(sent[0]["status"], kinds.get(b"content-type", b"").decode(), body)


def check(answer: Answer, path: str, wanted: int) -> None:
    """Raise AssertionError unless an answer is whole, or an error in OpenAI's form; `wanted`: choices asked for."""
    assert answer.status < 500, answer.body
    if answer.status >= 400:
        assert set(strict(answer.body)["error"]) == {"message", "type", "param", "code"}
        assert strict(answer.body)["error"]["message"].strip()
    elif answer.kind.startswith("text/event-stream"):
        events = [line.removeprefix("data: ") for line in answer.body.decode().split("\n\n") if line]
        chunks = [strict(event) for event in events if event != "[DONE]"]
        ended = [one["index"] for chunk in chunks for one in chunk.get("choices", []) if one["finish_reason"]]
        failed = "error" in chunks[-1]
        assert failed or (events[-1] == "[DONE]" and sorted(ended) == list(range(wanted)))
    elif "completions" in path:
        choices = strict(answer.body)["choices"]
        assert [one["index"] for one in choices] == list(range(wanted))
        assert all(one["finish_reason"] in ("stop", "length") for one in choices)
    elif answer.kind == "application/json":
        strict(answer.body)


def strict(text: str | bytes) -> Any:
    """Return a value of JSON as the standard has it, without NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in an answer")

    return json.loads(text, parse_constant=refuse)


def asked(path: str, body: bytes) -> int:
    """Return how many choices an accepted body asks for; every field of it is one that the server knows."""
    value = json.loads(body)
    kinds = {each: kind for each, _, kind in BODIES}
    assert set(value) <= set(kinds[path].model_fields), "a field that was ignored"
    prompt = value.get("prompt")
    several = isinstance(prompt, list) and isinstance(prompt[0], list | str)
    return (value.get("n") or 1) * (len(prompt) if several and isinstance(prompt, list) else 1)


def damaged(rng: random.Random) -> tuple[str, str, list[tuple[bytes, bytes]], bytes]:
    """Return method, path, headers and body of a request that is damaged in one of these."""
    path, sound, _ = rng.choice(BODIES)
    method, value, kind = "POST", json.loads(json.dumps(sound)), rng.randrange(10)
    headers = {b"content-type": b"application/json", b"authorization": b"Bearer secret", b"host": b"localhost:80"}
    if kind < 6:
        value = mutate_json(value, rng)
    elif kind == 6:
        for _ in range(3):
            value[rng.choice([*value, "tools", "x"])] = rng.choice(ODD)
    body = (value if isinstance(value, str) and value[:1] == "[" else json.dumps(value)).encode(
        "utf-8", "surrogatepass"
    )
    if kind == 7:
        body = mutate_bytes(body, rng)
    elif kind == 8:
        for _ in range(rng.choice((1, 2))):
            headers[rng.choice(HEADERS)] = rng.choice(VALUES)
        if rng.random() < 0.3:
            del headers[rng.choice(list(headers))]
    elif kind == 9:
        method = rng.choice(("GET", "POST", "PUT", "HEAD", "OPTIONS", "X"))
        path = rng.choice(PATHS) + rng.choice(("", "?", "?a=%00", "/%2e%2e/", "x" * 3000))
    return method, path, list(headers.items()), body


@pytest.fixture
def guarded(served: Served) -> Iterator[Served]:  # noqa: F811
    """The tests' server, with a key."""
    from dataclasses import replace

    before, served.guard = served.guard, replace(served.guard, api_key=KEY, body_seconds=2.0)
    yield served
    served.guard = before


def test_damaged_requests(guarded: Served):
    app, findings = application(guarded), {}
    for number in budget(150):
        rng = dice("request", number)
        method, path, headers, body = damaged(rng)
        cut = rng.randrange(len(body) + 1)

        def ask() -> None:
            answer = send(app, method, path, headers, [body[:cut], body[cut:]])  # noqa: B023
            plain = answer.status == 200 and path.split("?")[0] in {each for each, *_ in BODIES}  # noqa: B023
            check(answer, path, asked(path, body) if plain else 0)  # noqa: B023
            assert guarded.engine.load() == (0, 0), "a job that outlives its request"

        if found := probe(ask):
            findings[f"request {number} ({method} {path[:40]})"] = found
    report(findings)


def test_a_sound_request_of_each_kind_is_answered(guarded: Served):
    app = application(guarded)
    headers = [(b"content-type", b"application/json"), (b"authorization", b"Bearer secret"), (b"host", b"localhost")]
    for path, sound, _ in BODIES:
        body = json.dumps(sound).encode()
        answer = send(app, "POST", path, headers, [body])
        assert answer.status == 200, answer.body
        check(answer, path, asked(path, body))


def test_an_answer_that_lacks_a_choice_is_found():
    whole = {"choices": [{"index": n, "finish_reason": "stop"} for n in (0, 1)]}
    ends = "".join(f"data: {json.dumps({'choices': [one]})}\n\n" for one in whole["choices"])
    answers = [Answer(200, "application/json", json.dumps(whole).encode())]
    answers.append(Answer(200, "text/event-stream", f"{ends}data: [DONE]\n\n".encode()))
    for answer in answers:
        check(answer, "/v1/completions", 2)
        with pytest.raises(AssertionError):
            check(answer, "/v1/completions", 3)
    for answer in (Answer(500, "", b""), Answer(400, "", b'{"error": {}}'), Answer(200, "application/json", b"[NaN]")):
        with pytest.raises(AssertionError):
            check(answer, "/health", 0)
