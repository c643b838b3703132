"""Damaged run folders: reported, compared, described, resumed; each is a page that says so or one clear error."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz.mutation import budget, dice, mutate_file, probe, report
from support.fake_evaluation import EVERYDAY, TYPING, records, write_evaluation
from support.fake_run import fake_run

from keylm.base.files import write_json
from keylm.cli.evaluate import show, show_everyday, show_instructions, show_typing
from keylm.evaluation.results import EvaluationFolder, table
from keylm.recipe.load import load_recipe, parse_recipe, read_toml
from keylm.recipe.run_folder import RunFolder
from keylm.report.card import CardDetails, card_text
from keylm.report.compare import as_text, compare, write_comparison
from keylm.report.run_report import write_report


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with everything that pages read; parity.json and a second run lie beside it."""
    folder = tmp_path_factory.mktemp("runs")
    run = fake_run(folder / "nano", 30)
    shutil.copytree(base, run / "model")
    write_evaluation(run / "evaluation", records(1, number=40))
    write_json(run / "evaluation/instructions.json", {"rows": [{**TYPING["rows"][0], "set": "trained"}]})
    write_json(run / "evaluation/everyday.json", EVERYDAY)
    row = {"artefact": "gguf/a.gguf", "bytes": 15, "logit": 0.01, "kl": 1e-6, "top1": 1.0, "passed": True}
    row |= {"perplexity": 12.3, "reference_perplexity": 12.3, "tokenizer_mismatches": 0, "tokenizer_strings": 500}
    write_json(run / "parity.json", {"artefacts": [row]})
    shutil.copytree(run, folder / "other")
    return run


def write_page(run: Path, other: Path) -> None:
    assert write_report(run).read_bytes().startswith(b"<!doctype html>")


def describe(run: Path, other: Path) -> None:
    card_text(run, CardDetails(parity=run / "parity.json"))


def describe_model(run: Path, other: Path) -> None:
    (run / "recipe.toml").unlink(missing_ok=True)
    shutil.copytree(run / "evaluation", run / "model/evaluation")
    card_text(run / "model")


def set_side_by_side(run: Path, other: Path) -> None:
    as_text(compare([run, other]))
    write_comparison([other, run], run / "compare.html")


def print_figures(run: Path, other: Path) -> None:
    folder = EvaluationFolder(run / "evaluation")
    show(table(folder.benchmarks()), folder)
    show_typing(folder)
    show_everyday(folder)
    show_instructions(folder)


def resume(run: Path, other: Path) -> None:
    folder = RunFolder(run)
    folder.done()
    folder.is_done("tokenizer")
    folder.initial_weights()


ACTS = [write_page, describe, describe_model, set_side_by_side, print_figures, resume]


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_damaged_run_folders(act: Callable[[Path, Path], None], finished: Path, tmp_path: Path):
    findings = {}
    for number in budget(4 if act is write_page else 12):
        rng, run = dice(f"run {act.__name__}", number), tmp_path / "case" / "nano"
        shutil.copytree(finished, run)
        files = [file for file in sorted(run.rglob("*.*")) if file.suffix in (".json", ".jsonl", ".toml")]
        file = rng.choice([file for file in files if file.parent.name != "model"])
        done = mutate_file(file, rng)
        if found := probe(lambda run=run: act(run, finished.parent / "other")):
            findings[f"{act.__name__} {number} ({file.name}, {done})"] = found
        shutil.rmtree(tmp_path / "case")
    report(findings)


def test_damaged_recipes(finished: Path, base: Path, tmp_path: Path):
    sound, findings = base.parents[1] / "recipe.toml", {}
    for number in budget(60):
        rng, file = dice("recipe", number), tmp_path / "recipe.toml"
        shutil.copyfile(sound, file)
        mutate_file(file, rng)
        setting = rng.choice(
            ("a=[" * 400, "a=" + "[" * 2000, ".".join("a" * 2000) + "=1", "seed=1", "model=3", "=", "name=''")
        )

        def read(file: Path = file, setting: str = setting) -> None:
            parse_recipe(read_toml(file), str(file))
            load_recipe(file, [setting])

        if found := probe(read):
            findings[f"recipe {number}"] = found
    report(findings)
