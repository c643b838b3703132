"""Documents: what one record of any file is, a text or a conversation, or a fault that is counted.

Invariant: every record becomes documents or a fault with file and line; nothing is lost in silence. A text longer
than PIECE_BYTES is cut at paragraph ends into several documents, all of which are kept.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keylm.data.turns import TurnError, is_unicode, read_conversation
from keylm.recipe.schema import PIECE_BYTES as PIECE_BYTES

MOST_NESTED = 100
"""Levels of lists and tables that a line may have; far below what stops Python."""
MOST_BRACKETS = 2_000_000
"""Opening brackets in a line, each of which may cost 150 bytes of memory."""


@dataclass(frozen=True)
class Document:
    """A text, or a conversation; `file` is relative to its source's path, `line` counts from 1."""

    file: str
    line: int
    text: str | None = None
    messages: tuple[dict[str, str], ...] = ()
    """{"role", "content"}, and {"weight": "0"} where a turn must carry no loss"""


@dataclass(frozen=True)
class Fault:
    """A line that gave no document, or was changed on the way (`kind` says which), and where it is."""

    file: str
    line: int
    kind: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a file: a line of JSON, a row, or what a reader has already parsed it to."""

    file: str
    line: int
    content: "bytes | Mapping[str, Any] | Document | Fault"
    source: str = ""
    """Where a source is made from others: which of them this comes from."""
    epoch: int = 0
    """Where a source goes over its origins several times: which time this is."""


def parse_line(raw: bytes, file: str, line: int) -> object:
    """Return the value that a line of JSON holds, or a Fault; memory is bounded whatever the line is."""
    if not raw.strip():
        return Fault(file, line, "empty")
    brackets = raw.count(b"[") + raw.count(b"{")
    if brackets > MOST_BRACKETS:
        return Fault(file, line, "too_many_values", f"{brackets:,} lists and tables; accepted: {MOST_BRACKETS:,}")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault(file, line, "invalid_utf8", str(error))
    try:
        value: object = json.loads(text)
    except ValueError as error:
        return Fault(file, line, "malformed_json", str(error)[:200])
    except RecursionError:
        value = None
    if brackets > MOST_NESTED and (value is None or _is_deep(value)):
        return Fault(file, line, "nested_too_deep", f"accepted: {MOST_NESTED} levels")
    return value


def _is_deep(value: object) -> bool:
    """Return whether a value is nested deeper than MOST_NESTED; what copies or shows values would stop there."""
    level = [value]
    for _ in range(MOST_NESTED + 1):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [value for values in inner for value in values]
    return bool(level)


def read_record(record: object, file: str, line: int) -> Iterator[Document | Fault]:
    """Yield what one record is: `{"text": …}`, or `{"messages": [{"role", "content"}, …]}` with columns beside it."""
    if not isinstance(record, Mapping):
        yield Fault(file, line, "not_a_record", type(record).__name__)
    elif isinstance(record.get("messages"), list | tuple) and len(record["messages"]):
        yield from _conversation(record, file, line)
    elif isinstance(record.get("text"), str):
        yield from split_text(record["text"], file, line)
    else:
        yield Fault(file, line, "no_text_or_messages", value_types(record))


def value_types(record: Mapping[Any, object]) -> str:
    """Return the names of a record's first values and of their types, for a fault's detail."""
    return f"keys: { {key: type(record[key]).__name__ for key in list(record)[:8]}!a}"[:200]


def split_text(text: str, file: str, line: int) -> Iterator[Document | Fault]:
    """Yield a text as one document, or cut at paragraph ends, line ends or spaces where it is too long."""
    if not text.strip():
        yield Fault(file, line, "empty")
        return
    if not is_unicode(text):
        yield Fault(file, line, "lone_surrogate")
        return
    if len(text) > PIECE_BYTES // 4 and len(text.encode()) > PIECE_BYTES:
        yield Fault(file, line, "long_document_cut", f"{len(text.encode())} bytes")
    start = 0
    while start < len(text):
        end = piece_end(text, start)
        yield Document(file, line, text=text[start:end])
        start = end


def piece_end(text: str, start: int, most: int | None = None) -> int:
    """Return where the piece from `start` ends: at most `most` bytes (PIECE_BYTES) on, after the last good break."""
    most = most or PIECE_BYTES
    piece = text[start : start + most]
    size = len(piece.encode())
    if size > most:
        piece = piece.encode()[:most].decode("utf-8", errors="ignore")
    end = start + len(piece)
    if end >= len(text):
        return len(text)
    for separator in ("\n\n", "\n", " "):
        cut = piece.rfind(separator, len(piece) // 2)
        if cut > 0:
            return start + cut + len(separator)
    return end


def _conversation(record: Mapping[str, Any], file: str, line: int) -> Iterator[Document | Fault]:
    """Yield a conversation whose every turn has a known role and some text, or what is wrong with it."""
    try:
        turns, notices = read_conversation(record["messages"], record)
    except TurnError as error:
        yield Fault(file, line, error.kind, error.detail)
        return
    yield from (Fault(file, line, notice.kind, notice.detail) for notice in notices)
    yield Document(file, line, messages=tuple(turns))


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
