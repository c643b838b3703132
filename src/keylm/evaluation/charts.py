"""Charts of the run report, as SVG elements that stand inside a page.

Invariants: the same input gives the same bytes; nothing global in matplotlib is changed; every colour
is a CSS variable of the page (so that it follows light and dark), and all text stays text.
Lengths are in SVG units: one unit is one CSS pixel when the chart is shown at its own width.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

Array = NDArray[np.float64]

SOURCE_COLOURS = 8
"""Colours for sources; further sources take them again, with dashed lines."""
TONES = 5
"""Neutral tones for registers, so that they are not taken for sources."""
MOST_POINTS = 600
"""Points that one curve is thinned to."""

_NAMES = ["ink", "muted", "grid", "accent", "card", "on"]
_NAMES += [f"source{i}" for i in range(SOURCE_COLOURS)] + [f"tone{i}" for i in range(TONES)]
# matplotlib wants real colours: each variable is drawn in a hex code of its own, replaced afterwards
_CODES = {name: f"#0102{i:02x}" for i, name in enumerate(_NAMES)}
INK, MUTED, GRID, ACCENT, CARD, ON = _NAMES[:6]

_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "keylm",
    "text.parse_math": False,  # a source may be called "$x$"
    "font.family": "sans-serif",
    "font.size": 12.0,
    "path.simplify": True,
}
_CHARACTER = 0.6
"""Width of a character, in font sizes: an upper estimate for common interface fonts."""


@dataclass(frozen=True)
class Size:
    """Width and height in SVG units; `labels`: whether there is room for labels beside the lines."""

    width: float
    height: float
    labels: bool = False


WIDE = Size(880, 320, labels=True)
NARROW = Size(350, 250)
HALF = Size(400, 230)


@dataclass(frozen=True)
class Line:
    """One curve: `x` and `y` of equal length, NaN where it breaks; `colour` names a CSS variable."""

    label: str
    colour: str
    x: Array
    y: Array
    faint: bool = False
    dashed: bool = False
    marks: bool = False


@dataclass(frozen=True)
class Span:
    """A stage's stretch of the x axis, from `start` to `end` (tokens seen)."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Plot:
    """Lines over one x axis; `time`: x is in seconds, else in tokens; `zero`: y starts at zero."""

    name: str
    alt: str
    lines: tuple[Line, ...]
    spans: tuple[Span, ...] = ()
    time: bool = False
    zero: bool = False


@dataclass(frozen=True)
class Part:
    """A piece of a bar; `texts`: what may stand in it, the first that fits is taken."""

    colour: str
    value: float
    texts: tuple[str, ...] = ()
    ink: str = ON


@dataclass(frozen=True)
class Bar:
    """A stacked bar with a `label` above it and a `total` behind it."""

    label: str
    parts: tuple[Part, ...]
    total: str = ""


def source_colour(index: int) -> str:
    """Name of the CSS variable of source number `index`."""
    return f"source{index % SOURCE_COLOURS}"


def human(value: float) -> str:
    """A count in three digits: 8192 is "8.19k", 2150000 is "2.15M"."""
    for scale, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * scale:
            return (
                f"{value / scale:.3g}{unit}" if abs(value) < 999.5 * scale else f"{value / scale:.0f}{unit}"
            )
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def duration(seconds: float) -> str:
    """Seconds in words: "3.1 s", "3 min 21 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def thin(values: Array, weights: Array, points: int) -> Array:
    """Means of at most `points` runs of neighbours, weighted; NaN is left out, all-NaN gives NaN."""
    count = len(values)
    if count <= points:
        return values
    starts = np.arange(points) * count // points
    use = np.isfinite(values) & np.isfinite(weights)
    total = np.add.reduceat(np.where(use, values * weights, 0.0), starts)
    weight = np.add.reduceat(np.where(use, weights, 0.0), starts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight > 0, total / weight, np.nan)


def smooth(values: Array, width: float) -> Array:
    """Gaussian mean (`width`: its deviation in points) over what is finite; NaN where nothing is near."""
    reach = int(np.ceil(3 * width))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    use = np.isfinite(values)
    total = np.convolve(np.where(use, values, 0.0), kernel)[reach : reach + len(values)]
    weight = np.convolve(use.astype(np.float64), kernel)[reach : reach + len(values)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight > 1e-2, total / weight, np.nan)


def trace(x: Array, y: Array, edges: Sequence[int], points: int = MOST_POINTS) -> tuple[Array, Array, Array]:
    """Thinned x, y and smoothed y of a curve whose stages start at rows `edges` (the first is 0).

    Stages are averaged each by itself and parted by NaN, so nothing is smeared over a boundary.
    """
    parts: list[list[Array]] = [[], [], []]
    count = max(1, len(x))
    for start, end in zip(edges, [*edges[1:], len(x)], strict=True):
        if end <= start:
            continue
        room = max(2, points * (end - start) // count)
        near = np.ones(end - start)
        raw = thin(y[start:end], near, room)
        pieces = (thin(x[start:end], near, room), raw, smooth(raw, max(1.0, 0.012 * min(points, count))))
        for part, piece in zip(parts, pieces, strict=True):
            part += [piece, np.array([np.nan])]
    joined = [np.concatenate(part)[:-1] if part else np.empty(0) for part in parts]
    return joined[0], joined[1], joined[2]


def spread(centres: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Centres moved as little as needed (least squares) so that boxes of `sizes` do not overlap.

    The boxes keep their order and stay within `low` and `high`; they shrink if there is no room.
    """
    if not centres:
        return []
    order = np.argsort(np.asarray(centres), kind="stable")
    box = np.asarray(sizes, dtype=np.float64)[order]
    box = box * min(1.0, (high - low) / max(float(box.sum()), 1e-9))
    offset = np.cumsum(box) - box / 2  # centres of the boxes when packed from zero
    groups: list[tuple[float, int]] = []
    for value in np.asarray(centres, dtype=np.float64)[order] - offset:
        mean, size = float(value), 1
        while groups and groups[-1][0] > mean:  # out of order: the two groups move as one
            before, length = groups.pop()
            mean = (mean * size + before * length) / (size + length)
            size += length
        groups.append((mean, size))
    packed = np.repeat([mean for mean, _ in groups], [size for _, size in groups])
    placed = np.clip(packed, low, max(low, high - float(box.sum()))) + offset
    result = np.empty(len(order))
    result[order] = placed
    return [float(value) for value in result]


def short(text: str, width: float, font: float) -> str:
    """The text cut to `width` units, with an ellipsis if it was longer."""
    most = max(1, int(width / (font * _CHARACTER)))
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _page_svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as one `<svg>` element: ids are `name`'s own, colours and fonts are the page's."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that matplotlib's font lacks; the page's font has them
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))

    def own(match: re.Match[str]) -> str:
        return f' id="{name}-{match[1]}"' if match[1] in used else ""

    text = re.sub(r' id="([^"]*)"', own, text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r' style="[^"]*"', _page_style, text)
    text = re.sub(r' d="[^"]*"', lambda m: re.sub(r"(\.\d)\d+", r"\1", " ".join(m[0].split("\n"))), text)
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None, "matplotlib writes a viewBox"
    head = f'<svg class="chart" viewBox="{box[1]}" role="img" aria-label="{escape(alt)}">'
    text = head + text[text.index(">") + 1 :]
    return re.sub(r">\s+<", "><", text).strip()


def _page_style(match: re.Match[str]) -> str:
    style = re.sub(r"#0102([0-9a-f]{2})", lambda m: f"var(--{_NAMES[int(m[1], 16)]})", match[0])
    bold = ";font-weight: 600" if re.search(r"font: [^;]*\b(?:600|700|bold)\b", style) else ""
    return re.sub(r"font: [^;\"]*?([\d.]+)px[^;\"]*", rf"font-size: \1px{bold}", style)


def _frame(size: Size, margins: tuple[float, float, float, float]) -> tuple[Figure, Axes]:
    """A bare figure whose axes leave `margins` (left, bottom, right, top)."""
    left, bottom, right, top = margins
    figure = Figure(figsize=(size.width / 72, size.height / 72), dpi=72)
    box = (left / size.width, bottom / size.height)
    extent = ((size.width - left - right) / size.width, (size.height - bottom - top) / size.height)
    axes = figure.add_axes((*box, *extent))
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_CODES[MUTED])
    axes.tick_params(colors=_CODES[MUTED], length=0, pad=6, labelsize=11)
    axes.set_axisbelow(True)
    return figure, axes


def _window(lines: Sequence[Line], zero: bool) -> tuple[float, float, float]:
    """Range of y, and the highest y of all: the range leaves out the steep first 3 % of x."""
    x = np.concatenate([line.x for line in lines])
    y = np.concatenate([line.y for line in lines])
    use = np.isfinite(x) & np.isfinite(y)
    x, y = x[use], y[use]
    late = y[x >= x.min() + 0.03 * (x.max() - x.min())]
    low, high = (0.0 if zero else float(y.min())), float(late.max())
    pad = 0.06 * (high - low) if high > low else max(0.1, 0.1 * abs(high))
    return (0.0 if zero else low - pad), high + pad, float(y.max())


def line_chart(plot: Plot, size: Size) -> str:
    """The plot as SVG; "" if it holds no finite point."""
    lines = [line for line in plot.lines if np.isfinite(line.x + line.y).any()]
    if not lines:
        return ""
    with matplotlib.rc_context(_SETTINGS):
        named = [line for line in lines if line.label] if size.labels else []
        beside = 26 + 12 * _CHARACTER * min(30, max((len(line.label) for line in named), default=0))
        figure, axes = _frame(size, (40, 34, max(12, beside if named else 0), 26 if plot.spans else 12))
        low, high, top = _window(lines, plot.zero)
        left = min(0.0, *(float(np.nanmin(line.x)) for line in lines)) if not plot.time else 0.0
        right = max(float(np.nanmax(line.x)) for line in lines)
        axes.set_xlim(left, max(right, left + 1e-9))
        axes.set_ylim(low, high)
        _scales(axes, plot, size)
        _stage_marks(axes, plot.spans, size)
        for line in lines:
            axes.plot(
                line.x,
                line.y,
                color=_CODES[line.colour],
                linewidth=1.0 if line.faint else 2.0,
                alpha=0.35 if line.faint else 1.0,
                linestyle=(0, (4, 2)) if line.dashed else "-",
                marker="o" if line.marks else "",
                markersize=3.6,
                solid_capstyle="round",
            )
        if top > high:
            _note(axes, f"↑ starts at {top:.2f}", (0, 1), (10, -4), "left", "top")
        _end_labels(axes, named, size)
        return _page_svg(figure, f"{plot.name}-{size.width:.0f}", plot.alt)


def _note(
    axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], ha: str, va: str
) -> None:
    """Muted words at a place of the axes (fractions), shifted by SVG units."""
    style = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "color": _CODES[MUTED],
        "fontsize": 11,
    }
    axes.annotate(text, at, shift, ha=ha, va=va, **style)


def _scales(axes: Axes, plot: Plot, size: Size) -> None:
    axes.grid(axis="y", color=_CODES[GRID], linewidth=1)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: human(value)))
    unit, name = (1.0, "seconds")
    if plot.time and axes.get_xlim()[1] > 180:
        unit, name = (60.0, "minutes") if axes.get_xlim()[1] < 10800 else (3600.0, "hours")
    low, high = (limit / unit for limit in axes.get_xlim())
    ticks = [
        tick for tick in MaxNLocator(7 if size.labels else 4).tick_values(low, high) if low <= tick <= high
    ]
    axes.set_xticks([tick * unit for tick in ticks], [human(tick) for tick in ticks])
    _note(axes, f"training time, {name}" if plot.time else "tokens seen", (1, 0), (0, -22), "right", "top")


def _stage_marks(axes: Axes, spans: Sequence[Span], size: Size) -> None:
    """A line at each boundary, and the stages' names above the axes, pushed apart where they meet."""
    if not spans:
        return
    width = axes.get_position().width * size.width
    low, high = axes.get_xlim()
    pixels = width / (high - low)
    names = [short(span.name, max(24.0, width / len(spans) - 10), 11) for span in spans]
    sizes = [len(name) * 11 * _CHARACTER + 10 for name in names]
    centres = [((span.start + span.end) / 2 - low) * pixels for span in spans]
    for name, centre in zip(names, spread(centres, sizes, 0, width), strict=True):
        _note(axes, name, (centre / width, 1), (0, 7), "center", "bottom")
    for span in spans[:-1]:
        axes.axvline(
            span.end, color=_CODES[MUTED], linewidth=1, linestyle=(0, (2, 3)), ymax=1.02, clip_on=False
        )


def _end_labels(axes: Axes, lines: Sequence[Line], size: Size) -> None:
    """Name and last value beside each line's end, each led to by a stroke in the line's colour."""
    box = axes.get_position()
    width, height = box.width * size.width, box.height * size.height
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    step, rise = (right - left) / width, (high - low) / height
    ends = [np.flatnonzero(np.isfinite(line.x + line.y))[-1] for line in lines]
    wanted = [
        float(np.clip((line.y[end] - low) / rise, 0, height)) for line, end in zip(lines, ends, strict=True)
    ]
    places = spread(wanted, [16.0] * len(lines), -8, height + 8)
    for line, end, start, place in zip(lines, ends, wanted, places, strict=True):
        x, y = float(line.x[end]), low + start * rise
        colour = _CODES[line.colour]
        if right - x > 3 * step:
            axes.plot([x, right], [y, y], color=colour, linewidth=1, linestyle=(0, (1, 3)))
        level = low + place * rise
        axes.plot(
            [right + 2 * step, right + 10 * step, right + 15 * step],
            [y, level, level],
            color=colour,
            linewidth=1.4,
            clip_on=False,
        )
        axes.text(
            right + 20 * step,
            level,
            short(line.label, 30 * 12 * _CHARACTER, 12),
            va="center_baseline",
            color=_CODES[INK],
            fontsize=12,
        )


def bar_chart(
    name: str, alt: str, bars: Sequence[Bar], width: float, full: float, mark: tuple[float, str] | None = None
) -> str:
    """Stacked horizontal bars, `full` being the value at the right edge; "" if there is none.

    `mark`: a value to draw a line at, and the words that stand over it.
    """
    if not bars:
        return ""
    row, thick, top = 46.0, 18.0, 22.0 if mark else 0.0
    size = Size(width, row * len(bars) + top + 2)
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _frame(size, (0, 2, 0, top))
        axes.set_axis_off()
        axes.set_xlim(0, full)
        axes.set_ylim(row * len(bars), 0)
        for index, bar in enumerate(bars):
            base = index * row
            axes.text(
                0, base + 11, short(bar.label, width * 0.9, 12), color=_CODES[INK], fontsize=12, va="center"
            )
            end = _stack(axes, bar, base + 22 + thick / 2, thick, full / width)
            axes.text(
                end + 7 * full / width,
                base + 22 + thick / 2,
                bar.total,
                color=_CODES[INK],
                fontsize=12,
                va="center",
            )
        if mark:
            axes.plot(
                [mark[0]] * 2,
                [-4, row * len(bars)],
                color=_CODES[MUTED],
                linewidth=1.2,
                linestyle=(0, (4, 3)),
                clip_on=False,
            )
            axes.text(mark[0], -8, mark[1], color=_CODES[MUTED], fontsize=11, ha="center", va="bottom")
        return _page_svg(figure, f"{name}-{width:.0f}", alt)


def _stack(axes: Axes, bar: Bar, middle: float, thick: float, unit: float) -> float:
    """Draw a bar's parts side by side, parted by a hairline; returns where they end."""
    end = 0.0
    for part in bar.parts:
        axes.barh(
            middle,
            part.value,
            left=end,
            height=thick,
            color=_CODES[part.colour],
            edgecolor=_CODES[CARD],
            linewidth=1.2 if part.value > 3 * unit else 0,
        )
        for text in part.texts:
            if len(text) * 11 * _CHARACTER + 8 <= part.value / unit:
                axes.text(
                    end + part.value / 2,
                    middle,
                    text,
                    color=_CODES[part.ink],
                    fontsize=11,
                    ha="center",
                    va="center",
                )
                break
        end += part.value
    return end
