"""The loop: bit-for-bit resume after kill -9, signals, ranks, normalisation, divergence."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.programs import Program, run_ranks
from support.programs import run as run_program
from support.recipes import tiny_recipe, training_command, with_shards

from keylm.base.errors import Interrupted, KeylmError, TrainingDiverged
from keylm.base.files import sha256_json
from keylm.base.json_lines import read_rows
from keylm.data.curriculum import Batch, Curriculum
from keylm.data.store import finished_store
from keylm.model.attention import Packing
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder, checkpoint_paths
from keylm.training.distributed import Ranks
from keylm.training.loop import Trainer
from keylm.training.prefetch import feed

CPU = Ranks(0, 1, torch.device("cpu"))
STEPS = 24
SETTINGS = [
    f"stages.pretrain.tokens={256 * 16}",
    f"stages.chat.tokens={256 * (STEPS - 16)}",
    "checkpoints.every_steps=3",
    "evaluation.every_steps=5",
    *("stages.chat.decay=0.75", "stages.chat.average=0.5"),
    *("data.repack=true", "sources.tales.max_bytes=6000", "sources.notes.max_bytes=1500"),  # gone through repeatedly
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A recipe, and a run folder with tokenizer and shards but no training yet."""
    return with_shards(tmp_path_factory.mktemp("loop"), SETTINGS)


@pytest.fixture(scope="module")
def uninterrupted(prepared: tuple[Recipe, Path]) -> Path:
    """The run folder of a training that nothing disturbed."""
    return train_copy(prepared, "uninterrupted")


def copy_run(prepared: tuple[Recipe, Path], name: str) -> RunFolder:
    path = prepared[1] / name
    shutil.copytree(prepared[1] / "run", path)
    return RunFolder(path)


def train_copy(prepared: tuple[Recipe, Path], name: str, *overrides: str) -> Path:
    recipe = tiny_recipe(prepared[1], [*SETTINGS, *overrides])
    folder = copy_run(prepared, name)
    Trainer(recipe, folder, CPU, quiet=True).run()
    return folder.path


def command(prepared: tuple[Recipe, Path], name: str, *extra: str) -> list[str]:
    return training_command(prepared[1], name, [*SETTINGS, *extra])


def final_files(run_dir: Path) -> dict[str, bytes]:
    last = checkpoint_paths(run_dir / "checkpoints")[-1]
    files = [last / "model.safetensors", last / "optimizer.safetensors", run_dir / "metrics.jsonl"]
    return {f"{file.parent.name}/{file.name}".replace(run_dir.name, "run"): file.read_bytes() for file in files}


def assert_same_run(one: Path, two: Path) -> None:
    first, second = final_files(one), final_files(two)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def kill_when(process: "subprocess.Popen[bytes] | Program", ready, limit: float = 120) -> None:
    """Kill -9 as soon as `ready()` holds, or when the process has ended."""
    deadline = time.monotonic() + limit
    while process.poll() is None and not ready():
        assert time.monotonic() < deadline, "the process neither ended nor got there"
        time.sleep(0.0005)
    process.kill()
    process.wait()


def rows_written(run_dir: Path) -> int:
    file = run_dir / "metrics.jsonl"
    return len(file.read_bytes().splitlines()) if file.exists() else 0


def test_resume_in_the_middle_of_a_repacked_epoch_leaves_no_trace(prepared, uninterrupted):
    path, step = prepared[1] / "repacked", 16
    curriculum = Curriculum(prepared[0], finished_store(uninterrupted / "shards").layout)
    before, after = ({pick.packing for pick in curriculum.picks(number)} - {""} for number in (step - 1, step))
    assert before & after, "no repacked shard is in use before and after the checkpoint"
    shutil.copytree(uninterrupted, path)
    for checkpoint in checkpoint_paths(path / "checkpoints"):
        if checkpoint.name > f"step-{step:08d}":
            shutil.rmtree(checkpoint)
    assert checkpoint_paths(path / "checkpoints")[-1].name == f"step-{step:08d}"
    run_program(command(prepared, "repacked"), check=True)
    assert_same_run(uninterrupted, path)


@pytest.mark.parametrize("seed", range(3))
def test_kill_9_at_random_steps_and_resume_leaves_no_trace(prepared, uninterrupted, seed: int):
    name, chance = f"killed-{seed}", random.Random(seed)
    folder = copy_run(prepared, name)
    for _ in range(2):
        target = rows_written(folder.path) + chance.randint(1, 10)
        process = Program(command(prepared, name))
        kill_when(process, lambda target=target: rows_written(folder.path) >= target)
    run_program(command(prepared, name), check=True)
    assert_same_run(uninterrupted, folder.path)


def test_kill_9_of_the_command_as_a_user_starts_it_and_resume_leaves_no_trace(prepared, uninterrupted):
    folder = copy_run(prepared, "killed-cold")
    process = subprocess.Popen(command(prepared, "killed-cold"), stdout=subprocess.DEVNULL)
    kill_when(process, lambda: rows_written(folder.path) >= 7)
    assert process.returncode == -signal.SIGKILL
    run_program(command(prepared, "killed-cold"), check=True)
    assert_same_run(uninterrupted, folder.path)


def test_metrics_that_were_altered_since_the_checkpoint_are_told(prepared, uninterrupted, capsys):
    folder = RunFolder(Path(shutil.copytree(uninterrupted, prepared[1] / "altered")))
    shutil.rmtree(checkpoint_paths(folder.checkpoints)[-1])
    Trainer(prepared[0], folder, CPU, quiet=True).run()
    assert "altered" not in capsys.readouterr().err
    assert_same_run(folder.path, uninterrupted)
    shutil.rmtree(checkpoint_paths(folder.checkpoints)[-1])
    folder.metrics.write_bytes(folder.metrics.read_bytes().replace(b"pretrain", b"PRETRAIN", 1))
    Trainer(prepared[0], folder, CPU, quiet=True).run()
    assert "metrics.jsonl: was altered since the checkpoint at step" in " ".join(capsys.readouterr().err.split())


def test_kill_9_in_the_middle_of_a_checkpoint_write_and_resume_leaves_no_trace(prepared, uninterrupted):
    folder = copy_run(prepared, "killed-writing")
    process = Program([sys.executable, "-c", KILL_WHILE_WRITING, *command(prepared, "killed-writing")[3:]])
    assert process.wait() == -signal.SIGKILL
    assert list((folder.checkpoints).glob(".tmp-*")), "the kill did not come while a checkpoint was written"
    run_program(command(prepared, "killed-writing"), check=True)
    assert_same_run(uninterrupted, folder.path)
    assert not list((folder.checkpoints).glob(".tmp-*"))


# The second checkpoint's optimizer file is cut in half where it lies, and the process kills itself there.
KILL_WHILE_WRITING = """
import os, signal, sys
from keylm.training import checkpoint
save, calls = checkpoint.save_file, []
def save_file(tensors, path):
    save(tensors, path)
    calls.append(path)
    if len(calls) == 4:
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save_file = save_file
sys.argv = ["keylm", *sys.argv[1:]]
from keylm.cli.main import main
main()
"""


def test_a_damaged_last_checkpoint_costs_steps_but_no_bit(prepared, uninterrupted):
    folder = copy_run(prepared, "damaged")
    process = Program(command(prepared, "damaged"))
    kill_when(process, lambda: len(checkpoint_paths(folder.checkpoints)) >= 2)
    victim = checkpoint_paths(folder.checkpoints)[-1] / "model.safetensors"
    victim.write_bytes(victim.read_bytes()[:-9])
    done = run_program(command(prepared, "damaged"), check=True)
    assert "refused" in done.stderr
    assert victim.parent.name in done.stderr
    assert_same_run(uninterrupted, folder.path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_writes_a_checkpoint_exits_and_resume_leaves_no_trace(prepared, uninterrupted, number):
    name = f"stopped-{number.name}"
    folder = copy_run(prepared, name)
    process = Program(command(prepared, name))
    while rows_written(folder.path) < 8:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(number)
    _, message = process.communicate()
    assert process.returncode == Interrupted.exit_code
    assert "the same command goes on" in message
    stopped = checkpoint_paths(folder.checkpoints)[-1]
    assert int(stopped.name[-8:]) == max(row["step"] for row in read_rows(folder.metrics, "train")) + 1
    run_program(command(prepared, name), check=True)
    assert_same_run(uninterrupted, folder.path)


def test_two_processes_see_the_same_batches_and_losses(prepared, uninterrupted):
    copy_run(prepared, "two")
    run_ranks(command(prepared, "two"), 2)
    one, two = read_rows(uninterrupted / "metrics.jsonl"), read_rows(prepared[1] / "two" / "metrics.jsonl")
    assert len(one) == len(two)
    for mine, theirs in zip(one, two, strict=True):
        assert (mine["kind"], mine["step"], mine["stage"]) == (theirs["kind"], theirs["step"], theirs["stage"])
        if mine["kind"] == "train":
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
            assert mine["source_loss"].keys() == theirs["source_loss"].keys()


def losses(run_dir: Path) -> list[float]:
    return [row["loss"] for row in read_rows(run_dir / "metrics.jsonl", "train")]


@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_change_nothing_but_rounding(prepared, uninterrupted, size: int):
    path = train_copy(prepared, f"micro-{size}", f"training.micro_batch_windows={size}")
    assert losses(path) == pytest.approx(losses(uninterrupted), rel=1e-4)


def test_the_loss_falls_and_every_row_is_complete(uninterrupted: Path):
    rows = read_rows(uninterrupted / "metrics.jsonl", "train")
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert sum(losses(uninterrupted)[12:16]) < 0.9 * sum(losses(uninterrupted)[:4])
    assert {row["stage"] for row in rows} == {"pretrain", "chat"}
    validations = read_rows(uninterrupted / "metrics.jsonl", "validation")
    assert [row["step"] for row in validations] == [0, 5, 10, 15, 16, 20, STEPS]
    assert all(0 < value < 10 for row in validations for value in row["bits_per_byte"].values())


def gradients(trainer: Trainer, batch: Batch) -> dict[str, Any]:
    share = feed(batch, trainer._settings, trainer._byte_lengths, CPU.device)
    return trainer._global_sums(share, *trainer._gradients(share))


def test_a_batch_without_a_trained_token_changes_nothing_and_gives_no_nan(prepared):
    trainer = Trainer(prepared[0], copy_run(prepared, "untrained"), CPU, quiet=True)
    batch = trainer._loader.batch(0)
    batch.labels[:] = -100
    sums = gradients(trainer, batch)
    assert sum(sums["loss"]) == 0 == sum(sums["tokens"])
    assert all(not parameter.grad.any() for parameter in trainer._bare_model.parameters())


def test_gradients_are_those_of_the_mean_over_all_trained_tokens(prepared):
    trainer = Trainer(prepared[0], copy_run(prepared, "mean"), CPU, quiet=True)
    batch = trainer._loader.batch(17)  # a chat step, where windows carry very different numbers of tokens
    gradients(trainer, batch)
    found = trainer._bare_model.lm_head.weight.grad.clone()
    trainer._bare_model.zero_grad()
    logits = trainer._bare_model(torch.from_numpy(batch.tokens), Packing(torch.from_numpy(batch.documents)))
    labels = torch.from_numpy(batch.labels)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    z = trainer._settings.z_loss * logits.logsumexp(-1)[labels >= 0].square().mean()
    (loss + z).backward()
    torch.testing.assert_close(found, trainer._bare_model.lm_head.weight.grad, atol=1e-6, rtol=1e-4)


def test_a_loss_that_is_not_finite_stops_training_and_leaves_the_checkpoints(prepared):
    folder = copy_run(prepared, "diverged")
    trainer = Trainer(prepared[0], folder, CPU, quiet=True)
    trainer._saved_at = time.monotonic()
    for _ in range(3):
        trainer.train_step()
    trainer._save()
    trainer._writer.wait()
    before = final_files(folder.path)
    with torch.no_grad():
        trainer._bare_model.lm_head.weight[5] = float("inf")
    with pytest.raises(TrainingDiverged, match=r"step 3 .*loss nan.*checkpoint"):
        trainer.train_step()
    assert final_files(folder.path) == before
    weights = load_file(checkpoint_paths(folder.checkpoints)[-1] / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


def test_a_checkpoint_of_other_data_is_refused(prepared, uninterrupted):
    folder = copy_run(prepared, "foreign")
    shutil.copytree(uninterrupted / "checkpoints", folder.checkpoints)
    for path in checkpoint_paths(folder.checkpoints):
        state = json.loads((path / "state.json").read_text()) | {"shards": "0" * 64}
        del state["hash"]
        (path / "state.json").write_text(json.dumps({**state, "hash": sha256_json(state)}))
    with pytest.raises(KeylmError, match=r"other data.*shards: SHA-256"):
        Trainer(prepared[0], folder, CPU, quiet=True)


def test_a_checkpoint_of_another_recipe_is_refused(prepared, uninterrupted):
    folder = copy_run(prepared, "other-recipe")
    shutil.copytree(uninterrupted / "checkpoints", folder.checkpoints)
    other = tiny_recipe(prepared[1], [*SETTINGS, "optimizer.muon_learning_rate=0.01"])
    with pytest.raises(KeylmError, match=r"another recipe.*recipe: SHA-256"):
        Trainer(other, folder, CPU, quiet=True)


def test_a_step_without_a_trained_token_leaves_the_weights(prepared, monkeypatch):
    trainer = Trainer(prepared[0], copy_run(prepared, "still"), CPU, quiet=True)
    trainer.train_step()
    before = [parameter.detach().clone() for parameter in trainer._bare_model.parameters()]
    batch = trainer._loader.batch(1)
    batch.labels[:] = -100
    monkeypatch.setattr(
        trainer._ahead, "take", lambda _: feed(batch, trainer._settings, trainer._byte_lengths, CPU.device)
    )
    row, _ = trainer.train_step()
    assert row["loss"] == 0
    assert trainer._step == 2
    assert all(torch.equal(a, b) for a, b in zip(before, trainer._bare_model.parameters(), strict=True))


def test_a_checkpoint_that_leads_to_divergence_does_not_cost_the_one_before(prepared):
    trainer = Trainer(prepared[0], copy_run(prepared, "pruned"), CPU, quiet=True)
    trainer._saved_at = time.monotonic()
    for _ in range(3):
        trainer.train_step()
        trainer._save()
    trainer._writer.wait()
    assert [path.name[-1] for path in checkpoint_paths(trainer._folder.checkpoints)] == ["1", "2", "3"]
    trainer.train_step()
    assert [path.name[-1] for path in checkpoint_paths(trainer._folder.checkpoints)] == ["2", "3"]
