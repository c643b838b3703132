"""Curves and stacked bars of the report, as SVG elements inside a page (see drawing.py)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from keylm.report import drawing
from keylm.report.drawing import Array, Size

MOST_POINTS = 600  # of one curve after thinning


@dataclass(frozen=True)
class CurveLine:
    """One curve: `x` and `y` of equal length, NaN where it breaks; `colour` names a CSS variable."""

    label: str
    colour: str
    x: Array
    y: Array
    faint: bool = False
    dashed: bool = False
    marks: bool = False
    dots: bool = False
    """Marks alone, no line between them."""
    half: Array | None = None
    """Half the height of a band about the line."""


@dataclass(frozen=True)
class Span:
    """A stage's stretch of the x axis, from `start` to `end` (tokens seen)."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Plot:
    """Lines over one x axis; `zero`: y starts at zero; `floors`: levels of guessing, in y's unit."""

    name: str
    alt: str
    lines: tuple[CurveLine, ...]
    spans: tuple[Span, ...] = ()
    x: Literal["tokens", "pairs", "prompts", "seconds", "mistyped"] = "tokens"
    zero: bool = False
    floors: tuple[float, ...] = ()


@dataclass(frozen=True)
class Part:
    """A piece of a bar; `texts`: candidates for its label; the first that fits is used."""

    colour: str
    value: float
    texts: tuple[str, ...] = ()
    ink: str = drawing.ON


@dataclass(frozen=True)
class Bar:
    """A stacked bar with a `label` above it and a `total` after it."""

    label: str
    parts: tuple[Part, ...]
    total: str = ""


def thin(values: Array, weights: Array, points: int) -> Array:
    """Means of at most `points` runs of neighbours, weighted; NaN is left out, all-NaN gives NaN."""
    count = len(values)
    if count <= points:
        return values
    starts = np.arange(points) * count // points
    use = np.isfinite(values) & np.isfinite(weights)
    total = np.add.reduceat(np.where(use, values * weights, 0.0), starts)
    weight = np.add.reduceat(np.where(use, weights, 0.0), starts)
    mean: Array = np.divide(total, weight, out=np.full(points, np.nan), where=weight > 0)
    return mean


def smooth(values: Array, width: float) -> Array:
    """Gaussian mean (`width`: its deviation in points) over what is finite; NaN where nothing is near."""
    if not len(values):
        return values
    reach = int(np.ceil(3 * width))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    use = np.isfinite(values)
    total = np.convolve(np.where(use, values, 0.0), kernel)[reach : reach + len(values)]
    weight = np.convolve(use.astype(np.float64), kernel)[reach : reach + len(values)]
    mean: Array = np.divide(total, weight, out=np.full(len(values), np.nan), where=weight > 1e-2)
    return mean


def trace(x: Array, y: Array, edges: Sequence[int], points: int = MOST_POINTS) -> tuple[Array, Array, Array]:
    """Thinned x, y and smoothed y of a curve, with NaN between its stages, which start at rows `edges` (first: 0)."""
    parts: list[list[Array]] = [[], [], []]
    count = max(1, len(x))
    for start, end in zip(edges, [*edges[1:], len(x)], strict=False):
        if end <= start:
            continue
        room = max(2, points * (end - start) // count)
        near = np.ones(end - start)
        raw = thin(y[start:end], near, room)
        pieces = (thin(x[start:end], near, room), raw, smooth(raw, max(1.0, 0.012 * min(points, count))))
        for part, piece in zip(parts, pieces, strict=True):
            part += [piece, np.array([np.nan])]
    thinned, raw, smoothed = (np.concatenate(part)[:-1] if part else np.empty(0) for part in parts)
    return thinned, raw, smoothed


def _window(plot: Plot, lines: Sequence[CurveLine]) -> tuple[float, float, float]:
    """Range of y, and the highest y of all: the range leaves out the steep first 3 % of x, where x is time."""
    x = np.concatenate([line.x for line in lines])
    half = [np.zeros(len(line.x)) if line.half is None else line.half for line in lines]
    ends = [(line.y - h, line.y + h) for line, h in zip(lines, half, strict=True)]
    low, high = (np.concatenate(side) for side in zip(*ends, strict=True))
    use = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    x, low, high = x[use], low[use], high[use]
    late = high[x >= 0.03 * x.max()] if plot.x != "mistyped" and not plot.floors else high
    bottom = 0.0 if plot.zero else float(min([low.min(), *plot.floors]))
    top = float(max([late.max(), *plot.floors]))
    pad = 0.06 * (top - bottom) if top > bottom else max(0.1, 0.1 * abs(top))
    return (0.0 if plot.zero else bottom - pad), top + pad, max(float(high.max()), top)


@matplotlib.rc_context(drawing.SETTINGS)
def line_chart(plot: Plot, size: Size) -> str:
    """The plot as SVG; "" if it has no finite point."""
    lines = [line for line in plot.lines if np.isfinite(line.x + line.y).any()]
    if not lines:
        return ""
    named = [line for line in lines if line.label] if size.labels else []
    beside = 26 + 12 * drawing.CHARACTER * max((len(line.label) for line in named), default=0) if named else 12
    figure, axes = drawing.bare_frame(size, (40, 34, beside, 26 if plot.spans else 12))
    low, high, top = _window(plot, lines)
    ends = [float(np.nanmax(line.x)) for line in lines] + [span.end for span in plot.spans]
    axes.set_xlim(0, 1.004 * max(1e-9, *ends))
    axes.set_ylim(low, high)
    _scales(axes, plot, size)
    _stage_marks(axes, plot.spans, size)
    for floor in plot.floors:
        drawing.draw_line(axes, axes.get_xlim(), [floor, floor], drawing.MUTED, 1.2, (4, 3))
        drawing.draw_words(
            axes,
            axes.get_xlim()[1],
            floor + 0.045 * (high - low),
            f"chance {floor:.0f}",
            "right",
            drawing.MUTED,
            drawing.SMALL,
        )
    for line in lines:
        _draw_curve(axes, line)
    if top > high:
        clear = max(_entry(line, high) for line in lines) / axes.get_xlim()[1]  # to its right no line is near the top
        drawing.draw_note(axes, f"↑ starts at {top:.2f}", (clear, 1), (10, -4), "left", "top")
    _end_labels(axes, named, size)
    return drawing.page_svg(figure, f"{plot.name}-{size.width:.0f}", plot.alt)


def _entry(line: CurveLine, high: float) -> float:
    """Return where a line first enters the chart, whose y axis ends at `high`."""
    inside = np.flatnonzero(np.asarray(line.y) <= high)
    return float(line.x[inside[0]]) if len(inside) else 0.0


def _draw_curve(axes: Axes, line: CurveLine) -> None:
    colour = drawing.CODES[line.colour]
    if line.half is not None:
        axes.fill_between(line.x, line.y - line.half, line.y + line.half, color=colour, alpha=0.16, linewidth=0)
    (drawn,) = axes.plot(line.x, line.y, color=colour, linewidth=0 if line.dots else 1 if line.faint else 2)
    drawn.set(alpha=0.35 if line.faint else 1, marker="o" if line.marks or line.dots else "", markersize=3.6)
    drawn.set(linestyle=(0, (4, 2)) if line.dashed else "-", solid_capstyle="round", clip_on=line.half is None)


def _scales(axes: Axes, plot: Plot, size: Size) -> None:
    end, unit, name = axes.get_xlim()[1], 1.0, f"{plot.x} seen"
    if plot.x == "seconds":
        unit, name = (1.0, "seconds") if end < 180 else (60.0, "minutes") if end < 10800 else (3600.0, "hours")
        name = f"training time, {name}"
    if plot.x == "mistyped":
        name, places = "words mistyped, per cent", sorted({float(place) for line in plot.lines for place in line.x})
        axes.set_xticks(places, [f"{place:g}" for place in places])
    else:
        places, names = drawing.round_ticks(0, end / unit, 7 if size.labels else 4)
        axes.set_xticks([place * unit for place in places], names)
    axes.set_yticks(*drawing.round_ticks(*axes.get_ylim(), 5))
    axes.grid(axis="y", color=drawing.CODES[drawing.GRID], linewidth=1)
    drawing.draw_note(axes, name, (1, 0), (0, -22), "right", "top")


def _stage_marks(axes: Axes, spans: Sequence[Span], size: Size) -> None:
    """A line at each boundary, and the stages' names above the axes, pushed apart where they meet."""
    if not spans:
        return
    width = axes.get_position().width * size.width
    pixels = width / axes.get_xlim()[1]
    names = [drawing.short(span.name, max(24.0, width / len(spans) - 10), drawing.SMALL) for span in spans]
    centres = [(span.start + span.end) / 2 * pixels for span in spans]
    places = drawing.spread(centres, [len(name) * drawing.SMALL * drawing.CHARACTER + 10 for name in names], 0, width)
    for name, place in zip(names, places, strict=True):
        drawing.draw_note(axes, name, (place / width, 1), (0, 7), "center", "bottom")
    for span in spans[:-1]:
        drawing.draw_line(axes, [span.end] * 2, axes.get_ylim(), drawing.MUTED, 1, (2, 3))


def _end_labels(axes: Axes, lines: Sequence[CurveLine], size: Size) -> None:
    """Each line's label beside its end, connected by a stroke in the line's colour."""
    box, right, (low, high) = axes.get_position(), axes.get_xlim()[1], axes.get_ylim()
    width, height = box.width * size.width, box.height * size.height
    step, rise = right / width, (high - low) / height
    ends = [np.flatnonzero(np.isfinite(line.x + line.y))[-1] for line in lines]
    heights = [float(np.clip(line.y[end], low, high)) for line, end in zip(lines, ends, strict=True)]
    points = [(float(line.x[end]), y) for line, end, y in zip(lines, ends, heights, strict=True)]
    places = drawing.spread([(y - low) / rise for _, y in points], [16.0] * len(lines), -8, height + 8)
    for line, (x, y), place in zip(lines, points, places, strict=True):
        level = low + place * rise
        if right - x > 3 * step:
            drawing.draw_line(axes, [x, right], [y, y], line.colour, 1, (1, 3))
        turns = [right + 2 * step, right + 10 * step, right + 15 * step]
        drawing.draw_line(axes, turns, [y, level, level], line.colour, 1.4)
        drawing.draw_words(axes, right + 20 * step, level, line.label, "left")


@matplotlib.rc_context(drawing.SETTINGS)
def bar_chart(name: str, alt: str, bars: Sequence[Bar], width: float, full: float, mark: float = 0.0) -> str:
    """Stacked horizontal bars (`full`: the value at the right edge), a line at `mark` epochs; "" if no bars."""
    if not bars:
        return ""
    row, top, unit = 46.0, 22.0 if mark else 0.0, full / width
    size = Size(width, row * len(bars) + top + 2)
    figure, axes = drawing.bare_frame(size, (0, 2, 0, top))
    axes.set_axis_off()
    axes.set_xlim(0, full)
    axes.set_ylim(row * len(bars), 0)
    for index, bar in enumerate(bars):
        base = index * row
        drawing.draw_words(axes, 0, base + 11, drawing.short(bar.label, width * 0.9, 12), "left")
        end = _stack(axes, bar, base + 31, unit)
        drawing.draw_words(axes, end + 7 * unit, base + 31, bar.total, "left")
    if mark:
        drawing.draw_line(axes, [mark, mark], [-2, row * len(bars)], drawing.MUTED, 1.2, (4, 3))
        drawing.draw_words(axes, mark, -11, f"{mark:g} epochs", "center", drawing.MUTED, drawing.SMALL)
    return drawing.page_svg(figure, f"{name}-{width:.0f}", alt)


def _stack(axes: Axes, bar: Bar, middle: float, unit: float) -> float:
    """Draw a bar's parts side by side, separated by a hairline; return where they end."""
    end = 0.0
    for part in bar.parts:
        edge = 1.2 if part.value > 3 * unit else 0
        drawn = axes.barh(
            middle, part.value, left=end, height=18, linewidth=edge, edgecolor=drawing.CODES[drawing.CARD]
        )
        drawn.patches[0].set_facecolor(drawing.CODES[part.colour])
        room = part.value / unit - 8
        text = next((text for text in part.texts if len(text) * drawing.SMALL * drawing.CHARACTER <= room), "")
        drawing.draw_words(axes, end + part.value / 2, middle, text, "center", part.ink, drawing.SMALL)
        end += part.value
    return end
