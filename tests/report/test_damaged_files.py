"""Files of another shape: the report names them, card and compare refuse them, with the entry and what is accepted."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.fake_evaluation import records, write_evaluation
from support.fake_run import fake_run

from keylm.base.errors import KeylmError
from keylm.base.files import read_json, write_json
from keylm.evaluation.contamination import contamination
from keylm.evaluation.results import EvaluationFolder, table
from keylm.recipe.run_folder import RunFolder
from keylm.report.card import CardDetails, card_text
from keylm.report.compare import compare
from keylm.report.run_report import write_report

DAMAGE: list[tuple[str, Any, str]] = [
    ("stages.json", {"tokenizer": {"inputs": "x"}}, "tokenizer.seconds: is missing; it has no default"),
    ("summary.json", {"parameters": "many"}, 'parameters: got "many"; accepted: a valid integer'),
    ("summary.json", [], "holds no dict"),
    ("samples.json", [{"prompt": 3}], "0.prompt: got 3; accepted: a valid string"),
    ("shards/manifest.json", {"sources": {"letters": []}}, "sources.letters: got []; accepted: "),
    ("evaluation/typing.json", {"rows": [{}]}, "rows.0.measure: is missing; it has no default"),
    ("evaluation/robustness.json", {"area": [1]}, "area: got [1]; accepted: a valid number"),
    ("evaluation/contamination.json", {"rows": 7}, "rows: got 7; accepted: a valid list"),
    ("evaluation/evaluation.json", [{"command": {}}], "0.command: got {}; accepted: a valid string"),
    ("evaluation/benchmarks/piqa.json", {"metrics": {"acc": 0.5}, "n": 3}, "metrics.acc: got 0.5; accepted: "),
    (
        "evaluation/benchmarks/piqa.json",
        {"metrics": {"acc": {"value": None}}, "n": 3},
        "value: got null",
    ),
    ("evaluation/typing.json", "[" * 3000, "nested deeper than 100 levels"),
]


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    folder = fake_run(tmp_path / "nano", 20)
    shutil.copytree(base, folder / "model")
    write_evaluation(folder / "evaluation", records(1, number=30))
    return folder


def put(file: Path, value: Any) -> None:
    file.write_text(value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize(("name", "value", "told"), DAMAGE)
def test_the_report_names_what_cannot_be_read_and_shows_the_rest(run: Path, name: str, value: Any, told: str):
    put(run / name, value)
    page = write_report(run).read_text()
    shown = name.removeprefix("evaluation/") if "evaluation/" not in name else name
    assert f"<code>{shown}</code>: cannot be read: " in page
    assert told.replace('"', "&#34;") in page


@pytest.mark.parametrize(("name", "value", "told"), DAMAGE)
def test_a_card_and_a_comparison_refuse_it(run: Path, name: str, value: Any, told: str, tmp_path: Path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    put(run / name, value)
    expected = f"{re.escape(str(run / name))}: cannot be read: .*{re.escape(told)}"
    with pytest.raises(KeylmError, match=expected):
        card_text(run)
    if name not in ("evaluation/contamination.json", "evaluation/evaluation.json"):  # of which nothing is compared
        with pytest.raises(KeylmError, match=expected):
            compare([other, run])


def test_a_parity_table_of_another_form_is_refused(run: Path, tmp_path: Path):
    put(tmp_path / "parity.json", {"artefacts": [{"artefact": "x"}]})
    with pytest.raises(KeylmError, match=r"parity\.json: artefacts\.0\.passed: is missing; it has no default"):
        card_text(run, CardDetails(parity=tmp_path / "parity.json"))


def test_a_stage_of_another_form_is_not_done(run: Path):
    for value in ({"tokenizer": {"inputs": "x"}}, {"tokenizer": 3}, [["tokenizer", {}]], "x"):
        put(run / "stages.json", value)
        assert RunFolder(run).done() == {}
        assert not RunFolder(run).is_done("tokenizer")


def test_a_damaged_benchmark_counts_as_not_measured(run: Path):
    file = run / "evaluation/benchmarks/piqa.json"
    write_json(file, {**read_json(file), "n": "all"})
    folder = EvaluationFolder(run / "evaluation")
    assert "piqa" not in folder.benchmarks()
    assert "PIQA acc" not in [figure.line.title for figure in table(folder.benchmarks())]
    put(folder.typing, {"rows": [3]})
    with pytest.raises(KeylmError, match=r"typing\.json: rows\.0: got 3; accepted: "):
        folder.measures(folder.typing)


@pytest.mark.parametrize("value", [{"format": 1}, {"format": 1, "sources": 7, "benchmarks": [3], "items": {}}])
def test_a_damaged_record_of_the_data_is_one_clear_error(run: Path, value: Any):
    put(run / "contamination.json", value)
    with pytest.raises(KeylmError, match=r"a record of its data is damaged: .*; accepted: contamination\.json, "):
        contamination(run)
