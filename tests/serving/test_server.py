"""What is not OpenAI's: limits, keys, counters, clients that hang up, the description."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
from support.fake_server import address, both_engines, model_folder, served, with_rules  # noqa: F401

pytestmark = both_engines

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}


def call(address, path, body=None, headers=None, kind="application/json"):
    """Return status, content type and body."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": kind, **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers["content-type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["content-type"], error.read()


def fault(address, path, body=None, **settings):
    status, kind, answer = call(address, path, body, **settings)
    assert kind == "application/json"
    assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
    return status, json.loads(answer)["error"]["code"]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/chat/completions", b"", (400, "invalid_value")),
        ("/v1/chat/completions", b"{", (400, "invalid_value")),
        ("/v1/chat/completions", b'{"model": "tiny", "messages": [], "temperature": NaN}', (400, "invalid_value")),
        ("/v1/chat/completions", b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', None),
        ("/v1/chat/completions", b"\xff\xfe", (400, "invalid_value")),
        ("/v1/chat/completions", {}, (400, "missing_required_parameter")),
        ("/v1/completions", {"model": "tiny"}, (400, "missing_required_parameter")),
        ("/v1/nothing", {}, (404, "not_found")),
        ("/v1/models", {}, (405, "method_not_allowed")),
        ("/v1/suggest", {"text": 5}, (400, "invalid_value")),
    ],
)
def test_bad_requests_have_an_error_object(address, path, body, expected):
    found = fault(address, path, body)
    assert found == (expected or (400, "invalid_value"))


def test_bodies_have_a_type_a_size_and_a_pace(with_rules):
    address = with_rules(guard={"body_bytes": 2000, "body_seconds": 0.3})
    assert fault(address, "/v1/completions", b"{}", kind="text/plain")[0] == 415
    assert fault(address, "/v1/completions", {"x": "y" * 3000})[0] == 413
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as slow:
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        slow.sendall(b"Content-Length: 100\r\n\r\n{")
        slow.settimeout(10)
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_a_key_is_asked_for(with_rules):
    address = with_rules(api_key="secret")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
        assert fault(address, "/v1/models", headers=headers) == (401, "invalid_api_key")
        assert fault(address, "/metrics", headers=headers)[0] == 401
    assert call(address, "/v1/models", headers={"Authorization": "Bearer secret"})[0] == 200
    assert call(address, "/health")[0] == 200


def test_only_this_machine_is_answered(address):
    assert fault(address, "/v1/models", headers={"Host": "evil.example"}) == (403, "forbidden")
    assert call(address, "/v1/models", headers={"Host": "localhost:8000"})[0] == 200


def test_more_than_the_queue_is_refused_and_time_is_limited(with_rules):
    address = with_rules(slots=1, queue=0, seconds=0.4)
    body = {**CHAT, "max_tokens": 150, "logit_bias": {"0": -100, "2": -100}}
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(call(address, "/v1/chat/completions", body))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = sorted(status for status, _, _ in found)
    assert statuses.count(429) >= 1
    assert statuses[0] in (200, 408)
    assert fault(address, "/v1/chat/completions", {**body, "n": 2})[0] == 400
    late = with_rules(slots=1, seconds=0.001)
    assert fault(late, "/v1/chat/completions", body) == (408, "timeout")


def test_clients_that_hang_up_free_their_place(with_rules):
    address = with_rules(slots=2, queue=30)
    port = int(address.rpartition(":")[2])
    long = json.dumps({**CHAT, "max_tokens": 180, "stream": True, "logit_bias": {"0": -100, "2": -100}}).encode()
    whole = long.replace(b'"stream": true', b'"stream": false')
    for body in [long, whole] * 6:
        with socket.create_connection(("127.0.0.1", port)) as client:
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            if body is long:
                assert client.recv(50)
    answer = call(address, "/v1/chat/completions", {**CHAT, "max_tokens": 5})
    assert answer[0] == 200
    until = time.monotonic() + 10
    while (health := json.loads(call(address, "/health")[2])) and health["active"] + health["waiting"]:
        assert time.monotonic() < until, health
        time.sleep(0.02)
    counters = call(address, "/metrics")[2].decode()
    hung_up = float(next(line for line in counters.splitlines() if line.startswith("keylm_cancelled_total")).split()[1])
    assert hung_up >= 1


def test_what_is_counted(address):
    def value(name):
        lines = call(address, "/metrics")[2].decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = value("keylm_generated_tokens_total"), value("keylm_prompt_tokens_total")
    answer = json.loads(call(address, "/v1/chat/completions", {**CHAT, "max_tokens": 6})[2])["usage"]
    assert value("keylm_generated_tokens_total") - before[0] == answer["completion_tokens"]
    assert value("keylm_prompt_tokens_total") - before[1] == answer["prompt_tokens"]


def test_a_conversation_is_read_once(address):
    turns = [{"role": "user", "content": "the old man and the sea, the old man and the red fox?"}]
    first = json.loads(call(address, "/v1/chat/completions", {**CHAT, "messages": turns, "max_tokens": 4})[2])
    more = [*turns, first["choices"][0]["message"] | {"refusal": None}, {"role": "user", "content": "told?"}]
    second = json.loads(call(address, "/v1/chat/completions", {**CHAT, "messages": more, "max_tokens": 4})[2])
    known = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert known >= first["usage"]["prompt_tokens"] - 4


def test_suggestions_come_over_http(address):
    status, _, answer = call(address, "/v1/suggest", {"text": "the old m"})
    found = json.loads(answer)
    assert status == 200
    assert found["partial"] == "m"
    assert 1 <= len(found["suggestions"]) <= 3
    assert all(word["word"].startswith("m") for word in found["suggestions"])


def test_the_description_holds_under_fuzzing(address):
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: pip install 'keylm[dev]'")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import not_a_server_error

    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    checks = schemathesis.checks.CHECKS.get_by_names(
        ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
    )
    assert not_a_server_error in checks
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        modes = list(schemathesis.GenerationMode) if operation.body else [schemathesis.GenerationMode.POSITIVE]
        for mode in modes:
            strategy = operation.as_strategy(generation_mode=mode)

            @given(case=strategy)
            @settings(
                max_examples=8,
                phases=[Phase.generate],
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            def try_out(case):
                nonlocal tried
                tried += 1
                if isinstance(case.body, dict) and "model" in case.body:
                    case.body["model"] = "tiny"
                case.call_and_validate(checks=checks)

            try_out()
    assert tried > 40
