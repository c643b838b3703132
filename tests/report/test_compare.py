"""Comparing runs: the tests are right, what is not alike is not compared, and the page says so."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from support.fake_evaluation import TYPING, outcomes, record, records, typing_row, write_evaluation

from keylm.base.errors import KeylmError
from keylm.evaluation.statistics import bootstrap, holm, mcnemar
from keylm.report.compare import as_text, compare, write_comparison

RECIPE = 'name = "{name}"\n[sources.tales]\nlicence = "CC0-1.0"\n[training]\nbatch_tokens = {batch}\n'


def run_folder(folder: Path, seed: int = 1, skill: float = 0.0, batch: int = 8192, bits: float = 1.5) -> Path:
    write_evaluation(folder / "evaluation", records(seed, skill))
    (folder / "recipe.toml").write_text(RECIPE.format(name="same", batch=batch))
    row = {"kind": "validation", "step": 9, "stage": "all", "tokens": 90, "bits_per_byte": {"tales": bits}}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "shards").mkdir()
    held = {"sources": {"tales": {"validation": {"documents": 7, "bytes": 7000, "tokens": batch}}}}
    (folder / "shards" / "manifest.json").write_text(json.dumps(held))
    return folder


def pair(tmp_path: Path, skill: float = 0.15) -> list[Path]:
    return [run_folder(tmp_path / "base"), run_folder(tmp_path / "tried", 2, skill, 4096, 1.4)]


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar([0] * 8 + [1], [1] * 8 + [1]) == pytest.approx(2 / 2**8)
    assert mcnemar([1, 0, 1, 0], [0, 1, 1, 0]) == 1.0
    assert mcnemar([1, 1], [1, 1]) == 1.0
    assert mcnemar([0] * 20 + [1] * 6, [1] * 20 + [0] * 6) == pytest.approx(0.0093556, abs=1e-6)
    assert 0 <= mcnemar([0] * 9000, [1] * 9000) < 1e-300  # no overflow


def test_mcnemar_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy comes with keylm[eval]")
    generator = np.random.default_rng(1)
    for _ in range(20):
        first, second = generator.integers(0, 2, (2, 90)).tolist()
        better = sum(b > a for a, b in zip(first, second, strict=True))
        worse = sum(a > b for a, b in zip(first, second, strict=True))
        assert mcnemar(first, second) == pytest.approx(stats.binomtest(better, better + worse).pvalue)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_bootstrap_has_the_width_of_theory_and_rejects_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    rejected = 0
    for seed in range(60):
        items = np.stack([generator.normal(0, 1, 120), np.ones(120)], axis=1)
        low, high, p = bootstrap([items], lambda sums: sums[:, 0] / sums[:, 1], seed)
        assert high - low == pytest.approx(2 * 1.96 * items[:, 0].std() / math.sqrt(120), rel=0.1)
        assert (p < 0.05) == (low > 0 or high < 0) or abs(p - 0.05) < 0.01
        rejected += p < 0.05
    assert rejected <= 9  # 3 expected


def test_a_clear_difference_is_found_and_none_is_not(tmp_path: Path) -> None:
    found = compare(pair(tmp_path))
    assert found.names == ["base", "tried"]
    rows = {row.line.title: row for row in found.benchmarks}
    for title in ("ARC avg acc_norm", "HellaSwag acc_norm", "LAMBADA perplexity", "my_task acc"):
        row, apart = rows[title], rows[title].differences[1]
        assert row.differences[0] is None
        assert apart.value == pytest.approx(row.figures[1].value - row.figures[0].value)
        assert apart.low < apart.value < apart.high
        assert apart.corrected < 0.05
        assert apart.corrected >= apart.p
    assert rows["LAMBADA perplexity"].differences[1].value < 0
    assert rows["HellaSwag acc_norm"].differences[1].test.startswith("McNemar")
    assert rows["ARC avg acc_norm"].differences[1].test == "paired bootstrap"
    assert rows["IFEval mean of four"].differences[1].corrected > 0.05  # drawn alike for both


def test_pairing_sees_more_than_two_separate_intervals() -> None:
    first = outcomes(1000, 0.4, 1)
    second = list(first)
    for index in [i for i, right in enumerate(first) if not right][:12]:
        second[index] = 1
    assert mcnemar(first, second) < 0.001
    spread = 1.96 * math.sqrt(2 * np.var(first) / 1000)
    assert sum(second) / 1000 - sum(first) / 1000 < spread


def test_a_model_against_itself_differs_by_nothing(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "base")
    found = compare([run, run])
    assert len(set(found.names)) == 2
    for row in found.benchmarks:
        assert (row.differences[1].value, row.differences[1].corrected) == (0.0, 1.0)
    assert {row.verdicts[1] for row in found.typing} == {"overlap"}
    assert found.recipe == ()
    assert "0.000" in as_text(found)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"limit": 100}, "another limit"),
        ({"items": "5f1c"}, "other data"),
        ({"chat": True}, "with and without chat template"),
    ],
)
def test_what_was_measured_otherwise_gets_a_reason(tmp_path: Path, change: dict, reason: str) -> None:
    one, two = pair(tmp_path)
    right = outcomes(400, 0.5, 3)
    value = record("piqa", {"acc": right}, **change)
    value["task_hashes"] = {"piqa": "other"}
    (two / "evaluation" / "benchmarks" / "piqa.json").write_text(json.dumps(value))
    [row] = [row for row in compare([one, two]).benchmarks if row.line.title == "PIQA acc"]
    assert row.differences[1].reason == f"not comparable: {reason}"
    assert row.differences[1].p is None
    assert math.isnan(row.differences[1].value)


def test_the_same_items_from_another_place_are_compared(tmp_path: Path) -> None:
    one, two = pair(tmp_path)
    value = record("piqa", {"acc": outcomes(400, 0.5, 3)}, items="a folder's hash")
    (two / "evaluation" / "benchmarks" / "piqa.json").write_text(json.dumps(value))
    [row] = [row for row in compare([one, two]).benchmarks if row.line.title == "PIQA acc"]
    assert row.differences[1].reason == ""


@pytest.mark.parametrize("fault", ["fewer", "none", "not the mean"])
def test_items_that_do_not_pair_up_give_no_number(tmp_path: Path, fault: str) -> None:
    one, two = pair(tmp_path)
    path = two / "evaluation" / "benchmarks" / "piqa.json"
    value = json.loads(path.read_text())
    if fault == "fewer":
        value["items"]["acc"] = value["items"]["acc"][:-1]
    elif fault == "none":
        value["items"] = {}
    else:
        value["metrics"]["acc"]["value"] += 0.01
    path.write_text(json.dumps(value))
    [row] = [row for row in compare([one, two]).benchmarks if row.line.title == "PIQA acc"]
    assert row.differences[1].reason.startswith("not comparable")


def test_typing_by_intervals_and_sets(tmp_path: Path) -> None:
    one, two = pair(tmp_path)
    better = TYPING | {
        "rows": [typing_row("next word top-1", "model", 0.25), typing_row("error reduction", "model", 0.53)]
    }
    (two / "evaluation" / "typing.json").write_text(json.dumps(better))
    verdicts = {(row.measure, row.test_set): row.verdicts[1] for row in compare([one, two]).typing}
    assert verdicts["next word top-1", "letters"] == "higher"
    assert verdicts["error reduction", "letters"] == "overlap"
    assert verdicts["next word top-1", "fixes"] == "not measured in both"
    assert not [measure for measure, _ in verdicts if measure == "false corrections"]  # not the model's
    better["sets"] = {"letters": {"hash": "other"}}
    (two / "evaluation" / "typing.json").write_text(json.dumps(better))
    verdicts = {row.measure: row.verdicts[1] for row in compare([one, two]).typing if row.test_set == "letters"}
    assert verdicts["next word top-1"] == "not comparable: another test set or protocol"


def test_validation_and_recipe(tmp_path: Path) -> None:
    one, two = pair(tmp_path)
    found = compare([one, two])
    assert [(row.source, row.values, row.alike) for row in found.validation] == [("tales", (1.5, 1.4), (True, True))]
    assert found.recipe == (("training.batch_tokens", ("8192", "4096")),)
    (two / "shards" / "manifest.json").unlink()
    assert compare([one, two]).validation[0].alike == (True, False)
    assert "not comparable: other held-out documents" in as_text(compare([one, two]))


def test_folders_of_all_kinds_are_taken(tmp_path: Path) -> None:
    one, two = pair(tmp_path)
    by_evaluation = compare([one / "evaluation", two])
    assert by_evaluation.names == ["base", "tried"]
    assert by_evaluation.recipe
    alone = write_evaluation(tmp_path / "published", records(5))
    found = compare([one, alone])
    assert len(found.benchmarks) == len(by_evaluation.benchmarks)
    assert found.recipe == ()
    assert math.isnan(found.validation[0].values[1])


def test_what_is_refused(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "base")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        KeylmError, match=r"empty: holds neither an evaluation nor metrics.jsonl; accepted: a run folder"
    ):
        compare([run, tmp_path / "empty"])
    with pytest.raises(KeylmError, match="absent: no such folder; accepted"):
        compare([run, tmp_path / "absent"])
    with pytest.raises(KeylmError, match="two or more"):
        compare([run])


def test_text_has_the_figures_in_columns(tmp_path: Path) -> None:
    text = as_text(compare(pair(tmp_path)))
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["per", "cent"]
    row = next(line for line in lines if line.startswith("HellaSwag"))
    assert row.endswith("p < 0.001 *")
    column = lines[0].index("base")
    assert all(line[:column].strip() and line[column : column + 4].strip() for line in lines[1:4])
    assert "training.batch_tokens" in text
    assert "area under the retention curve" in text


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_escaped_and_the_same_each_time(tmp_path: Path) -> None:
    one, two = pair(tmp_path)
    evil = TYPING | {"rows": [typing_row("<script>alert(1)</script>", "model", 0.3)]}
    (two / "evaluation" / "typing.json").write_text(json.dumps(evil))
    path = write_comparison([one, two], tmp_path / "comparison.html")
    text = path.read_text(encoding="utf-8")
    assert not {"script", "img", "iframe"} & Tags(text).seen
    assert "&lt;script&gt;" in text
    [row] = [row for row in compare([one, two]).benchmarks if row.line.title == "HellaSwag acc_norm"]
    difference = f"+{100 * row.differences[1].value:.1f} ("
    for words in ("tried against base", "McNemar", "training.batch_tokens", difference, "p &lt; 0.001", "−0.100"):
        assert words in text
    assert text.count("<svg") == 2
    assert write_comparison([one, two], tmp_path / "again.html").read_text(encoding="utf-8") == text
