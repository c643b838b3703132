"""What training writes down: metrics.jsonl and timing.jsonl, a JSON object a line.

Invariant: metrics.jsonl holds nothing that depends on the clock, so a run that was killed and resumed leaves the
same bytes as one that was not; wall-clock figures are in timing.jsonl. A checkpoint remembers how long both
files were, and resuming cuts off what was written after it; of metrics.jsonl it also remembers the hash, so that a
file that was altered since is noticed.

Rows of metrics.jsonl ("step" is the batch's index, from 0; losses in nats per trained token):
    {"kind": "train", "step", "stage", "tokens", "loss", "z_loss", "pair_loss", "bits_per_byte", "gradient_norm",
     "learning_rate_scale", "source_loss": {source: loss}}
    {"kind": "validation", "step", "stage", "tokens", "loss": {source: …}, "bits_per_byte": {source: …}}
    {"kind": "benchmark", "step", "stage", "tokens", "results": {benchmark: {"acc", "acc_norm", "n"}}}
A validation or benchmark row of step K was measured after K updates.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import IO, Any

from keylm.base.files import flush, parse_json


class JsonLines:
    """An append-only file of JSON lines that can be cut back to an earlier length."""

    def __init__(self, path: Path, length: int) -> None:
        """Open `path` and keep its first `length` bytes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, min(length, path.stat().st_size))
        with path.open("rb") as kept:
            self._written = hashlib.file_digest(kept, "sha256")
        self._path = path
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; it is on its way to the disk when this returns."""
        line = json.dumps(row) + "\n"
        self._written.update(line.encode())
        self._file.write(line)
        self._file.flush()

    def length(self) -> int:
        """Return the file's length in bytes, all of them safely on disk."""
        flush(self._path)
        return self._path.stat().st_size

    def sha256(self) -> str:
        """Return the SHA-256 of what the file was opened with and what was written since, in hexadecimal."""
        return self._written.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_rows(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file, of one kind where `kind` is given."""
    rows = parse_rows(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else []
    return [row for row in rows if kind is None or row.get("kind") == kind]


def parse_rows(text: str) -> list[dict[str, Any]]:
    """Return the rows of JSON lines; half-written lines are left out."""
    rows = []
    for line in text.splitlines():
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
