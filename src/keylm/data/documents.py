"""Readers: .jsonl(.zst|.gz), .parquet and .txt files to documents, one after the other in constant memory.

Invariant: every line of the input is a document or a counted fault with file and line; nothing is lost in
silence and nothing in the input can stop the reading. A text longer than PIECE_BYTES is cut at paragraph ends
into several documents, all of which are kept.
"""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from keylm.errors import KeylmError

PIECE_BYTES = 1 << 20
"""Longest document, in UTF-8 bytes; longer texts are cut."""
LINE_BYTES = 256 << 20
"""Longest line of a JSON-lines file that is read at all, in bytes."""
ROLES = ("system", "user", "assistant")
SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".parquet", ".txt", ".txt.zst", ".txt.gz")
SEPARATOR = "<|endoftext|>"
"""A line of a .txt file that ends a document."""


@dataclass(frozen=True)
class Document:
    """A text, or a conversation; `file` is relative to its source's path, `line` counts from 1."""

    file: str
    line: int
    text: str | None = None
    messages: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True)
class Fault:
    """A line that gave no document, or that was changed on the way (`kind` says which), and where it stands."""

    file: str
    line: int
    kind: str
    detail: str = ""


def source_files(path: Path) -> list[Path]:
    """Return the readable files of a source in a fixed order: `path` itself, or all below it by name.

    Raises KeylmError where there is none.
    """
    if path.is_file():
        files = [path] if path.name.endswith(SUFFIXES) else []
    else:
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
    if not files:
        raise KeylmError(f"{path}: nothing to read; accepted: {', '.join(SUFFIXES)}, or a folder of such files")
    return files


def read_documents(path: Path) -> Iterator[Document | Fault]:
    """Yield the documents and faults of a file or folder, in order."""
    for file in source_files(path):
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        try:
            yield from _READERS[_format(file)](file, name)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException) as error:
            # A damaged archive: what was readable before the damage has been yielded already.
            yield Fault(name, 0, "unreadable_file", str(error))


def read_line(raw: bytes, file: str, line: int) -> Iterator[Document | Fault]:
    """Yield what one line of JSON is: a document, several pieces of a long one, or a fault."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        yield Fault(file, line, "invalid_utf8", str(error))
        return
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        yield Fault(file, line, "malformed_json", str(error)[:200])
        return
    yield from read_record(record, file, line)


def read_record(record: object, file: str, line: int) -> Iterator[Document | Fault]:
    """Yield what one record is: `{"text": …}` or `{"messages": [{"role", "content"}, …]}`, other keys ignored."""
    if not isinstance(record, Mapping):
        yield Fault(file, line, "not_a_record", type(record).__name__)
    elif isinstance(record.get("messages"), list | tuple) and len(record["messages"]):
        yield _conversation(record["messages"], file, line)
    elif isinstance(record.get("text"), str):
        yield from split_text(record["text"], file, line)
    else:
        yield Fault(file, line, "no_text_or_messages", ", ".join(map(str, list(record)[:8])))


def split_text(text: str, file: str, line: int) -> Iterator[Document | Fault]:
    """Yield a text as one document, or cut at paragraph ends, line ends or spaces where it is too long."""
    if not text.strip():
        yield Fault(file, line, "empty")
        return
    if not _is_unicode(text):
        yield Fault(file, line, "lone_surrogate")
        return
    if len(text) > PIECE_BYTES // 4 and len(text.encode()) > PIECE_BYTES:
        yield Fault(file, line, "long_document_cut", f"{len(text.encode())} bytes")
    start = 0
    while start < len(text):
        end = _piece_end(text, start)
        yield Document(file, line, text=text[start:end])
        start = end


def _piece_end(text: str, start: int) -> int:
    """Return where the piece from `start` ends: at most PIECE_BYTES on, behind the last good break."""
    piece = text[start : start + PIECE_BYTES]
    size = len(piece.encode())
    if size > PIECE_BYTES:
        piece = piece.encode()[:PIECE_BYTES].decode("utf-8", errors="ignore")
    end = start + len(piece)
    if end >= len(text):
        return len(text)
    for separator in ("\n\n", "\n", " "):
        cut = piece.rfind(separator, len(piece) // 2)
        if cut > 0:
            return start + cut + len(separator)
    return end


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _conversation(messages: Any, file: str, line: int) -> Document | Fault:
    """Return a conversation whose every turn has a known role and some text, or what is wrong with it."""
    turns = []
    for message in messages:
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            role = message.get("role") if isinstance(message, Mapping) else message
            return Fault(file, line, "unknown_role", f"{role!r}; accepted: {', '.join(ROLES)}"[:200])
        content = message.get("content")
        if not isinstance(content, str) or not content.strip():
            return Fault(file, line, "empty_turn")
        if not _is_unicode(content):
            return Fault(file, line, "lone_surrogate")
        turns.append({"role": str(message["role"]), "content": content})
    return Document(file, line, messages=tuple(turns))


def _open(file: Path) -> IO[bytes]:
    """Open a plain, gzip or zstandard file for reading bytes."""
    if file.name.endswith(".zst"):
        # Several frames in one file are one stream, as the zstd program writes them.
        reader = zstandard.ZstdDecompressor().stream_reader(file.open("rb"), read_across_frames=True, closefd=True)
        return io.BufferedReader(cast(io.RawIOBase, reader), 1 << 20)
    if file.name.endswith(".gz"):
        return cast(IO[bytes], gzip.open(file, "rb"))
    return file.open("rb")


def _read_jsonl(file: Path, name: str) -> Iterator[Document | Fault]:
    with _open(file) as stream:
        line = 0
        while raw := stream.readline(LINE_BYTES):
            line += 1
            if len(raw) == LINE_BYTES and not raw.endswith(b"\n"):
                yield Fault(name, line, "line_too_long", f"over {LINE_BYTES} bytes")
                while raw and not raw.endswith(b"\n"):
                    raw = stream.readline(LINE_BYTES)
            elif raw.strip():
                yield from read_line(raw, name, line)
            else:
                yield Fault(name, line, "empty")


def _read_parquet(file: Path, name: str) -> Iterator[Document | Fault]:
    """Yield a parquet file's rows; a row's number stands for the line."""
    with pq.ParquetFile(file) as table:
        columns = [column for column in ("text", "messages") if column in table.schema_arrow.names]
        if not columns:
            yield Fault(name, 0, "no_text_or_messages", ", ".join(table.schema_arrow.names))
            return
        row = 0
        for batch in table.iter_batches(batch_size=256, columns=columns):
            for record in batch.to_pylist():
                row += 1
                yield from read_record(record, name, row)


def _read_text(file: Path, name: str) -> Iterator[Document | Fault]:
    """Yield a plain text's documents: parted by lines of `<|endoftext|>`, else cut where they grow too long."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    held: list[str] = []
    start, line, size = 1, 0, 0
    with _open(file) as stream:
        for raw in iter(lambda: stream.readline(PIECE_BYTES // 2), b""):
            text = decoder.decode(raw, final=False)
            line += raw.endswith(b"\n")
            if "\ufffd" in text and b"\xef\xbf\xbd" not in raw:
                yield Fault(name, line, "invalid_utf8", "replaced by U+FFFD")
            separated = text.strip() == SEPARATOR
            if not separated:
                held.append(text)
                size += len(raw)
            if separated or (size > PIECE_BYTES // 2 and text == "\n") or size > PIECE_BYTES:
                yield from _flush_text(held, name, start)
                held, size, start = [], 0, line + 1
    held.append(decoder.decode(b"", final=True))
    yield from _flush_text(held, name, start)


def _flush_text(held: list[str], name: str, line: int) -> Iterator[Document | Fault]:
    text = "".join(held)
    if text.strip():
        yield from split_text(text, name, line)


def _format(file: Path) -> str:
    return Path(file.name.removesuffix(".zst").removesuffix(".gz")).suffix


_READERS: dict[str, Callable[[Path, str], Iterator[Document | Fault]]] = {
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}
