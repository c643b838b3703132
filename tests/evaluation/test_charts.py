"""Charts: what they are drawn from, and where their parts stand."""

import numpy as np
import pytest

from keylm.evaluation import charts, drawing


def test_thin_and_smooth() -> None:
    values = np.array([1.0, 3.0, np.nan, 5.0, np.nan, np.nan])
    assert np.array_equal(charts.thin(values, np.ones(6), 3), [2.0, 5.0, np.nan], equal_nan=True)
    assert charts.thin(np.array([10.0, 40.0]), np.array([3.0, 1.0]), 1) == pytest.approx([17.5])
    assert charts.smooth(np.full(50, 2.5), 4.0) == pytest.approx(np.full(50, 2.5))
    assert np.isnan(charts.smooth(np.full(5, np.nan), 1.0)).all()
    x, raw, smoothed = charts.trace(np.arange(6.0), np.array([1.0, 1, 1, 9, 9, 9]), [0, 3])
    assert np.nanmax(smoothed[:3]) == 1.0  # nothing of the second stage reaches into the first
    assert np.isnan([x[3], raw[3], smoothed[3]]).all()


def test_spread_keeps_order_apart_and_within() -> None:
    assert drawing.spread([10, 50], [10, 10], 0, 100) == [10, 50]
    assert drawing.spread([50, 50], [10, 10], 0, 100) == [45, 55]
    assert drawing.spread([99, 98, 0], [10, 10, 10], 0, 100) == [95, 85, 5]
    crowd = drawing.spread([5.0] * 30, [10.0] * 30, 0, 100)
    assert min(crowd) >= 0
    assert max(crowd) <= 100
    assert drawing.spread([], [], 0, 1) == []


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (8192, "8.19k"), (999_600, "1M"), (2_150_000, "2.15M"), (1000, "1k"), (0.05, "0.05")],
)
def test_human(value: float, words: str) -> None:
    assert drawing.human(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (3.14, "3.1 s"), (59.7, "1 min"), (201, "3 min 21 s"), (7500, "2 h 5 min"), (3600, "1 h")],
)
def test_duration(seconds: float, words: str) -> None:
    assert drawing.duration(seconds) == words
