"""Charts of points with intervals: one row a measure, its values on one axis (Cleveland's dot plot, 1984)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes

from keylm.report import drawing
from keylm.report.drawing import Size

MARKERS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "P": "✚", "X": "✖", "p": "⬟"}
"""Shapes, so that series do not differ in colour alone, and their letters in a legend."""
_SIZES = {"D": 0.85, "^": 1.1, "v": 1.1}
"""Scales that make shapes look equal in size."""


def shape(index: int) -> tuple[str, str]:
    """Return series number `index`'s marker, and the letter that shows it in a legend."""
    return list(MARKERS.items())[index % len(MARKERS)]


@dataclass(frozen=True)
class Dot:
    """A value with its interval (NaN where there is none); `strong`: the one that the chart is about."""

    colour: str
    value: float
    low: float = math.nan
    high: float = math.nan
    marker: str = "o"
    strong: bool = False


@dataclass(frozen=True)
class Measure:
    """A row: its values, its label before and its total after it, and chance level (NaN: none)."""

    label: str
    dots: tuple[Dot, ...]
    total: str = ""
    chance: float = math.nan


@dataclass(frozen=True)
class DotPlot:
    """Rows on one axis named `unit`; `apart`: a row's values each on a line of their own; `zero`: zero is on it."""

    name: str
    alt: str
    unit: str
    rows: tuple[Measure, ...]
    apart: bool = False
    zero: bool = False


@matplotlib.rc_context(drawing.SETTINGS)
def interval_chart(plot: DotPlot, width: float) -> str:
    """The plot as SVG; "" if it has no finite value. Labels are beside the rows if `width` allows."""
    rows = [row for row in plot.rows if any(math.isfinite(dot.value) for dot in row.dots)]
    if not rows:
        return ""
    beside = width >= 600
    tops, bottom = _tops(rows, plot.apart, 0.0 if beside else 22.0)
    size = Size(width, bottom + 36)
    longest = 12 * drawing.CHARACTER * max(len(row.label) for row in rows)
    left, right = (min(max(150.0, longest + 18), 0.42 * width), 92.0) if beside else (8.0, 8.0)
    figure, axes = drawing.bare_frame(size, (left, 34, right, 2))
    low, high = _limits(rows, plot.zero)
    axes.set_xlim(low, high)
    axes.set_ylim(bottom, 0)
    _axis(axes, plot, low, high, beside)
    step = (high - low) / (width - left - right)
    for row, top, end in zip(rows, tops, [*tops[1:], bottom], strict=True):
        middle = (top + end) / 2 if beside else top + 11
        edges = (low - left * step, high + right * step) if beside else (low, high)
        ink = left - 16 if beside else width - 16 - 7 * len(row.total)
        drawing.draw_words(axes, edges[0], middle, drawing.short(row.label, ink, 12), "left")
        drawing.draw_words(axes, edges[1], middle, row.total, "right")
        for text in axes.texts[-2:]:
            text.set_bbox({"facecolor": drawing.CODES[drawing.CARD], "edgecolor": "none", "pad": 1.5})
        _row(axes, row, (top + (0 if beside else 22), end), plot.apart)
    return drawing.page_svg(figure, f"{plot.name}-{width:.0f}", plot.alt)


def _tops(rows: Sequence[Measure], apart: bool, head: float) -> tuple[list[float], float]:
    """Where each row begins, and where the last one ends."""
    tops, place = [], 0.0
    for row in rows:
        tops.append(place)
        place += head + (14.0 + 13.0 * len(row.dots) if apart else 32.0)
    return tops, place


def _limits(rows: Sequence[Measure], zero: bool) -> tuple[float, float]:
    values = [value for row in rows for dot in row.dots for value in (dot.value, dot.low, dot.high)]
    values += [row.chance for row in rows] + [0.0] * zero
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    pad = 0.04 * (high - low) or 1.0
    return low - pad * (not zero or low < 0), high + pad


def _axis(axes: Axes, plot: DotPlot, low: float, high: float, beside: bool) -> None:
    axes.set_yticks([])
    places, names = drawing.round_ticks(low, high, 8 if beside else 5)
    axes.set_xticks(places, [name.replace("-", "−") for name in names])
    axes.grid(axis="x", color=drawing.CODES[drawing.GRID], linewidth=1)
    if low < 0 < high:
        drawing.draw_line(axes, [0, 0], axes.get_ylim(), drawing.MUTED, 1)
    drawing.draw_note(axes, plot.unit, (1, 0), (0, -22), "right", "top")


def _row(axes: Axes, row: Measure, span: tuple[float, float], apart: bool) -> None:
    """Draw a row's values between two heights; the strong one last, above the others."""
    top, bottom = span
    if math.isfinite(row.chance):
        drawing.draw_line(axes, [row.chance] * 2, [top + 4, bottom - 4], drawing.MUTED, 1.4, (3, 2))
    for index, dot in sorted(enumerate(row.dots), key=lambda pair: pair[1].strong):
        height = top + 13.5 + 13.0 * index if apart else (top + bottom) / 2
        if math.isfinite(dot.low + dot.high):
            bar = axes.plot([dot.low, dot.high], [height] * 2, color=drawing.CODES[dot.colour], linewidth=2.4)[0]
            bar.set(alpha=0.55, solid_capstyle="round")
        mark = axes.plot(
            dot.value, height, color=drawing.CODES[dot.colour], marker=dot.marker, linewidth=0, clip_on=False
        )[0]
        size = (9.5 if dot.strong else 8.0) * _SIZES.get(dot.marker, 1.0)
        mark.set(markersize=size, markeredgecolor=drawing.CODES[drawing.CARD], markeredgewidth=1, zorder=3)
