"""What the report shows of typing: how well words are predicted and corrected, and accuracy under typing errors."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from keylm.evaluation.following import EACH_KIND
from keylm.report import charts
from keylm.report.dot_plot import Dot, DotPlot, Measure, interval_chart, shape
from keylm.report.drawing import ACCENT, HALF, INK, NARROW, WIDE, source_colour
from keylm.report.page import DASH, Chart, Key, in_unit, is_share, unit_words
from keylm.report.run_record import Row, number

GROUPS = {
    "Prediction": ("next word", "completion", "keystroke"),
    "Correction": ("error reduction", "false correction", "typos repaired"),
    "Cost of typos": ("cost of typos", "tokens per"),
}
"""Parts of the typing tables, and the prefixes of their measures' names."""
OTHER = "More measures"


@dataclass(frozen=True)
class TypingCell:
    """A figure: the value and its interval, as they are read."""

    value: str
    interval: str


@dataclass(frozen=True)
class TypingRow:
    """A measure, on one test set where the columns are systems; `cells`: one of each column."""

    measure: str
    remark: str
    cells: tuple[TypingCell, ...]
    items: str


@dataclass(frozen=True)
class TypingGroup:
    """Measures of one kind: a table, a chart a unit. Columns are systems, or test sets where there is one system."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[TypingRow, ...]
    charts: tuple[tuple[str, Chart], ...]


Cells = dict[tuple[str, str, str], dict[str, Row]]
"""(measure, set or "", unit) to rows by column."""


def typing_groups(typing: Mapping[str, Any]) -> tuple[TypingGroup, ...]:
    """Return the groups of typing.json's rows, in GROUPS' order. Raises KeyError, TypeError where a row lacks a key."""
    grouped: dict[str, list[Row]] = {title: [] for title in (*GROUPS, OTHER)}
    for row in typing.get("rows") or ():
        starts = (title for title, names in GROUPS.items() if row["measure"].startswith(names))
        grouped[next(starts, OTHER)].append(row)
    return tuple(_group(title, rows) for title, rows in grouped.items() if rows)


SUMS = ("all constraints", "constraints")


def _instruction_group(row: Mapping[str, Any]) -> str:
    """Return which part of the instructions' tables shows a row of instructions.json."""
    if row["set"] == "typos":
        return "Typos fixed"
    if row["measure"] in SUMS:
        return "Constraints kept"
    if row["measure"].startswith(f"{EACH_KIND}: "):
        return EACH_KIND.capitalize()
    return "Each type that was trained" if row["set"] == "trained" else "Each type that training never had"


def instruction_groups(found: Mapping[str, Any]) -> tuple[TypingGroup, ...]:
    """Return the groups of instructions.json's rows. Raises KeyError, TypeError where a row lacks a key."""
    grouped: dict[str, list[Row]] = {}
    for row in found.get("rows") or ():
        grouped.setdefault(_instruction_group(row), []).append(row)
    return tuple(_group(title, rows) for title, rows in grouped.items())


def _group(title: str, rows: Sequence[Row]) -> TypingGroup:
    systems = sorted({row["system"]: None for row in rows}, key=lambda name: name != "model")
    by_set = len({(row["measure"], row["set"], row["unit"]) for row in rows}) == len(rows)
    columns = list(dict.fromkeys(row["set"] for row in rows)) if by_set else systems
    cells: Cells = {}
    for row in rows:
        column, test_set = (row["set"], "") if by_set else (row["system"], row["set"])
        measure = str(row["measure"]).removeprefix(f"{title.lower()}: ")
        cells.setdefault((measure, test_set, row["unit"]), {})[column] = row
    shown = []
    for (measure, test_set, unit), found in cells.items():
        counts = sorted({int(row.get("n", 0)) for row in found.values()})
        items = "–".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
        remark = " · ".join(part for part in (test_set, unit_words(unit)) if part)
        shown.append(TypingRow(measure, remark, tuple(_cell(found.get(name), unit) for name in columns), items))
    units = dict.fromkeys(unit for _, _, unit in cells)
    drawn = ((unit_words(unit), _chart(title, unit, cells, columns)) for unit in units)
    return TypingGroup(title, tuple(columns), tuple(shown), tuple(drawn))


def _cell(row: Mapping[str, Any] | None, unit: str) -> TypingCell:
    if row is None or row["value"] is None:
        return TypingCell(DASH, "")
    low, high = number(row.get("low")), number(row.get("high"))
    known = math.isfinite(low + high)
    interval = f"{in_unit(low, unit)} to {in_unit(high, unit)}" if known and min(low, high) < 0 else ""
    if known and not interval:
        interval = f"{in_unit(low, unit)}–{in_unit(high, unit)}"
    return TypingCell(in_unit(row["value"], unit), interval)


def column_colour(index: int) -> str:
    """Return the colour of column number `index`; the first is the model, where columns are systems."""
    return ACCENT if index == 0 else source_colour(index)


def _chart(title: str, unit: str, cells: Cells, columns: Sequence[str]) -> Chart:
    scale = 100.0 if is_share(unit) else 1.0
    rows, used = [], set()
    for (measure, test_set, its_unit), found in cells.items():
        if its_unit == unit:
            used |= set(found)
            dots = []
            for index, column in enumerate(columns):
                if column in found:
                    value, low, high = (scale * number(found[column].get(key)) for key in ("value", "low", "high"))
                    dots.append(Dot(column_colour(index), value, low, high, marker=shape(index)[0], strong=index == 0))
            rows.append(Measure(" · ".join(part for part in (measure, test_set) if part), tuple(dots)))
    name = "typing-" + "".join(letter if letter.isalnum() else "-" for letter in f"{title} {unit}".lower())
    plot = DotPlot(name, f"{title} with 95 % intervals", unit_words(unit), tuple(rows), apart=True, zero=True)
    narrow, wide = (Markup(interval_chart(plot, size.width)) for size in (NARROW, WIDE))
    marked = ((index, name) for index, name in enumerate(columns) if name in used)
    keys = tuple(Key(column_colour(index), name, mark=shape(index)[1]) for index, name in marked)
    return Chart(narrow, wide, keys if len(columns) > 1 else (), keep_keys=True)


@dataclass(frozen=True)
class Robustness:
    """Accuracy under typing errors: a chart a benchmark, what is kept at each rate, and the area as one figure."""

    charts: tuple[tuple[str, Chart], ...]
    rates: tuple[str, ...]
    retention: tuple[tuple[str, tuple[str, ...], str], ...]
    """(benchmark, what is kept at each rate, why where nothing can be said)"""
    area: str
    interval: str
    reason: str


def robustness_of(data: Mapping[str, Any]) -> Robustness | None:
    """Return the content of robustness.json; None if it has no curve."""
    curves = [(curve, _at_rates(curve)) for curve in data.get("curves") or ()]
    if not curves:
        return None
    low, high = data.get("area_low"), data.get("area_high")
    known = math.isfinite(number(low) + number(high))
    rates = sorted({at["rate"] for _, found in curves for at in found})
    area = number(data.get("area"))
    return Robustness(
        charts=tuple((curve_title(curve), _curve_chart(curve, at, data.get("points") or ())) for curve, at in curves),
        rates=tuple(f"{rate:g}\N{NO-BREAK SPACE}%" for rate in rates),
        retention=tuple(_retention(curve, found, rates) for curve, found in curves),
        area=f"{area:.3f}" if math.isfinite(area) else "",
        interval=f"{low:.3f}–{high:.3f}" if known else "",
        reason=str(data.get("reason") or ""),
    )


def curve_title(curve: Mapping[str, Any]) -> str:
    """Return a curve's name: its benchmark and metric."""
    return " ".join(str(curve[key]) for key in ("benchmark", "metric") if curve.get(key))


def _at_rates(curve: Mapping[str, Any]) -> list[Row]:
    """Return {"rate", "accuracy", "spread", "retention"} of each rate; the file holds lists of equal length."""
    rates = curve["rates"]
    lists = [curve[key] or [None] * len(rates) for key in ("values", "spread", "retention")]
    rows = zip(rates, *lists, strict=True)
    return [dict(zip(("rate", "accuracy", "spread", "retention"), row, strict=True)) for row in rows]


def _retention(
    curve: Mapping[str, Any], found: Iterable[Mapping[str, Any]], rates: Sequence[float]
) -> tuple[str, tuple[str, ...], str]:
    kept = {at["rate"]: number(at.get("retention")) for at in found}
    cells = (f"{100 * kept[rate]:.0f}" if math.isfinite(kept.get(rate, math.nan)) else DASH for rate in rates)
    return curve_title(curve), tuple(cell.replace("-", "−") for cell in cells), str(curve.get("reason") or "")


def _curve_chart(curve: Mapping[str, Any], found: Sequence[Row], points: Iterable[Mapping[str, Any]]) -> Chart:
    """A benchmark's mean accuracy over the share of mistyped words, with the seeds' spread and each seed's own."""
    rate, accuracy = (np.array([number(at[key]) for at in found]) for key in ("rate", "accuracy"))
    half = np.nan_to_num(np.array([number(at.get("spread")) for at in found]))
    own = [
        p for p in points if p["benchmark"] == curve["benchmark"] and p["metric"] == curve.get("metric", p["metric"])
    ]
    seeds = tuple(np.array([number(point[key]) for point in own]) for key in ("rate", "value"))
    lines = [charts.CurveLine("", ACCENT, rate, 100 * accuracy, marks=True, half=100 * half)]
    if own:
        lines.insert(0, charts.CurveLine("", INK, seeds[0], 100 * seeds[1], faint=True, dots=True))
    floor = number(curve.get("floor"))
    floors = (100 * floor,) if math.isfinite(floor) else ()
    name = "robustness-" + "-".join(part for part in (str(curve["benchmark"]), str(curve.get("metric", ""))) if part)
    plot = charts.Plot(
        "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name),
        f"Accuracy on {curve_title(curve)} over the share of mistyped words",
        tuple(lines),
        x="mistyped",
        floors=floors,
    )
    return Chart(Markup(charts.line_chart(plot, HALF)), Markup())
