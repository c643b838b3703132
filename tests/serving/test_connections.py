"""Clients that send slowly, many at once, or too much; and who may reach the server at all."""

import contextlib
import json
import logging
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from serving.test_server import call
from support.fake_server import model_folder, with_rules  # noqa: F401

from keylm.base.errors import KeylmError
from keylm.serving.connections import OneLine, room
from keylm.serving.start import ServeOptions, check_access, is_loopback, serve

HALF = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: "
WHOLE = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(address):
    client = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=20)
    client.settimeout(20)
    return client


def until_closed(client, sending=b""):
    """Return the seconds until the server closes, while `sending` is sent again and again."""
    begun = time.monotonic()
    client.settimeout(0.2)
    while time.monotonic() - begun < 20:
        try:
            client.sendall(sending)
            if not client.recv(1000):
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - begun


@pytest.mark.parametrize("first", [b"", b"G", HALF, WHOLE + HALF], ids=["nothing", "a letter", "half", "the second"])
@pytest.mark.parametrize("sending", [b"", b"x"], ids=["silent", "trickling"])
def test_half_a_header_is_closed(with_rules, first, sending):
    address = with_rules(slots=1, limits={"header_seconds": 0.5})
    with connect(address) as client:
        client.sendall(first)
        assert until_closed(client, sending) < 8
    assert call(address, "/health")[0] == 200


def test_a_connection_that_is_used_stays(with_rules):
    address = with_rules(slots=1, limits={"header_seconds": 0.3})
    with connect(address) as client:
        for _ in range(4):
            client.sendall(WHOLE)
            answer = b""
            while b'"status":"ok"' not in answer:
                answer += client.recv(5000)
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(0.2)


def test_connections_over_the_limit_are_closed_and_the_others_answered(with_rules):
    address = with_rules(slots=1, limits={"connections": 5, "header_seconds": 30})
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(address)) for _ in range(5)]
        late = stack.enter_context(connect(address))
        assert until_closed(late) < 10
        clients[2].sendall(WHOLE)
        assert clients[2].recv(5000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("kind", "status"), [("application/json", 413), ("text/plain", 415)])
@pytest.mark.parametrize("declared", [True, False])
def test_an_answer_reaches_a_client_that_is_still_sending(with_rules, kind, status, declared):
    address = with_rules(slots=1, guard={"body_bytes": 2000, "body_seconds": 20})
    part, parts = b"x" * 65536, 400
    length = f"Content-Length: {len(part) * parts}" if declared else "Transfer-Encoding: chunked"
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n{length}"
    with connect(address) as client:
        client.sendall(f"{head}\r\n\r\n".encode())
        for _ in range(parts):
            client.sendall(part if declared else b"10000\r\n" + part + b"\r\n")
        client.sendall(b"" if declared else b"0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(f"HTTP/1.1 {status}".encode())
    assert b'"error"' in answer


def test_with_few_descriptors_the_log_stays_short_and_the_server_answers(model_folder, tmp_path):
    resource = pytest.importorskip("resource", reason="this system has no limits of its own")

    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    command = [sys.executable, "-m", "keylm", "serve", str(model_folder), "--port", "0", "--no-suggest"]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [*command, "--engine", "torch"], stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=few
        ) as process,
    ):
        line = next(line for line in process.stdout if "http://" in line)
        address = line[line.index("http://") :].split()[0]
        with contextlib.ExitStack() as stack:
            for _ in range(90):
                client = stack.enter_context(connect(address))
                with contextlib.suppress(ConnectionError):
                    client.sendall(HALF)
            time.sleep(3)
        begun, answered = time.monotonic(), False
        while not answered and time.monotonic() - begun < 30:
            with contextlib.suppress(OSError):
                answered = urllib.request.urlopen(f"{address}/health", timeout=5).status == 200
        process.terminate()
        assert process.wait(30) == 0
    assert answered
    written = (tmp_path / "log").read_text()
    assert written.count("\n") <= 2, written[:2000]


def test_a_kind_of_line_is_logged_once_a_minute():
    line, written = OneLine(), []
    for n in range(50):
        for text in ("Invalid HTTP request received.", f"socket.accept() out of system resource\nsocket {n}"):
            record = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, text, (), None)
            if line.filter(record):
                written.append(record.getMessage())
    assert written == ["Invalid HTTP request received.", "socket.accept() out of system resource"]
    fault = logging.LogRecord("asyncio", logging.ERROR, "", 0, "a task failed", (), (ValueError, ValueError(), None))
    assert line.filter(fault)
    assert fault.exc_info


def test_the_limit_leaves_descriptors():
    most, backlog = room()
    assert 4 <= most <= 1000
    assert 4 <= backlog <= 128


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_others_than_this_machine_need_a_key(model_folder, host):
    with pytest.raises(KeylmError, match=r"/metrics; accepted: --api-key KEY .*or --open"):
        serve(model_folder, ServeOptions(host=host))
    check_access(ServeOptions(host=host, api_key="secret"))
    check_access(ServeOptions(host=host, open=True))
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_this_machine_needs_none(host):
    check_access(ServeOptions(host=host))
    assert is_loopback(host)


@pytest.mark.parametrize("key", ["", " secret", "secret ", "a\tb", "a\n", "schlüssel", "\udcff", "x\x00", "\xa0x"])
def test_a_key_that_no_client_can_send_is_refused(model_folder, key):
    with pytest.raises(KeylmError, match="printable ASCII without blanks at the ends"):
        serve(model_folder, ServeOptions(api_key=key))


@pytest.mark.parametrize("key", ["secret", "two words", "~!@#$%^&*()", "x" * 500])
def test_every_other_key_matches(with_rules, key):
    check_access(ServeOptions(api_key=key))
    address = with_rules(slots=1, api_key=key)
    assert call(address, "/v1/models", headers={"Authorization": f"Bearer {key}"})[0] == 200
    assert json.loads(call(address, "/v1/models")[2])["error"]["code"] == "invalid_api_key"
