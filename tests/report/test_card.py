"""A card says what the files say, and nothing else."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from huggingface_hub import ModelCard
from support.fake_evaluation import records, write_evaluation
from support.fake_run import fake_run
from support.recipes import tiny_recipe
from support.shapes import random_qwen3

from keylm.base.errors import KeylmError
from keylm.base.files import write_json
from keylm.evaluation.results import table
from keylm.model.folder import export_model
from keylm.recipe.load import read_toml
from keylm.report.card import CardDetails, card_text


@pytest.fixture(scope="module")
def model(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    shape = {"hidden_size": 32, "head_dim": 16, "intermediate_size": 64}
    export_model(tiny_recipe(folder), random_qwen3(0, 400, **shape).state_dict(), tokenizer, folder / "alone")
    return folder / "alone"


@pytest.fixture
def finished(model: Path, tmp_path: Path) -> Path:
    folder = fake_run(tmp_path / "nano", 40)
    shutil.copytree(model, folder / "model")
    return folder


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_figures_are_the_evaluations(finished: Path):
    made = records(1)
    write_evaluation(finished / "evaluation", made)
    card = ModelCard(card_text(finished, CardDetails(repo="me/nano")))
    results = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results or []}
    for name, metric in (("hellaswag", "acc_norm"), ("piqa", "acc")):
        assert results[name, metric] == round(100 * made[name]["metrics"][metric]["value"], 2)
    assert card.data.datasets == ["keylm/letters"]
    assert card.data.license is None
    shown = sections(card.text)["Evaluation"]
    for figure in table(made):
        if figure.is_share and figure.stderr is not None:
            value, reach = 100 * figure.value, 196 * figure.stderr
            assert f"| {figure.line.title} | {value:.1f} | {value - reach:.1f}–{value + reach:.1f} |" in shown
    assert "KeyLM-75M: its model card" in shown
    assert "`keylm eval runs/nano/model --tasks card`" in shown
    assert "0.837 (95 %: 0.801–0.872)" in sections(card.text)["Typing and typing errors"]
    assert "Of 12,418 items 115 shared" in sections(card.text)["Decontamination"]
    assert "| ifeval | 541 | not known | not known |" in card.text


@pytest.mark.parametrize("path", ["embedded:tales.jsonl.zst", "stories.jsonl"])
def test_stories_that_other_files_may_hold_are_called_known(finished: Path, path: str):
    """The typing set of the package's corpus is kept out of training by the package's files alone."""
    write_evaluation(finished / "evaluation", records(1))
    row = {"measure": "keystroke savings", "set": "embedded", "system": "model", "value": 0.5, "unit": ""}
    write_json(finished / "evaluation/typing.json", {"rows": [row]})
    file = finished / "recipe.toml"
    recipe = read_toml(file)
    for source in recipe["sources"].values():
        source["path"] = path
    file.write_bytes(tomli_w.dumps(recipe).encode())
    shown = sections(card_text(finished, CardDetails()))["Typing and typing errors"]
    assert "| keystroke savings (embedded) | 50.0 |" in shown
    assert ("how well it knows them" in shown) == (path == "stories.jsonl")


def test_data_curriculum_and_cost_are_the_runs(finished: Path):
    found = sections(card_text(finished))
    assert "| letters | keylm/letters | casual | CC-BY-4.0 | 371,200 |" in found["Training data"]
    shares = [
        float(row.split("|")[7])
        for row in found["Training data"].splitlines()
        if row.count("|") == 8 and "%" not in row and "--" not in row
    ]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert (
        "| pretrain | 1,638,400 | 1 → 0.5 | fairy_tales 60.0 %, letters 30.0 %, recipes 10.0 % |" in found["Curriculum"]
    )
    # 6 × 2,150,000 parameters × 40 steps of 8,192 tokens
    assert "4.2 × 10^12 floating-point operations" in found["Compute and energy"]
    assert "Energy was not measured, and what this processor draws is not known." in found["Compute and energy"]
    assert found["Evaluation"].strip() == "Not measured."
    assert found["Licence"].startswith("\n\nNot stated.")


def test_energy_is_an_estimate_with_its_assumption(finished: Path):
    rows = [json.loads(line) for line in (finished / "timing.jsonl").read_text().splitlines()]
    hours = sum(row["seconds"] for row in rows) / 3600
    text = sections(card_text(finished, CardDetails(watts=1000)))["Compute and energy"]
    assert f"An estimate: {hours:.2g} kWh, from these hours and 1000 W a processor (as given by" in text
    summary = json.loads((finished / "summary.json").read_text())
    (finished / "summary.json").write_text(
        json.dumps({**summary, "device": "cuda", "device_name": "NVIDIA H100 80GB HBM3"})
    )
    text = sections(card_text(finished))["Compute and energy"]
    assert f"{0.7 * hours:.2g} kWh, from these hours and 700 W a processor (the most that its board draws)" in text


def test_a_model_alone_claims_nothing_of_its_training(model: Path):
    text = card_text(model)
    found = sections(text)
    assert "without the run that trained the model" in found["Training data"]
    assert "Curriculum" not in found
    assert found["Evaluation"].strip() == "Not measured."
    assert found["Decontamination"].strip() == "What the training texts hold of the benchmarks is not known."
    assert not re.search(r"\bnan\b|None", text)
    assert ModelCard(text).data.to_dict().get("model-index") is None


@pytest.mark.parametrize(
    "lost", ["metrics.jsonl", "timing.jsonl", "summary.json", "shards/manifest.json", "samples.json", "recipe.toml"]
)
def test_what_is_lost_costs_its_part_alone(finished: Path, lost: str):
    (finished / lost).unlink()
    place = finished / "model" if lost == "recipe.toml" else finished
    text = card_text(place)
    assert not re.search(r"\bnan\b|None|inf\b", text)
    assert "How to use" in sections(text)


def test_an_earlier_stages_model_does_not_take_the_runs_figures(finished: Path):
    write_evaluation(finished / "evaluation", records(1))
    shutil.copytree(finished / "model", finished / "model-pretrain")
    assert sections(card_text(finished / "model-pretrain"))["Evaluation"].strip() == "Not measured."


def test_only_some_items_are_told(finished: Path):
    write_evaluation(finished / "evaluation" / "limit-50", records(1, number=50, limit=50))
    assert "Only the first 50 items of each task were evaluated." in sections(card_text(finished))["Evaluation"]


def test_licence_and_exports_are_shown(finished: Path, tmp_path: Path):
    row: dict[str, Any] = {"artefact": "gguf/a.gguf", "bytes": 1_500_000, "logit": 0.01, "kl": 1e-6, "top1": 1.0}
    row |= {"perplexity": 12.3456, "reference_perplexity": 12.3, "tokenizer_mismatches": 0, "tokenizer_strings": 500}
    rows = [{**row, "passed": True}, {**row, "artefact": "gguf/b.gguf", "passed": False}]
    (tmp_path / "parity.json").write_text(json.dumps({"artefacts": rows}))
    text = card_text(finished, CardDetails(licence="apache-2.0", parity=tmp_path / "parity.json"))
    assert ModelCard(text).data.license == "apache-2.0"
    assert "| gguf/a.gguf | 1.5 | 0.01 | 1e-06 | 100.0 | 12.35 | 0 of 500 |" in text
    assert "b.gguf" not in text


def test_a_folder_that_is_neither_is_one_error(tmp_path: Path):
    with pytest.raises(KeylmError, match="accepted: a model folder or a run folder"):
        card_text(tmp_path)
    (tmp_path / "recipe.toml").write_text("")
    with pytest.raises(KeylmError, match="the run has no model yet"):
        card_text(tmp_path)


def test_instructions_are_told_with_what_their_types_are(finished: Path):
    row = {"system": "model", "value": 0.311, "low": 0.2, "high": 0.4, "stderr": 0.05, "n": 70, "unit": "share"}
    rows = [{**row, "set": "held_out", "measure": "all constraints"}, {**row, "set": "trained", "measure": "no_comma"}]
    rows.append({**row, "set": "typos", "measure": "exact"})
    assert "Following instructions" not in card_text(finished)
    (finished / "evaluation").mkdir(exist_ok=True)
    (finished / "evaluation/instructions.json").write_text(json.dumps({"rows": rows}))
    shown = sections(card_text(finished))["Following instructions"]
    assert "| types that training never had | 31.1 ± 5.0 | 31.1 ± 5.0 | 70 |" in shown
    assert "| sentence fixed to the character | 31.1 | 20.0–40.0 | 70 |" in shown
    assert "of the types that IFEval asks" in shown
    assert "no_comma" not in shown
