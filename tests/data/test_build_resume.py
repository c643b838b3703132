"""A build that is killed, stopped, short of disk or shared among workers leaves the bytes of one that was not."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from support.recipes import tiny_recipe

from keylm.base import files
from keylm.cli.main import main as cli
from keylm.data import build, documents, shards, source_builder
from keylm.data.build import build_shards, windows_taken
from keylm.data.provenance import DataProvenance
from keylm.data.store import finished_store
from keylm.recipe.load import Recipe, load_recipe

SMALL = ["data.shard_tokens=2048"]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_builder, "BATCH_BYTES", 3000)


def make(
    recipe: Recipe, tokenizer: Path, folder: Path, windows: int | None = 10**9, workers: int = 1
) -> dict[str, Any]:
    """Build so many windows of each source (all there are by default; None: what the recipe takes)."""
    wanted = None if windows is None else dict.fromkeys(recipe.used_sources, windows)
    provenance = DataProvenance.of(recipe)
    manifest = build_shards(recipe, provenance, tokenizer, folder, workers=workers, windows=wanted, quiet=True)
    return manifest.model_dump()


def recorded(folder: Path) -> dict[Path, int]:
    """Return the shards that are finished, and when each was written."""
    finished = {}
    for file in folder.glob("*/source.json"):
        names = [record["file"] for split in json.loads(file.read_text())["shards"].values() for record in split]
        finished |= {file.parent / name: (file.parent / name).stat().st_mtime_ns for name in names}
    return finished


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_any_number_of_workers_gives_the_same_bytes(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "SMALL_BYTES", 0)
    recipe = tiny_recipe(tmp_path, SMALL)
    alone = make(recipe, tokenizer, tmp_path / "alone")
    assert len(alone["sources"]["tales"]["train"]["shards"]) > 5
    make(recipe, tokenizer, tmp_path / "helped", workers=2)
    assert contents(tmp_path / "helped") == contents(tmp_path / "alone")


# Builds all of a recipe and kills itself at the given flush to the disk: each file is flushed before it is renamed,
# and its folder afterwards, so the flushes lie on both sides of everything that appears.
KILL_AT_FLUSH = """
import os, signal, sys
from pathlib import Path
from keylm.base import files
from keylm.data import build, source_builder
from keylm.data.provenance import DataProvenance
from keylm.recipe.load import load_recipe
recipe_file, tokenizer, folder, workers, last = sys.argv[1:]
flush, calls = files.flush, []
def counted(path):
    calls.append(path)
    if len(calls) == int(last):
        os.kill(os.getpid(), signal.SIGKILL)
    flush(path)
files.flush = counted
source_builder.BATCH_BYTES = 3000
build.SMALL_BYTES = 0
if __name__ == "__main__":
    recipe = load_recipe(Path(recipe_file), ["data.shard_tokens=2048"])
    everything = dict.fromkeys(recipe.used_sources, 10**9)
    places = recipe, DataProvenance.of(recipe), Path(tokenizer), Path(folder)
    build.build_shards(*places, workers=int(workers), windows=everything, quiet=True)
"""


def command(folder: Path, tokenizer: Path, script: str, *arguments: object) -> list[str]:
    (folder / "child.py").write_text(script)
    given = [folder / "recipe.toml", tokenizer, folder / "shards", *arguments]
    return [sys.executable, str(folder / "child.py"), *map(str, given)]


@pytest.mark.parametrize(("last", "workers"), [(1, 1), (5, 1), (28, 1), (31, 2), (45, 1), (-1, 1)])
def test_kill_9_and_starting_again_leaves_no_trace(
    last: int, workers: int, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(tmp_path, SMALL)
    flush, flushed = files.flush, []
    monkeypatch.setattr(files, "flush", lambda path: flushed.append(flush(path)))
    expected = make(recipe, tokenizer, tmp_path / "straight")
    last = last if last > 0 else len(flushed) + last  # -1: the manifest is written, but not under its name yet
    child = subprocess.run(command(tmp_path, tokenizer, KILL_AT_FLUSH, workers, last))
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "shards" / "manifest.json").exists()
    before = recorded(tmp_path / "shards")
    assert last < 10 or len(before) > 3
    assert make(recipe, tokenizer, tmp_path / "shards") == expected
    after = recorded(tmp_path / "shards")
    assert before.items() <= after.items(), "what was finished is not written again"
    assert contents(tmp_path / "shards") == contents(tmp_path / "straight")


def test_a_record_of_faults_that_was_altered_is_written_again(tokenizer: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, SMALL)
    with (tmp_path / "tales.jsonl").open("a") as tales:
        tales.write('{"text": 3}\n[]\n')
    make(recipe, tokenizer, tmp_path / "shards")
    expected = contents(tmp_path / "shards")
    log = tmp_path / "shards/tales/faults.jsonl"
    assert log.read_text().count("\n") == 2
    log.write_text(log.read_text().replace("not_a_record", "x"))
    make(recipe, tokenizer, tmp_path / "shards")
    assert contents(tmp_path / "shards") == expected


SLEEP_IN_THE_MIDDLE = """
import sys, time
from pathlib import Path
from keylm.data import build, shards, source_builder
from keylm.data.provenance import DataProvenance
from keylm.recipe.load import load_recipe
recipe_file, tokenizer, folder = sys.argv[1:]
source_builder.BATCH_BYTES = 3000
build.SMALL_BYTES = 0
close = shards.ShardWriter.close
def slow(self, path, lengths):
    print("ready", flush=True)
    time.sleep(60)
if __name__ == "__main__":
    shards.ShardWriter.close = slow
    recipe = load_recipe(Path(recipe_file))
    build.build_shards(recipe, DataProvenance.of(recipe), Path(tokenizer), Path(folder), workers=2, quiet=True)
"""


def children(process: int) -> set[int]:
    found = set()
    for task in Path(f"/proc/{process}/task").iterdir():
        found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def lives(process: int) -> bool:
    """Return whether a process is there and no zombie that waits for its parent."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_no_worker_outlives_a_build_that_was_killed(tokenizer: Path, tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    with subprocess.Popen(command(tmp_path, tokenizer, SLEEP_IN_THE_MIDDLE), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        born = children(process.pid)
        assert len(born) >= 2
        process.kill()
    deadline = time.monotonic() + 3
    while any(map(lives, born)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [child for child in born if lives(child)] == []


TEXTS = [f"Tale {n} of the old man " + "and the sea " * (n % 17) + "." for n in range(240)]


def json_lines(given: Iterable[str]) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in given)


def write_jsonl(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(json_lines(TEXTS[:100]) + b'{"text": 5}\nnot JSON\n' + json_lines(TEXTS[100:]))


def write_zst(folder: Path) -> None:
    packed = b"".join(zstandard.ZstdCompressor().compress(json_lines([text])) for text in TEXTS[:150])
    (folder / "a.jsonl.zst").write_bytes(packed[:-20])  # breaks off
    (folder / "b.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(json_lines(TEXTS[150:])))


def write_parquet(folder: Path) -> None:
    rows = [{"text": text} if n % 31 else {"text": None} for n, text in enumerate(TEXTS)]
    pq.write_table(pa.Table.from_pylist(rows[:160]), folder / "a.parquet", row_group_size=23)
    pq.write_table(pa.table({"body": ["x"]}), folder / "b.parquet")
    pq.write_table(pa.Table.from_pylist(rows[160:]), folder / "c.parquet", row_group_size=300)


def write_text(folder: Path) -> None:
    paragraphs = "\n\n".join(TEXTS[:200]).encode()  # far beyond PIECE_BYTES: cut into many documents
    (folder / "a.txt").write_bytes(paragraphs + b"\n<|endoftext|>\n\xff broken\n" + "\n".join(TEXTS[200:]).encode())
    (folder / "b.txt").write_bytes(b"the last file")


KINDS = {"jsonl": write_jsonl, "jsonl.zst": write_zst, "parquet": write_parquet, "txt": write_text}


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_of_any_kind_can_be_left_and_taken_up_at_every_shard(
    kind: str, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", 700)
    (tmp_path / "texts").mkdir()
    KINDS[kind](tmp_path / "texts")
    tiny_recipe(tmp_path)
    only = [*SMALL, "stages={all={tokens=512, weights={tales=1}}}", f'sources.tales.path="{tmp_path / "texts"}"']
    check_every_boundary(tiny_recipe(tmp_path, only), tokenizer, tmp_path)


def test_noise_over_several_sources_can_be_left_and_taken_up_at_every_shard(tokenizer: Path, tmp_path: Path) -> None:
    forms = "{masked=1, correction=1, pair=1}"
    mixed = f'sources.noisy={{typos_of=["tales", "notes", "chat"], passes=2, forms={forms}}}'
    only = [*SMALL, mixed, "stages={all={tokens=512, weights={noisy=1}}}"]
    check_every_boundary(tiny_recipe(tmp_path, only), tokenizer, tmp_path)


def check_every_boundary(recipe: Recipe, tokenizer: Path, folder: Path) -> None:
    """Build shard by shard, each as a build of its own, and compare with a build in one go."""
    expected = make(recipe, tokenizer, folder / "straight")
    [(name, source)] = expected["sources"].items()
    count = len(source["train"]["shards"])
    assert count > 3
    built = 0
    for number in range(1, count):
        entry = make(recipe, tokenizer, folder / "shards", windows=built + 1)["sources"][name]
        assert len(entry["train"]["shards"]) == number
        assert not entry["exhausted"]
        built = entry["train"]["windows"]
    assert make(recipe, tokenizer, folder / "shards") == expected
    assert contents(folder / "shards") == contents(folder / "straight")


def test_max_bytes_ends_a_source_in_a_later_shard(tokenizer: Path, tmp_path: Path) -> None:
    whole = make(tiny_recipe(tmp_path, SMALL), tokenizer, tmp_path / "whole")["sources"]["tales"]
    sizes = [len(json.loads(line)["text"]) for line in (tmp_path / "tales.jsonl").read_text().splitlines()]
    limit = sum(sizes[:150]) + 3
    recipe = tiny_recipe(tmp_path, [*SMALL, f"sources.tales.max_bytes={limit}"])
    for windows in (1, 10**9):  # in two goes
        cut = make(recipe, tokenizer, tmp_path / "cut", windows=windows)["sources"]["tales"]
    splits = [cut["train"], cut["validation"]]
    assert cut["exhausted"]
    assert sum(split["documents"] for split in splits) == 150
    assert sum(split["bytes"] for split in splits) == sum(sizes[:150])
    first = cut["train"]["shards"][:-1]
    assert len(first) > 2
    assert first == whole["train"]["shards"][: len(first)]


def test_no_more_is_built_than_the_recipe_takes_and_a_longer_one_goes_on(tokenizer: Path, tmp_path: Path) -> None:
    short = tiny_recipe(tmp_path, SMALL)
    manifest = make(short, tokenizer, tmp_path / "shards", windows=None)
    taken = windows_taken(short)
    for name, entry in manifest["sources"].items():
        sizes = [record["windows"] for record in entry["train"]["shards"]]
        assert sum(sizes) >= taken[name] > sum(sizes[:-1]), "the last shard is needed"
    assert not manifest["sources"]["tales"]["exhausted"]
    before = recorded(tmp_path / "shards")
    with contextlib.chdir(tmp_path):
        longer = load_recipe(tmp_path / "recipe.toml", [*SMALL, "stages.pretrain.tokens=10000"])
    again = make(longer, tokenizer, tmp_path / "shards", windows=None)
    assert before.items() < recorded(tmp_path / "shards").items()
    assert again["sources"]["tales"]["train"]["windows"] >= windows_taken(longer)["tales"]
    assert again == make(longer, tokenizer, tmp_path / "anew", windows=None)


def full(work: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """Return `work` as it goes on a disk that is full after so many calls."""
    count = iter(range(calls))

    def wrapped(*arguments: Any) -> Any:
        if next(count, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return work(*arguments)

    return wrapped


@pytest.mark.parametrize(("module", "call"), [(shards, "save_file"), (files, "flush"), (os, "fsync")])
@pytest.mark.parametrize("calls", [0, 1, 4, 18])
def test_a_full_disk_leaves_nothing_half_written_and_the_build_goes_on_afterwards(
    module: Any, call: str, calls: int, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(tmp_path, SMALL)
    expected = make(recipe, tokenizer, tmp_path / "straight")
    with monkeypatch.context() as patch:
        patch.setattr(module, call, full(getattr(module, call), calls))
        with pytest.raises(OSError, match="No space left on device"):
            make(recipe, tokenizer, tmp_path / "shards")
    assert not list((tmp_path / "shards").rglob(".tmp-*"))
    assert all(path.is_file() for path in recorded(tmp_path / "shards"))
    assert make(recipe, tokenizer, tmp_path / "shards") == expected
    finished_store(tmp_path / "shards")


def test_a_full_disk_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_recipe(tmp_path)
    monkeypatch.setattr(shards, "save_file", full(shards.save_file, 0))
    monkeypatch.setattr(
        sys, "argv", ["keylm", "data", "build", str(tmp_path / "recipe.toml"), "--run-dir", str(tmp_path / "run")]
    )
    with pytest.raises(SystemExit) as ended:
        cli()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.strip() == "error: No space left on device (nothing half-written was left)"
