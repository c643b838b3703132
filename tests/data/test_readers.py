"""Readers find every file that is there, say what they cannot look at, and resume exactly after any record."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from support.recipes import write_jsonl

from keylm.base.errors import KeylmError
from keylm.data import readers
from keylm.data.documents import Document, Fault
from keylm.data.provenance import input_bytes
from keylm.data.readers import FileRecords, list_source, name_within, source_files
from keylm.data.sources import read_source
from keylm.recipe.schema import Source


def names(folder: Path) -> list[str]:
    return [name_within(folder, file) for file in source_files(folder)]


def put(file: Path) -> Path:
    """Write a file that names itself."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return write_jsonl(file, [{"text": file.name}])


def damaged_group(file: Path, rows: int, group: int, broken: int) -> None:
    """Write a parquet file whose row group `broken` cannot be read."""
    table = pa.table({"text": [f"{file.name} {n} " + "x" * 40 for n in range(rows)]})
    pq.write_table(table, file, row_group_size=group, compression="gzip", use_dictionary=False)
    place = pq.ParquetFile(file).metadata.row_group(broken).column(0).data_page_offset
    content = bytearray(file.read_bytes())
    content[place : place + 40] = b"\xff" * 40
    file.write_bytes(content)


def mixed_folder(folder: Path) -> Path:
    """Return a folder of sound and damaged files of all kinds."""
    folder.mkdir()
    lines = "".join(json.dumps({"text": f"line {n} {os.urandom(40).hex()}"}) + "\n" for n in range(400)).encode()
    (folder / "a.jsonl").write_bytes(b'{"text": "one"}\nbroken\n\n{"text": "two"}\n')
    (folder / "b.parquet").write_bytes(b"no parquet file at all")
    damaged_group(folder / "c.parquet", rows=9, group=3, broken=1)
    damaged_group(folder / "d.parquet", rows=4, group=1, broken=2)  # the broken group has but one row
    damaged_group(folder / "e.parquet", rows=3, group=1, broken=0)
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(5)]}), folder / "f.parquet", row_group_size=2)
    (folder / "g.jsonl.gz").write_bytes(gzip.compress(lines)[:6000])
    (folder / "h.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines)[:-200])
    (folder / "i.txt").write_bytes(b"text \xff\n<|endoftext|>\nmore\n")
    (folder / "j.txt.gz").write_bytes(b"no archive")
    pq.write_table(pa.table({"body": ["x"]}), folder / "k.parquet")
    (folder / "l.jsonl.gz").write_bytes(b"")
    return folder


def test_reading_goes_on_exactly_behind_every_record_of_a_mixed_folder(tmp_path: Path) -> None:
    folder = mixed_folder(tmp_path / "mixed")
    whole = []
    records = FileRecords(folder, ("text",))
    for record in records:
        whole.append((record, records.state()))
    broken = [r.file for r, _ in whole if isinstance(r.content, Fault) and r.content.kind == "unreadable_file"]
    assert broken == [
        "b.parquet",
        "c.parquet",
        "d.parquet",
        "e.parquet",
        "g.jsonl.gz",
        "h.jsonl.zst",
        "j.txt.gz",
    ]
    assert [record.file for record, _ in whole].count("d.parquet") == 3
    for number, (_, state) in enumerate(whole, 1):
        rest = FileRecords(folder, ("text",), state)
        assert [(record, rest.state()) for record in rest] == whole[number:], state


@pytest.mark.parametrize("name", ["a.JSONL", "A.Jsonl.GZ", "a.jsonl.ZST", "a.TXT", "a.Txt.Gz", "a.PARQUET"])
def test_endings_in_capitals_are_read(name: str, tmp_path: Path) -> None:
    pack: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    content = b"Hello." if ".txt" in name.lower() else b'{"text": "Hello."}\n'
    if name == "a.PARQUET":
        pq.write_table(pa.table({"text": ["Hello."]}), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pack.get(Path(name).suffix.lower(), bytes)(content))
    for path in (tmp_path, tmp_path / name):
        [document] = read_source("s", Source(path=str(path)))
        assert isinstance(document, Document)
        assert (document.file, document.text) == (name, "Hello.")
    size = (tmp_path / name).stat().st_size
    packed = name.lower().endswith((".gz", ".zst", ".parquet"))
    assert input_bytes("s", Source(path=str(tmp_path))) == size * (4 if packed else 1)


def test_files_that_are_not_read_are_listed(tmp_path: Path) -> None:
    for name in ("a.jsonl", "README.md", "deep/b.json", "deep/c.jsonl.xz"):
        put(tmp_path / name)
    files, others = list_source(tmp_path)
    assert [name_within(tmp_path, file) for file in files] == ["a.jsonl"]
    assert [name_within(tmp_path, file) for file in others] == ["README.md", "deep/b.json", "deep/c.jsonl.xz"]


def test_linked_folders_and_files_are_read_by_the_links_name(tmp_path: Path) -> None:
    elsewhere, data = tmp_path / "elsewhere", tmp_path / "data"
    put(elsewhere / "deep" / "a.jsonl")
    put(data / "b.jsonl")
    (data / "more").symlink_to(elsewhere)
    (data / "c.jsonl").symlink_to(elsewhere / "deep" / "a.jsonl")
    assert names(data) == ["b.jsonl", "c.jsonl", "more/deep/a.jsonl"]
    [first, *_] = read_source("s", Source(path=str(data)))
    assert isinstance(first, Document)
    (tmp_path / "link").symlink_to(data)
    assert names(tmp_path / "link") == names(data)


def test_links_in_a_circle_end_and_no_folder_is_read_twice(tmp_path: Path) -> None:
    put(tmp_path / "a" / "deep" / "x.jsonl")
    put(tmp_path / "b" / "y.jsonl")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "aside").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "aside").symlink_to(tmp_path / "a")
    (tmp_path / "0-current").symlink_to(tmp_path / "b")
    assert names(tmp_path) == ["a/deep/x.jsonl", "b/y.jsonl"]
    assert names(tmp_path / "b") == ["aside/deep/x.jsonl", "y.jsonl"]


@pytest.mark.parametrize("target", ["nowhere", "b.jsonl", "../gone/b.jsonl"])
def test_a_link_that_leads_nowhere_is_named(target: str, tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to(target)  # one leads to itself
    with pytest.raises(KeylmError, match=r"/b\.jsonl: is a link that leads nowhere; fix it or delete it"):
        source_files(tmp_path)


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.jsonl")
    put(tmp_path / "closed" / "b.jsonl")
    scandir = os.scandir

    def refusing(path: Any) -> Any:  # as the system does; root, whom it lets in everywhere, may run this
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(KeylmError, match=r"/closed: cannot be read: Permission denied"):
        source_files(tmp_path)


@pytest.mark.parametrize("kind", ["gone", "circle", "pipe"])
def test_a_path_at_which_nothing_can_be_read_is_told(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    if kind == "circle":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    told = "does not exist; accepted: a file or folder" if kind == "gone" else "cannot be read: "
    with pytest.raises(KeylmError) as caught:
        source_files(path)
    assert str(path) in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize("shift", range(5))
@pytest.mark.parametrize("character", ["é", "日", "👋"])
def test_a_character_across_chunks_stays_whole_beside_a_broken_byte(
    shift: int, character: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "CHUNK_BYTES", 16)
    before = b"bad\xff" + b"x" * (12 - shift)
    (tmp_path / "a.txt").write_bytes(before + f"{character} and {character * 9} on\n".encode() + b"\xfe end")
    items = list(read_source("s", Source(path=str(tmp_path))))
    [document] = [item for item in items if isinstance(item, Document)]
    text = "bad\ufffd" + "x" * (12 - shift) + f"{character} and {character * 9} on\n\ufffd end"
    assert document.text == text
    assert [(item.line, item.kind) for item in items if isinstance(item, Fault)] == [
        (1, "invalid_utf8"),
        (2, "invalid_utf8"),
    ]
