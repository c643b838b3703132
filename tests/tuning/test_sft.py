"""Instruction tuning: the same loop, begun with a finished model, some epochs of conversations."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.recipes import chat, tiny_recipe, write_jsonl

from keylm.base.errors import KeylmError
from keylm.base.files import read_json, sha256_file, write_json
from keylm.base.json_lines import read_rows
from keylm.data.curriculum import Curriculum
from keylm.data.store import finished_store
from keylm.pipeline.run import run
from keylm.recipe.run_folder import RunFolder, checkpoint_paths
from keylm.training.checkpoint import read_checkpoint
from keylm.tuning.sft import STAGE, Tuning, sft, sft_recipe, with_windows

CPU = ["training.device=cpu", "training.precision=fp32", "evaluation.chats=[]", "evaluation.every_steps=1000"]
TUNING = Tuning(epochs=2.0, learning_rate=0.004, batch_tokens=256)


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The tiny model, tuned for two epochs."""
    data = base.parents[1] / "chat.jsonl"
    return sft(base, [str(data)], tmp_path_factory.mktemp("sft") / "tuned", TUNING, CPU, quiet=True)


def first_loss(folder: RunFolder) -> float:
    return read_rows(folder.metrics, "train")[0]["loss"]


def begun_with(base: Path, folder: Path, *overrides: str) -> list[str]:
    """Return the tiny recipe's overrides that begin with `base` and train chats for a few steps."""
    stage = "stages={sft={tokens=768,weights={chat=1.0}}}"
    return [f"training.initial_model={base}", stage, "evaluation.prompts=[]", *overrides]


def test_tuning_begins_with_the_model_and_learns_the_answers(base: Path, tuned: RunFolder):
    rows = read_rows(tuned.metrics, "train")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.1
    drawn = run(
        tiny_recipe(base.parents[1], begun_with(base, tuned.path)[1:]), tuned.path / "drawn", until="train", quiet=True
    )
    assert first_loss(tuned) < first_loss(drawn) - 0.3
    assert read_json(tuned.initial)["path"] == str(base)
    assert (tuned.tokenizer / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert (tuned.model / "model.safetensors").is_file()
    assert tuned.report.is_file()


def test_epochs_are_whole_windows_each_seen_as_often(tuned: RunFolder):
    recipe, store = tuned.saved_recipe(), finished_store(tuned.shards, verify="opened")
    curriculum = Curriculum(recipe, store.layout)
    windows = sum(store.layout("chat", 0))
    seen = Counter((p.shard, p.window) for step in range(curriculum.total_steps) for p in curriculum.picks(step))
    assert recipe.stages[STAGE].tokens == 2 * windows * recipe.training.context
    assert len(seen) == windows
    # The last step is filled up with the beginning of a third epoch.
    assert set(seen.values()) <= {2, 3}
    assert sum(seen.values()) - 2 * windows < recipe.training.batch_windows


def test_the_recipe_alone_makes_the_same_model(tuned: RunFolder):
    again = run(tuned.saved_recipe(), tuned.path / "again", until="export", quiet=True)
    assert sha256_file(again.model / "model.safetensors") == sha256_file(tuned.model / "model.safetensors")


def test_the_same_command_does_nothing_twice_and_refuses_other_settings(base: Path, tuned: RunFolder):
    data, before = [str(base.parents[1] / "chat.jsonl")], tuned.done()
    sft(base, data, tuned.path, TUNING, CPU, quiet=True)
    assert tuned.done() == before
    with pytest.raises(KeylmError, match=r"stages\.sft\.peak was 0\.2, is 0\.4"):
        sft(base, data, tuned.path, Tuning(2.0, 0.008, 256), CPU, quiet=True)


def test_another_model_under_the_same_name_is_refused_and_one_that_is_gone_is_not_missed(base: Path, tmp_path: Path):
    shutil.copytree(base, tmp_path / "model")
    recipe = tiny_recipe(base.parents[1], begun_with(tmp_path / "model", tmp_path))
    folder = run(recipe, tmp_path / "run", until="train", quiet=True)
    shutil.rmtree(folder.path / "stages.json", ignore_errors=True)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file({name: value * 1.5 for name, value in weights.items()}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(KeylmError, match=r"has other weights than those that .* was begun with"):
        run(recipe, folder.path, quiet=True)
    shutil.rmtree(tmp_path / "model")
    run(recipe, folder.path, until="export", quiet=True)
    assert (folder.model / "model.safetensors").is_file()


def test_a_killed_tuning_goes_on_to_the_same_weights(base: Path, tmp_path: Path):
    recipe = tiny_recipe(base.parents[1], begun_with(base, tmp_path, "checkpoints.every_steps=1"))
    whole = run(recipe, tmp_path / "whole", until="train", quiet=True)
    shutil.copytree(whole.path, tmp_path / "cut")
    cut = RunFolder(tmp_path / "cut")
    for later in checkpoint_paths(cut.checkpoints)[1:]:
        shutil.rmtree(later)
    run(recipe, cut.path, until="train", quiet=True)
    one, two = (read_checkpoint(checkpoint_paths(f.checkpoints)[-1]).model() for f in (whole, cut))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_size": 64}, r"has model\.hidden_size = 64, the recipe says 32; accepted: the same of both"),
        ({"vocab_size": 401}, r"has tokenizer\.vocab_size = 401, the recipe says 400"),
        ({"tie_word_embeddings": True}, r"has tie_word_embeddings = True, the recipe says False"),
        ({"model_type": "llama"}, r"model_type = 'llama'; accepted: 'qwen3'"),
    ],
)
def test_a_model_of_another_shape_is_one_clear_error(base: Path, tmp_path: Path, change: dict[str, object], says: str):
    shutil.copytree(base, tmp_path / "model")
    write_json(tmp_path / "model" / "config.json", {**read_json(base / "config.json"), **change})
    with pytest.raises(KeylmError, match=says):
        run(tiny_recipe(base.parents[1], begun_with(tmp_path / "model", tmp_path)), tmp_path / "run", quiet=True)


def test_weights_that_are_not_the_models_are_one_clear_error(base: Path, tmp_path: Path):
    shutil.copytree(base, tmp_path / "model")
    weights = load_file(base / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "lm_head" not in name},
        tmp_path / "model" / "model.safetensors",
    )
    with pytest.raises(KeylmError, match=r"tensor lm_head\.weight is missing; accepted: one of shape \(400, 32\)"):
        run(tiny_recipe(base.parents[1], begun_with(tmp_path / "model", tmp_path)), tmp_path / "run", quiet=True)


def test_sources_weigh_as_their_windows_and_none_falls_under_the_pattern(base: Path):
    draft = sft_recipe(
        base, ["a/x.jsonl", "b/x.jsonl", "hub:HuggingFaceTB/smol-smoltalk", "embedded:chat.jsonl.zst"], "t", TUNING
    )
    assert list(draft["sources"]) == ["x", "x_1", "smol-smoltalk", "chat"]
    assert draft["sources"]["smol-smoltalk"]["hub"] == "HuggingFaceTB/smol-smoltalk"
    windows = {"x": 90_000, "x_1": 9_000, "smol-smoltalk": 999, "chat": 1}
    stage = with_windows(draft, windows, 32, Tuning(epochs=1.5))["stages"][STAGE]
    assert stage["tokens"] == 150_000 * 32
    assert stage["weights"] == {"x": 90_000, "x_1": 9_000, "smol-smoltalk": 999, "chat": 100.0}
    assert stage["peak"] == pytest.approx(0.1)


def test_the_command_tunes_and_tells_where_the_model_is(base: Path, tmp_path: Path):
    write_jsonl(tmp_path / "mine.jsonl", [chat("the red cat?", "the old man.")] * 40 + [chat("a fox?", "rain.")])
    command = [sys.executable, "-m", "keylm", "sft", str(base), "mine.jsonl", "--out", "runs/mine"]
    sets = [part for one in CPU for part in ("--set", one)]
    done = subprocess.run(
        [*command, *sets], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stderr
    assert "keylm chat runs/mine/model" in done.stdout
    missing = subprocess.run(
        [*command[:5], "none.jsonl", "--out", "other"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (missing.returncode, missing.stderr.count("error:")) == (2, 1)
    assert "none.jsonl does not exist" in missing.stderr
