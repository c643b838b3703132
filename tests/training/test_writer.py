"""Checkpoints are written beside training: one at a time, errors reach training, whatever ends it waits."""

import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from support.recipes import tiny_recipe

from keylm.base.errors import TrainingDiverged
from keylm.pipeline.run import run
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder, checkpoint_path, checkpoint_paths
from keylm.training import checkpoint
from keylm.training.checkpoint import read_checkpoint
from keylm.training.distributed import Ranks
from keylm.training.loop import Trainer
from keylm.training.writer import BackgroundWriter, snapshot

CPU = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    folder = tmp_path_factory.mktemp("writer")
    recipe = tiny_recipe(folder, ["checkpoints.every_steps=2", "checkpoints.keep_last=1"])
    run(recipe, folder / "run", until="shards", quiet=True)
    return recipe, folder


@pytest.fixture
def trainer(prepared: tuple[Recipe, Path], tmp_path: Path) -> Trainer:
    shutil.copytree(prepared[1] / "run", tmp_path / "run")
    return Trainer(prepared[0], RunFolder(tmp_path / "run"), CPU, quiet=True)


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Every tensor file waits for this before it is written."""
    release, save = threading.Event(), checkpoint.save_file

    def slow(tensors, path):
        assert release.wait(60)
        save(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", slow)
    return release


def steps(trainer: Trainer, count: int) -> None:
    for _ in range(count):
        trainer._record(trainer.train_step()[0], 1.0, _Quiet())


class _Quiet:
    def update(self, *_: object) -> None: ...


def test_training_goes_on_while_a_checkpoint_is_written_and_it_holds_the_state_it_was_asked_for(trainer, released):
    folder = trainer._folder.checkpoints
    steps(trainer, 2)
    weights, moments = snapshot(trainer._bare_model.state_dict()), snapshot(trainer._optimizers.state_tensors())
    size = trainer._metrics.length()
    trainer._save()
    steps(trainer, 3)
    assert trainer._step == 5
    assert checkpoint_paths(folder) == []
    assert not torch.equal(trainer._bare_model.lm_head.weight, weights["lm_head.weight"])
    released.set()
    trainer._writer.wait()
    saved = read_checkpoint(checkpoint_path(folder, 2))
    assert saved.state.metrics_bytes == size < trainer._metrics.length()
    for found, expected in ((saved.model(), weights), (saved.optimizer(), moments)):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_old_checkpoints_go_only_when_the_newest_is_written_and_a_later_step_was_finite(trainer, released):
    def there() -> list[int]:
        return [int(path.name[-8:]) for path in checkpoint_paths(trainer._folder.checkpoints)]

    released.set()
    steps(trainer, 1)
    trainer._save()
    trainer._writer.wait()
    released.clear()
    steps(trainer, 1)
    trainer._save()
    steps(trainer, 1)
    assert there() == [1]  # a finite step, but nothing written
    released.set()
    trainer._writer.wait()
    assert there() == [1, 2]  # written, but no step since
    steps(trainer, 1)
    assert there() == [2]


def test_a_write_that_fails_stops_training_at_the_next_step(trainer, monkeypatch):
    def full(tensors, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.run()
    assert 2 <= trainer._step <= 4
    assert list(trainer._folder.checkpoints.iterdir()) == []


def test_what_ends_training_waits_for_the_write(trainer, released):
    step = trainer.train_step

    def diverging():
        if trainer._step == 3:
            threading.Timer(0.3, released.set).start()
            raise TrainingDiverged("here")
        return step()

    trainer.train_step = diverging
    with pytest.raises(TrainingDiverged, match="here"):
        trainer.run()
    assert [path.name for path in checkpoint_paths(trainer._folder.checkpoints)] == ["step-00000002"]


def test_one_write_at_a_time():
    under_way, most = [], []

    def work() -> None:
        under_way.append(1)
        most.append(len(under_way))
        time.sleep(0.05)
        under_way.pop()

    with BackgroundWriter(torch.device("cpu")) as writer:
        for _ in range(3):
            writer.start(work)
            assert not writer.idle()
    assert most == [1, 1, 1]
    assert writer.idle()


def test_an_error_is_raised_once_and_hides_no_other(capsys):
    def fail() -> None:
        raise ValueError("disk")

    writer = BackgroundWriter(torch.device("cpu"))
    writer.start(fail)
    with pytest.raises(ValueError, match="disk"):
        writer.start(fail)
    assert writer.idle()
    writer.start(fail)
    with pytest.raises(RuntimeError, match="first"), writer:
        raise RuntimeError("first")
    assert "the last checkpoint was not written: disk" in capsys.readouterr().err
