"""Damaged checkpoints, shards and records of a killed run: it goes on to the same weights, or says what is wrong.

Never to other numbers in silence: weights, optimizer and metrics of a run that goes on are those of an undisturbed one,
bit for bit; altered metrics are reported.
"""

import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from fuzz.mutation import budget, dice, mutate_file, probe, report
from support.recipes import tiny_recipe

from keylm.base.files import read_json, write_json
from keylm.pipeline.run import run
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder, checkpoint_paths
from keylm.training import loop
from keylm.training.checkpoint import read_checkpoint, save_checkpoint


class Killed(NamedTuple):
    """A run as a kill -9 left it, and how it ends undisturbed."""

    recipe: Recipe
    cut: Path
    whole: Path


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Return the tiny run, stopped between its last two checkpoints: what it wrote later is there, half of it."""
    folder = tmp_path_factory.mktemp("killed")
    recipe = tiny_recipe(folder)
    whole = run(recipe, folder / "whole", until="export", quiet=True)
    cut = RunFolder(Path(shutil.copytree(whole.path, folder / "cut")))
    shutil.rmtree(checkpoint_paths(cut.checkpoints)[-1])
    write_json(
        cut.stages, {name: one for name, one in read_json(cut.stages).items() if name in ("tokenizer", "shards")}
    )
    metrics = cut.metrics.read_bytes()
    cut.metrics.write_bytes(metrics[:-40])
    for later in (cut.summary, cut.model, cut.stage_model("pretrain")):
        shutil.rmtree(later) if later.is_dir() else later.unlink()
    return Killed(recipe, cut.path, whole.path)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what training says on standard error."""
    lines: list[str] = []

    class Errors:
        def print(self, text: Any, **_: Any) -> None:
            lines.append(str(text))

    monkeypatch.setattr(loop, "errors", Errors())
    return lines


def damage(folder: Path, rng: random.Random) -> str:
    """Change, remove, empty or exchange one file of a run folder, most often one of its checkpoints or shards."""
    places = ("checkpoints", "checkpoints", "shards", "shards", "tokenizer", "")
    place = folder / rng.choice(places)
    files = sorted(file for file in (place.rglob("*") if place != folder else place.glob("*.*")) if file.is_file())
    file, kind = rng.choice(files), rng.randrange(8)
    if kind == 0:
        file.unlink()
    elif kind == 1:
        others = [other for other in sorted(folder.rglob(f"*{file.suffix}")) if other.is_file() and other != file]
        file.write_bytes(rng.choice(others).read_bytes() if others else b"x")
    elif kind == 2:
        file.write_bytes(b"")
    else:
        return f"{file.relative_to(folder)}: {mutate_file(file, rng)}"
    return f"{file.relative_to(folder)}: {('removed', 'exchanged', 'emptied')[kind]}"


def check_same(run_folder: RunFolder, whole: RunFolder, told: list[str]) -> None:
    """Raise AssertionError unless a run ended as the undisturbed one, to the bit."""
    ours, theirs = (read_checkpoint(checkpoint_paths(one.checkpoints)[-1]) for one in (run_folder, whole))
    assert ours.step == theirs.step
    for mine, other in ((ours.model(), theirs.model()), (ours.optimizer(), theirs.optimizer())):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in other), "other weights, in silence"
    same = run_folder.metrics.read_bytes() == whole.metrics.read_bytes()
    assert same or any("metrics.jsonl" in line for line in told), "other metrics, in silence"
    if run_folder.model.exists():
        for file in whole.model.iterdir():
            assert (run_folder.model / file.name).read_bytes() == file.read_bytes(), f"another {file.name}, in silence"


@pytest.mark.parametrize("state", ["cut", "whole"])
def test_damaged_checkpoints_shards_and_records(state: str, killed: Killed, told: list[str], tmp_path: Path):
    findings, until = {}, "train" if state == "cut" else "export"
    for number in budget(14):
        rng, case = dice(f"resume {state}", number), RunFolder(tmp_path / "run")
        shutil.copytree(getattr(killed, state), case.path)
        done = damage(case.path, rng)
        told.clear()

        def resume(case: RunFolder = case) -> None:
            run(killed.recipe, case.path, until=until, quiet=True)
            check_same(case, RunFolder(killed.whole), told)

        if found := probe(resume):
            findings[f"resume {state} {number} ({done})"] = found
        shutil.rmtree(case.path)
    report(findings)


def test_other_numbers_are_found(killed: Killed, tmp_path: Path):
    whole, case = RunFolder(killed.whole), RunFolder(Path(shutil.copytree(killed.whole, tmp_path / "run")))
    check_same(case, whole, [])
    case.metrics.write_bytes(case.metrics.read_bytes().replace(b"loss", b"gain", 1))
    check_same(case, whole, ["metrics.jsonl: was altered"])
    with pytest.raises(AssertionError, match="other metrics"):
        check_same(case, whole, [])
    before, last = checkpoint_paths(case.checkpoints)[-2:]
    state, optimizer = read_checkpoint(last).state, read_checkpoint(last).optimizer()
    save_checkpoint(case.checkpoints, state, read_checkpoint(before).model(), optimizer)
    with pytest.raises(AssertionError, match="other weights"):
        check_same(case, whole, ["metrics.jsonl"])
