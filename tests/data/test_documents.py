"""Every line of the input is a document or a counted error, whatever its container and its state."""

import gzip
import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.recipes import chat

from keylm.base.errors import KeylmError
from keylm.data import documents, readers
from keylm.data.documents import Document, Fault, split_text
from keylm.data.sources import read_source
from keylm.recipe.schema import Source

TEXTS = ["One line.\n", "Two\n\nparagraphs, žluté.\n", "日本語 👋🏽 and\ttabs\r\n", '"quoted" \\ {}\n']
TALK = [chat("Hi?", "Ho!"), chat("A", "B", "C", "D")]


def read(path: Path) -> tuple[list[Document], list[Fault]]:
    items = list(read_source("s", Source(path=str(path))))
    return [item for item in items if isinstance(item, Document)], [i for i in items if isinstance(i, Fault)]


def write(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def lines(records: list[Any]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def frames(content: bytes) -> bytes:
    """Return two zstandard frames, cut in the middle of a line, as one file."""
    half = len(content) // 2
    return b"".join(zstandard.ZstdCompressor().compress(part) for part in (content[:half], content[half:]))


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".zst": frames,
}


@pytest.mark.parametrize("suffix", PACKED)
def test_json_lines_give_their_documents_in_order(suffix: str, tmp_path: Path) -> None:
    records = [{"text": text, "other": [1]} for text in TEXTS] + TALK
    found, faults = read(write(tmp_path / f"a.jsonl{suffix}", PACKED[suffix](lines(records))))
    assert faults == []
    assert [document.text for document in found] == [*TEXTS, None, None]
    assert [list(document.messages) for document in found[4:]] == [talk["messages"] for talk in TALK]
    assert [(document.file, document.line) for document in found] == [
        (f"a.jsonl{suffix}", line) for line in range(1, 7)
    ]


@pytest.mark.parametrize("suffix", PACKED)
def test_plain_text_is_parted_at_separator_lines(suffix: str, tmp_path: Path) -> None:
    content = "<|endoftext|>\n".join(TEXTS).encode()
    found, faults = read(write(tmp_path / f"a.txt{suffix}", PACKED[suffix](content)))
    assert faults == []
    assert [document.text for document in found] == TEXTS
    assert [document.line for document in found] == [1, 3, 7, 9]


def test_parquet_gives_texts_and_conversations_by_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": range(4), "text": TEXTS}), tmp_path / "a.parquet", row_group_size=3)
    mixed = [{"text": None, **talk} for talk in TALK] + [{"text": TEXTS[0], "messages": None}]
    pq.write_table(pa.Table.from_pylist(mixed), tmp_path / "b.parquet")
    found, faults = read(tmp_path)
    assert faults == []
    assert [document.text for document in found] == [*TEXTS, None, None, TEXTS[0]]
    assert [list(document.messages) for document in found[4:6]] == [talk["messages"] for talk in TALK]
    assert [(document.file, document.line) for document in found[3:6]] == [
        ("a.parquet", 4),
        ("b.parquet", 1),
        ("b.parquet", 2),
    ]


FAULTY = {
    b'{"text": "cut off': "malformed_json",
    b"[" * 100_000: "malformed_json",
    b'{"text": "x", "n": ' + b"9" * 5000 + b"}": "malformed_json",
    b'{"text": "\xff\xfe"}': "invalid_utf8",
    b'{"text": ""}': "empty",
    b'{"text": " \\n\\t "}': "empty",
    b"": "empty",
    b"  \t ": "empty",
    b'{"title": "no text"}': "no_text_or_messages",
    b'{"text": 5}': "no_text_or_messages",
    b'{"text": null, "messages": []}': "no_text_or_messages",
    b'{"messages": "hello"}': "no_text_or_messages",
    b'["text"]': "not_a_record",
    b"NaN": "not_a_record",
    b'{"text": "\\ud800"}': "lone_surrogate",
    b'{"messages": [{"role": "user", "content": "\\udfff"}]}': "lone_surrogate",
    b'{"messages": [{"role": "tool", "content": "x"}]}': "unknown_role",
    b'{"messages": [{"role": "\\ud800", "content": "x"}]}': "unknown_role",
    b'{"messages": [{"role": ["user"], "content": "x"}]}': "unknown_role",
    b'{"messages": [null]}': "unknown_role",
    b'{"messages": [{"content": "x"}]}': "unknown_role",
    b'{"messages": [{"role": "user", "content": " "}]}': "empty_turn",
    b'{"messages": [{"role": "user", "content": "x"}, {"role": "assistant"}]}': "empty_turn",
    b'{"messages": [{"role": "user", "content": ["x"]}]}': "empty_turn",
}


@pytest.mark.parametrize("line", FAULTY, ids=lambda line: f"{FAULTY[line]}-{line[:40]!r}")
def test_a_faulty_line_is_counted_and_its_neighbours_are_kept(line: bytes, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", b'{"text": "before"}\n' + line + b'\n{"text": "after"}')
    found, faults = read(file)
    assert [(document.text, document.line) for document in found] == [("before", 1), ("after", 3)]
    assert [(fault.file, fault.line, fault.kind) for fault in faults] == [("a.jsonl", 2, FAULTY[line])]


@pytest.mark.parametrize("line", FAULTY, ids=lambda line: f"{FAULTY[line]}-{line[:40]!r}")
def test_what_is_told_of_a_fault_is_short_and_can_be_written_down(line: bytes, tmp_path: Path) -> None:
    _, [fault] = read(write(tmp_path / "a.jsonl", line + b"\n"))
    assert len(fault.detail.encode()) < 500


@pytest.mark.parametrize("key", ["\ud800", "k" * 10_000])
def test_odd_keys_are_told_short_and_such_that_they_can_be_written_down(key: str, tmp_path: Path) -> None:
    _, [fault] = read(write(tmp_path / "a.jsonl", json.dumps({key: 1}).encode() + b"\n"))
    assert len(fault.detail.encode()) < 500


@pytest.mark.parametrize("suffix", [".jsonl", ".txt"])
def test_a_byte_order_mark_is_no_part_of_the_text(suffix: str, tmp_path: Path) -> None:
    content = b'{"text": "marked"}' if suffix == ".jsonl" else b"marked"
    found, faults = read(write(tmp_path / f"a{suffix}", b"\xef\xbb\xbf" + content))
    assert ([document.text for document in found], faults) == (["marked"], [])


def test_a_line_too_long_is_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LINE_BYTES", 64)
    kept = {"text": "x" * (64 - len('{"text": ""}\n'))}  # exactly LINE_BYTES with its newline
    records = [kept, {"text": "y" * 300}, {"text": "after"}, {"text": "z" * 64}]
    found, faults = read(write(tmp_path / "a.jsonl", lines(records)))
    assert [document.text for document in found] == [kept["text"], "after"]
    assert [(fault.line, fault.kind) for fault in faults] == [(2, "line_too_long"), (4, "line_too_long")]


def test_a_50_megabyte_line_is_cut_into_pieces_in_bounded_memory(tmp_path: Path) -> None:
    size = 50 << 20
    paragraph = "Ein längerer Absatz, der sich wiederholt. " * 40 + "\n\n"
    text = paragraph * (size // len(paragraph.encode()) + 1)
    file = write(tmp_path / "a.jsonl", lines([{"text": text}, {"text": "after"}]))
    expected, position = len(text), 0
    tracemalloc.start()
    for item in read_source("s", Source(path=str(file))):
        if isinstance(item, Document) and item.line == 1:
            assert text.startswith(item.text, position)
            assert len(item.text.encode()) <= documents.PIECE_BYTES
            assert item.text.endswith("\n\n")
            position += len(item.text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert position == expected
    assert peak < 6 * size
    assert item == Document("a.jsonl", 2, text="after")


def test_a_long_text_file_is_read_in_constant_memory(tmp_path: Path) -> None:
    sentence = "This is a sentence of a long book.\n"
    content = sentence * ((16 << 20) // len(sentence))
    file = write(tmp_path / "a.txt.gz", gzip.compress(content.encode(), 1))
    position = 0
    tracemalloc.start()
    for item in read_source("s", Source(path=str(file))):
        if isinstance(item, Document):
            assert content.startswith(item.text, position)
            position += len(item.text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert position == len(content)
    assert peak < 16 * documents.PIECE_BYTES


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    text=st.lists(st.sampled_from(["\n\n", "\n", " ", "word", "é", "日本", "👋"]) | st.text(max_size=4)).map("".join),
    limit=st.integers(8, 40),
)
def test_pieces_are_short_enough_and_add_up_to_the_text(text: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", limit)
    items = list(split_text(text, "f", 1))
    pieces = [item.text for item in items if isinstance(item, Document)]
    kinds = [item.kind for item in items if isinstance(item, Fault)]
    assert "".join(pieces) == (text if text.strip() else "")
    assert all(0 < len(piece.encode()) <= limit for piece in pieces)
    if text.strip():
        assert kinds == (["long_document_cut"] if len(text.encode()) > limit else [])


@pytest.mark.parametrize(
    ("text", "first"),
    [("aaaaaaaa\n\nbbb cc\ndd", "aaaaaaaa\n\n"), ("aaaaaa\nbb ccccccc", "aaaaaa\n"), ("aaaaaa bbbbbbbbb", "aaaaaa ")],
)
def test_a_cut_is_at_a_paragraphs_end_else_a_lines_else_a_words(
    text: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", 12)
    pieces = [item.text for item in split_text(text, "f", 1) if isinstance(item, Document)]
    assert pieces[0] == first


def noise(count: int) -> list[dict[str, str]]:
    rng = random.Random(1)
    return [{"text": rng.randbytes(60).hex()} for _ in range(count)]


@pytest.mark.parametrize("kept", [0.3, 0.8])
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_truncated_archive_gives_what_was_readable_and_a_fault(suffix: str, kept: float, tmp_path: Path) -> None:
    records = noise(20_000)
    content = lines(records)
    packed = gzip.compress(content) if suffix == ".gz" else zstandard.ZstdCompressor().compress(content)
    write(tmp_path / f"a.jsonl{suffix}", packed[: int(kept * len(packed))])
    write(tmp_path / "b.jsonl", b'{"text": "the next file"}\n')
    found, faults = read(tmp_path)
    texts = [document.text for document in found[:-1]]
    assert texts == [record["text"] for record in records[: len(texts)]]
    assert len(texts) > (kept - 0.15) * len(records)
    assert found[-1].text == "the next file"
    assert ("unreadable_file", f"a.jsonl{suffix}") in {(fault.kind, fault.file) for fault in faults}


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstandard.ZstdCompressor(write_checksum=True).compress)]
)
def test_a_damaged_archive_is_a_fault_and_the_next_file_is_read(
    suffix: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    packed = bytearray(pack(lines(noise(2000))))
    packed[len(packed) // 2 : len(packed) // 2 + 64] = b"\xff" * 64
    write(tmp_path / f"a.jsonl{suffix}", bytes(packed))
    write(tmp_path / "b.txt", b"the next file")
    found, faults = read(tmp_path)
    assert found[-1].text == "the next file"
    assert faults[-1].kind == "unreadable_file"


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.txt.zst"])
@pytest.mark.parametrize("content", [b"", b"no such thing " * 9, gzip.compress(b"", mtime=0)[:10] + b"\xff" * 20])
def test_a_file_that_is_not_what_its_name_says_stops_nothing(name: str, content: bytes, tmp_path: Path) -> None:
    write(tmp_path / name, content)
    write(tmp_path / "b.txt", b"the next file")
    found, faults = read(tmp_path)
    assert [document.text for document in found] == ["the next file"]
    # No bytes at all are an empty archive to gzip and zstandard alike, but no parquet file.
    expected = [(name, "unreadable_file")] if content or name == "a.parquet" else []
    assert [(fault.file, fault.kind) for fault in faults] == expected


def test_a_parquet_row_of_invalid_utf8_stops_nothing(tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1, 2, 3)))
    broken = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"a\xffb"))
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    write(tmp_path / "b.txt", b"the next file")
    found, faults = read(tmp_path)
    assert found[-1].text == "the next file"
    assert [fault.file for fault in faults] == ["a.parquet"]


def test_a_parquet_row_without_our_columns_is_a_fault_that_names_them(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    assert read(tmp_path)[1] == [Fault("a.parquet", 1, "no_text_or_messages", "keys: ['body']")]


def test_broken_bytes_in_plain_text_are_replaced_and_counted_by_line(tmp_path: Path) -> None:
    found, faults = read(write(tmp_path / "a.txt", b"good\nb\xffd\n\xef\xbf\xbd is fine\n"))
    assert [document.text for document in found] == ["good\nb\ufffdd\n\ufffd is fine\n"]
    assert [(fault.line, fault.kind) for fault in faults] == [(2, "invalid_utf8")]


@pytest.mark.parametrize("content", [b"good\nb\xffd", b"good\nbad \xe2\x82"])
def test_broken_bytes_in_the_last_line_are_counted_too(content: bytes, tmp_path: Path) -> None:
    _, faults = read(write(tmp_path / "a.txt", content))
    assert [(fault.line, fault.kind) for fault in faults] == [(2, "invalid_utf8")]


def test_plain_text_without_separators_is_cut_where_it_grows_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", 100)
    text = "".join(f"Line {n} of a paragraph.\n" + "\n" * (n % 3 == 2) for n in range(60))
    found, _ = read(write(tmp_path / "a.txt", text.encode()))
    assert "".join(str(document.text) for document in found) == text
    assert len(found) > 10
    for document in found:
        assert document.text.splitlines()[0] == text.splitlines()[document.line - 1]


def test_a_separated_text_within_the_limit_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", 100)
    long = "A line of thirty characters...\n" * 2 + "\nand its second paragraph.\n"
    assert len(long) < 100
    found, _ = read(write(tmp_path / "a.txt", f"{long}<|endoftext|>\nshort\n".encode()))
    assert [document.text for document in found] == [long, "short\n"]


def test_a_folder_is_read_by_name_with_all_below_it(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.jsonl", "a/b/c.jsonl", "c.txt", "ignored.md"):
        write(tmp_path / name, lines([{"text": name}]) if name.endswith("l") else name.encode())
    found, faults = read(tmp_path)
    assert faults == []
    assert [document.text for document in found] == ["a/b/c.jsonl", "a/z.jsonl", "b.jsonl", "c.txt"]
    assert [document.file for document in found] == [document.text for document in found]


@pytest.mark.parametrize("name", ["notes.md", "sub/data.json", None])
def test_nothing_to_read_is_refused_with_what_would_be_accepted(name: str | None, tmp_path: Path) -> None:
    file = write(tmp_path / name, b"x") if name else tmp_path
    for path in (file, tmp_path):
        with pytest.raises(KeylmError, match=rf"{path}: nothing to read; accepted: .jsonl, .*\.parquet, .txt"):
            list(read_source("s", Source(path=str(path))))
