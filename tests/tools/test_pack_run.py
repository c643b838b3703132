"""A run's curated data go to another machine and come out as they were."""

import importlib
import io
import json
import random
import tarfile
from pathlib import Path

import pytest
import zstandard
from support.recipes import sentence, tiny_recipe

from keylm.base.errors import KeylmError
from keylm.data.readers import FileRecords


@pytest.fixture
def scripts():
    return importlib.import_module("tools.release.pack_run"), importlib.import_module("tools.release.unpack_run")


@pytest.fixture
def run(tmp_path) -> Path:
    """Return a run folder with curated sources, a tokenizer, and much that is not packed."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/words.txt").write_text("teh the\n")
    recipe = tiny_recipe(tmp_path, [f'typos.word_lists=["{tmp_path / "lists/words.txt"}"]'])
    folder, rng = tmp_path / "run", random.Random(0)
    for name in ("tokenizer", "curated/tales", "curated/notes", "curated/.work", "shards", "checkpoints"):
        (folder / name).mkdir(parents=True)
    (folder / "recipe.toml").write_text(recipe.to_toml())
    (folder / "stages.json").write_text("{}")
    (folder / "tokenizer/tokenizer.json").write_bytes(rng.randbytes(30_000))
    (folder / "curated/report.json").write_text('{"hash": "x"}')
    (folder / "curated/.work/lock").write_text("")
    (folder / "shards/manifest.json").write_text("{}")
    for name in ("tales", "notes"):
        lines = "".join(json.dumps({"text": sentence(rng, 12)}) + "\n" for _ in range(2000))
        halves = lines.encode()[:1000], lines.encode()[1000:]  # two frames, as appending leaves them
        packed = b"".join(zstandard.ZstdCompressor(level=1).compress(half) for half in halves)
        (folder / f"curated/{name}/0.jsonl.zst").write_bytes(packed)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def records(file: Path) -> list:
    return list(FileRecords(file))


def test_the_round_trip_keeps_everything_and_makes_it_smaller(scripts, run, tmp_path):
    pack_run, unpack_run = scripts
    found = pack_run.pack(run, tmp_path / "packed", part_bytes=20_000)
    parts = sorted((tmp_path / "packed").glob("part-*.tar"))
    assert len(parts) == len(found["parts"]) > 3
    assert all(part.stat().st_size <= 20_000 for part in parts)
    unpack_run.unpack([tmp_path / "packed"], tmp_path / "there")
    before, after = contents(run), contents(tmp_path / "there")
    assert after.pop("word_lists/words.txt") == b"teh the\n"
    assert set(after) == {name for name in before if not name.startswith(("shards", "checkpoints", "curated/."))}
    for name in ("tales", "notes"):
        file = f"curated/{name}/0.jsonl.zst"
        assert len(after[file]) < len(before[file])
        assert records(tmp_path / "there" / file) == records(run / file)
        del before[file], after[file]
    assert all(before[name] == content for name, content in after.items())


def test_level_0_keeps_the_bytes_and_the_parts_join_to_a_tar(scripts, run, tmp_path):
    pack_run, unpack_run = scripts
    pack_run.pack(run, tmp_path / "packed", part_bytes=10_000, level=0)
    parts = sorted((tmp_path / "packed").glob("part-*.tar"))
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
        assert "curated/tales/0.jsonl.zst" in archive.getnames()
    unpack_run.unpack(parts[::-1], tmp_path / "there")
    assert contents(tmp_path / "there/curated/tales") == contents(run / "curated/tales")


def test_altered_and_missing_parts_and_a_run_that_is_there_are_refused(scripts, run, tmp_path):
    pack_run, unpack_run = scripts
    pack_run.pack(run, tmp_path / "packed", part_bytes=20_000)
    with pytest.raises(KeylmError, match="is there already"):
        unpack_run.unpack([tmp_path / "packed"], run)
    part = tmp_path / "packed/part-01.tar"
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(KeylmError, match=r"part-01\.tar: has not the SHA-256"):
        unpack_run.unpack([tmp_path / "packed"], tmp_path / "there")
    part.unlink()
    with pytest.raises(KeylmError, match=r"part-01\.tar: is missing"):
        unpack_run.unpack([tmp_path / "packed"], tmp_path / "there")
    (tmp_path / "packed/parts.json").unlink()
    with pytest.raises(KeylmError, match="missing or damaged"):
        unpack_run.unpack([tmp_path / "packed"], tmp_path / "there")
    assert not (tmp_path / "there").exists()
