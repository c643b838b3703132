"""Clean the larger corpus before curation: leave out what is broken, mend what can be, and shuffle the documents.

    python -m tools.corpus.clean CORPUS OUT [--workers 2]

CORPUS has REGISTER/SOURCE.jsonl.zst, one JSON object with `text` or `messages` a line; cleaning.toml says which of them
are used and how each is cleaned. OUT/SOURCE/000.jsonl.zst … are written, about PART_BYTES of text each, in an order
that the source's name alone decides, so that any stretch of a source is a fair sample of it. OUT/SOURCE/ appears whole
or not at all, and a finished one is not made again: the command can be stopped and repeated. OUT/counts/SOURCE.json
counts what was dropped and why.
"""

import argparse
import json
import random
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import zstandard

from keylm.base.errors import KeylmError
from keylm.base.files import atomic_folder, read_json, write_json
from tools.command import run_script, script_parser
from tools.records import read_records

TABLE = Path(__file__).with_name("cleaning.toml")
PART_BYTES = 24_000_000


@dataclass(frozen=True)
class Rules:
    """How a source is cleaned; patterns are regular expressions in multi-line mode."""

    drop_documents: tuple[tuple[str, int], ...] = ()
    """(pattern, matches from which on a document is dropped)"""
    drop_sources: tuple[str, ...] = ()
    """documents whose `source` matches are dropped"""
    keep_sources: tuple[str, ...] = ()
    """where there are any, only documents whose `source` matches one stay"""
    thin: tuple[tuple[str, float], ...] = ()
    """(pattern of `source`, share of the documents that stays)"""
    drop_lines: tuple[str, ...] = ()
    """lines with a match are dropped"""
    cut_at: tuple[str, ...] = ()
    """the text ends before the first match"""
    replace: tuple[tuple[str, str], ...] = ()
    """(pattern, replacement), in order"""
    minimum_characters: int = 0
    """shorter documents are dropped"""


class Cleaner:
    """Cleans the documents of one source."""

    def __init__(self, name: str, rules: Rules) -> None:
        self._rules, self._random = rules, random.Random(name)
        self.dropped: Counter[str] = Counter()

    def clean(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Return the cleaned record, or None where it is dropped; `dropped` counts why."""
        why = self._by_origin(row.get("source", ""))
        if why is None and "messages" in row:
            return row
        text = "" if why else self._mended(row["text"])
        why = why or self._by_text(row["text"], text)
        if why:
            self.dropped[why] += 1
            return None
        return {**row, "text": text}

    def _by_origin(self, origin: str) -> str | None:
        rules = self._rules
        if rules.keep_sources and not any(re.search(pattern, origin) for pattern in rules.keep_sources):
            return "source"
        if any(re.search(pattern, origin) for pattern in rules.drop_sources):
            return "source"
        thinned = any(re.search(p, origin) and self._random.random() >= share for p, share in rules.thin)
        return "thinned" if thinned else None

    def _by_text(self, before: str, text: str) -> str | None:
        for pattern, least in self._rules.drop_documents:
            if sum(1 for _ in zip(re.finditer(pattern, before), range(least), strict=False)) >= least:
                return pattern
        return "too short" if len(text) < self._rules.minimum_characters else None

    def _mended(self, text: str) -> str:
        rules = self._rules
        for pattern in rules.cut_at:
            if found := re.search(pattern, text, re.MULTILINE):
                text = text[: found.start()].rstrip()
        for pattern in rules.drop_lines:
            if re.search(pattern, text, re.MULTILINE):
                text = "\n".join(line for line in text.split("\n") if not re.search(pattern, line))
        for pattern, replacement in rules.replace:
            text = re.sub(pattern, replacement, text)
        return text.strip()


def read_table(path: Path | None = None) -> dict[str, Rules]:
    """Return the rules of each source, by REGISTER/SOURCE. Raises KeylmError where a table has an unknown key."""
    path = path or TABLE
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    shared = table.pop("rules")
    known = {field.name for field in fields(Rules)}
    found = {}
    for name, own in table.items():
        if unknown := sorted(set(own) - known):
            raise KeylmError(f"{path}: {name} has {unknown[0]!r}; accepted: {', '.join(sorted(known))}")
        merged = shared | own | {"replace": [*own.get("replace", []), *shared.get("replace", [])]}
        found[name] = Rules(**{key: _frozen(value) for key, value in merged.items()})
    return found


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value


def clean_source(corpus: Path, out: Path, name: str, rules: Rules) -> dict[str, Any]:
    """Clean one source into out/SOURCE and return its counts; a finished one is read back. Raises KeylmError."""
    file, folder = corpus / f"{name}.jsonl.zst", out / Path(name).name
    done = out / "counts" / f"{folder.name}.json"
    if done.is_file() and folder.is_dir():
        return dict(read_json(done))
    if not file.is_file():
        raise KeylmError(f"{file}: is missing; cleaning.toml names it")
    cleaner = Cleaner(name, rules)
    read, lines = 0, []
    for record in read_records(file):
        read += 1
        if (row := cleaner.clean(record)) is not None:
            lines.append(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    random.Random(name).shuffle(lines)
    dropped = dict(cleaner.dropped.most_common())
    counts = {"read": read, "kept": len(lines), "bytes": sum(map(len, lines)), "dropped": dropped}
    with atomic_folder(folder) as temporary:
        for number, part in enumerate(parts(lines)):
            packed = zstandard.ZstdCompressor(level=3).compress(b"".join(part))
            (temporary / f"{number:03}.jsonl.zst").write_bytes(packed)
    done.parent.mkdir(exist_ok=True)
    write_json(done, counts)
    return counts


def parts(lines: list[bytes]) -> Iterator[list[bytes]]:
    """Yield the lines in lists of about PART_BYTES."""
    part: list[bytes] = []
    size = 0
    for line in lines:
        part.append(line)
        size += len(line)
        if size >= PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def clean(arguments: argparse.Namespace) -> None:
    """Clean all sources of the table. Raises KeylmError."""
    table = read_table()
    with ProcessPoolExecutor(arguments.workers) as pool:
        ordered = sorted(table, key=lambda name: -size_of(arguments.corpus / f"{name}.jsonl.zst"))
        found = {
            name: pool.submit(clean_source, arguments.corpus, arguments.out, name, table[name]) for name in ordered
        }
        for name in ordered:
            counts = found[name].result()
            print(f"{name}: {counts['kept']:,} of {counts['read']:,} documents stay", flush=True)


def size_of(file: Path) -> int:
    """Return a file's bytes, 0 where it is missing."""
    return file.stat().st_size if file.is_file() else 0


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    run_script(lambda: clean(parser.parse_args()))


if __name__ == "__main__":
    main()
