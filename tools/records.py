"""Reading the corpus's files, for scripts that need no fault of a line counted."""

import json
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import zstandard


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a Zstandard-compressed JSON-lines file."""
    with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        yield from map(json.loads, TextIOWrapper(stream, encoding="utf-8", newline="\n"))
