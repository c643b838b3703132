"""The report of an evaluated run: every figure in its place, and no damaged file that costs more than its part."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.fake_evaluation import CONTAMINATION, TYPING, records, write_evaluation
from support.fake_run import Page, check_colours, check_self_contained, fake_run

from keylm.report.run_report import write_report

BENCHMARK_ROWS = [
    {"kind": "benchmark", "step": step, "stage": "pretrain", "tokens": 8192 * step,
     "results": {"piqa": {"acc": 0.5 + step / 3000, "acc_norm": 0.4, "n": 200}}} for step in (100, 200, 300)
]  # fmt: skip


def evaluated_run(folder: Path, **settings: Any) -> Path:
    """A run with everything an evaluation leaves."""
    run = fake_run(folder, steps=60)
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in BENCHMARK_ROWS)
    write_evaluation(run / "evaluation", records(1, number=120, **settings))
    return run


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = evaluated_run(tmp_path_factory.mktemp("evaluated") / "nano")
    return write_report(run).read_text(encoding="utf-8")


def test_benchmarks_stand_beside_chance_and_published_figures(evaluated: str) -> None:
    figure = records(1, number=120)["piqa"]["metrics"]["acc"]
    value, reach = 100 * figure["value"], 196 * figure["stderr"]
    row = re.search(r"<tr><th>PIQA acc</th>(.*?)</tr>", evaluated)
    cells = re.findall(r"<td>(.*?)</td>", row[1]) if row else []
    assert cells[0] == f"<b>{value:.1f}</b><small>{value - reach:.1f}–{value + reach:.1f}</small>"
    assert cells[1:] == ["50", "60.0", "61.3", "59.1", "62.1", "68.2", "120"]
    for words in (
        "lm_eval 0.4.13",
        "its model card",
        "EleutherAI/pythia evals",
        "my_task acc",
        "All published figures",
    ):
        assert words in evaluated
    assert "Not the whole benchmarks" not in evaluated


def test_typing_robustness_contamination_and_commands_are_shown(evaluated: str) -> None:
    words = ["16.3", "14.3–18.3", "0.113", "2.61", "symspell", "11.3 ms", "public domain", TYPING["protocol"]]
    words += [
        "0.837",
        "0.801–0.872",
        "not clearly above chance",
        "<td>52</td>",
        "left out: no dictionary here",
        CONTAMINATION["statement"],
        "10,042",
        "not known",
    ]
    words += ["keylm eval runs/nano/model --tasks card", "chance 25", "With 200 items", "piqa acc"]
    assert [word for word in words if word not in evaluated] == []
    assert "not measured" not in evaluated
    assert "typos_10_1" not in evaluated
    assert "NaN" not in evaluated
    assert not re.search(r">nan\b", evaluated)
    Page(evaluated)


def test_an_evaluated_page_is_as_safe_as_any(evaluated: str, tmp_path: Path) -> None:
    check_self_contained(evaluated)
    check_colours(evaluated)
    run, evil = evaluated_run(tmp_path / "run"), "<script>alert(1)</script>"
    typing = (
        json.dumps(TYPING).replace("next word top-1", evil).replace("symspell", evil).replace('"letters"', f'"{evil}"')
    )
    (run / "evaluation" / "typing.json").write_text(typing)
    contamination = {"statement": evil, "rows": [{"benchmark": evil, "items": evil}]}
    (run / "evaluation" / "contamination.json").write_text(json.dumps(contamination))
    (run / "evaluation" / "evaluation.json").write_text(json.dumps([{"command": evil}]))
    text = write_report(run).read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 8
    Page(text)


@pytest.mark.parametrize("name", ["typing.json", "robustness.json", "contamination.json", "evaluation.json"])
def test_one_missing_evaluation_file_is_named_and_costs_its_part(tmp_path: Path, name: str) -> None:
    run = evaluated_run(tmp_path / "run")
    (run / "evaluation" / name).unlink()
    text = write_report(run).read_text()
    assert f"<code>evaluation/{name}</code>: not measured" in text
    assert "PIQA acc" in text
    Page(text)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("typing.json", '{"rows": [{"measure": "next word"}]}'),
        ("typing.json", '{"rows": [{"measure": 3, "set": "a", "system": "b", "value": "x", "n": 1, "unit": "share"}]}'),
        ("robustness.json", '{"curves": [{"rates": 5}]}'),
        ("robustness.json", "{"),
        ("benchmarks/piqa.json", "{"),
    ],
)
def test_a_damaged_evaluation_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    run = evaluated_run(tmp_path / "run")
    (run / "evaluation" / name).write_text(content)
    text = write_report(run).read_text()
    assert f"<code>evaluation/{name}</code>: cannot be read" in text
    Page(text)


def test_a_limit_is_told(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=20)
    write_evaluation(run / "evaluation" / "limit-50", records(1, number=50, limit=50))
    write_evaluation(run / "evaluation" / "limit-9", records(1, number=9, limit=9))
    text = write_report(run).read_text()
    assert "Not the whole benchmarks: the first 50 items" in text


def test_instructions_are_shown_where_they_were_measured(tmp_path: Path, evaluated: str) -> None:
    assert '<h3 class="part">Instructions</h3>' not in evaluated
    assert "instructions.json" not in evaluated
    run = evaluated_run(tmp_path / "tuned")
    row = {"system": "model", "low": 0.2, "high": 0.4, "stderr": 0.031, "n": 70, "unit": "share"}
    found = [
        ("trained", "all constraints", 0.311),
        ("held_out", "all constraints", 0.122),
        ("trained", "constraints", 0.52),
        ("trained", "no_comma", 0.9),
        ("trained", "each kind: wording", 0.91),
    ]
    found += [("held_out", "roman_list", 0.05), ("typos", "exact", 0.444)]
    rows = [{**row, "set": name, "measure": measure, "value": value} for name, measure, value in found]
    (run / "evaluation/instructions.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    words = (
        "31.1 ± 3.1",
        "52.0 ± 3.1",
        "12.2 ± 3.1",
        "IFEval, strict",
        "Each kind",
        "wording",
        "no_comma",
        "roman_list",
        "44.4",
        "Typos fixed",
        "Each type that training never had",
    )
    assert [word for word in words if word not in page] == []
    check_self_contained(page)
    (run / "evaluation/instructions.json").write_text('{"rows": [{"set": "typos"}]}', encoding="utf-8")
    assert "instructions.json</code>: cannot be read" in write_report(run).read_text(encoding="utf-8")
