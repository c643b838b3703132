"""A study of training settings in miniature, and the studies that come with keylm."""

import importlib
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
from support.programs import run as run_program
from support.programs import server
from support.recipes import tiny_recipe

from keylm.base.files import write_json
from keylm.model.decoder import count_parameters
from keylm.recipe.load import load_recipe, parse_recipe

STUDIES = Path(__file__).parents[2] / "tools/studies/grids"
STUDY = """
recipe = "recipe.toml"
seeds = [3]
reference = "plain"
set = ["evaluation.every_steps=3", "checkpoints.every_steps=100"]
stage = { tokens = 1536, warmup = 0.2, decay = 0.4 }

[variants]
plain = []
slow = ["optimizer.muon_learning_rate=0.001", "stages.all.final=0.1"]
diverges = ["training.z_loss=1000", "optimizer.head_learning_rate=1000", "optimizer.norm_learning_rate=1000"]
unknown_field = ["optimizer.muon_learning=1"]
"""


@pytest.fixture
def grid():
    return importlib.import_module("tools.studies.training_grid")


def logged(command: list[str], *, stdout: IO[str], stderr: IO[str], env: dict, check: bool):
    """Run `keylm data build` as it is, and the trainings without importing everything anew and without their watch."""
    if "data" in command:
        return run_cold(command, stdout=stdout, stderr=stderr, env=env, check=check)
    done = run_program([sys.executable, "-m", "keylm", *command[4:]], env=env, check=check)
    stdout.write(done.stdout)
    stderr.write(done.stderr)
    return done


run_cold = subprocess.run


def run(grid, folder: Path, *options: str) -> dict:
    study, out = str(folder / "study.toml"), folder / "out"
    grid.main([study, "--data", str(folder / "data"), "--out", str(out), *options])
    return json.loads((out / "results.json").read_text(), parse_constant=pytest.fail)  # NaN and infinity are no JSON


def test_a_study_ends_in_figures_skips_what_is_done_and_outlives_failures(
    grid, tmp_path, tokenizer, capsys, monkeypatch
):
    monkeypatch.setattr(grid, "visible_gpus", lambda most: [None, None])  # two at a time, as on two GPUs
    monkeypatch.setattr("tools.studies.processes.subprocess.run", logged)
    server()  # before two threads ask for it
    tiny_recipe(tmp_path)
    (tmp_path / "study.toml").write_text(STUDY)
    shutil.copytree(tokenizer, tmp_path / "data/tokenizer")
    results = run(grid, tmp_path)
    variants = results["variants"]
    for name in ("plain", "slow"):
        (found,) = variants[name]["runs"]
        assert found["error"] is None
        assert not found["diverged"]
        assert found["tokens"] == 1536
        assert [tokens for tokens, _ in found["curve"]] == [0, 768, 1536]
        assert found["curve"][-1][1] == found["weighted"] == variants[name]["weighted"]
        assert set(found["bits_per_byte"]) == {"tales", "notes"}
        assert set(found["registers"]) == {"formal", "casual"}
        expected = 0.75 * found["bits_per_byte"]["tales"] + 0.25 * found["bits_per_byte"]["notes"]
        assert found["weighted"] == pytest.approx(expected)
        assert found["tokens_per_second"] > 0
        assert 0 < found["training_loss"] < math.log(400)
    assert variants["plain"]["from_reference"] == 0
    assert variants["slow"]["from_reference"] == variants["slow"]["weighted"] - variants["plain"]["weighted"]
    assert variants["slow"]["from_reference"] > 0
    assert results["unique_tokens"]["tales"] > 0
    check_failures(variants)
    assert "| plain |" in capsys.readouterr().out
    assert not (tmp_path / "out/plain-3/checkpoints").exists()

    monkeypatch.setattr(grid, "build", lambda base, out: out / "build/shards")
    monkeypatch.setattr(grid, "keylm", pytest.fail)
    assert run(grid, tmp_path) == results
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    known = tmp_path / "elsewhere/results.json"
    finished = {"plain", "slow", "diverges"}
    monkeypatch.setattr(grid, "keylm", lambda *command, log, **_: int(bool(log.write_text("asked again"))))
    shutil.copytree(tmp_path / "elsewhere/build", tmp_path / "out/build")
    again = run(grid, tmp_path, "--known", str(known), "--only", *finished)
    assert again["variants"] == {name: variants[name] for name in variants if name in finished}
    (tmp_path / "study.toml").write_text(STUDY.replace("0.001", "0.002"))
    again = run(grid, tmp_path, "--known", str(known), "--only", *finished)
    assert again["variants"]["slow"]["runs"][0]["error"] == "asked again"
    assert again["variants"]["plain"] == variants["plain"]


def check_failures(variants: dict) -> None:
    fates = {name: variants[name]["runs"][0] for name in ("diverges", "unknown_field")}
    assert fates["diverges"]["diverged"]
    assert "training stopped" in fates["diverges"]["error"]
    assert "muon_learning" in fates["unknown_field"]["error"]
    assert not fates["unknown_field"]["diverged"]
    assert all(variants[name]["weighted"] is None for name in fates)


def test_what_ends_worse_than_guessing_has_diverged(grid):
    assert grid.fate(0, "", 5.9, 400) == {"diverged": False, "error": None}
    assert grid.fate(2, "error: no", None, 400) == {"diverged": False, "error": "error: no"}
    assert grid.fate(3, "error: nan", None, 400) == {"diverged": True, "error": "error: nan"}
    assert grid.fate(0, "", 6.0, 400)["diverged"]
    assert "guessing has 5.991" in grid.fate(0, "", 6.0, 400)["error"]


def test_only_the_last_call_s_error_is_told(grid, tmp_path):
    log = tmp_path / "log"
    log.write_text("error: of before\n")
    start = log.stat().st_size
    log.write_text("error: of before\nTraceback\nMemoryError\n\n")
    assert grid.last_error(log, start) == "MemoryError"
    log.write_text("error: of before\nerror: of now\nmore\n")
    assert grid.last_error(log, start) == "error: of now"


def test_a_reference_that_is_no_variant_is_refused(grid, tmp_path):
    tiny_recipe(tmp_path)
    (tmp_path / "study.toml").write_text(STUDY.replace('reference = "plain"', 'reference = "plane"'))
    with pytest.raises(SystemExit, match="has no variant plane"):
        run(grid, tmp_path)


@pytest.mark.parametrize("name", ["optimizer", "budget"])
def test_every_variant_of_a_study_is_a_recipe_of_about_the_same_size(grid, tmp_path, name):
    study = grid.read_study(STUDIES / f"{name}.toml")
    recipe = load_recipe(study["recipe"], study["set"])
    weights = next(iter(recipe.stages.values())).weights
    data = {**recipe.to_data(), "stages": {grid.STAGE: {**study["stage"], "weights": weights}}}
    template = tmp_path / "study.toml"
    template.write_text(parse_recipe(data, name).to_toml())
    size = count_parameters(recipe.model, recipe.tokenizer.vocab_size)
    for variant, overrides in study["variants"].items():
        parsed = load_recipe(template, overrides)
        assert abs(count_parameters(parsed.model, recipe.tokenizer.vocab_size) / size - 1) < 0.02, variant
        assert parsed.stages[grid.STAGE].tokens % parsed.training.batch_tokens == 0, variant


def test_every_gpu_trains_one_variant_at_a_time(grid, tmp_path):
    busy, most, seen = set(), [], []

    class Pretended:
        out = tmp_path

        def train(self, job, device, *, keep):
            assert device not in busy
            busy.add(device)
            time.sleep(0.01)
            most.append(len(busy))
            busy.remove(device)
            seen.append(job)
            write_json(self.file(job, "json"), {"error": None})

        def file(self, job, kind):
            return tmp_path / f"{job[0]}.{kind}"

        def results(self):
            return {"runs": len(seen)}

    jobs = [(f"variant{number}", 1) for number in range(8)]
    grid.run_all(Pretended(), jobs, ["0", "1"], keep=False)
    assert sorted(seen) == jobs
    assert max(most) == 2
    assert json.loads((tmp_path / "results.json").read_text()) == {"runs": 8}


def test_the_gpus_are_those_that_the_user_shows(grid, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert grid.visible_gpus(None) == ["0", "1", "2"]
    assert grid.visible_gpus(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,8")
    assert grid.visible_gpus(2) == ["5", "7"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert grid.visible_gpus(2) == [None]
