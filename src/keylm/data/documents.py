"""Documents: what one record of any file is, a text or a conversation, or a fault that is counted.

Invariant: every record becomes documents or a fault with file and line; nothing is lost in silence. A text longer
than PIECE_BYTES is cut at paragraph ends into several documents, all of which are kept.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keylm.recipe.schema import PIECE_BYTES as PIECE_BYTES

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Document:
    """A text, or a conversation; `file` is relative to its source's path, `line` counts from 1."""

    file: str
    line: int
    text: str | None = None
    messages: tuple[dict[str, str], ...] = ()


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
    """Return the value that a line of JSON holds, or a Fault."""
    if not raw.strip():
        return Fault(file, line, "empty")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault(file, line, "invalid_utf8", str(error))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return Fault(file, line, "malformed_json", str(error)[:200])


def read_record(record: object, file: str, line: int) -> Iterator[Document | Fault]:
    """Yield what one record is: `{"text": …}` or `{"messages": [{"role", "content"}, …]}`, other keys ignored."""
    if not isinstance(record, Mapping):
        yield Fault(file, line, "not_a_record", type(record).__name__)
    elif isinstance(record.get("messages"), list | tuple) and len(record["messages"]):
        yield _conversation(record["messages"], file, line)
    elif isinstance(record.get("text"), str):
        yield from split_text(record["text"], file, line)
    else:
        yield Fault(file, line, "no_text_or_messages", f"keys: {list(record)[:8]!a}"[:200])


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
        end = piece_end(text, start)
        yield Document(file, line, text=text[start:end])
        start = end


def piece_end(text: str, start: int) -> int:
    """Return where the piece from `start` ends: at most PIECE_BYTES on, after the last good break."""
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
            return Fault(file, line, "unknown_role", f"accepted: {', '.join(ROLES)}; got {role!a}"[:200])
        content = message.get("content")
        if not isinstance(content, str) or not content.strip():
            return Fault(file, line, "empty_turn")
        if not _is_unicode(content):
            return Fault(file, line, "lone_surrogate")
        turns.append({"role": str(message["role"]), "content": content})
    return Document(file, line, messages=tuple(turns))


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
