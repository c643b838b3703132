"""Fully sharded training on two processes: the losses of one, checkpoints between any numbers, kill -9, damage."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from support.programs import run as run_program
from support.programs import run_ranks, start_ranks
from support.recipes import training_command, with_shards

from keylm.base.errors import KeylmError
from keylm.base.json_lines import read_rows
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder, checkpoint_paths
from keylm.training.checkpoint import Checkpoint, latest_checkpoint, read_checkpoint
from keylm.training.distributed import Ranks
from keylm.training.loop import Trainer
from keylm.training.sharding import check_even

CPU = Ranks(0, 1, torch.device("cpu"))
STEPS, HALF = 12, 6
SETTINGS = [
    f"stages.pretrain.tokens={256 * 8}",
    f"stages.chat.tokens={256 * (STEPS - 8)}",
    "training.micro_batch_windows=2",
    "checkpoints.every_steps=2",
    "checkpoints.keep_last=20",
    "evaluation.every_steps=4",
    "evaluation.windows_per_source=5",  # 15 windows: one rank has half a micro-batch less
]
FSDP = "training.parallel=fsdp"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A recipe, and a run folder with tokenizer and shards but no training yet."""
    return with_shards(tmp_path_factory.mktemp("sharding"), SETTINGS)


@pytest.fixture(scope="module")
def alone(prepared: tuple[Recipe, Path]) -> Path:
    """The run folder of one process."""
    folder = copy_run(prepared, "alone")
    Trainer(prepared[0], folder, CPU, quiet=True).run()
    return folder.path


@pytest.fixture(scope="module")
def sharded(prepared: tuple[Recipe, Path]) -> Path:
    """The run folder of two processes that shared the model."""
    folder = copy_run(prepared, "sharded")
    run_ranks(command(prepared, "sharded", FSDP), 2)
    return folder.path


def copy_run(prepared: tuple[Recipe, Path], name: str) -> RunFolder:
    shutil.copytree(prepared[1] / "run", prepared[1] / name)
    return RunFolder(prepared[1] / name)


def command(prepared: tuple[Recipe, Path], name: str, *extra: str) -> list[str]:
    return training_command(prepared[1], name, [*SETTINGS, *extra])


def losses(run_dir: Path) -> list[float]:
    rows = read_rows(run_dir / "metrics.jsonl")
    return [value for row in rows for value in ([row["loss"]] if row["kind"] == "train" else row["loss"].values())]


def go_back_to(run_dir: Path, step: int) -> None:
    """Remove the checkpoints after `step`, so that the run goes on from there."""
    for path in checkpoint_paths(run_dir / "checkpoints"):
        if int(path.name[-8:]) > step:
            shutil.rmtree(path)


def last(run_dir: Path) -> Checkpoint:
    return read_checkpoint(checkpoint_paths(run_dir / "checkpoints")[-1])


def assert_same_weights(one: Path, two: Path) -> None:
    ours, theirs = last(one), last(two)
    assert ours.step == theirs.step == STEPS
    for mine, yours in ((ours.model(), theirs.model()), (ours.optimizer(), theirs.optimizer())):
        assert mine.keys() == yours.keys()
        for name, value in mine.items():
            torch.testing.assert_close(value, yours[name], rtol=1e-3, atol=1e-5, msg=name)


def test_two_processes_that_share_the_model_see_the_losses_of_one(alone: Path, sharded: Path):
    assert losses(sharded) == pytest.approx(losses(alone), rel=1e-5)
    norms = [[row["gradient_norm"] for row in read_rows(path / "metrics.jsonl", "train")] for path in (alone, sharded)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert_same_weights(alone, sharded)
    files = sorted(file.relative_to(last(sharded).folder).as_posix() for file in last(sharded).folder.rglob("*.*"))
    assert len(files) == 5
    assert [name.partition("/")[0] for name in files] == ["model", "model", "optimizer", "optimizer", "state.json"]


@pytest.mark.parametrize(
    ("start", "processes", "extra"),
    [
        ("sharded", 1, []),
        ("sharded", 2, []),
        ("alone", 2, [FSDP]),
    ],
    ids=["two to one", "fsdp to ddp", "one to two"],
)
def test_a_run_goes_on_with_another_number_or_kind_of_processes(prepared, request, start, processes, extra):
    before = request.getfixturevalue(start)
    folder = RunFolder(prepared[1] / f"{start}-{processes}-{len(extra)}")
    shutil.copytree(before, folder.path)
    go_back_to(folder.path, HALF)
    start = command(prepared, folder.path.name, *extra)
    run_ranks(start, processes) if processes > 1 else run_program(start, check=True)
    expected = request.getfixturevalue("alone")
    assert losses(folder.path) == pytest.approx(losses(expected), rel=1e-5)
    assert_same_weights(expected, folder.path)


def test_a_damaged_shard_is_refused_by_name_and_the_checkpoint_before_used(prepared, sharded, tmp_path):
    shutil.copytree(sharded / "checkpoints", tmp_path / "checkpoints")
    newest = checkpoint_paths(tmp_path / "checkpoints")[-1]
    victim = sorted((newest / "optimizer").iterdir())[1]
    victim.write_bytes(victim.read_bytes()[:-9])
    warnings: list[str] = []
    found = latest_checkpoint(tmp_path / "checkpoints", warnings.append)
    assert found is not None
    assert found.step == STEPS - 2
    assert [f"{newest.name}/optimizer/{victim.name}" in text for text in warnings] == [True]
    stranger = found.folder / "model" / "shard-00009-model-00001-of-00001.safetensors"
    shutil.copyfile(next((found.folder / "model").iterdir()), stranger)
    assert latest_checkpoint(tmp_path / "checkpoints", warnings.append).step == STEPS - 4
    assert stranger.name in warnings[-1]


def test_kill_9_of_all_processes_and_resume_leaves_no_trace(prepared, sharded):
    folder = copy_run(prepared, "killed")
    ranks = start_ranks(command(prepared, "killed", FSDP), 2)
    while all(rank.poll() is None for rank in ranks) and len(checkpoint_paths(folder.checkpoints)) < 3:
        time.sleep(0.001)
    for rank in ranks:
        rank.kill()
    assert len(read_rows(folder.metrics, "train")) < STEPS
    run_ranks(command(prepared, "killed", FSDP), 2)
    assert folder.metrics.read_bytes() == (sharded / "metrics.jsonl").read_bytes()


def test_kill_9_of_one_process_while_it_writes_its_shards_leaves_no_half_checkpoint(prepared, sharded, tmp_path):
    folder, script = copy_run(prepared, "killed-writing"), tmp_path / "killed.py"
    script.write_text(KILL_ONE_WHILE_WRITING)
    start = training_command(prepared[1], "killed-writing", [*SETTINGS, FSDP], processes=2)  # by torchrun
    place = start.index("keylm") - 1  # -m keylm
    done = subprocess.run([*start[:place], str(script), *start[place + 2 :]], capture_output=True, text=True)
    assert done.returncode != 0
    assert "Signal 9" in done.stderr
    assert [path.name for path in checkpoint_paths(folder.checkpoints)] == ["step-00000002"]
    run_ranks(command(prepared, "killed-writing", FSDP), 2)
    assert folder.metrics.read_bytes() == (sharded / "metrics.jsonl").read_bytes()
    assert not list(folder.checkpoints.glob(".tmp-*"))


# The second process kills itself before it writes its part of the second checkpoint's optimizer.
KILL_ONE_WHILE_WRITING = """
import os, signal, sys
from torch.distributed.checkpoint.filesystem import FileSystemWriter
write, calls = FileSystemWriter._write_data, []
def _write_data(*arguments):
    calls.append(1)
    if len(calls) == 4 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*arguments)
FileSystemWriter._write_data = _write_data
sys.argv = ["keylm", *sys.argv[1:]]
from keylm.cli.main import main
main()
"""


def test_unequal_micro_batches_are_refused():
    check_even(8, 2, 2)
    check_even(7, 2, 4)
    with pytest.raises(KeylmError, match=r"training.parallel = 'fsdp': 9 windows.*accepted"):
        check_even(9, 2, 4)
