"""Charts: what they are drawn from, and where their parts stand."""

import re

import numpy as np
import pytest

from keylm.report import charts, drawing
from keylm.report import dot_plot as intervals
from keylm.report.page import in_unit, signed


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


def ladder(apart: bool = False, zero: bool = False, low: float = 20.0) -> intervals.DotPlot:
    dots = (intervals.Dot("accent", 30, low, 40, strong=True), intervals.Dot("source1", 60, marker="s"))
    rows = (intervals.Measure("first", dots, "30 ± 5", 25.0), intervals.Measure("second", dots[:1]))
    return intervals.DotPlot("ladder", "two rows", "per cent", rows, apart, zero)


def heights(svg: str) -> list[float]:
    """Heights of the marks, which are placed by `y`."""
    return [float(y) for y in re.findall(r'<use [^>]*y="([\d.]+)"', svg)]


def test_dots_of_a_row_share_a_line_or_have_one_each() -> None:
    for width in (350, 880):
        marks = heights(intervals.interval_chart(ladder(), width))
        assert len(marks) == 3
        assert len(set(marks)) == 2
        assert len(set(heights(intervals.interval_chart(ladder(apart=True), width)))) == 3


def test_an_interval_is_on_its_axis() -> None:
    rows = ladder().rows
    low, high = intervals._limits(rows, zero=False)
    assert low < 20
    assert high > 60
    assert intervals._limits(rows, zero=True)[0] == 0
    assert intervals._limits(ladder(low=-5.0).rows, zero=True)[0] < -5


def test_rows_without_a_value_are_left_out() -> None:
    nothing = intervals.Measure("nothing", (intervals.Dot("accent", float("nan")),))
    assert intervals.interval_chart(intervals.DotPlot("none", "none", "", (nothing,)), 880) == ""
    svg = intervals.interval_chart(intervals.DotPlot("some", "some", "", (nothing, *ladder().rows)), 880)
    assert "nothing" not in svg
    assert "30 ± 5" in svg


def test_guessing_is_on_the_axis_of_a_line_chart() -> None:
    line = charts.CurveLine("", "accent", np.array([0.0, 20.0]), np.array([60.0, 58.0]), half=np.array([0.0, 3.0]))
    plot = charts.Plot("curve", "curve", (line,), x="mistyped", floors=(50.0,))
    low, high, top = charts._window(plot, [line])
    assert low < 50
    assert high > 61
    assert top <= high
    assert "chance 50" in charts.line_chart(plot, drawing.HALF)


def test_a_long_label_gets_the_room_it_needs() -> None:
    label = "completion top-3 after 2 letters · a test set"
    row = intervals.Measure(label, ladder().rows[0].dots)
    plot = intervals.DotPlot("long", "long", "per cent", (row,))
    assert label in intervals.interval_chart(plot, 880)
    assert label not in intervals.interval_chart(plot, 200)


def test_only_curves_with_a_band_may_leave_their_axes() -> None:
    steep = charts.CurveLine("", "accent", np.array([0.0, 1.0, 100.0]), np.array([90.0, 3.0, 2.0]), marks=True)
    svg = charts.line_chart(charts.Plot("steep", "steep", (steep,)), drawing.HALF)
    assert "clip-path" in svg
    assert "starts at 90" in svg


def test_figures_as_words() -> None:
    assert in_unit(0.1234, "share") == "12.3"
    assert in_unit(-0.0312, "share") == "−3.1"
    assert in_unit(-0.0001, "share") == "0.0"
    assert in_unit(0.5, "bits/byte") == "0.500"
    assert [signed(value, 1) for value in (1.25, -0.31, -0.01)] == ["+1.2", "−0.3", "0.0"]
