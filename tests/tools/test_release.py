"""The release's scripts in miniature: a build goes to another machine, its stages are trained one by one."""

import importlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from support.fake_evaluation import records, write_evaluation
from support.programs import Program, wait_for
from support.recipes import tiny_recipe
from transformers import Qwen3Config, Qwen3ForCausalLM
from typer.main import get_command

from keylm.base.errors import KeylmError
from keylm.base.files import read_json, write_json
from keylm.base.json_lines import read_rows
from keylm.cli.main import app
from keylm.data.manifest import read_manifest
from keylm.export.reference import TorchModel
from keylm.model.folder import export_model, qwen3_config
from keylm.pipeline.run import run
from keylm.recipe.load import parse_recipe, read_toml
from keylm.recipe.run_folder import RunFolder
from keylm.report.cost import tokens_seen
from keylm.report.run_record import read_run

ROOT = Path(__file__).parents[2]
PLAN = """
name = "small"
recipe = "recipe.toml"
set = ["stages.chat.peak=0.5", "stages.pretrain.decay=0.0"]
instructions = { count = 10, preferences = 5 }
preference = { pairs = 5, tries = 2, learning_rate = 2e-6, seconds = 60 }

[stages.pretrain]
seconds = 60
gpus = 0

[stages.pretrain_2]
of = "pretrain"
seconds = 60
gpus = 0
set = ["training.batch_tokens=512", "stages.pretrain.peak=1.5"]

[stages.chat]
seconds = 60
gpus = 1

[evaluation]
seconds = 10
base = [["arc_easy"]]
"""


@pytest.fixture(scope="module")
def scripts():
    names = (
        "pack_run",
        "unpack_run",
        "plan",
        "train",
        "evaluate",
        "collect",
        "sequence",
        "average",
        "held_out",
        "stretch",
    )
    modules = {name: importlib.import_module(f"tools.release.{name}") for name in names}
    return SimpleNamespace(**modules, instruct=importlib.import_module("tools.studies.instruct"))


@pytest.fixture(scope="module")
def there(scripts, tmp_path_factory) -> Path:
    """Return a folder with a plan, a packed build, and what came out of it."""
    folder = tmp_path_factory.mktemp("release")
    recipe = tiny_recipe(folder, ["training.device='cpu'"])
    built = run(recipe, folder / "data", until="shards", quiet=True)
    (built.path / "instructions").mkdir()
    (built.path / "instructions/manifest.json").write_text("{}")
    scripts.pack_run.pack_build(built.path, folder / "packed", part_bytes=20_000)
    scripts.unpack_run.unpack([folder / "packed"], folder / "there")
    (folder / "plan.toml").write_text(PLAN)
    return folder


def test_a_packed_build_comes_out_as_it_was(there: Path):
    assert len(list((there / "packed").glob("part-*.tar"))) > 1
    for place in ("shards", "instructions"):
        for file in (there / "data" / place).rglob("*"):
            if file.is_file() and not file.name.startswith("."):
                assert (there / "there" / file.relative_to(there / "data")).read_bytes() == file.read_bytes()
    assert (there / "there/shards/tokenizer/tokenizer.json").is_file()


def test_stages_are_trained_one_after_the_other_each_from_the_model_before(scripts, there: Path):
    plan = scripts.plan.read_plan(there / "plan.toml")
    whole = plan.load()
    first = scripts.plan.stage_recipe(plan, "pretrain", there / "there/shards", None)
    assert list(first.stages) == ["pretrain"]
    model = run(first, there / "out/pretrain", quiet=True).model
    second = scripts.plan.stage_recipe(plan, "chat", there / "there/shards", model)
    assert second.stages["chat"] == whole.stages["chat"]
    assert second.stages["chat"].peak == 0.5
    assert second.seed == whole.seed + 2  # windows in another order than before
    folder = run(second, there / "out/chat", quiet=True)
    assert (folder.model / "model.safetensors").is_file()
    assert read_toml(there / "out/chat/recipe.toml")["training"]["initial_model"] == str(model)
    with pytest.raises(KeylmError, match="no stage dance; the plan has: pretrain, pretrain_2, chat"):
        scripts.plan.stage_recipe(plan, "dance", there, None)


def test_the_plans_tunings_are_commands_that_keylm_takes(scripts, there: Path, tmp_path: Path):
    model, data = tmp_path / "model", tmp_path / "data"
    model.mkdir()
    plan = scripts.plan.read_plan()
    preference = scripts.plan.preference_command(plan, model, data, tmp_path / "preference", 7)
    rewards = scripts.plan.reward_command(
        plan, model, data, tmp_path / "grpo", [tmp_path / "a.txt", tmp_path / "b.txt"]
    )
    for verb, *rest in (preference, rewards):
        command = get_command(app).commands[verb]
        given = command.make_context(verb, rest).params
        assert given["limit"] == (7 if verb == "dpo" else plan.grpo["limit"])
    assert given["prompts"] == [data / "instructions/prompts.jsonl.zst"]
    assert given["replay"] == [tmp_path / "a.txt", tmp_path / "b.txt"]
    with pytest.raises(KeylmError, match=r"the plan has no \[grpo\]; accepted"):
        scripts.plan.reward_command(scripts.plan.read_plan(there / "plan.toml"), model, data, tmp_path, [])


def test_a_stage_is_gone_on_with_in_another_stretch(scripts, there: Path):
    plan, shards = scripts.plan.read_plan(there / "plan.toml"), there / "there/shards"
    first = scripts.plan.stage_recipe(plan, "pretrain", shards, None)
    second = scripts.plan.stage_recipe(plan, "pretrain_2", shards, None)
    assert second.stages["pretrain_2"].weights == first.stages["pretrain"].weights
    assert second.stages["pretrain_2"].peak == 1.5 * first.stages["pretrain"].peak
    assert (second.training.batch_tokens, second.seed) == (512, first.seed + 1)


@pytest.mark.parametrize("processes", [1, 2])
def test_nobody_trains_on_when_the_script_was_killed(scripts, there: Path, tmp_path: Path, processes: int):
    plan = scripts.plan.read_plan(there / "plan.toml")
    more = ["stages.pretrain.tokens=100_000_000", "evaluation.every_steps=1_000_000"]
    recipe = scripts.plan.stage_recipe(plan, "pretrain", there / "there/shards", None, more)
    (tmp_path / "long.toml").write_text(recipe.to_toml())
    asked = ("run", str(tmp_path / "long.toml"), "--run-dir", str(tmp_path / "long"))
    imported = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tools.release.plan import keylm"
    code = f"{imported}; keylm(*{asked}, gpus={processes})"
    script = Program([sys.executable, "-c", code])

    def trains() -> bool:
        found = subprocess.check_output(["ps", "-axww", "-o", "pid=,command="], text=True).splitlines()
        return any(str(tmp_path / "long.toml") in row and int(row.split()[0]) != script.pid for row in found)

    metrics = tmp_path / "long/metrics.jsonl"
    try:
        wait_for(lambda: metrics.is_file() and len(metrics.read_bytes().splitlines()) > 2, 120)
        assert trains()
    finally:
        script.kill()
    wait_for(lambda: not trains(), 20)


def test_of_a_stage_that_was_cut_off_the_last_checkpoint_is_exported(scripts, there: Path, capsys):
    plan = scripts.plan.read_plan(there / "plan.toml")
    recipe = scripts.plan.stage_recipe(plan, "pretrain", there / "there/shards", None, ["checkpoints.every_steps=1"])
    folder = run(recipe, there / "out/cut", until="train", quiet=True)
    last = sorted(folder.checkpoints.iterdir())[-1]
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    scripts.train.export_reached(folder, 3)
    reached = json.loads((folder.path / "reached.json").read_text())
    assert reached["step"] == reached["of"] - 1
    assert reached["tokens"] == reached["step"] * recipe.training.batch_tokens
    assert 0 < reached["seconds"] < sum(row["seconds"] for row in read_rows(folder.timing))
    assert (folder.model / "model.safetensors").is_file()
    with pytest.raises(KeylmError, match="no checkpoint"):
        scripts.train.export_reached(RunFolder(there / "out/nothing"), 1)


def test_stretches_on_several_machines_are_one_run(scripts, tmp_path: Path):
    more = [
        "training.device='cpu'",
        "data.shard_tokens=1024",
        "checkpoints.every_steps=1",
        "checkpoints.keep_last=1000",
    ]
    built = run(tiny_recipe(tmp_path, more), tmp_path / "data", until="shards", quiet=True)
    shutil.copytree(built.tokenizer, built.shards / "tokenizer")
    (tmp_path / "plan.toml").write_text(PLAN)
    plan = scripts.plan.read_plan(tmp_path / "plan.toml")
    recipe = scripts.plan.stage_recipe(plan, "pretrain", built.shards, None)
    whole = run(recipe, tmp_path / "whole", until="train", quiet=True)
    steps = sorted(whole.checkpoints.iterdir())
    for path in steps[len(steps) // 2 :]:  # as if the machine had gone back then
        shutil.rmtree(path)
    asked = {"plan": tmp_path / "plan.toml", "stage": "pretrain", "initial": None, "set": [], "part_bytes": 100_000}
    back = {**asked, "back": whole.path, "out": tmp_path / "back"}
    scripts.stretch.pack(SimpleNamespace(**back))
    scripts.unpack_run.unpack([tmp_path / "back"], tmp_path / "kept")
    there = {
        **asked,
        "back": None,
        "data": built.path,
        "run": tmp_path / "kept",
        "tokens": 10**9,
        "out": tmp_path / "on",
    }
    scripts.stretch.pack(SimpleNamespace(**there))
    scripts.unpack_run.unpack([tmp_path / "on"], tmp_path / "there")
    travelled = {file.relative_to(tmp_path / "there/shards") for file in (tmp_path / "there/shards").glob("*/train*")}
    assert travelled < {file.relative_to(built.shards) for file in built.shards.glob("*/train*")}
    recipe = scripts.plan.stage_recipe(plan, "pretrain", tmp_path / "there/shards", None)
    resumed = run(recipe, tmp_path / "there/run/pretrain", until="train", quiet=True)
    assert resumed.metrics.read_bytes() == whole.metrics.read_bytes()
    assert sorted(path.name for path in resumed.checkpoints.iterdir())[-1] == steps[-1].name


def test_the_first_stretch_takes_what_its_tokens_need(scripts, there: Path, tmp_path: Path):
    recipe = scripts.plan.stage_recipe(
        scripts.plan.read_plan(there / "plan.toml"), "pretrain", there / "there/shards", None
    )
    names = [name for name, _ in scripts.stretch.stretch_files(recipe, there / "data", 0, 1)]
    assert names[:2] == ["recipe.toml", "shards/manifest.json"]
    assert {name.split("/")[1] for name in names if "train-" in name} == set(recipe.used_sources)
    with pytest.raises(KeylmError, match="no checkpoint"):
        scripts.stretch.run_files(tmp_path)


def test_a_stretch_begins_when_what_its_first_steps_read_has_arrived(scripts, there: Path, tmp_path: Path):
    """The first step reads a shard of nearly every source: with a part of them training would end at once."""
    shards = there / "there/shards"
    recipe = scripts.plan.stage_recipe(scripts.plan.read_plan(there / "plan.toml"), "pretrain", shards, None)
    with pytest.raises(KeylmError, match=r"manifest.json: nothing arrived for 0\.2 s"):
        scripts.stretch.wait_for_shards(recipe, tmp_path, (0, 1), 0.2)
    names = sorted(file.relative_to(there / "there").as_posix() for file in shards.rglob("*") if file.is_file())
    packed, sent = tmp_path / "packed", tmp_path / "sent"
    files = [(name, there / "there" / name) for name in sorted(names, key=lambda name: "train-" in name)]
    scripts.pack_run.pack_files(files, packed, part_bytes=5_000)
    parts = [packed / "parts.json", *sorted(packed.glob("part-*.tar"))]
    assert len(parts) > 3
    sent.mkdir()

    def send() -> None:
        for part in parts:
            time.sleep(0.02)
            shutil.copyfile(part, tmp_path / part.name)
            (tmp_path / part.name).replace(sent / part.name)

    threads = [Thread(target=send), Thread(target=scripts.unpack_run.unpack_arriving, args=(sent, tmp_path, 20))]
    for thread in threads:
        thread.start()
    scripts.stretch.wait_for_shards(recipe, tmp_path, (0, 3), 20)
    needed = sorted(set(scripts.stretch.needed(recipe, read_manifest(shards), 0, 3)))
    assert all((tmp_path / "shards" / name).read_bytes() == (shards / name).read_bytes() for name in needed)
    for thread in threads:
        thread.join()
    (tmp_path / "shards" / needed[0]).unlink()
    with pytest.raises(KeylmError, match=rf"{needed[0]}: nothing arrived .*1 files are missing"):
        scripts.stretch.wait_for_shards(recipe, tmp_path, (0, 3), 0.2)
    (sent / parts[-1].name).unlink()
    with pytest.raises(KeylmError, match=r"did not arrive within 0\.2 s; accepted: all parts"):
        scripts.unpack_run.unpack_arriving(sent, tmp_path / "again", 0.2)


def test_falls_from_one_model_are_averaged(scripts, there: Path, tmp_path: Path):
    plan = scripts.plan.read_plan(there / "plan.toml")
    weights = []
    for number, (stage, layers) in enumerate({"fall": 2, "fall_2": 2, "deeper": 3}.items()):
        more = [f"model.num_hidden_layers={layers}"]
        recipe = scripts.plan.stage_recipe(plan, "pretrain", there / "there/shards", None, more)
        torch.manual_seed(number)
        model = Qwen3ForCausalLM(Qwen3Config(**qwen3_config(recipe.model, recipe.tokenizer.vocab_size)))
        weights.append(model.state_dict())
        RunFolder(tmp_path / stage).path.mkdir()
        (tmp_path / stage / "recipe.toml").write_text(recipe.to_toml())
        export_model(recipe, weights[-1], there / "there/shards/tokenizer", tmp_path / stage / "model")
    made = scripts.average.average(SimpleNamespace(stages=["fall", "fall_2"], out=tmp_path))
    found = TorchModel(made).weights()
    assert found.keys() == weights[0].keys()
    for name, value in found.items():
        halves = [fall[name].bfloat16().float() for fall in weights[:2]]
        assert torch.equal(torch.from_numpy(value), (sum(halves) / 2).bfloat16().float())
    assert list(read_json(tmp_path / "averaged/averaged.json")) == ["fall", "fall_2"]
    with pytest.raises(KeylmError, match=r"deeper: another shape than that of .*fall; accepted: the same"):
        scripts.average.average(SimpleNamespace(stages=["fall", "deeper"], out=tmp_path))
    words = read_json(tmp_path / "fall_2/model/tokenizer.json")
    write_json(tmp_path / "fall_2/model/tokenizer.json", {**words, "version": "2"})
    with pytest.raises(KeylmError, match="another tokenizer"):
        scripts.average.average(SimpleNamespace(stages=["fall", "fall_2"], out=tmp_path))


def test_models_are_compared_on_the_same_held_out_text(scripts, there: Path, tmp_path: Path):
    plan = scripts.plan.read_plan(there / "plan.toml")
    recipe = scripts.plan.stage_recipe(plan, "pretrain", there / "there/shards", None)
    folder = run(recipe, tmp_path / "pretrain", quiet=True)
    asked = {"plan": there / "plan.toml", "data": there / "there", "out": tmp_path / "held_out.json", "stage": None}
    asked |= {"models": [f"mine={folder.model}"], "windows": recipe.evaluation.windows_per_source}
    asked |= {"set": ["training.device='cpu'"]}
    text = scripts.held_out.measure(SimpleNamespace(**asked))
    (found,) = read_json(tmp_path / "held_out.json")["models"]
    trained = read_rows(folder.metrics, "validation")[-1]["bits_per_byte"]
    assert found["model"] == "mine"
    assert set(trained) < set(found["bits_per_byte"]), "what the stage did not train on is measured too"
    for source, bits in trained.items():
        assert found["bits_per_byte"][source] == pytest.approx(bits, rel=1e-2)  # the model's weights are bf16
    bits = found["bits_per_byte"]
    assert found["means"]["all"] == pytest.approx(sum(bits.values()) / len(bits))
    entries = read_json(there / "there/shards/manifest.json")["sources"]
    tokens = {name: entries[name]["train"]["tokens"] for name in bits}
    weighed = sum(tokens[name] * bits[name] for name in bits) / sum(tokens.values())
    assert found["means"]["by tokens"] == pytest.approx(weighed)
    assert f"{found['means']['all']:.4f}" in text
    scripts.held_out.measure(SimpleNamespace(**{**asked, "stage": "pretrain"}))
    assert set(read_json(tmp_path / "held_out.json")["models"][0]["bits_per_byte"]) == set(trained)

    def refused(why: str, **changed) -> None:
        with pytest.raises(KeylmError, match=why):
            scripts.held_out.measure(SimpleNamespace(**{**asked, **changed}))

    refused("--windows: got 0", windows=0)
    refused("--stage dance: accepted: pretrain", stage="dance")
    refused("num_hidden_layers = 2, the recipe says 3", set=["model.num_hidden_layers=3"])
    refused("training.device: got", set=["training.device='mars'"])
    (folder.model / "tokenizer.json").write_text("{}")
    refused("another tokenizer than that of")
    (folder.model / "tokenizer.json").unlink()
    refused("no tokenizer.json in it")


def test_stages_become_one_run_with_report_and_card(scripts, there: Path):
    plan = scripts.plan.read_plan(there / "plan.toml")
    out, model = there / "joined", None
    for stage in ("pretrain", "chat"):
        more = ["optimizer.muon_normalise_neurons=true"] if stage == "chat" else []
        recipe = scripts.plan.stage_recipe(plan, stage, there / "there/shards", model, more)
        model = run(recipe, out / stage, quiet=True).model
    write_json(out / "pretrain/reached.json", {"step": 4, "of": 6, "tokens": 1024, "world_size": 2})
    asked = {"name": "small", "stages": ["pretrain", "chat"], "last": None, "data": there / "there", "out": out}
    asked |= {"models": there / "models", "licence": "mit", "description": None, "plan": there / "plan.toml"}
    asked |= {"corpus": None, "parity": None, "open_licences": None}
    write_evaluation(out / "chat/evaluation", records(1))
    piqa = json.loads((out / "chat/evaluation/benchmarks/piqa.json").read_text())
    piqa["command"] = "keylm eval /there/out/chat/model --tasks piqa"
    write_json(out / "chat/evaluation/benchmarks/piqa.json", piqa)
    folder = scripts.collect.collect(SimpleNamespace(**asked))
    rows = read_rows(out / "small/metrics.jsonl", "train")
    assert [row["step"] for row in rows] == list(range(len(rows)))
    tokens = [row["tokens"] for row in rows]
    assert tokens == sorted(set(tokens))
    whole = read_toml(folder / "recipe.toml")
    assert list(whole["stages"]) == ["pretrain", "chat"]
    assert whole["stages"]["pretrain"]["tokens"] == 1024  # what it reached
    card = (folder / "README.md").read_text()
    assert "# small" in card
    assert "| pretrain | 1,024 |" in card
    assert "Tokens a step: pretrain 256, chat 256." in whole["description"]
    assert whole["description"].endswith("Neurons normalised: chat.")
    for name in ("model.safetensors", "tokenizer.json", "manifest.json", "report.html"):
        assert (folder / name).is_file()
    rows = json.loads((folder / "evaluation.json").read_text())
    assert {row["command"] for row in rows if row["benchmark"] == "piqa"} == {"keylm eval chat/model --tasks piqa"}
    assert {row["model"] for row in rows} == {"small"}
    for file in (out / "pretrain/metrics.jsonl", out / "pretrain/timing.jsonl", out / "pretrain/summary.json"):
        file.unlink()  # as where a stage's model alone was kept
    with pytest.raises(KeylmError, match=r"no metrics, and reached\.json lacks seconds"):
        scripts.collect.join(SimpleNamespace(**asked))
    write_json(out / "pretrain/reached.json", {"step": 4, "of": 6, "tokens": 1024, "world_size": 2, "seconds": 7.0})
    scripts.collect.join(SimpleNamespace(**asked))
    first, second, *_ = read_rows(out / "small/metrics.jsonl", "train")
    assert (first["step"], first["tokens"], first["stage"]) == (3, 1024, "pretrain")
    assert (second["step"], second["tokens"], second["stage"]) == (4, 1024 + 256, "chat")
    assert read_rows(out / "small/timing.jsonl")[0] == {"step": 3, "seconds": 14.0}
    joined = read_run(out / "small")
    shares = [joined.shares[name]["tales"] for name in ("pretrain", "chat")]
    told = 1024 * shares[0] + (joined.tokens_seen - 1024) * shares[1]
    assert tokens_seen(joined)["tales"] == pytest.approx(told), "each stage's tokens by its own mixture"
    with pytest.raises(KeylmError, match="holds no model"):
        scripts.collect.collect(SimpleNamespace(**{**asked, "last": "preference"}))


def test_the_card_tells_where_the_files_of_a_corpus_are_from(scripts, tmp_path: Path):
    entry = {"note": "fairy tales", "licence": "CC0", "origin": "somebody/tales@1"}
    write_json(tmp_path / "corpus.json", [{"path": f"formal/{name}.jsonl.zst", **entry} for name in ("used", "other")])
    recipe = {"sources": {"mine": {"path": "{corpus}/formal/used.jsonl.zst"}, "typos": {"typos_of": ["mine"]}}}
    text = scripts.collect.origins(tmp_path, recipe)
    assert "| formal/used.jsonl.zst | fairy tales | CC0 | somebody/tales@1 |" in text
    assert "other" not in text
    assert scripts.collect.origins(None, recipe) == ""


def test_the_card_tells_what_open_licences_cost(scripts, tmp_path: Path):
    file = tmp_path / "licences.json"
    rows = [
        {"model": name, "means": {"licence stated": stated, "licence unstated": unstated}}
        for name, stated, unstated in (("all", 1.5, 1.25), ("open", 1.25, 2.0))
    ]
    write_json(file, {"tokens": 80_000_000, "models": rows})
    text = scripts.collect.open_licences(file)
    assert "after 80 million tokens, 1.250 instead of 1.500 bits per byte" in text
    assert "2.000 instead of 1.250 on that of the rest" in text
    assert scripts.collect.open_licences(None) == ""
    write_json(file, {"tokens": 80_000_000, "models": rows[:1]})
    with pytest.raises(KeylmError, match="models named all and open"):
        scripts.collect.open_licences(file)


def test_the_share_of_instructions_is_what_was_asked(scripts, there: Path):
    data = scripts.plan.read_plan(there / "plan.toml").load().to_data()
    data["sources"]["chat"]["loss"] = "assistant"
    data["stages"] = {"all": {"tokens": 4096, "weights": {"tales": 0.3, "notes": 0.1, "chat": 0.6}}}
    recipe = parse_recipe(data, "test")
    weights = scripts.instruct.with_share(recipe, 0.25).stages["all"].weights
    assert weights == pytest.approx({"tales": 0.5625, "notes": 0.1875, "chat": 0.25})
    assert set(scripts.instruct.with_share(recipe, 0.0).stages["all"].weights) == {"tales", "notes"}


def test_the_plan_of_the_release_fits_its_recipe(scripts):
    plan = scripts.plan.read_plan(ROOT / "tools/release/plan.toml")
    recipe = plan.load()
    assert list(recipe.stages) == list(dict.fromkeys(stage.get("of", name) for name, stage in plan.stages.items()))
    for name in plan.stages:
        scripts.plan.stage_recipe(plan, name, ROOT, None)
    assert {"verifiable", "everyday"} <= set(recipe.stages["anneal"].weights) & set(recipe.stages["instruct"].weights)


def test_measures_that_the_plan_lacks_are_refused(scripts, there: Path):
    asked = SimpleNamespace(plan=there / "plan.toml", measures=["base", "all"], model=there, data=None)
    with pytest.raises(KeylmError, match="has no such list"):
        scripts.evaluate.evaluate(asked)


def test_a_sequence_trains_within_its_time_and_packs_what_is_finished(scripts, there: Path, monkeypatch):
    """In another process each, as on the machine; given again, nothing is trained twice."""
    out = there / "sequence"
    asked = {"plan": there / "plan.toml", "stages": ["pretrain", "chat"], "data": there / "there", "out": out}
    asked |= {"initial": None, "seconds": 300.0, "set": [], "measures": [], "part_bytes": 20_000}
    scripts.sequence.sequence(SimpleNamespace(**asked))
    for stage in ("pretrain", "chat"):
        scripts.unpack_run.unpack([out / "packed" / stage], there / f"fetched-{stage}")
        for name in ("model/model.safetensors", "model/tokenizer.json", "metrics.jsonl", "summary.json", "recipe.toml"):
            assert (there / f"fetched-{stage}" / name).read_bytes() == (out / stage / name).read_bytes()
    assert read_toml(out / "chat/recipe.toml")["training"]["initial_model"] == str(out / "pretrain/model")
    monkeypatch.setattr(scripts.sequence, "train", None)
    measured = []

    def evaluate(given: SimpleNamespace) -> None:
        measured.append(given.model)
        write_evaluation(given.model.parent / "evaluation", records(1))
        raise KeylmError("piqa failed")

    monkeypatch.setattr(scripts.sequence, "evaluate", evaluate)
    with pytest.raises(KeylmError, match="piqa failed"):
        scripts.sequence.sequence(SimpleNamespace(**{**asked, "measures": ["base"]}))
    assert measured == [out / "chat/model"]
    scripts.unpack_run.unpack([out / "packed/measured"], there / "fetched-measured")
    assert (there / "fetched-measured/evaluation/benchmarks/piqa.json").is_file()
    assert not (there / "fetched-measured/model").exists()


def test_a_steady_stage_takes_what_the_others_leave(scripts, there: Path):
    plan = scripts.plan.read_plan(there / "plan.toml")
    assert [scripts.sequence.is_steady(plan, name) for name in plan.stages] == [True, True, False]
    share = scripts.sequence.share
    assert share(plan, "pretrain", ["pretrain_2", "chat", "evaluation"], {"pretrain", "pretrain_2"}, 270) == 100
    assert share(plan, "chat", ["evaluation"], {"pretrain"}, 20) == 60
    with pytest.raises(KeylmError, match=r"60 s are left, and chat, evaluation are planned to take 70"):
        share(plan, "pretrain", ["chat", "evaluation"], {"pretrain"}, 60)
    with pytest.raises(KeylmError, match="no stage dance"):
        scripts.sequence.is_steady(plan, "dance")
