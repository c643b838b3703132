"""Charts of the run report, as SVG elements that stand inside a page.

Invariants: the same input gives the same bytes; matplotlib's global settings stay as they are; every colour
is a CSS variable of the page (so that it follows light and dark), and all text stays text. Lengths are in
SVG units: one unit is one CSS pixel when the chart is shown at its own width.
"""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Array = NDArray[np.float64]

SOURCE_COLOURS = 8  # further sources take them again, with dashed lines
TONES = 5  # neutral, for registers, so that they are not taken for sources
MOST_POINTS = 600  # that one curve is thinned to

_NAMES = ["ink", "muted", "grid", "accent", "card", "on"]
_NAMES += [f"source{i}" for i in range(SOURCE_COLOURS)] + [f"tone{i}" for i in range(TONES)]
# matplotlib wants real colours: each variable is drawn in a hex code of its own, replaced afterwards
_CODES = {name: f"#0102{i:02x}" for i, name in enumerate(_NAMES)}
INK, MUTED, GRID, ACCENT, CARD, ON = _NAMES[:6]

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "keylm",
    "text.parse_math": False,  # a source may be called "$x$"
    "font.family": "sans-serif",
    "font.size": 12.0,
}
_SMALL = 11
_CHARACTER = 0.6  # width of a character in font sizes: an upper estimate for common interface fonts


@dataclass(frozen=True)
class Size:
    """Width and height in SVG units; `labels`: whether there is room for labels beside the lines."""

    width: float
    height: float
    labels: bool = False


WIDE = Size(880, 320, labels=True)
NARROW = Size(350, 250)
HALF = Size(380, 225)


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
            return human(value / scale) + unit
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def duration(seconds: float) -> str:
    """Seconds in words: "3.1 s", "3 min 21 s", "2 h 5 min"."""
    if seconds < 59.5:
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
    """Thinned x, y and smoothed y of a curve whose stages start at rows `edges` (the first is 0).

    Stages are averaged each by itself and parted by NaN, so nothing is smeared over a boundary.
    """
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
    return [float(place) for place in placed[np.argsort(order)]]


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
    text = re.sub(r"(?s)^.*?(?=<svg)|<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", stream.getvalue())
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r' style="[^"]*"', _page_style, text)
    text = re.sub(r' d="[^"]*"', lambda m: re.sub(r"(\.\d)\d+", r"\1", " ".join(m[0].split("\n"))), text)
    label = f'role="img" aria-label="{escape(alt)}"'
    head = re.compile(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>')
    text = head.sub(lambda m: f'<svg class="chart" {m[1]} {label}>', text, count=1)
    return re.sub(r">\s+<", "><", text).strip()


def _page_style(match: re.Match[str]) -> str:
    style = re.sub(r"#0102([0-9a-f]{2})", lambda m: f"var(--{_NAMES[int(m[1], 16)]})", match[0])
    return re.sub(r"font: [^;\"]*?([\d.]+)px[^;\"]*", r"font-size: \1px", style)


def _frame(size: Size, margins: tuple[float, float, float, float]) -> tuple[Figure, Axes]:
    """A bare figure whose axes leave `margins` (left, bottom, right, top)."""
    left, bottom, right, top = margins
    figure = Figure(figsize=(size.width / 72, size.height / 72), dpi=72)
    width, height = size.width - left - right, size.height - bottom - top
    box = (left / size.width, bottom / size.height, width / size.width, height / size.height)
    axes = figure.add_axes(box)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_CODES[MUTED])
    axes.tick_params(colors=_CODES[MUTED], length=0, pad=6, labelsize=_SMALL)
    axes.set_axisbelow(True)
    return figure, axes


def _stroke(axes: Axes, x: Any, y: Any, colour: str, width: float, dash: tuple[int, int] | None = None) -> None:
    """A plain line, which may leave the axes."""
    style: Any = (0, dash) if dash else "-"
    axes.plot(x, y, color=_CODES[colour], linewidth=width, linestyle=style, clip_on=False)


def _words(axes: Axes, x: float, y: float, text: str, ha: str, ink: str = INK, font: float = 12) -> None:
    """Words at a place in the axes' data, centred in height."""
    axes.text(x, y, text, ha=ha, va="center_baseline", color=_CODES[ink], fontsize=font)


def _note(axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], ha: str, va: str) -> None:
    """Muted words at a place of the axes (in fractions), shifted by SVG units."""
    style: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": ha, "va": va}
    axes.annotate(text, at, shift, color=_CODES[MUTED], fontsize=_SMALL, **style)


def _window(lines: Sequence[Line], zero: bool) -> tuple[float, float, float]:
    """Range of y, and the highest y of all: the range leaves out the steep first 3 % of x."""
    x = np.concatenate([line.x for line in lines])
    y = np.concatenate([line.y for line in lines])
    use = np.isfinite(x) & np.isfinite(y)
    x, y = x[use], y[use]
    late = y[x >= 0.03 * x.max()]
    low, high = (0.0 if zero else float(y.min())), float(late.max())
    pad = 0.06 * (high - low) if high > low else max(0.1, 0.1 * abs(high))
    return (0.0 if zero else low - pad), high + pad, float(y.max())


@matplotlib.rc_context(_SETTINGS)
def line_chart(plot: Plot, size: Size) -> str:
    """The plot as SVG; "" if it holds no finite point."""
    lines = [line for line in plot.lines if np.isfinite(line.x + line.y).any()]
    if not lines:
        return ""
    named = [line for line in lines if line.label] if size.labels else []
    beside = 26 + 12 * _CHARACTER * max((len(line.label) for line in named), default=0) if named else 12
    figure, axes = _frame(size, (40, 34, beside, 26 if plot.spans else 12))
    low, high, top = _window(lines, plot.zero)
    ends = [float(np.nanmax(line.x)) for line in lines] + [span.end for span in plot.spans]
    axes.set_xlim(0, 1.004 * max(1e-9, *ends))
    axes.set_ylim(low, high)
    _scales(axes, plot, size)
    _stage_marks(axes, plot.spans, size)
    for line in lines:
        (drawn,) = axes.plot(line.x, line.y, color=_CODES[line.colour], linewidth=1 if line.faint else 2)
        drawn.set(alpha=0.35 if line.faint else 1, marker="o" if line.marks else "", markersize=3.6)
        drawn.set(linestyle=(0, (4, 2)) if line.dashed else "-", solid_capstyle="round")
    if top > high:
        _note(axes, f"↑ starts at {top:.2f}", (0.03, 1), (16, -4), "left", "top")
    _end_labels(axes, named, size)
    return _page_svg(figure, f"{plot.name}-{size.width:.0f}", plot.alt)


def _ticks(low: float, high: float, count: int) -> tuple[list[float], list[str]]:
    """Round places between two limits, about `count`, and their names, alike in decimals if below 1000."""
    places = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    ticks = [float(place) for place in places if low <= place <= high]
    digits = max(len(human(tick).partition(".")[2]) for tick in ticks)
    return ticks, [human(tick) if high >= 1000 or not tick else f"{tick:.{digits}f}" for tick in ticks]


def _scales(axes: Axes, plot: Plot, size: Size) -> None:
    end, unit, name = axes.get_xlim()[1], 1.0, "tokens seen"
    if plot.time:
        unit, name = (1.0, "seconds") if end < 180 else (60.0, "minutes") if end < 10800 else (3600.0, "hours")
        name = f"training time, {name}"
    ticks, names = _ticks(0, end / unit, 7 if size.labels else 4)
    axes.set_xticks([tick * unit for tick in ticks], names)
    axes.set_yticks(*_ticks(*axes.get_ylim(), 5))
    axes.grid(axis="y", color=_CODES[GRID], linewidth=1)
    _note(axes, name, (1, 0), (0, -22), "right", "top")


def _stage_marks(axes: Axes, spans: Sequence[Span], size: Size) -> None:
    """A line at each boundary, and the stages' names above the axes, pushed apart where they meet."""
    if not spans:
        return
    width = axes.get_position().width * size.width
    pixels = width / axes.get_xlim()[1]
    names = [short(span.name, max(24.0, width / len(spans) - 10), _SMALL) for span in spans]
    centres = [(span.start + span.end) / 2 * pixels for span in spans]
    places = spread(centres, [len(name) * _SMALL * _CHARACTER + 10 for name in names], 0, width)
    for name, place in zip(names, places, strict=True):
        _note(axes, name, (place / width, 1), (0, 7), "center", "bottom")
    for span in spans[:-1]:
        _stroke(axes, [span.end] * 2, axes.get_ylim(), MUTED, 1, (2, 3))


def _end_labels(axes: Axes, lines: Sequence[Line], size: Size) -> None:
    """Each line's label beside its end, led to by a stroke in the line's colour."""
    box, right, (low, high) = axes.get_position(), axes.get_xlim()[1], axes.get_ylim()
    width, height = box.width * size.width, box.height * size.height
    step, rise = right / width, (high - low) / height
    ends = [np.flatnonzero(np.isfinite(line.x + line.y))[-1] for line in lines]
    heights = [float(np.clip(line.y[end], low, high)) for line, end in zip(lines, ends, strict=True)]
    points = [(float(line.x[end]), y) for line, end, y in zip(lines, ends, heights, strict=True)]
    places = spread([(y - low) / rise for _, y in points], [16.0] * len(lines), -8, height + 8)
    for line, (x, y), place in zip(lines, points, places, strict=True):
        level = low + place * rise
        if right - x > 3 * step:
            _stroke(axes, [x, right], [y, y], line.colour, 1, (1, 3))
        turns = [right + 2 * step, right + 10 * step, right + 15 * step]
        _stroke(axes, turns, [y, level, level], line.colour, 1.4)
        _words(axes, right + 20 * step, level, line.label, "left")


@matplotlib.rc_context(_SETTINGS)
def bar_chart(name: str, alt: str, bars: Sequence[Bar], width: float, full: float, mark: float = 0.0) -> str:
    """Stacked horizontal bars (`full`: the value at the right edge), a line at `mark` epochs; "" if no bars."""
    if not bars:
        return ""
    row, top, unit = 46.0, 22.0 if mark else 0.0, full / width
    size = Size(width, row * len(bars) + top + 2)
    figure, axes = _frame(size, (0, 2, 0, top))
    axes.set_axis_off()
    axes.set_xlim(0, full)
    axes.set_ylim(row * len(bars), 0)
    for index, bar in enumerate(bars):
        base = index * row
        _words(axes, 0, base + 11, short(bar.label, width * 0.9, 12), "left")
        end = _stack(axes, bar, base + 31, unit)
        _words(axes, end + 7 * unit, base + 31, bar.total, "left")
    if mark:
        _stroke(axes, [mark, mark], [-2, row * len(bars)], MUTED, 1.2, (4, 3))
        _words(axes, mark, -11, f"{mark:g} epochs", "center", MUTED, _SMALL)
    return _page_svg(figure, f"{name}-{width:.0f}", alt)


def _stack(axes: Axes, bar: Bar, middle: float, unit: float) -> float:
    """Draw a bar's parts side by side, parted by a hairline; returns where they end."""
    end = 0.0
    for part in bar.parts:
        edge = 1.2 if part.value > 3 * unit else 0
        drawn = axes.barh(middle, part.value, left=end, height=18, linewidth=edge, edgecolor=_CODES[CARD])
        drawn.patches[0].set_facecolor(_CODES[part.colour])
        room = part.value / unit - 8
        text = next((text for text in part.texts if len(text) * _SMALL * _CHARACTER <= room), "")
        _words(axes, end + part.value / 2, middle, text, "center", part.ink, _SMALL)
        end += part.value
    return end
