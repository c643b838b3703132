"""From a recipe's sources to documents: opens each origin, and keeps part of its documents for validation.

Invariants: whether a document is held out depends on its content alone, so the same text is never on both
sides, whichever file, order or machine it comes from. A source opened at a saved state resumes exactly there.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from keylm.base.console import say
from keylm.base.errors import KeylmError
from keylm.data.adapters import Adapter, adapter_for
from keylm.data.documents import Document, Fault, Record, document_bytes, parse_line, read_record
from keylm.data.hub import HubRows
from keylm.data.readers import FileRecords, Listing, list_source, name_within
from keylm.recipe.load import CORPUS_FOLDER, Recipe, missing_path, paths_in
from keylm.recipe.schema import EMBEDDED, Source

CURATED = "curated"
"""The adapter for what curate/ writes: records that know which file and line they come from."""


class Records(Protocol):
    """The records of a source, in order."""

    def __iter__(self) -> Iterator[Record]:
        """Yield record after record."""

    def state(self) -> dict[str, Any]:
        """Return the position of the next record, as plain values."""


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
    """Return what turns a source's rows into documents. Raises KeylmError where it names an unknown adapter."""
    if source.adapter == CURATED:
        return Adapter(documents=_curated, columns=())
    return adapter_for(source.hub, source.adapter)


def _curated(row: Mapping[str, Any], file: str, line: int) -> Iterator[Document | Fault]:
    """Yield a record of a curated file under the name of where it once came from."""
    origin = row.get("origin") or [file, line]
    return read_record(row, str(origin[0]), int(origin[1]))


def row_of(record: Record) -> Mapping[str, Any] | Document | Fault:
    """Return a record's row, parsed; a fault where it is none, and what its reader made a document of as it is."""
    content: object = record.content
    if isinstance(content, bytes):
        content = parse_line(content, record.file, record.line)
    if isinstance(content, Mapping | Document | Fault):
        return content
    return Fault(record.file, record.line, "not_a_record", type(content).__name__)


def parse(record: Record, adapter: Adapter) -> Iterator[Document | Fault]:
    """Yield the documents and faults of one record."""
    row = row_of(record)
    if isinstance(row, Document | Fault):
        yield row
    else:
        yield from adapter.documents(row, record.file, record.line)


class HubRecords:
    """The rows of a data set on the hub."""

    def __init__(self, name: str, source: Source, state: Mapping[str, Any] | None) -> None:
        self._rows = HubRows(name, source, dict(state) if state else None)

    def __iter__(self) -> Iterator[Record]:
        for file, line, row in self._rows:
            yield Record(file, line, row)

    @property
    def revision(self) -> str:
        """The commit that is read."""
        return self._rows.revision

    def state(self) -> dict[str, Any]:
        """Return the position of the next row, the revision included."""
        return self._rows.state()


class GroupedRecords:
    """Rows of files, brought together by their adapter (a conversation tree has a row for each message)."""

    def __init__(self, path: Path, adapter: Adapter, state: Mapping[str, Any] | None) -> None:
        self._path, self._adapter = path, adapter
        self._given = int(state["records"]) if state else 0

    def __iter__(self) -> Iterator[Record]:
        for record in islice(self._records(), self._given, None):
            self._given += 1
            yield record

    def _records(self) -> Iterator[Record]:
        """Yield the groups from the first on, and ahead of each what was found among its rows that is no row."""
        assert self._adapter.group is not None
        aside: deque[Record] = deque()
        for number, row in enumerate(self._adapter.group(self._rows(aside)), 1):
            while aside:
                yield aside.popleft()
            yield Record(self._path.name, number, row)
        yield from aside

    def _rows(self, aside: deque[Record]) -> Iterator[Mapping[str, Any]]:
        """Yield the rows; a record that is none (a fault, most likely) is put `aside`."""
        for record in FileRecords(self._path, self._adapter.columns):
            row = row_of(record)
            if isinstance(row, Document | Fault):
                aside.append(Record(record.file, record.line, row))
            else:
                yield row

    def state(self) -> dict[str, Any]:
        """Return how many records are given, those that are no groups included."""
        return {"records": self._given}


class LimitedRecords:
    """A source's records up to its `max_bytes` of text: the one that would go beyond it ends them."""

    def __init__(self, sources: Mapping[str, Source], name: str, state: Mapping[str, Any] | None) -> None:
        self._most, self._adapter = sources[name].max_bytes, source_adapter(sources[name])
        self._taken = int(state["taken"]) if state else 0
        self.inner = open_records(sources, name, state["inner"] if state else None)

    def __iter__(self) -> Iterator[Record]:
        for record in self.inner:
            if self._most is not None:
                documents = (item for item in parse(record, self._adapter) if isinstance(item, Document))
                self._taken += sum(map(document_bytes, documents))
                if self._taken > self._most:
                    return
            yield record

    def state(self) -> dict[str, Any]:
        """Return the position of the next record, and the bytes of text before it (0 where nothing limits them)."""
        return {"taken": self._taken, "inner": self.inner.state()}


class MixedRecords:
    """The records of several sources in turn, one of each, until all are spent; then again, `passes` times."""

    def __init__(self, sources: Mapping[str, Source], source: Source, state: Mapping[str, Any] | None) -> None:
        self._sources, self._names, self._passes = dict(sources), source.typos_of, source.passes
        self._epoch = int(state["epoch"]) if state else 0
        self._turn = int(state["turn"]) if state else 0
        states: Mapping[str, Any] = state["states"] if state else {}
        self._spent: set[str] = set(state["spent"]) if state else set()
        self._open = {
            name: LimitedRecords(sources, name, states.get(name)) for name in self._names if name not in self._spent
        }
        self._revisions: dict[str, str] = dict(state["revisions"]) if state else {}
        for name, records in self._open.items():
            if isinstance(records.inner, HubRecords):
                self._revisions[name] = records.inner.revision

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
            # Each pass reads what the first one did, though a branch may have moved since.
            for name, revision in self._revisions.items():
                self._sources[name] = self._sources[name].model_copy(update={"revision": revision})
            if self._epoch < self._passes:
                self._open = {name: LimitedRecords(self._sources, name, None) for name in self._names}

    def state(self) -> dict[str, Any]:
        """Return each source's position, whose turn it is, the pass, and the commits that are read."""
        states = {name: records.state() for name, records in self._open.items() if name not in self._spent}
        turns = {"epoch": self._epoch, "turn": self._turn, "spent": sorted(self._spent)}
        return {**turns, "states": states, "revisions": dict(self._revisions)}


def source_path(source: Source) -> Path:
    """Return the file or folder that a source with a `path` reads."""
    assert source.path is not None
    if source.is_embedded:
        return CORPUS_FOLDER / source.path.removeprefix(EMBEDDED)
    return Path(source.path)


def list_files(name: str, source: Source) -> Listing:
    """Return the files of a source with a `path`. Raises KeylmError where they cannot be had."""
    try:
        return list_source(source_path(source))
    except KeylmError as error:
        raise KeylmError(f"sources.{name}.path: {error}") from None


def check_sources(recipe: Recipe, *, quiet: bool = False) -> None:
    """Raise KeylmError at the first path a build could not read; report skipped files. Shards need none of them."""
    for name, source in recipe.read_sources.items():
        if source.path is not None and (others := list_files(name, source).others):
            say(_passed_over(name, source_path(source), others), quiet=quiet)
    for field, path in paths_in(recipe, "text"):
        if not field.startswith("sources.") and (why := missing_path(path)):
            raise KeylmError(f"{field}: {why}")
    for field, path in paths_in(recipe, "tokenizer"):
        if path == recipe.given_tokenizer and (why := missing_path(path, a_tokenizer=True)):
            raise KeylmError(f"{field}: {why}")


def _passed_over(name: str, path: Path, others: list[Path]) -> str:
    """Return the remark about a source's files that no reader accepts."""
    kinds = ", ".join(sorted({file.suffix.lower() or "no ending" for file in others})[:8])
    number = "1 file is of a kind that is" if len(others) == 1 else f"{len(others)} files are of kinds that are"
    return f"sources.{name}: {number} not read ({kinds}), such as {name_within(path, others[0])}"


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
