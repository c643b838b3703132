"""Checkpoints are whole or not there; damaged ones are refused by name and the one before is used."""

from pathlib import Path

import pytest
import torch

from keylm.recipe.run_folder import checkpoint_path, checkpoint_paths
from keylm.training.checkpoint import (
    CheckpointState,
    DamagedCheckpoint,
    latest_checkpoint,
    prune,
    read_checkpoint,
    save_checkpoint,
)


def save(folder: Path, step: int) -> Path:
    state = CheckpointState(step=step, recipe="r", shards="x", metrics_bytes=3)
    return save_checkpoint(folder, state, {"w": torch.full((50,), step)}, {"m": torch.ones(3)})


def test_what_was_saved_comes_back(tmp_path: Path):
    save(tmp_path, 7)
    checkpoint = read_checkpoint(checkpoint_path(tmp_path, 7))
    assert checkpoint.step == 7
    assert (checkpoint.state.shards, checkpoint.state.metrics_bytes, checkpoint.state.initial) == ("x", 3, None)
    assert torch.equal(checkpoint.model()["w"], torch.full((50,), 7))
    assert torch.equal(checkpoint.optimizer()["m"], torch.ones(3))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncate", "alter", "remove"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_used(tmp_path: Path, file: str, damage: str):
    save(tmp_path, 5)
    victim = save(tmp_path, 10) / file
    content = victim.read_bytes()
    if damage == "remove":
        victim.unlink()
    elif damage == "truncate":
        victim.write_bytes(content[: len(content) // 2])
    else:
        victim.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    warnings: list[str] = []
    found = latest_checkpoint(tmp_path, warnings.append)
    assert found is not None
    assert found.step == 5
    assert len(warnings) == 1
    assert "step-00000010" in warnings[0]
    assert (tmp_path / "refused-step-00000010").is_dir()


def test_what_an_interrupted_writer_left_is_no_checkpoint_and_is_swept(tmp_path: Path):
    save(tmp_path, 5)
    half = tmp_path / ".tmp-123-step-00000010"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    found = latest_checkpoint(tmp_path, pytest.fail)
    assert found is not None
    assert found.step == 5
    assert not half.exists()


def test_no_checkpoint_is_none(tmp_path: Path):
    assert latest_checkpoint(tmp_path / "none", pytest.fail) is None


def test_prune_keeps_the_last_ones_and_stage_ends(tmp_path: Path):
    for step in (10, 20, 30, 40, 50):
        save(tmp_path, step)
    prune(tmp_path, keep_last=2, keep_steps={20, 60})
    assert [path.name[-2:] for path in checkpoint_paths(tmp_path)] == ["20", "40", "50"]


def test_missing_folder_is_damage(tmp_path: Path):
    with pytest.raises(DamagedCheckpoint, match="missing"):
        read_checkpoint(tmp_path / "step-00000001")
