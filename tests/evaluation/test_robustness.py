"""Retention and its area against values worked out by hand."""

from typing import Any

import pytest

from keylm.base.errors import KeylmError
from keylm.evaluation.measure import robustness_record
from keylm.evaluation.robustness import curves


def points(benchmark: str, metric: str, values: dict[int, list[float]], stderr: float | None = 0.005) -> list[Any]:
    return [
        {"benchmark": benchmark, "metric": metric, "rate": rate, "seed": seed, "value": value, "stderr": stderr, "n": 9}
        for rate, found in values.items()
        for seed, value in enumerate(found)
    ]


FALLING = {0: [0.45], 5: [0.40, 0.42, 0.38], 10: [0.35], 20: [0.25]}
FLAT = {0: [0.6], 5: [0.6], 10: [0.6], 20: [0.6]}


def test_retention_and_area_by_hand() -> None:
    found = curves(points("hellaswag", "acc_norm", FALLING))
    [row] = found["curves"]
    assert [at["retention"] for at in row["rates"]] == pytest.approx([1, 0.75, 0.5, 0])
    assert [at["accuracy"] for at in row["rates"]] == pytest.approx([0.45, 0.4, 0.35, 0.25])
    assert row["rates"][1]["spread"] == pytest.approx(0.02)
    assert row["rates"][0]["spread"] is None
    # (5 × 0.875 + 5 × 0.625 + 10 × 0.25) / 20
    assert row["area"] == pytest.approx(0.5)
    assert found["area"] == row["area"]
    assert found["benchmarks"] == ["hellaswag"]
    assert "piqa: no accuracies" in found["reason"]


def test_a_model_that_loses_nothing_has_area_one_and_the_mean_is_over_benchmarks() -> None:
    found = curves(
        points("hellaswag", "acc_norm", FALLING)
        + points("piqa", "acc", FLAT)
        + points("piqa", "acc_norm", FALLING | {0: [0.7]})
    )
    rows = {(row["benchmark"], row["metric"]): row for row in found["curves"]}
    assert rows["piqa", "acc"]["area"] == pytest.approx(1)
    assert found["area"] == pytest.approx(0.75)
    assert found["benchmarks"] == ["hellaswag", "piqa"]


def test_the_interval_holds_the_area_and_grows_with_the_errors() -> None:
    widths = []
    for stderr in (0.001, 0.004, 0.016):
        found = curves(points("hellaswag", "acc_norm", FALLING, stderr))
        low, high = found["interval"]
        assert low < found["area"] < high
        widths.append(high - low)
    assert widths[0] < widths[1] < widths[2]
    assert curves(points("hellaswag", "acc_norm", FALLING)) == curves(points("hellaswag", "acc_norm", FALLING))
    bare = curves(points("hellaswag", "acc_norm", FALLING, None))
    assert bare["area"] == pytest.approx(0.5)
    assert bare["interval"] is None


def test_the_interval_covers_the_truth() -> None:
    import numpy as np

    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        drawn = {rate: [value[0] + 0.01 * generator.standard_normal()] for rate, value in FALLING.items()}
        low, high = curves(points("hellaswag", "acc_norm", drawn, 0.01))["interval"]
        covered += low < 0.5 < high
    assert 88 <= covered <= 100


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({0: [0.26], 5: [0.3], 20: [0.25]}, "not clearly above chance"),
        ({0: [0.2], 20: [0.25]}, "not clearly above chance"),
        ({5: [0.4], 20: [0.3]}, "no clean accuracy"),
        ({0: [0.4], 10: [0.3]}, "no accuracy at 20 %"),
    ],
)
def test_what_cannot_be_had_is_none_with_a_reason(values: dict[int, list[float]], reason: str) -> None:
    found = curves(points("arc_easy", "acc_norm", values))
    assert (found["area"], found["interval"], found["benchmarks"]) == (None, None, [])
    assert reason in found["curves"][0]["reason"]
    assert reason in found["reason"]


def test_a_model_at_chance_is_left_out_of_the_mean() -> None:
    found = curves(points("arc_easy", "acc_norm", {0: [0.25], 20: [0.25]}) + points("piqa", "acc", FLAT))
    assert found["area"] == pytest.approx(1)
    assert found["benchmarks"] == ["piqa"]
    assert "arc_easy: clean accuracy 0.250 ± 0.005" in found["reason"]
    [row] = [row for row in found["curves"] if row["benchmark"] == "arc_easy"]
    assert [at["retention"] for at in row["rates"]] == [None, None]


def test_what_is_kept_is_told_where_the_area_is_not_to_be_had() -> None:
    """As after robustness_10 alone; of a model at chance neither is."""
    half, none = points("hellaswag", "acc_norm", {0: [0.35], 10: [0.3]}), points("piqa", "acc", {0: [0.5], 10: [0.5]})
    kept, lost = robustness_record(half + none)["curves"]
    assert kept["retention"] == pytest.approx([1, 0.5])
    assert (kept["area"], lost["area"], lost["retention"]) == (None, None, None)
    assert "no accuracy at 20 %" in kept["reason"]


@pytest.mark.parametrize(
    "wrong", [{"benchmark": "mmlu"}, {"metric": None}, {"rate": -1}, {"value": 45.0}, {"value": None}, {"stderr": "x"}]
)
def test_bad_points_are_refused(wrong: dict[str, Any]) -> None:
    good = points("piqa", "acc", FLAT)
    with pytest.raises(KeylmError, match="accepted"):
        curves([*good, {**good[0], **wrong}])
