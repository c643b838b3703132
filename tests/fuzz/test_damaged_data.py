"""Damaged data files: read, resumed, adapted, built into shards; what gives no document is a counted fault."""

import gzip
import json
import random
import re
import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fuzz.mutation import budget, dice, mutate_bytes, mutate_json, probe, report
from support.recipes import TINY, chat, sentence, write_jsonl

from keylm.base.files import read_json
from keylm.base.json_lines import read_rows
from keylm.data.adapters import ADAPTERS
from keylm.data.build import build_shards
from keylm.data.documents import Document, Fault, Record
from keylm.data.provenance import DataProvenance
from keylm.data.readers import SEPARATOR, FileRecords
from keylm.data.sources import open_records, parse, read_source
from keylm.data.store import finished_store
from keylm.recipe.load import load_recipe
from keylm.recipe.schema import Source

RNG = random.Random(0)
ROWS: list[dict[str, Any]] = [{"text": sentence(RNG, 9)} for _ in range(8)]
ROWS += [{**chat(f"{sentence(RNG, 3)[:-1]}?", sentence(RNG, 4)), "source": "x"} for _ in range(6)]
TEXTS = [sentence(RNG, 12) + "\n" + sentence(RNG, 5) for _ in range(6)]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".zst": lambda content: b"".join(zstandard.compress(part) for part in (content[:300], content[300:])),
}
KINDS = [*(f".jsonl{end}" for end in PACKERS), *(f".txt{end}" for end in PACKERS), ".parquet"]
LINES = (
    *(b"", b"   ", b"\x00\x00", b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b"null", b"NaN", b"\r"),
    *(b'{"text": "\xc3"}', b'{"text": "a"', b'{"text": "a"} {"text": "b"}', b'{"text": "a", "text": null}'),
    *(b"[" * 3000 + b"]" * 3000, b'{"a":' * 200 + b"1" + b"}" * 200, b'{"text": ' + b"9" * 5000 + b"}"),
    *(b'{"text": "' + b"x y " * 30_000 + b'"}', b'{"messages": ' + b"[{}]" * 2 + b"}"),
    *(b'{"text": "a\\ud800"}', '{"text": "a\u2028b\x85c"}'.encode()),
)
"""Lines of JSON-lines files that are odd as bytes, not as values."""
ODD_TEXTS = (
    *(b"\xff\xfe", b"\x00", b"\xed\xa0\x80", b"\xc3", b"\r\n", b"\n\n", b"x" * 70_000),
    SEPARATOR.encode(),
)


def write_damaged(file: Path, rng: random.Random) -> None:
    """Write a file of its kind that is damaged as values, as text or as bytes."""
    if file.suffix == ".parquet":
        pq.write_table(odd_table(rng), file, row_group_size=5)
    else:
        write_packed(file, odd_lines(rng) if ".jsonl" in file.name else odd_text(rng))
    if rng.random() < 0.4:
        file.write_bytes(mutate_bytes(file.read_bytes(), rng))


def write_packed(file: Path, content: bytes) -> None:
    packer = PACKERS.get(file.suffix, PACKERS[""])
    file.write_bytes(packer(content))


def odd_lines(rng: random.Random) -> bytes:
    lines = [json.dumps(row).encode() for row in ROWS]
    for _ in range(rng.choice((0, 1, 1, 3))):
        at = rng.randrange(len(lines))
        if rng.random() < 0.5:
            lines[at] = rng.choice(LINES)
        else:
            value = mutate_json(json.loads(json.dumps(ROWS[at])), rng)
            lines[at] = json.dumps(value).encode("utf-8", "surrogatepass")
    return rng.choice((b"\n", b"\n", b"\n", b"\r\n")).join(lines) + rng.choice((b"\n", b""))


def odd_text(rng: random.Random) -> bytes:
    parts = [text.encode() for text in TEXTS]
    for _ in range(rng.choice((0, 1, 3))):
        parts.insert(rng.randrange(len(parts)), rng.choice(ODD_TEXTS))
    return f"\n{SEPARATOR}\n".encode().join(parts) + rng.choice((b"\n", b""))


def odd_table(rng: random.Random) -> pa.Table:
    texts: list[Any] = [row.get("text") for row in ROWS]
    column: pa.Array = pa.array(texts)
    kind = rng.randrange(9)
    if kind == 0:
        column = pa.array([None if text is None else text.encode() + b"\xff" for text in texts], pa.binary())
    elif kind == 1:
        column = pa.array([number * 10**6 for number in range(len(texts))], pa.timestamp("us"))
    elif kind == 2:
        column = pa.array([{"text": text, "n": [1]} for text in texts])
    elif kind == 3:
        column = pa.array([[text] for text in texts], pa.list_(pa.string()))
    elif kind == 4:
        column = pa.array(texts).dictionary_encode()
    elif kind == 5:
        column = pa.nulls(len(texts))
    elif kind == 6:  # a string column whose bytes are none
        raw = pa.array([(text or "").encode() + b"\xff\xc3" for text in texts], pa.binary())
        column = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    names = {7: "TEXT", 8: rng.choice(["", "text ", "\x00"])}
    chats = pa.array([row.get("messages") for row in ROWS])
    return pa.table({names.get(kind, "text"): column, "messages": chats if rng.random() < 0.8 else column})


def unpacked(file: Path) -> bytes | None:
    """Return a file's content, unpacked without keylm's readers; None where it cannot be unpacked whole."""
    packed = file.read_bytes()
    try:
        if file.suffix == ".gz":
            return gzip.decompress(packed)
        if file.suffix == ".zst":
            whole = b""
            while packed:
                frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
                whole += frame.decompress(packed)
                if not frame.eof:
                    return None
                packed = frame.unused_data
            return whole
    except (OSError, EOFError, zlib.error, zstandard.ZstdError):
        return None
    return packed


def check_nothing_lost(file: Path, items: list[Document | Fault]) -> None:
    """Raise AssertionError unless every line, row or character of a file is in a document, or a fault tells of it."""
    faults = [item for item in items if isinstance(item, Fault)]
    if any(fault.kind == "unreadable_file" for fault in faults):
        seen = {item.line for item in items if item.line}
        assert file.suffix == ".txt" or ".txt." in file.name or seen == set(range(1, len(seen) + 1))
        return
    if file.suffix == ".parquet":
        rows = pq.ParquetFile(file).metadata.num_rows
        assert {item.line for item in items} in ({0}, set(range(1, rows + 1)))
        return
    content = unpacked(file)
    assert content is not None, "a broken archive without a fault"
    content = content.removeprefix(b"\xef\xbb\xbf")
    if ".jsonl" in file.name:
        lines = content.split(b"\n")[: None if not content.endswith(b"\n") else -1] if content else []
        assert {item.line for item in items} == set(range(1, len(lines) + 1))
        sound = {json.dumps(row).encode(): row for row in ROWS}
        of_line = {item.line: item for item in items}
        for number, line in enumerate(lines, 1):
            if row := sound.get(line.strip(b"\r")):
                assert as_row(of_line[number]) == {key: row[key] for key in row if key != "source"}
        return
    told = "".join(item.text or "" for item in items if isinstance(item, Document))
    wanted = [line for line in content.decode(errors="replace").split("\n") if line.strip() != SEPARATOR]
    assert re.sub(r"\s", "", told) == re.sub(r"\s", "", "".join(wanted))


def as_row(item: Document | Fault) -> dict[str, Any]:
    assert isinstance(item, Document), item
    return {"text": item.text} if item.text is not None else {"messages": list(item.messages)}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_sources(kind: str, tmp_path: Path):
    file, findings = tmp_path / f"x{kind}", {}
    for number in budget(25):
        rng = dice(f"data {kind}", number)
        write_damaged(file, rng)

        def read(file: Path = file, rng: random.Random = rng) -> None:
            source = Source(path=str(file))
            items = list(read_source("x", source))
            check_nothing_lost(file, items)
            records = list(FileRecords(file))
            begun = FileRecords(file)
            given = len(list(islice(begun, rng.randrange(len(records) + 1))))
            assert list(open_records({"x": source}, "x", begun.state())) == records[given:], "resumed elsewhere"

        if found := probe(read):
            findings[f"{kind} {number}"] = found
    report(findings)


@pytest.mark.parametrize("kind", KINDS)
def test_one_lost_document_is_found(kind: str, tmp_path: Path):
    file = tmp_path / f"x{kind}"
    if kind == ".parquet":
        pq.write_table(pa.table({name: [row.get(name) for row in ROWS] for name in ("text", "messages")}), file)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in ROWS)
        write_packed(file, (lines if ".jsonl" in kind else f"\n{SEPARATOR}\n".join(TEXTS)).encode())
    items = list(read_source("x", Source(path=str(file))))
    check_nothing_lost(file, items)
    for number in range(len(items)):
        with pytest.raises(AssertionError):
            check_nothing_lost(file, items[:number] + items[number + 1 :])


WIDE: dict[str, Any] = {
    **{"text": "# Question\nTitle: How to?\n\n# Answer\n> 3 votes\nSo.", "title": "A fern", "body": "I &gt; you"},
    **{"author": "me", "score": "3", "language": "English", "toxic": False, "redacted": False, "rank": 0},
    **{"conversation": chat("Hi?", "Ho.")["messages"], "messages": chat("Q?", "<think>x</think>A.")["messages"]},
    **{"openai_moderation": [{"flagged": False}], "chat_template_kwargs": {"custom_instructions": "Be brief."}},
    **{"message_id": "a", "parent_id": None, "message_tree_id": "t", "role": "prompter", "lang": "en"},
    **{"deleted": False, "review_result": True, "prompt": "q", "response": "r", "question": "q", "answer": "r"},
}
"""A row with the columns of all data sets that have an adapter."""


def test_damaged_rows_of_known_data_sets(tmp_path: Path):
    findings = {}
    for number in budget(100):
        rng = dice("rows", number)
        name = rng.choice(sorted(ADAPTERS))
        row = mutate_json(json.loads(json.dumps(WIDE)), rng)

        def read(name: str = name, row: Any = row) -> None:
            rows = [dict(row) if isinstance(row, dict) else {"text": row}, WIDE, {**WIDE, "message_id": "b"}]
            adapter = ADAPTERS[name]
            for line, one in enumerate(adapter.group(iter(rows)) if adapter.group else rows, 1):
                assert list(parse(Record("f", line, one), adapter)), "a row that gave nothing"

        if found := probe(read):
            findings[f"rows {number} ({name})"] = found
    report(findings)


def test_damaged_files_are_built_into_shards_without_silent_loss(tokenizer: Path, tmp_path: Path):
    findings = {}
    (tmp_path / "recipe.toml").write_text(TINY)
    for name in ("notes", "chat"):
        write_jsonl(tmp_path / f"{name}.jsonl", ROWS)
    for number in budget(12):
        rng = dice("build", number)
        case = tmp_path / str(number)
        case.mkdir()
        file = case / f"x{rng.choice(KINDS)}"
        write_damaged(file, rng)

        def build(file: Path = file, case: Path = case) -> None:
            stage = "stages={pretrain={tokens=256,weights={tales=1.0}}}"
            recipe = load_recipe(tmp_path / "recipe.toml", [f"sources.tales.path={file}", stage])
            provenance, out = DataProvenance.of(recipe), case / "shards"
            manifest = build_shards(recipe, provenance, tokenizer, out, windows={"tales": 10**9}, quiet=True)
            faults = read_rows(out / "tales/faults.jsonl")
            assert sum(manifest.sources["tales"].faults.values()) == len(faults), "faults that are not written down"
            given = {item.line for item in read_source("tales", recipe.sources["tales"])}
            assert shard_lines(out) | {row["line"] for row in faults} == given, "lines that are nowhere"

        if found := probe(build):
            findings[f"build {number} ({file.name})"] = found
    report(findings)


def shard_lines(folder: Path) -> set[int]:
    """Return the lines of the documents in all shards of the source tales."""
    store, found = finished_store(folder), set()
    splits = read_json(folder / "manifest.json")["sources"]["tales"]
    for split in ("train", "validation"):
        for number, record in enumerate(splits[split]["shards"]):
            shard = store.shard("tales", number, split)
            origins = [one for window in range(record["windows"]) for one in shard.origins(window)]
            found |= {line for name, line, _ in origins if name}
    return found
