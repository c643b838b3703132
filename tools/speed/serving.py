"""What `keylm serve` makes: tokens/s with 1, 4 and 16 clients, and the latency of suggestions, over HTTP.

    python -m tools.speed.serving MODEL --engine llama.cpp --precision f16 --threads 2

The server is a process of its own, as users run it; the clients are threads of this one, with the standard library
alone. Each client asks for one chat after the other, streamed, its end barred, so that all write the same number of
tokens; the figure is the tokens that arrived over the time from the first request to the last token, the best and the
median of the repetitions, and the time to the first text. Suggestions are asked for after each character of two
sentences with typos. Prints the tables and, with --json, writes the figures.
"""

import http.client
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tools.command import run_script, script_parser

SENTENCE = (
    "Hello Anna, thank you for your mesage. I wil be there tomorow at about seven, but I don't know wether the train "
    "is late again. "
)
TOPICS = ("the sea", "a small town", "my old horse", "rain in may", "the red house", "your brother", "bread", "a king")


class Server:
    """A `keylm serve` process."""

    def __init__(self, model: Path, port: int, options: list[str]) -> None:
        self.port = port
        command = [sys.executable, "-m", "keylm", "serve", str(model), "--port", str(port), "--name", "m", *options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 600  # a model may be converted first
        while True:
            try:
                self.call("GET", "/health")
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    sys.exit("the server did not start")
                time.sleep(0.2)

    def call(self, verb: str, path: str, body: Any = None) -> Any:
        """Return the JSON that answers a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request(verb, path, body and json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        return json.loads(answer.read())

    def seconds(self) -> float:
        """Return the processor time that the process has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)


def stream(server: Server, topic: str, tokens: int, barred: dict[str, int]) -> tuple[int, float]:
    """Return the tokens of one streamed chat, and the seconds to its first text."""
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": f"Tell me something about {topic}, and do not be brief."}],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "top_p": 0.9,
        "logit_bias": barred,
    }
    begun, first, written = time.perf_counter(), 0.0, 0
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    for line in connection.getresponse():
        if line.startswith(b"data: {"):
            chunk = json.loads(line[6:])
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content") and not first:
                first = time.perf_counter() - begun
            if chunk.get("usage"):
                written = chunk["usage"]["completion_tokens"]
    return written, first


def throughput(server: Server, clients: int, tokens: int, barred: dict[str, int]) -> tuple[float, float]:
    """Return tokens a second of `clients` at once, and the median seconds to the first text."""
    found: list[tuple[int, float]] = []

    def client(number: int) -> None:
        found.append(stream(server, f"{TOPICS[number % len(TOPICS)]} {number}", tokens, barred))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - begun
    return sum(written for written, _ in found) / taken, statistics.median(first for _, first in found)


def suggestions(server: Server) -> dict[str, float]:
    """Return the latency in milliseconds after each key, as the client sees it and as the server says."""
    seen, said = [], []
    text = SENTENCE * 2
    for end in range(1, len(text) + 1):
        begun = time.perf_counter()
        answer = server.call("POST", "/v1/suggest", {"text": text[:end]})
        seen.append((time.perf_counter() - begun) * 1000)
        said.append(answer["milliseconds"])
    cuts = statistics.quantiles(seen, n=20)
    return {"p50": statistics.median(seen), "p95": cuts[-1], "server_p50": statistics.median(said), "keys": len(seen)}


def main() -> None:
    """Measure and print."""
    parser = script_parser(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--precision", help="by default the engine's own")
    parser.add_argument("--no-suggest", action="store_true", help="leave suggestions out")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ends", type=int, nargs="*", default=[0, 2], help="tokens that would end an answer")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    before = os.getloadavg()[0]
    options = ["--engine", given.engine, "--threads", str(given.threads)]
    options += ["--precision", given.precision] if given.precision else []
    options += ["--no-suggest"] if given.no_suggest else []
    server = Server(given.model, given.port, options)
    barred = {str(token): -100 for token in given.ends}
    rows: dict[str, Any] = {}
    try:
        throughput(server, 1, 8, barred)
        for clients in given.clients:
            used = server.seconds()
            measured = [throughput(server, clients, given.tokens, barred) for _ in range(given.repeat)]
            rows[str(clients)] = {
                "tokens_per_second": statistics.median(speed for speed, _ in measured),
                "best": max(speed for speed, _ in measured),
                "first_text_seconds": statistics.median(first for _, first in measured),
                "processor_seconds_per_token": (server.seconds() - used) / (clients * given.tokens * given.repeat),
            }
        typing = {} if given.no_suggest else suggestions(server)
    finally:
        server.close()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {given.threads} threads, ", end="")
    print(f"{given.engine} {given.precision or ''}; load before {before:.1f}, after {os.getloadavg()[0]:.1f}")
    print("| clients | tokens/s | best | times one client | s to first text | processor ms a token |")
    print("|--:|--:|--:|--:|--:|--:|")
    one = rows[str(given.clients[0])]["tokens_per_second"]
    for clients, row in rows.items():
        speed, cost = row["tokens_per_second"], row["processor_seconds_per_token"] * 1000
        print(f"| {clients} | {speed:.1f} | {row['best']:.1f} | {speed / one:.1f} ", end="")
        print(f"| {row['first_text_seconds']:.2f} | {cost:.1f} |")
    if typing:
        print("suggestions, ms: " + ", ".join(f"{name} {value:.1f}" for name, value in typing.items()))
    if given.json:
        given.json.write_text(
            json.dumps(
                {
                    "settings": {**vars(given), "model": str(given.model), "json": None},
                    "clients": rows,
                    "suggest_ms": typing,
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    run_script(main)
