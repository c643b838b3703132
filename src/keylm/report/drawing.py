"""Shared by all charts of a page: its colours, a bare frame, words, and SVG for inside a page.

Invariants: the same input gives the same bytes; matplotlib's global settings stay as they are; every colour
is a CSS variable of the page (so that it follows light and dark), and all text stays text. Lengths are in
SVG units: one unit is one CSS pixel when the chart is shown at its own width.
"""

import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Array = NDArray[np.float64]

SOURCE_COLOURS = 8  # further sources take them again, with dashed lines
TONES = 5  # neutral, for registers, so that they are not taken for sources

NAMES = ["ink", "muted", "grid", "accent", "card", "on"]
NAMES += [f"source{i}" for i in range(SOURCE_COLOURS)] + [f"tone{i}" for i in range(TONES)]
# matplotlib wants real colours: each variable is drawn in a hex code of its own, replaced afterwards
CODES = {name: f"#0102{i:02x}" for i, name in enumerate(NAMES)}
INK, MUTED, GRID, ACCENT, CARD, ON = NAMES[:6]

SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "keylm",
    "text.parse_math": False,  # a source may be called "$x$"
    "font.family": "sans-serif",
    "font.size": 12.0,
}
SMALL = 11
CHARACTER = 0.6  # width of a character in font sizes: an upper estimate for common interface fonts


@dataclass(frozen=True)
class Size:
    """Width and height in SVG units; `labels`: whether labels fit beside the lines."""

    width: float
    height: float
    labels: bool = False


WIDE = Size(880, 320, labels=True)
NARROW = Size(350, 250)
HALF = Size(380, 225)


def source_colour(index: int) -> str:
    """Name of the CSS variable of source number `index`."""
    return f"source{index % SOURCE_COLOURS}"


def human(value: float) -> str:
    """A count in three digits: 8192 is "8.19k", 2150000 is "2.15M"."""
    for scale, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if math.inf > abs(value) >= 0.9995 * scale:
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


def spread(centres: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Centres moved as little as needed (least squares) so that boxes of `sizes` stay apart, in order and limits."""
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
    most = max(1, int(width / (font * CHARACTER)))
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def page_svg(figure: Figure, name: str, alt: str) -> str:
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
    style = re.sub(r"#0102([0-9a-f]{2})", lambda m: f"var(--{NAMES[int(m[1], 16)]})", match[0])
    return re.sub(r"font: [^;\"]*?([\d.]+)px[^;\"]*", r"font-size: \1px", style)


def bare_frame(size: Size, margins: tuple[float, float, float, float]) -> tuple[Figure, Axes]:
    """A bare figure whose axes leave `margins` (left, bottom, right, top)."""
    left, bottom, right, top = margins
    figure = Figure(figsize=(size.width / 72, size.height / 72), dpi=72)
    width, height = size.width - left - right, size.height - bottom - top
    box = (left / size.width, bottom / size.height, width / size.width, height / size.height)
    axes = figure.add_axes(box)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(CODES[MUTED])
    axes.tick_params(colors=CODES[MUTED], length=0, pad=6, labelsize=SMALL)
    axes.set_axisbelow(True)
    return figure, axes


def draw_line(axes: Axes, x: Any, y: Any, colour: str, width: float, dash: tuple[int, int] | None = None) -> None:
    """A plain line, which may leave the axes."""
    style: Any = (0, dash) if dash else "-"
    axes.plot(x, y, color=CODES[colour], linewidth=width, linestyle=style, clip_on=False)


def draw_words(axes: Axes, x: float, y: float, text: str, ha: str, ink: str = INK, font: float = 12) -> None:
    """Words at a place in the axes' data, centred in height."""
    axes.text(x, y, text, ha=ha, va="center_baseline", color=CODES[ink], fontsize=font)


def draw_note(axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], ha: str, va: str) -> None:
    """Muted words at a place of the axes (in fractions), shifted by SVG units."""
    style: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": ha, "va": va}
    axes.annotate(text, at, shift, color=CODES[MUTED], fontsize=SMALL, **style)


def round_ticks(low: float, high: float, count: int) -> tuple[list[float], list[str]]:
    """Round places between two limits, about `count`, and their names, alike in decimals if below 1000."""
    places = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    ticks = [float(place) for place in places if low <= place <= high]
    digits = max(len(human(tick).partition(".")[2]) for tick in ticks)
    return ticks, [human(tick) if high >= 1000 or not tick else f"{tick:.{digits}f}" for tick in ticks]
