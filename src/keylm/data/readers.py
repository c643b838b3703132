"""Readers: .jsonl(.zst|.gz), .parquet and .txt(.zst|.gz) files to records, one by one in constant memory.

Invariants: nothing in a file can stop the reading. A damaged archive gives what precedes the damage, and a
fault; then the next file is read. A reader opened at the state of an earlier one resumes exactly there.
"""

import codecs
import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from keylm.base.errors import KeylmError
from keylm.base.files import is_hidden
from keylm.base.packed import CHUNK_BYTES, UNPACKING, open_packed
from keylm.data import documents
from keylm.data.documents import Document, Fault, Record, piece_end, split_text

SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".parquet", ".txt", ".txt.zst", ".txt.gz")
LINE_BYTES = 64 << 20
"""Longest line of a JSON-lines file that is read at all, in bytes."""
SEPARATOR = "<|endoftext|>"
"""A line of a .txt file that ends a document."""


DAMAGE = (*UNPACKING, UnicodeDecodeError, pa.ArrowException)
"""What a file raises that is not what its name says, or breaks off."""


class Listing(NamedTuple):
    """The files at a source's path, in a fixed order."""

    files: list[Path]
    """those that are read; at least one"""
    others: list[Path]
    """those of kinds that are not"""


def source_files(path: Path) -> list[Path]:
    """Return the readable files of a source in a fixed order: `path` itself, or all below it by name.

    Raises KeylmError where there is none, or where it cannot be known what there is.
    """
    return list_source(path).files


def list_source(path: Path) -> Listing:
    """Return the files at `path`: itself, or all below it by name that are not hidden; links are followed once.

    Raises KeylmError where nothing can be read, a folder cannot be listed, or a link is broken: text that
    is missing in silence would be missed by nobody.
    """
    try:
        found = [path] if stat.S_ISREG(path.stat().st_mode) else sorted(_files_below(path))
    except OSError as error:
        raise KeylmError(_why_not(path, error)) from None
    files = [file for file in found if file.name.lower().endswith(SUFFIXES)]
    if not files:
        raise KeylmError(f"{path}: nothing to read; accepted: {', '.join(SUFFIXES)}, or a folder with such files")
    return Listing(files, [file for file in found if not file.name.lower().endswith(SUFFIXES)])


def _files_below(top: Path) -> Iterator[Path]:
    """Yield the files below a folder. Raises OSError with the name of what cannot be read."""
    seen: set[str] = set()  # so that links in a circle end, and no text is read twice
    tops = [top]
    for start in tops:  # links are followed last: what is there by its own name keeps it
        for folder, below, names in os.walk(start, onerror=_raise):
            real = os.path.realpath(folder)
            if real in seen:
                below.clear()
                continue
            seen.add(real)
            below[:] = sorted(name for name in below if not is_hidden(name))
            tops += [Path(folder, name) for name in below if Path(folder, name).is_symlink()]
            files = (Path(folder, name) for name in names if not is_hidden(name))
            yield from (file for file in files if stat.S_ISREG(file.stat().st_mode))


def _raise(error: OSError) -> None:
    raise error


def _why_not(path: Path, error: OSError) -> str:
    """Return the error message for a source at `path` in which something cannot be read."""
    where = Path(error.filename or path)
    if where == path and error.errno == errno.ENOENT:
        return f"{path} does not exist; accepted: a file or folder"
    if where != path and error.errno in (errno.ENOENT, errno.ELOOP):
        return f"{where}: is a link that leads nowhere; fix it or delete it"
    return f"{where}: cannot be read: {error.strerror or error}"


def name_within(path: Path, file: Path) -> str:
    """Return what a source at `path` calls its `file`."""
    return file.name if path == file else file.relative_to(path).as_posix()


class FileRecords:
    """The records of a file or folder, in order."""

    def __init__(self, path: Path, columns: Sequence[str] = (), state: Mapping[str, Any] | None = None) -> None:
        """Open `path`, at the `state` that an earlier reader gave; of parquet files read `columns` (or all)."""
        self._path, self._columns = path, columns
        self._file, self._given = (int(state["file"]), int(state["records"])) if state else (0, 0)

    def state(self) -> dict[str, Any]:
        """Return the position of the next record: a file's number, and how many of its records were yielded."""
        return {"file": self._file, "records": self._given}

    def __iter__(self) -> Iterator[Record]:
        files = source_files(self._path)
        while self._file < len(files):
            file, faults = files[self._file], []
            try:
                for record in self._records(file, self._given):
                    self._given += 1
                    yield record
            except DAMAGE as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # the system's trouble, not the file's: it may pass, and must not be taken for the data
                name = name_within(self._path, file)
                faults = [Record(name, 0, Fault(name, 0, "unreadable_file", ascii(str(error))[:200]))]
            # Before the fault is yielded, as the file ends with it: reading resumes after it in the next one.
            self._file, self._given = self._file + 1, 0
            yield from faults

    def _records(self, file: Path, skip: int) -> Iterator[Record]:
        """Return a file's records after the first `skip`."""
        name = name_within(self._path, file)
        if _format(file) == ".parquet":
            return _read_parquet(file, name, self._columns, skip)  # which need not read what it skips
        if _format(file) == ".jsonl":
            return islice(_read_jsonl(file, name), skip, None)
        return (Record(name, item.line, item) for item in islice(_text_documents(file, name), skip, None))


def _read_jsonl(file: Path, name: str) -> Iterator[Record]:
    """Yield a file's lines; whether they are sound JSON is seen when they are parsed."""
    with open_packed(file) as stream:
        line = 0
        while raw := stream.readline(LINE_BYTES):
            line += 1
            if line == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if len(raw) == LINE_BYTES and not raw.endswith(b"\n"):
                yield Record(name, line, Fault(name, line, "line_too_long", f"accepted: up to {LINE_BYTES:,} bytes"))
                while raw and not raw.endswith(b"\n"):
                    raw = stream.readline(LINE_BYTES)
            else:
                yield Record(name, line, raw)


def _read_parquet(file: Path, name: str, wanted: Sequence[str], skip: int) -> Iterator[Record]:
    """Yield a parquet file's rows after the first `skip`; a row's number is its line."""
    with pq.ParquetFile(file) as table:
        columns = [column for column in table.schema_arrow.names if column in wanted or not wanted]
        if not columns:
            detail = f"columns: {table.schema_arrow.names!a}"[:200]
            yield from islice([Record(name, 0, Fault(name, 0, "no_text_or_messages", detail))], skip, None)
            return
        first = 1
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if first + rows <= skip + 1:  # nothing of this group is wanted, and it need not be unpacked
                first += rows
                continue
            for row, record in _read_group(table, group, columns, name, first):
                if row > skip:
                    yield record
            first += rows


def _read_group(
    table: pq.ParquetFile, group: int, columns: list[str], name: str, first: int
) -> Iterator[tuple[int, Record]]:
    """Yield (row, record) of one row group whose first row is `first`."""
    row = first
    for batch in table.iter_batches(batch_size=256, row_groups=[group], columns=columns):
        for index in range(len(batch)):
            try:
                [content] = batch.slice(index, 1).to_pylist()
            except UnicodeDecodeError as error:
                content = Fault(name, row, "invalid_utf8", str(error))
            yield row, Record(name, row, content)
            row += 1


def _text_documents(file: Path, name: str) -> Iterator[Document | Fault]:
    """Yield a plain text's documents: separated by lines of `<|endoftext|>`, and cut where they grow too long."""
    held: list[str] = []
    size, start, cut = 0, 1, False
    for item in _text_lines(file, name):
        if isinstance(item, Fault):
            yield item
            continue
        line, text, last = item
        separated = text.strip() == SEPARATOR
        if not separated:
            held.append(text)
            size += len(text.encode())
        while size > documents.PIECE_BYTES:
            whole = "".join(held)
            end = piece_end(whole, 0)
            if not cut:
                yield Fault(name, start, "long_document_cut")
            yield Document(name, start, text=whole[:end])
            start += whole.count("\n", 0, end)
            held, size, cut = [whole[end:]], len(whole[end:].encode()), True
        if separated or last:
            if "".join(held).strip():
                yield from split_text("".join(held), name, start)
            held, size, start, cut = [], 0, line + 1, False


def _text_lines(file: Path, name: str) -> Iterator[tuple[int, str, bool] | Fault]:
    """Yield (line number, text, whether it is the end) of lines, long ones in pieces; bad UTF-8 is replaced."""
    strict, lenient = (codecs.getincrementaldecoder("utf-8")(errors) for errors in ("strict", "replace"))
    line, ended = 1, True
    with open_packed(file) as stream:
        while True:
            raw = stream.readline(CHUNK_BYTES)
            if line == 1 and ended:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            before = strict.getstate()
            try:
                text = strict.decode(raw, final=not raw)
            except UnicodeDecodeError:
                yield Fault(name, line, "invalid_utf8", "replaced by U+FFFD")
                lenient.setstate(before)
                text = lenient.decode(raw, final=not raw)
                strict.setstate(lenient.getstate())  # a character that continues in the next chunk is whole
            yield line, text, not raw
            if not raw:
                return
            ended = raw.endswith(b"\n")
            line += ended


def _format(file: Path) -> str:
    return Path(file.name.lower().removesuffix(".zst").removesuffix(".gz")).suffix
