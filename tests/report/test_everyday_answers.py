"""Answers to everyday prompts: in the report of one run, and side by side where runs are compared."""

import json
from pathlib import Path

import pytest
from support.fake_evaluation import EVERYDAY
from support.fake_run import fake_run

from keylm.report.compare import as_text, compare, write_comparison
from keylm.report.everyday_answers import everyday_answers
from keylm.report.run_report import write_report


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    found = [fake_run(tmp_path / name, steps=20) for name in ("base", "tuned")]
    other = {**EVERYDAY, "answers": [{**row, "answer": "Plums.", "ended": True} for row in EVERYDAY["answers"][:2]]}
    for run, content in zip(found, (EVERYDAY, other), strict=True):
        (run / "evaluation").mkdir(exist_ok=True)
        (run / "evaluation/everyday.json").write_text(json.dumps(content))
    return found


def test_the_report_shows_counts_and_every_answer(runs: list[Path]) -> None:
    page = write_report(runs[0]).read_text(encoding="utf-8")
    assert "Everyday requests" in page
    assert "Apples and &lt;b&gt;pears&lt;/b&gt;." in page
    assert "<small>cut off, says 8 words twice</small>" in page
    assert "<small>empty</small>" in page
    assert "<th>answers cut off at the limit</th><td>1</td>" in page


def test_runs_are_side_by_side(runs: list[Path], tmp_path: Path) -> None:
    page = write_comparison(runs, tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "<th>answers cut off at the limit</th><td>1</td><td>0</td>" in page
    assert "<th>empty answers</th><td>1</td><td>0</td>" in page
    assert page.count("Plums.") == 2
    assert "<small>not asked</small>" in page
    assert "everyday prompts" in as_text(compare(runs))


def test_nothing_is_shown_where_nobody_asked(runs: list[Path]) -> None:
    (runs[0] / "evaluation/everyday.json").unlink()
    assert "Everyday requests" not in write_report(runs[0]).read_text(encoding="utf-8")
    assert everyday_answers({"base": {}}) is None
    found = everyday_answers({"base": {}, "tuned": EVERYDAY})
    assert found is not None
    assert found.columns == ("tuned",)


def test_a_damaged_file_is_named(runs: list[Path]) -> None:
    (runs[0] / "evaluation/everyday.json").write_text('{"answers": [{"prompt": 3}]}')
    assert "everyday.json</code>: cannot be read" in write_report(runs[0]).read_text(encoding="utf-8")
