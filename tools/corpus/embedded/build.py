"""Build the small English corpus that ships inside the package.

Usage: python -m tools.corpus.embedded.build [--corpus ../shared/corpus] [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import zstandard

from tools.command import script_parser
from tools.corpus.embedded import chat, provenance, selection

REPOSITORY = Path(__file__).resolve().parents[3]
LEVEL = 19
LICENCES = {
    "fairy_tales": "public-domain text; dataset Apache-2.0",
    "short_stories": "CC0 editions and public-domain books",
    "public_service": "CC0 / United States public domain",
    "chat": "CC0",
}


def json_lines(records: Iterable[dict[str, Any]]) -> bytes:
    """Return records as JSON lines."""
    dumped = (json.dumps(record, ensure_ascii=False, separators=(",", ":")) for record in records)
    return "".join(line + "\n" for line in dumped).encode()


def all_records(choices: dict[str, selection.Choice]) -> dict[str, list[dict[str, Any]]]:
    """Return the records of each data file by its name."""
    records = {name: [document.record() for document in choice.documents] for name, choice in choices.items()}
    return records | {"chat": [{"messages": messages, "source": "keylm"} for messages in chat.compose()]}


def make_files(corpus: Path) -> dict[str, bytes]:
    """Return the content of every file of the embedded corpus and print a summary."""
    choices = selection.choose_all(corpus)
    files, facts = {}, []
    for name, records in all_records(choices).items():
        raw = json_lines(records)
        packed = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(raw)
        files[f"{name}.jsonl.zst"] = packed
        facts.append(provenance.FileFacts(f"{name}.jsonl.zst", len(records), len(raw), len(packed), LICENCES[name]))
        left_out = dict(choices[name].left_out) if name in choices else {}
        print(f"{name:15} {len(records):5} documents {len(raw):9,} bytes {len(packed):9,} packed  {left_out}")
    total, packed_total = sum(f.raw_bytes for f in facts), sum(f.packed_bytes for f in facts)
    print(f"{'together':15} {total:,} bytes, {packed_total:,} packed")
    page = provenance.page(facts, choices, chat.seed_counts())
    return files | {"PROVENANCE.md": page.encode()}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command-line options."""
    parser = script_parser(__doc__)
    parser.add_argument("--corpus", type=Path, default=REPOSITORY.parent / "shared" / "corpus")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "src" / "keylm" / "corpus")
    parser.add_argument("--check", action="store_true", help="compare with the files, write nothing")
    return parser.parse_args(arguments)


def read(path: Path) -> bytes:
    """Return the content of a file, or nothing where there is none."""
    return path.read_bytes() if path.is_file() else b""


def main(arguments: list[str] | None = None) -> int:
    """Write or check the files and return the exit status."""
    options = parse_arguments(arguments)
    files = make_files(options.corpus)
    if options.check:
        stale = [name for name, content in files.items() if read(options.output / name) != content]
        print("different: " + ", ".join(stale) if stale else "all files are up to date")
        return 1 if stale else 0
    options.output.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (options.output / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
