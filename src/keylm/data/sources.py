"""From a recipe's sources to documents: opens each origin, keeps part for validation, samples for the tokenizer.

Invariants: whether a document is held out depends on its content alone, so the same text never stands on both
sides, whichever file, order or machine it comes from. A source opened at a saved state goes on exactly there.
"""

import hashlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from keylm.data.adapters import Adapter, adapter_for
from keylm.data.documents import Document, Fault, Record, parse_line, read_record
from keylm.data.hub import HubRows
from keylm.data.readers import FileRecords, name_within, source_files
from keylm.files import sha256_file
from keylm.recipe import CORPUS_FOLDER, Recipe
from keylm.recipe_sections import EMBEDDED, Source

CURATED = "curated"
"""The adapter of what data/curate/ writes: records that know which file and line they come from."""
SAMPLE_READ = 20
"""How many times its budget the tokenizer's sample reads of a source, at most."""
COMPRESSED = (".zst", ".gz", ".parquet")
"""Endings of files that hold about four times their size in text."""


class Records(Protocol):
    """The records of a source, in order."""

    def __iter__(self) -> Iterator[Record]:
        """Yield record after record."""

    def state(self) -> dict[str, Any]:
        """Return where the next record stands, as plain values."""


def open_records(sources: Mapping[str, Source], name: str, state: Mapping[str, Any] | None = None) -> Records:
    """Open a source, at a `state` that it gave before or at its beginning. Raises KeylmError."""
    source = sources[name]
    if source.typos_of:
        return MixedRecords(sources, source, state)
    adapter = source_adapter(source)
    if source.hub:
        return HubRecords(name, source, state)
    if adapter.group:
        return GroupedRecords(source_path(source), adapter, state)
    return FileRecords(source_path(source), adapter.columns, state)


def source_adapter(source: Source) -> Adapter:
    """Return what turns a source's rows into documents. Raises KeylmError where it names one that is not."""
    if source.adapter == CURATED:
        return Adapter(documents=_curated, columns=())
    return adapter_for(source.hub, source.adapter)


def _curated(row: Mapping[str, Any], file: str, line: int) -> Iterator[Document | Fault]:
    """Yield a record of a curated file under the name of where it once came from."""
    origin = row.get("origin") or [file, line]
    return read_record(row, str(origin[0]), int(origin[1]))


def parse(record: Record, adapter: Adapter) -> Iterator[Document | Fault]:
    """Yield the documents and faults of one record."""
    content: object = record.content
    if isinstance(content, bytes):
        content = parse_line(content, record.file, record.line)
    if isinstance(content, Document | Fault):
        yield content
    elif isinstance(content, Mapping):
        yield from adapter.documents(content, record.file, record.line)
    else:
        yield Fault(record.file, record.line, "not_a_record", type(content).__name__)


class HubRecords:
    """The rows of a data set on the hub."""

    def __init__(self, name: str, source: Source, state: Mapping[str, Any] | None) -> None:
        self._rows = HubRows(name, source, dict(state) if state else None)

    def __iter__(self) -> Iterator[Record]:
        for file, line, row in self._rows:
            yield Record(file, line, row)

    def state(self) -> dict[str, Any]:
        """Return where the next row stands, the revision included."""
        return self._rows.state()


class GroupedRecords:
    """Rows of files, brought together by their adapter (a conversation tree has a row for each message)."""

    def __init__(self, path: Path, adapter: Adapter, state: Mapping[str, Any] | None) -> None:
        self._path, self._adapter = path, adapter
        self._given = int(state["records"]) if state else 0

    def __iter__(self) -> Iterator[Record]:
        assert self._adapter.group is not None
        name = self._path.name
        for row in islice(self._adapter.group(self._rows()), self._given, None):
            self._given += 1
            yield Record(name, self._given, row)

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        for record in FileRecords(self._path, self._adapter.columns):
            content: object = record.content
            if isinstance(content, bytes):
                content = parse_line(content, record.file, record.line)
            if isinstance(content, Mapping):
                yield content

    def state(self) -> dict[str, Any]:
        """Return how many groups are given."""
        return {"records": self._given}


class MixedRecords:
    """The records of several sources in turn, one of each, until all are spent; then again, `passes` times."""

    def __init__(self, sources: Mapping[str, Source], source: Source, state: Mapping[str, Any] | None) -> None:
        self._sources, self._names, self._passes = sources, source.typos_of, source.passes
        self._epoch = int(state["epoch"]) if state else 0
        self._turn = int(state["turn"]) if state else 0
        states: Mapping[str, Any] = state["states"] if state else {}
        self._spent: set[str] = set(state["spent"]) if state else set()
        self._open = {
            name: open_records(sources, name, states.get(name)) for name in self._names if name not in self._spent
        }

    def __iter__(self) -> Iterator[Record]:
        while self._epoch < self._passes:
            streams = {name: iter(records) for name, records in self._open.items()}
            while len(self._spent) < len(self._names):
                name = self._names[self._turn % len(self._names)]
                record = next(streams[name], None) if name not in self._spent else None
                if record is None:
                    self._spent.add(name)
                self._turn += 1
                if record is not None:
                    file = f"{name}/{record.file}"
                    yield Record(file, record.line, record.content, name, self._epoch)
            self._epoch, self._turn, self._spent = self._epoch + 1, 0, set()
            self._open = {name: open_records(self._sources, name) for name in self._names}

    def state(self) -> dict[str, Any]:
        """Return where each source stands, whose turn it is, and the pass."""
        states = {name: records.state() for name, records in self._open.items() if name not in self._spent}
        return {"epoch": self._epoch, "turn": self._turn, "spent": sorted(self._spent), "states": states}


def source_path(source: Source) -> Path:
    """Return the file or folder that a source with a `path` reads."""
    assert source.path is not None
    if source.is_embedded:
        return CORPUS_FOLDER / source.path.removeprefix(EMBEDDED)
    return Path(source.path)


def source_inputs(name: str, source: Source) -> list[tuple[str, int, int | str]]:
    """Return (name, size, stamp) of what a source reads: what decides if it must be read again.

    Of files, size in bytes and the time of the last change in ns (of embedded ones, whose times the installer
    sets, the SHA-256); of a data set on the hub its name and revision as the recipe gives them.
    """
    if source.hub:
        return [(f"hub:{source.hub}/{source.config or ''}/{source.split}", 0, source.revision or "")]
    if source.typos_of:
        return []
    path = source_path(source)
    return [
        (
            name_within(path, file),
            file.stat().st_size,
            sha256_file(file) if source.is_embedded else file.stat().st_mtime_ns,
        )
        for file in source_files(path)
    ]


def input_bytes(name: str, source: Source) -> int:
    """Return about how many bytes of text a source's files hold; 0 where that is not known."""
    return sum(size * (4 if file.endswith(COMPRESSED) else 1) for file, size, _ in source_inputs(name, source))


def read_source(name: str, source: Source) -> Iterator[Document | Fault]:
    """Yield the documents and faults of a source of files or on the hub, up to its `max_bytes` of text."""
    adapter = source_adapter(source)
    taken = 0
    for record in open_records({name: source}, name):
        for item in parse(record, adapter):
            if source.max_bytes is not None and isinstance(item, Document):
                taken += document_bytes(item)
                if taken > source.max_bytes:
                    return
            yield item


def document_bytes(document: Document) -> int:
    """Return the UTF-8 bytes of a document's text."""
    return sum(len(text.encode()) for text in document_texts(document))


def document_texts(document: Document) -> list[str]:
    """Return the text, or each message's text."""
    return [document.text] if document.text is not None else [turn["content"] for turn in document.messages]


def content_hash(document: Document) -> int:
    """Return 64 bits that depend on a document's content alone."""
    digest = hashlib.blake2b(digest_size=8)
    for turn in document.messages:
        digest.update(f"\x00{turn['role']}\x00{turn['content']}".encode())
    digest.update((document.text or "").encode())
    return int.from_bytes(digest.digest(), "little")


def is_held_out(content: int, holdout: float) -> bool:
    """Return whether the document of this content hash belongs to validation (`holdout`: its share)."""
    return content % 1_000_000 < round(holdout * 1_000_000)


def tokenizer_sample(recipe: Recipe, sources: Mapping[str, Source]) -> Iterator[str]:
    """Yield text to train the tokenizer on: from each source its share of `tokenizer.sample_bytes`.

    A source's share is its share of all tokens trained, typo sources left aside; held-out documents are left out.
    Documents are drawn by their content's hash from a source's whole length, or its first SAMPLE_READ budgets.
    """
    shares = {name: share for name, share in token_shares(recipe).items() if not sources[name].typos_of}
    for name, share in shares.items():
        budget = recipe.tokenizer.sample_bytes * share / sum(shares.values())
        there = min(input_bytes(name, sources[name]), SAMPLE_READ * budget)
        chosen = min(1.0, 1.2 * budget / there) if there else 1.0
        for item in read_source(name, sources[name]):
            if isinstance(item, Fault):
                continue
            content = content_hash(item)
            if is_held_out(content, recipe.evaluation.holdout) or (content >> 20) % 1_000_000 >= chosen * 1_000_000:
                continue
            yield from document_texts(item)
            budget -= document_bytes(item)
            if budget <= 0:
                break


def token_shares(recipe: Recipe) -> dict[str, float]:
    """Return each used source's share of all tokens that the recipe trains on; they sum to 1."""
    total = sum(stage.tokens for stage in recipe.stages.values())
    shares = dict.fromkeys(recipe.used_sources, 0.0)
    for stage in recipe.stages.values():
        for name in shares:
            weight = stage.weights.get(name, 0.0) / sum(stage.weights.values())
            shares[name] += weight * stage.tokens / total
    return shares
