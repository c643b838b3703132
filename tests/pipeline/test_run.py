"""The main job end to end, and what a user opens afterwards."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.recipes import tiny_recipe

from keylm.base.errors import KeylmError
from keylm.base.files import read_json, write_json
from keylm.base.json_lines import read_rows
from keylm.model.decoder import Decoder
from keylm.pipeline.run import run
from keylm.recipe.load import Recipe, load_recipe
from keylm.recipe.run_folder import RunFolder, checkpoint_path, checkpoint_paths
from keylm.runtimes.generation import Generator, Sampling
from keylm.training.checkpoint import read_checkpoint

SHARED_CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
NANO = Path(__file__).parents[2] / "recipes" / "nano.toml"


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The nano recipe, whole but for its length: every stage, the embedded corpus, the report."""
    short = ["stages.pretrain.tokens=12288", "stages.chat.tokens=4096", "training.batch_tokens=1024"]
    recipe = load_recipe(NANO, [*short, "evaluation.every_steps=6", "evaluation.windows_per_source=2"])
    return run(recipe, tmp_path_factory.mktemp("nano") / "run", quiet=True)


def test_the_main_job_leaves_everything(nano: RunFolder):
    samples = json.loads(nano.samples.read_text())
    assert {sample["stage"] for sample in samples} == {"pretrain", "chat"}
    assert all(sample["text"] for sample in samples if sample["prompt"])
    assert any(sample["messages"] for sample in samples)
    page = nano.report.read_text()
    for expected in ("fairy_tales", "short_stories", "<svg", "Once upon a time"):
        assert expected in page
    assert not re.search(r'(?:src|href)="https?:', page), "the report must be self-contained"
    rows = read_rows(nano.metrics, "train")
    assert rows[-1]["loss"] < rows[0]["loss"] - 1
    summary = json.loads(nano.summary.read_text())
    assert summary["parameters"] == sum(p.numel() for p in Decoder(nano.saved_recipe().model, 3072).parameters())


def test_running_again_does_nothing(nano: RunFolder):
    before = {file: file.stat().st_mtime_ns for file in nano.path.rglob("*.safetensors")}
    stages = nano.done()
    run(nano.saved_recipe(), nano.path, quiet=True)
    assert {file: file.stat().st_mtime_ns for file in nano.path.rglob("*.safetensors")} == before
    assert nano.done() == stages


def test_another_recipe_is_refused_in_the_same_folder(nano: RunFolder):
    data = nano.recipe.read_text().replace("seed = ", "seed = 1")
    (nano.path / "other.toml").write_text(data)
    with pytest.raises(KeylmError, match=r"begun with another recipe: seed was \d+, is 1\d+; accepted"):
        run(load_recipe(nano.path / "other.toml"), nano.path, quiet=True)


def test_the_cards_snippet_runs_unchanged(nano: RunFolder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = str(nano.model)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, torch_dtype=torch.bfloat16)
    inputs = tokenizer("Once upon a time", return_tensors="pt")
    torch.manual_seed(0)
    output = model.generate(
        **inputs, max_new_tokens=12, do_sample=True, temperature=0.7, top_p=0.9, repetition_penalty=1.1
    )
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.dtype == torch.bfloat16
    assert tokenizer.decode(output[0]).startswith("Once upon a time")
    assert output.shape[1] > inputs["input_ids"].shape[1]


def test_the_model_folder_is_the_stock_layout(nano: RunFolder):
    config = json.loads((nano.model / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    assert "auto_map" not in config
    tokenizer = json.loads((nano.model / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "{% generation %}" in tokenizer["chat_template"]
    assert tokenizer["add_bos_token"] is False
    generation = json.loads((nano.model / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [0, 2]


def test_exported_logits_are_the_checkpoints(nano: RunFolder):
    from transformers import AutoModelForCausalLM

    weights = read_checkpoint(checkpoint_paths(nano.checkpoints)[-1]).model()
    ours = Decoder(nano.saved_recipe().model, 3072)
    ours.load_state_dict({name: value.bfloat16().float() for name, value in weights.items()})
    theirs = AutoModelForCausalLM.from_pretrained(nano.model, dtype=torch.float32)
    tokens = torch.randint(20, 3072, (1, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)


def test_generation_streams_what_it_returns_and_a_seed_repeats_it(nano: RunFolder):
    generator = Generator(nano.model)
    pieces: list[str] = []
    text = generator.complete("The king", Sampling(max_new_tokens=20, seed=1), pieces.append)
    assert text == "".join(pieces)
    assert len(pieces) > 3
    assert generator.complete("The king", Sampling(max_new_tokens=20, seed=1)) == text
    assert generator.complete("The king", Sampling(max_new_tokens=20, seed=2)) != text
    assert generator.complete("", Sampling(max_new_tokens=3, seed=1))


def test_a_prompt_beyond_the_context_is_one_clear_error(nano: RunFolder):
    with pytest.raises(KeylmError, match="accepted: fewer than the context of 256"):
        Generator(nano.model).complete("word " * 400, Sampling())


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_a_model_is_one_clear_error(nano: RunFolder, tmp_path: Path, missing: str):
    for file in nano.model.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(KeylmError, match="accepted: a model folder"):
        Generator(tmp_path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, RunFolder]:
    """The tiny recipe, and its run from beginning to end; tests work on copies."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = tiny_recipe(folder)
    return recipe, run(recipe, folder / "run", quiet=True)


def damage(file: Path) -> None:
    file.write_bytes(b"x" + file.read_bytes()[1:])


def test_a_broken_last_checkpoint_is_trained_again_from_the_one_before(tmp_path: Path):
    folder = run(tiny_recipe(tmp_path), tmp_path / "run", until="train", quiet=True)
    metrics = folder.metrics.read_bytes()
    damage(checkpoint_paths(folder.checkpoints)[-1] / "model.safetensors")
    run(tiny_recipe(tmp_path), folder.path, quiet=True)
    assert folder.metrics.read_bytes() == metrics
    assert (folder.model / "model.safetensors").is_file()


def test_checkpoints_that_a_kill_at_the_end_left_are_removed(tmp_path: Path):
    """Killed between the last checkpoint and the removal of those before: the stage is not done, no step is left."""
    recipe = tiny_recipe(tmp_path)
    folder = run(recipe, tmp_path / "run", until="train", quiet=True)
    whole = {path.name for path in folder.checkpoints.iterdir()}
    last = checkpoint_paths(folder.checkpoints)[-1]
    for name in ("step-00000001", "step-00000002"):
        shutil.copytree(last, folder.checkpoints / name)
    (folder.checkpoints / "step-00000001/state.json").unlink()
    stages = read_json(folder.path / "stages.json")
    del stages["train"]
    write_json(folder.path / "stages.json", stages)
    run(recipe, folder.path, until="train", quiet=True)
    assert {path.name for path in folder.checkpoints.iterdir()} == whole


def test_a_broken_checkpoint_of_an_earlier_stage_does_not_cost_the_model(tmp_path: Path, capsys):
    recipe = tiny_recipe(tmp_path)
    folder = run(recipe, tmp_path / "run", until="train", quiet=True)
    damage(checkpoint_path(folder.checkpoints, 6) / "model.safetensors")
    run(recipe, folder.path, quiet=True)
    assert (folder.model / "model.safetensors").is_file()
    assert not folder.stage_model("pretrain").exists()
    assert "no model-pretrain: its checkpoint is not sound" in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["tokenizer", "model", "samples.json", "summary.json", "report.html", "stages.json"])
def test_an_output_that_is_lost_is_made_again(tiny: tuple[Recipe, RunFolder], tmp_path: Path, lost: str):
    recipe, finished = tiny
    folder = RunFolder(Path(shutil.copytree(finished.path, tmp_path / "run")))
    before = folder.samples.read_bytes()
    victim = folder.path / lost
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    run(recipe, folder.path, quiet=True)
    assert victim.exists()
    assert folder.samples.read_bytes() == before


def test_sources_that_changed_after_training_began_change_nothing(tmp_path: Path):
    recipe = tiny_recipe(tmp_path)
    folder = run(recipe, tmp_path / "run", until="train", quiet=True)
    before = (folder.shards / "manifest.json").read_bytes()
    with (tmp_path / "tales.jsonl").open("a") as file:
        file.write('{"text": "a new line"}\n')
    run(recipe, folder.path, quiet=True)
    assert (folder.shards / "manifest.json").read_bytes() == before


def test_stages_in_another_order_are_another_recipe(tmp_path: Path):
    folder = run(tiny_recipe(tmp_path), tmp_path / "run", until="train", quiet=True)
    text = (tmp_path / "recipe.toml").read_text()
    start, middle, end = text.index("[stages.pretrain]"), text.index("[stages.chat]"), text.index("[training]")
    swapped = tmp_path / "swapped.toml"
    swapped.write_text(text[:start] + text[middle:end] + text[start:middle] + text[end:])
    with pytest.raises(KeylmError, match=r"order of stages was \['pretrain', 'chat'\]"):
        run(load_recipe(swapped), folder.path, quiet=True)


def test_a_run_goes_on_with_smaller_micro_batches_and_other_checkpoints(tmp_path: Path):
    folder = run(tiny_recipe(tmp_path), tmp_path / "run", until="shards", quiet=True)
    changed = ["training.micro_batch_windows=2", "checkpoints.every_steps=1", 'evaluation.prompts=["the sea"]']
    run(tiny_recipe(tmp_path, changed), folder.path, quiet=True)
    assert [sample["prompt"] for sample in json.loads(folder.samples.read_text())][:1] == ["the sea"]
    with pytest.raises(KeylmError, match=r"training\.clip_norm was 1\.0, is 2\.0"):
        run(tiny_recipe(tmp_path, ["training.clip_norm=2.0"]), folder.path, quiet=True)


def test_two_at_work_in_one_folder_are_kept_apart(tmp_path: Path):
    recipe = tiny_recipe(tmp_path)
    with RunFolder(tmp_path / "run").locked(), pytest.raises(KeylmError, match="another keylm is at work"):
        run(recipe, tmp_path / "run", quiet=True)


def test_a_prompt_that_will_not_fit_is_told_before_training(tmp_path: Path):
    recipe = tiny_recipe(tmp_path, [f'evaluation.prompts=["{"fox " * 60}"]'])
    with pytest.raises(KeylmError, match=r"evaluation\.prompts: .* accepted: fewer than the context of 32"):
        run(recipe, tmp_path / "run", quiet=True)


@pytest.mark.skipif(not SHARED_CORPUS.is_dir(), reason="the shared corpus is not beside this checkout")
def test_training_on_a_sample_of_the_shared_corpus_through_a_second_epoch(tmp_path: Path):
    recipe = tiny_recipe(
        tmp_path,
        [
            f'sources.tales={{path="{SHARED_CORPUS}/formal/wikinews.jsonl.zst", max_bytes=60000}}',
            f'sources.notes={{path="{SHARED_CORPUS}/casual", max_bytes=30000, register="casual"}}',
            f'sources.chat={{path="{SHARED_CORPUS}/chat/taskmaster4.jsonl.zst", max_bytes=30000, loss="assistant"}}',
            "tokenizer.vocab_size=1000",
            "training.context=128",
            "model.max_position_embeddings=128",
            "training.batch_tokens=2048",
            "stages.pretrain.tokens=60000",
            "stages.chat.tokens=16000",
        ],
    )
    folder = run(recipe, tmp_path / "run", until="export", quiet=True)
    manifest = json.loads((folder.shards / "manifest.json").read_text())
    given = 60000 * 0.75 / 128
    assert given > 1.5 * manifest["sources"]["tales"]["train"]["windows"], "the sample must be seen twice"
    rows = read_rows(folder.metrics, "train")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    assert (folder.model / "model.safetensors").is_file()


def test_torchrun_runs_the_whole_job(tmp_path: Path):
    tiny_recipe(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "keylm", "run", str(tmp_path / "recipe.toml"), "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["world_size"] == 2
    assert (tmp_path / "run" / "report.html").is_file()
