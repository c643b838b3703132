"""On two GPUs: both ways of sharing the work give the losses of one GPU, and a sharded run goes on on one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from support.gpu_settings import SETTINGS
from support.recipes import tiny_recipe, training_command

from keylm.base.json_lines import read_rows
from keylm.pipeline.run import run
from keylm.recipe.run_folder import checkpoint_paths

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose shards are built, and one of it on one GPU."""
    folder = tmp_path_factory.mktemp("two-gpus")
    run(tiny_recipe(folder, SETTINGS), folder / "run", until="shards", quiet=True)
    train(folder, "one", 1)
    return folder


def train(folder: Path, name: str, processes: int, *settings: str) -> None:
    if not (folder / name).exists():
        shutil.copytree(folder / "run", folder / name)
    done = subprocess.run(
        training_command(folder, name, [*SETTINGS, *settings], processes),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def losses(folder: Path, name: str) -> list[float]:
    return [row["loss"] for row in read_rows(folder / name / "metrics.jsonl", "train")]


@pytest.mark.parametrize("compiled", ["false", "true"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_gpus_give_the_losses_of_one(prepared: Path, parallel: str, compiled: str):
    name = f"{parallel}-{compiled}"
    train(prepared, name, 2, f"training.parallel={parallel}", f"training.compile={compiled}")
    assert losses(prepared, name) == pytest.approx(losses(prepared, "one"), rel=0.01)


def test_a_sharded_run_goes_on_on_one_gpu(prepared: Path):
    train(prepared, "sharded", 2, "training.parallel=fsdp")
    before = losses(prepared, "sharded")
    shutil.rmtree(checkpoint_paths(prepared / "sharded" / "checkpoints")[-1])
    train(prepared, "sharded", 1)
    assert losses(prepared, "sharded") == pytest.approx(before, rel=0.01)
