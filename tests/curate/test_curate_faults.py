"""What goes wrong in a curation is reported in one sentence, loses nothing, and the same command goes on."""

import errno
import hashlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.programs import wait_for
from support.recipes import write_jsonl
from test_curate import QUICK, mixed, output_bytes, prose, recipe_of, records, run, texts

pytest.importorskip("datatrove", reason="datatrove is not installed: pip install 'keylm[curate]'")

from datatrove.pipeline.base import PipelineStep

from keylm.base.errors import KeylmError
from keylm.base.files import read_json
from keylm.curate import executors, pipeline
from keylm.curate.pipeline import curate
from keylm.curate.reading import CleanReader
from keylm.recipe.load import Recipe

FIRST, SECOND = "1" * 40, "2" * 40


class Trap(PipelineStep):
    """A step that goes wrong in rank 1, as long as its `mark` is not there."""

    type, name = "TRAP", "trap"

    def __init__(self, mark: Path, way: str) -> None:
        super().__init__()
        self.mark, self.way = mark, way

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        yield from data
        if rank == 1 and not self.mark.exists():
            self.mark.touch()
            self.snap()

    def snap(self) -> None:
        if self.way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.way == "told":
            raise KeylmError("the source is bad; mend it")
        raise Odd("the gear broke", rank=1)


class Odd(Exception):
    """An exception that cannot be sent to another process, as those of HTTP libraries."""

    def __init__(self, text: str, *, rank: int) -> None:
        super().__init__(f"{text} in {rank}\nand more lines")


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a Trap after the first stage's steps; return its mark, whose name says the way."""
    real = pipeline._clean_steps
    mark = tmp_path / "mark"

    def trapped(*given: Any) -> list[Any]:
        return [*real(*given), Trap(mark, (tmp_path / "way").read_text())]

    monkeypatch.setattr(pipeline, "_clean_steps", trapped)
    return mark


def three(folder: Path) -> Recipe:
    """Return a recipe of three tasks."""
    return recipe_of(folder, QUICK, **{name: texts(prose(seed)) for seed, name in enumerate(("one", "two", "three"))})


def test_a_source_named_work_is_kept(tmp_path: Path) -> None:
    run(recipe_of(tmp_path, QUICK, work=texts(prose(1)), final=texts(prose(2))), tmp_path)
    assert records(tmp_path, "work")[0]["text"] == prose(1)
    assert sorted(path.name for path in (tmp_path / "curated").iterdir()) == [
        "faults.jsonl",
        "final",
        "report.json",
        "work",
    ]


@pytest.mark.timeout(120)
def test_a_killed_worker_is_told_and_the_same_command_goes_on(tmp_path: Path, trap: Path) -> None:
    (tmp_path / "way").write_text("killed")
    with pytest.raises(KeylmError, match=r"worker process was killed \(out of memory\?\); fewer --workers need less"):
        run(three(tmp_path), tmp_path, workers=2)
    again = run(three(tmp_path), tmp_path, workers=2)
    assert again["hash"] == curate(three(tmp_path), tmp_path / "whole", workers=1, quiet=True)["hash"]
    assert output_bytes(tmp_path / "curated") == output_bytes(tmp_path / "whole")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("way", "told"),
    [
        ("odd", r"1 of 3 tasks of the step 'clean' failed \(Odd: the gear broke in 1\); see .*logs/clean"),
        ("told", r"^the source is bad; mend it$"),
        ("full", "the disk is full; free some space"),
    ],
)
def test_a_task_that_fails_is_told_and_the_same_command_goes_on(
    way: str, told: str, workers: int, tmp_path: Path, trap: Path
) -> None:
    (tmp_path / "way").write_text(way)
    with pytest.raises(KeylmError, match=told):
        run(three(tmp_path), tmp_path, workers=workers)
    assert run(three(tmp_path), tmp_path, workers=workers)["sources"]["two"]["kept"]["documents"] == 1


def test_an_executor_that_cannot_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "small")
    monkeypatch.setenv("PATH", str(tmp_path))  # without sbatch
    with pytest.raises(KeylmError, match=r"executor slurm failed \(FileNotFoundError: .*sbatch"):
        run(three(tmp_path), tmp_path, executor="slurm")


SLEEPER = """
import os, sys, time
from pathlib import Path
from datatrove.pipeline.base import PipelineStep
from keylm.curate import pipeline
from keylm.recipe.load import load_recipe

class Sleeper(PipelineStep):
    type, name = "SLEEP", "sleep"
    def __init__(self, folder):
        super().__init__()
        self.folder = folder
    def run(self, data, rank=0, world_size=1):
        yield from data
        (self.folder / f"pid-{rank}").write_text(str(os.getpid()))
        time.sleep(300)
"""
SLEEPING = """
import signal
from sleeper import *
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would begin with it ignored
    here = Path(sys.argv[1])
    real = pipeline._clean_steps
    pipeline._clean_steps = lambda *given: [*real(*given), Sleeper(here)]
    pipeline.curate(load_recipe(here / "given.toml"), here / "curated", workers=2, quiet=True)
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_the_main_process(how: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "given.toml").write_text(three(tmp_path).to_toml())
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    (tmp_path / "main.py").write_text(SLEEPING)
    command = [sys.executable, str(tmp_path / "main.py"), str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    pids = [tmp_path / "pid-0", tmp_path / "pid-1"]
    try:
        wait_for(lambda: all(pid.exists() and pid.read_text() for pid in pids) or process.poll() is not None)
        workers = [int(pid.read_text()) for pid in pids]
        process.send_signal(how)
        process.wait(60)  # Python may take its time to hear of a signal on a busy machine
        wait_for(lambda: not any(alive(pid) for pid in workers), 40)
    finally:
        process.kill()


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("missing", ["datatrove", "py3langid"])
def test_a_missing_extra_is_told(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr("keylm.curate.report.version", version)
    with pytest.raises(KeylmError, match=rf"{missing} is not installed; .* pip install -e '\.\[curate\]'"):
        run(recipe_of(tmp_path, book=texts(prose(1))), tmp_path)


def test_the_report_says_what_was_curated_and_by_which_filters(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write_jsonl(tmp_path / "deep" / "a.jsonl", texts(prose(1)))
    write_jsonl(tmp_path / "deep" / "b.jsonl", texts(prose(2)))
    recipe = recipe_of(tmp_path, QUICK, book={"path": str(tmp_path / "deep")}, notes=texts(prose(3)))
    report = run(recipe, tmp_path)
    assert json.loads((tmp_path / "curated" / "report.json").read_text()) == report
    for name, files in {"book": ["deep/a.jsonl", "deep/b.jsonl"], "notes": ["notes.jsonl"]}.items():
        contents = {Path(file).name: (tmp_path / file).read_bytes() for file in files}
        assert report["sources"][name]["origin"] == {
            "files": [
                {"name": file, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for file, content in contents.items()
            ]
        }
    assert report["settings"]["curation"]["filters"]["casual"] == ["gopher_repetition"]
    assert report["settings"]["filters"]["gopher_quality"]["min_doc_words"] == 50
    assert report["settings"]["filters"]["gopher_repetition"]["top_n_grams"] == {"2": 0.2, "3": 0.18, "4": 0.16}
    two = curate(recipe, tmp_path / "two", workers=2, quiet=True)
    assert (two["hash"], two["sources"]) == (report["hash"], report["sources"])


def test_the_hash_stands_for_what_was_curated_too(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, QUICK, book=texts(prose(1)))
    first = run(recipe, tmp_path)
    before = output_bytes(tmp_path / "curated")
    (tmp_path / "book.jsonl").write_text((tmp_path / "book.jsonl").read_text() + "\n\n")
    again = run(recipe, tmp_path)
    assert output_bytes(tmp_path / "curated") == before
    assert again["hash"] != first["hash"]
    assert read_json(tmp_path / "curated/report.json")["hash"] == again["hash"]


class FakeRows:
    """A data set whose branch has moved on each time that somebody asks."""

    asked = 0

    def __init__(self, name: str, source: Any, state: Any = None) -> None:
        given = source.revision or ""
        if len(given) != 40:
            given = [FIRST, SECOND][FakeRows.asked]
            FakeRows.asked += 1
        self.revision = given

    def __iter__(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        yield "our/web/train", 1, {"text": prose(int(self.revision[0]))}


def test_a_hub_source_is_read_at_one_commit_which_the_report_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeRows, "asked", 0)
    monkeypatch.setattr("keylm.data.sources.HubRows", FakeRows)
    monkeypatch.setattr(pipeline, "HubRows", FakeRows)
    recipe = recipe_of(tmp_path, QUICK, web={"hub": "our/web", "adapter": "auto", "config": "small"})
    with monkeypatch.context() as patch:
        patch.setattr(executors, "run_stage", interrupted)
        with pytest.raises(RuntimeError, match="pulled"):
            run(recipe, tmp_path)
    report = run(recipe, tmp_path)
    assert report["sources"]["web"]["origin"] == {
        "hub": "our/web",
        "config": "small",
        "split": "train",
        "revision": FIRST,
    }
    assert records(tmp_path, "web")[0]["text"] == prose(1), "the commit that the report names"


def interrupted(*_: Any, **__: Any) -> None:
    raise RuntimeError("the plug was pulled")


def test_all_faults_are_written_down_with_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PART_BYTES", 1000)
    (tmp_path / "deep").mkdir()
    good = json.dumps({"text": prose(1, 30)})
    for name, bad in {"a": 31, "b": 2}.items():
        (tmp_path / "deep" / f"{name}.jsonl").write_text("{broken\n" * bad + f"{good}\n" + "[1]\n")
    recipe = recipe_of(tmp_path, QUICK, book={"path": str(tmp_path / "deep")}, notes=texts(prose(3)))
    report = run(recipe, tmp_path)
    faults = [json.loads(line) for line in (tmp_path / "curated" / "faults.jsonl").read_text().splitlines()]
    assert [(fault["source"], fault["file"], fault["line"]) for fault in faults] == [
        *(("book", "a.jsonl", line) for line in [*range(1, 32), 33]),
        *(("book", "b.jsonl", line) for line in [1, 2, 4]),
    ]
    assert {fault["kind"] for fault in faults} == {"malformed_json", "not_a_record"}
    assert all("detail" in fault for fault in faults)
    assert report["sources"]["book"]["faults"] == {"malformed_json": 33, "not_a_record": 2}
    curate(recipe, tmp_path / "two", workers=2, quiet=True)
    assert (tmp_path / "two" / "faults.jsonl").read_bytes() == (tmp_path / "curated" / "faults.jsonl").read_bytes()


def test_work_that_was_half_deleted_is_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, other = mixed(tmp_path, **QUICK), mixed(tmp_path, **QUICK, minimum_characters=30)
    whole = curate(recipe, tmp_path / "whole", workers=1, quiet=True)
    before_the_last = executors.run_stage

    def up_to_final(stage: Any, *given: Any, **more: Any) -> None:
        if stage.name == "final":
            interrupted()
        before_the_last(stage, *given, **more)

    real = pipeline.shutil.rmtree

    def killed(folder: Path) -> None:
        if folder.name == "clean":
            real(folder)
            interrupted()

    for given, place, name, trap in (
        (recipe, executors, "run_stage", up_to_final),
        (other, pipeline.shutil, "rmtree", killed),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, trap)
            with pytest.raises(RuntimeError, match="pulled"):
                run(given, tmp_path)
    assert run(recipe, tmp_path)["hash"] == whole["hash"]


def test_outputs_that_were_deleted_are_made_again_though_old_work_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path, QUICK, book=texts(prose(1)))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.shutil, "rmtree", interrupted)
        with pytest.raises(RuntimeError, match="pulled"):
            run(recipe, tmp_path)
    (tmp_path / "curated" / "book" / "00000.jsonl.zst").unlink()
    assert len(run(recipe, tmp_path)["sources"]["book"]["files"]) == 1


def test_a_missing_or_short_file_between_the_stages_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    reader = CleanReader(tmp_path, tmp_path)
    with pytest.raises(KeylmError, match=r"00000\.npy is gone"):
        list(reader.run())
    np.save(tmp_path / "00000.npy", np.zeros(0, np.uint64))
    assert list(reader.run()) == []
    np.save(tmp_path / "00000.npy", np.zeros(1, np.uint64))
    with pytest.raises(KeylmError, match=r"00000\.jsonl\.zst is gone; delete .* and start again"):
        list(reader.run())
    (tmp_path / "00000.jsonl.zst").write_bytes(b"")
    with pytest.raises(KeylmError, match=r"00000\.jsonl\.zst is damaged"):
        list(reader.run())


def test_a_source_that_changes_while_it_is_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(tmp_path, QUICK, book=texts(prose(1)))
    real = pipeline._publish

    def publish(*given: Any) -> None:
        real(*given)
        write_jsonl(tmp_path / "book.jsonl", texts(prose(2), prose(3)))

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_publish", publish)
        with pytest.raises(KeylmError, match="files changed while being read; the same command starts anew"):
            run(recipe, tmp_path)
    assert run(recipe, tmp_path)["sources"]["book"]["kept"]["documents"] == 2


SQUEUE = """#!/bin/bash
# Fails on the calls that FAILS names, else knows the job.
echo >> "$CALLS"
case " $FAILS " in *" $(wc -l < "$CALLS") "*) exit 1;; esac
echo "7 small RUNNING"
"""


@pytest.mark.parametrize(("fails", "asked"), [("1 2 4 5 6 7", 9), ("1 3 4 5 6 7 8", 7)])
def test_slurm_is_asked_several_times_before_a_job_counts_as_gone(
    fails: str, asked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "squeue").write_text(SQUEUE)
    (tmp_path / "squeue").chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()
    for name, value in {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls), "FAILS": fails}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(executors, "SQUEUE_SECONDS", 0.01)
    monkeypatch.setattr(executors, "POLL_SECONDS", 0.001)
    done_at = 9

    def undone() -> list[int]:
        return [0] if len(calls.read_text()) < done_at else []

    begun = time.monotonic()
    executors._await_slurm(SimpleNamespace(job_id=7, get_incomplete_ranks=undone))
    assert len(calls.read_text()) == asked
    assert time.monotonic() - begun < 10


def test_files_beside_the_evaluation_sets_that_protect_nothing_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "eval").mkdir()
    write_jsonl(tmp_path / "eval" / "quiz.jsonl", [{"question": prose(5, 1), "answer": "yes"}])
    (tmp_path / "eval" / "test.parquet").touch()
    recipe = recipe_of(tmp_path, {**QUICK, "decontaminate": [str(tmp_path / "eval")]}, book=texts(prose(1)))
    curate(recipe, tmp_path / "curated", workers=1)
    assert "not evaluation files, and not looked for: test.parquet" in " ".join(capsys.readouterr().out.split())
