"""A hub on this machine: enough of the Hugging Face hub's HTTP for datasets to stream from, and to fail at will.

Run as a program it is the other end: it reads hub sources through keylm, a command a line, since the libraries take
the hub's address from the environment once, as they are imported.
"""

import contextlib
import gzip
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

FIXTURES = Path(__file__).parents[1] / "data" / "fixtures" / "hub"
SHA = "5ca1ab1e" * 5

STRING, INT, BOOL, FLOAT, TIME = pa.string(), pa.int64(), pa.bool_(), pa.float64(), pa.timestamp("us", tz="UTC")


def _strings(*names: str) -> list[tuple[str, pa.DataType]]:
    return [(name, STRING) for name in names]


TURNS = pa.list_(pa.struct(_strings("content", "role")))
_TOXICITY = ["toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat", "sexual_explicit"]
_MODERATION = pa.list_(pa.struct([("categories", pa.struct([("hate", BOOL)])), ("flagged", BOOL)]))
_WILD_TURN = pa.struct(
    [
        *_strings("content", "country", "hashed_ip"),
        ("header", pa.struct(_strings("accept-language", "user-agent"))),
        ("language", STRING),
        ("redacted", BOOL),
        *_strings("role", "state"),
        ("timestamp", TIME),
        ("toxic", BOOL),
        ("turn_identifier", INT),
    ]
)
_OPTIONS = pa.struct(
    [
        ("custom_instructions", STRING),
        ("enable_thinking", BOOL),
        ("python_tools", pa.list_(STRING)),
        ("xml_tools", pa.list_(STRING)),
    ]
)
_COMMENT = (
    *("archived", "author", "author_fullname", "body", "comment_type", "controversiality", "created_utc", "edited"),
    *("gilded", "id", "link_id", "locked", "name", "parent_id", "permalink", "retrieved_on", "score", "subreddit_id"),
    *("subreddit_name_prefixed", "subreddit_type", "total_awards_received"),
)

SCHEMAS: dict[str, pa.Schema] = {
    "cosmopedia": pa.schema(
        [("prompt", STRING), ("text_token_length", INT), *_strings("text", "seed_data", "format", "audience")]
    ),
    "fineweb_edu": pa.schema(
        [
            *_strings("text", "id", "dump", "url", "file_path", "language"),
            ("language_score", FLOAT),
            ("token_count", INT),
            ("score", FLOAT),
            ("int_score", INT),
        ]
    ),
    "lmsys": pa.schema(
        [
            *_strings("conversation_id", "model"),
            ("conversation", TURNS),
            ("turn", INT),
            ("language", STRING),
            ("openai_moderation", _MODERATION),
            ("redacted", BOOL),
        ]
    ),
    "oasst2": pa.schema(
        [
            *_strings("message_id", "parent_id", "user_id", "created_date", "text", "role", "lang"),
            ("review_count", pa.int32()),
            ("review_result", BOOL),
            ("deleted", BOOL),
            ("rank", pa.int32()),
            ("synthetic", BOOL),
            ("model_name", STRING),
            ("detoxify", pa.struct([(name, FLOAT) for name in _TOXICITY])),
            *_strings("message_tree_id", "tree_state"),
        ]
    ),
    "reddit": pa.schema(_strings(*_COMMENT)),
    "smol_smoltalk": pa.schema([("messages", TURNS), ("source", STRING)]),
    "smoltalk2": pa.schema([("messages", TURNS), ("chat_template_kwargs", _OPTIONS), ("source", STRING)]),
    "stackexchange": pa.schema(_strings("id", "url", "title", "date_created", "text")),
    "ultrachat": pa.schema([*_strings("prompt", "prompt_id"), ("messages", TURNS)]),
    "wikipedia": pa.schema(_strings("id", "url", "title", "text")),
    "wildchat": pa.schema(
        [
            *_strings("conversation_hash", "model"),
            ("timestamp", TIME),
            ("conversation", pa.list_(_WILD_TURN)),
            ("turn", INT),
            ("language", STRING),
            ("openai_moderation", _MODERATION),
            ("toxic", BOOL),
            ("redacted", BOOL),
            *_strings("state", "country", "hashed_ip"),
        ]
    ),
}
"""The columns and types of each data set on the hub (docs/hub_datasets.md says where they were looked up).

Of the moderation's many categories there is one here, and oasst2's emojis and labels are left out.
"""


def fixture_rows(adapter: str) -> list[dict[str, Any]]:
    """Return the invented rows for an adapter, with all of the data set's columns."""
    lines = (FIXTURES / f"{adapter}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [{name: row.get(name) for name in SCHEMAS[adapter].names} for row in rows]


def parquet(rows: list[dict[str, Any]], schema: pa.Schema | None = None, row_group: int = 3) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, row_group_size=row_group)
    return file.getvalue()


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)


@dataclass
class Repo:
    """A data set: its files without the card, and the card's metadata."""

    files: dict[str, bytes]
    card: dict[str, Any] = field(default_factory=dict)
    gated: bool = False

    def __post_init__(self) -> None:
        self.files["README.md"] = f"---\n{yaml.safe_dump(self.card)}---\n\n# Invented\n".encode()


def one_split(files: dict[str, bytes], split: str = "train", config: str = "default", **card: Any) -> Repo:
    configs = [{"config_name": config, "data_files": [{"split": split, "path": list(files)}]}]
    return Repo(files, {"configs": configs, **card})


class FakeHub:
    """A running hub: `url`; `faults` says what happens to the n-th request (from 0) for data, and `requests` counts.

    A fault is an HTTP status, "break" for a connection that ends in mid-answer, or a function of n.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults: dict[int, int | str] | Callable[[int], int | str | None] = {}
        self.requests = self.bytes = 0
        self.asked_wait: int | None = None
        hub = self

        class Handler(_Handler):
            fake = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def calm(self) -> None:
        """Forget faults and counts."""
        self.faults, self.requests, self.bytes, self.asked_wait = {}, 0, 0, None

    def next_fault(self) -> int | str | None:
        number, self.requests = self.requests, self.requests + 1
        return self.faults(number) if callable(self.faults) else self.faults.get(number)


class _Handler(BaseHTTPRequestHandler):
    """Answers; `fake` is the hub it belongs to."""

    fake: ClassVar[FakeHub]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._refuse(404, "EntryNotFound")

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        found = re.fullmatch(
            r"/(api/)?datasets/([^/]+/[^/]+)(?:/(revision|tree|resolve)/([^/]+)(?:/(.*))?)?",
            path,
        )
        repo = self.fake.repos.get(found[2]) if found else None
        if found is None or repo is None:
            return self._refuse(404 if found is None else 401, "RepoNotFound")
        _, _, verb, revision, inside = found.groups()
        if revision not in (None, "main", SHA):
            return self._refuse(404, "RevisionNotFound")
        if verb == "resolve":
            return self._file(repo, inside or "")
        if verb == "tree":
            return self._json(_tree(repo, (inside or "").strip("/"), "recursive=true" in self.path.lower()))
        siblings = [{"rfilename": name} for name in repo.files]
        info = {"id": found[2], "sha": SHA, "siblings": siblings, "tags": [], "cardData": repo.card}
        return self._json({**info, "private": False, "gated": repo.gated, "downloads": 0, "likes": 0})

    def _file(self, repo: Repo, name: str) -> None:
        if repo.gated:
            return self._refuse(401, "GatedRepo", "Access to dataset is restricted")
        if name not in repo.files:
            return self._refuse(404, "EntryNotFound")
        content, status = repo.files[name], 200
        headers = {"ETag": f'"{len(content):040x}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            start, end = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            content, status = content[start:end], 206
        fault = self.fake.next_fault() if self.command == "GET" and name.startswith("data/") else None
        if isinstance(fault, int):
            return self._refuse(fault)
        self._send(status, headers, content, cut=fault == "break")

    def _json(self, value: object) -> None:
        self._send(200, {"Content-Type": "application/json", "X-Repo-Commit": SHA}, json.dumps(value).encode())

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message or code, "X-Repo-Commit": SHA}
        if self.fake.asked_wait is not None and status in (429, 503):
            headers["Retry-After"] = str(self.fake.asked_wait)
        self._send(status, {name: text for name, text in headers.items() if text}, b"")

    def _send(self, status: int, headers: dict[str, str], content: bytes, cut: bool = False) -> None:
        self.send_response(status)
        for name, text in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content)
            self.fake.bytes += len(content)


def _tree(repo: Repo, folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Return what the hub lists below a folder; files are of the folder itself unless `recursive`."""
    prefix, found = f"{folder}/" if folder else "", {}
    for name, content in repo.files.items():
        if name.startswith(prefix):
            below = name[len(prefix) :].split("/")
            for depth in range(1, len(below)):
                parent = prefix + "/".join(below[:depth])
                found[parent] = {"type": "directory", "path": parent, "oid": "0" * 40, "size": 0}
            found[name] = {"type": "file", "path": name, "oid": f"{len(content):040x}", "size": len(content)}
    return [entry for path, entry in found.items() if recursive or "/" not in path[len(prefix) :]]


class Reader:
    """A process that reads hub sources through keylm, whose hub is at `url`."""

    def __init__(self, url: str, home: Path) -> None:
        """Start in the folder `home`, with the libraries' cache below it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        settings = {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, **settings, "NO_PROXY": "127.0.0.1"},
            cwd=home,
        )

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def __call__(self, command: str = "rows", **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def _commands() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def _obey(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what one command gives: the rows with every state between them, or the size of a source."""
    from keylm.base.errors import KeylmError
    from keylm.data import hub as module
    from keylm.recipe.schema import Source

    said: list[str] = []
    slept: list[float] = []
    answer: dict[str, Any] = {"said": said, "slept": slept, "rows": [], "states": []}
    module.say = said.append  # type: ignore[assignment]
    source = Source(**asked["source"])
    try:
        if asked["command"] == "size":
            return {"size": module.hub_size(source)}
        rows = module.HubRows("web", source, asked.get("state"), sleep=slept.append)
        answer["revision"] = rows.revision
        answer["states"].append(rows.state())
        for row in islice(rows, asked.get("take")):
            answer["rows"].append(row)
            answer["states"].append(rows.state())
    except KeylmError as error:
        answer["error"] = str(error)
    return answer


def main() -> None:
    """Read commands, a line of JSON each, and write the answers."""
    answers, sys.stdout = sys.stdout, sys.stderr
    from types import SimpleNamespace

    import huggingface_hub.utils._http as requests

    # huggingface_hub repeats a request after real seconds; nothing here is worth them.
    requests.time = SimpleNamespace(sleep=lambda _: None)  # type: ignore[attr-defined]
    for command in _commands():
        print(json.dumps(_obey(command), default=str), file=answers, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
