"""Two or more runs side by side: benchmarks with paired tests, typing, validation, and what their recipes differ in.

Everything is compared with the first run. Figures that were not measured alike get a reason instead of a number.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from keylm.base.errors import KeylmError
from keylm.base.files import atomic_write, parse_json
from keylm.evaluation.results import Figure, Record, ResultLine
from keylm.evaluation.statistics import holm
from keylm.report import page
from keylm.report.compare_items import Difference, difference
from keylm.report.dot_plot import Dot, DotPlot, Measure, interval_chart, shape
from keylm.report.drawing import NARROW, WIDE
from keylm.report.evaluation import MEASURED, evaluation_folder, figures_of, read_benchmarks, read_everyday
from keylm.report.everyday_answers import EverydayAnswers, counts_table, everyday_answers
from keylm.report.page import Chart, Key
from keylm.report.run_record import Reader, Row, Run, number, read_run, refuse_damaged, table
from keylm.report.typing_tables import column_colour

LEVEL = 0.05
"""Corrected p below which a difference is called one."""
ACCEPTED = "accepted: a run folder such as runs/nano, or an evaluation folder such as runs/nano/evaluation"


@dataclass(frozen=True)
class Side:
    """One of the compared runs; `run` is empty for an evaluation folder outside a run."""

    name: str
    path: Path
    run: Run | None
    records: Mapping[str, Record]
    typing: Row
    robustness: Row
    everyday: Row


@dataclass(frozen=True)
class Compared:
    """A line of the benchmark table: each side's figure, and its difference to the first side's (None for that)."""

    line: ResultLine
    figures: tuple[Figure | None, ...]
    differences: tuple[Difference | None, ...]


@dataclass(frozen=True)
class Interval:
    """A measured value and its 95 % interval, NaN where that is not known."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TypingLine:
    """A typing measure: each side's value, and how its interval compares with the first side's."""

    measure: str
    test_set: str
    unit: str
    values: tuple[Interval | None, ...]
    verdicts: tuple[str, ...]


@dataclass(frozen=True)
class ValidationLine:
    """Validation bits per byte of a source at the end of each run; `alike`: on the same held-out documents."""

    source: str
    values: tuple[float, ...]
    alike: tuple[bool, ...]


@dataclass(frozen=True)
class Comparison:
    """All that is compared; each row has one entry a side, in the order of `sides`."""

    sides: tuple[Side, ...]
    benchmarks: tuple[Compared, ...]
    typing: tuple[TypingLine, ...]
    everyday: EverydayAnswers | None
    validation: tuple[ValidationLine, ...]
    recipe: tuple[tuple[str, tuple[str, ...]], ...]
    """(dotted key, its value in each recipe) of the keys that differ"""

    @property
    def names(self) -> list[str]:
        """Names of the sides, each once."""
        return [side.name for side in self.sides]


def compare(runs: Sequence[Path]) -> Comparison:
    """Compare run or evaluation folders with the first of them. Raises KeylmError for fewer than two, or empty ones."""
    if len(runs) < 2:
        raise KeylmError(f"{len(runs)} to compare; {ACCEPTED}, two or more of them")
    sides = tuple(_side(path, name) for path, name in zip(runs, _names(runs), strict=True))
    everyday = everyday_answers({side.name: side.everyday for side in sides})
    return Comparison(sides, _benchmarks(sides), _typing(sides), everyday, _validation(sides), _recipe(sides))


def write_comparison(runs: Sequence[Path], path: Path) -> Path:
    """Write the comparison as one HTML page, whole or not at all; return its path. Raises KeylmError as `compare`."""
    found = compare(runs)
    shown = {"comparison": found, "chart": _chart(found), "level": LEVEL}
    words = (figure_text, difference_text, p_text, is_clear, value_text, validation_text)
    atomic_write(path, page.render("compare.html.jinja", **shown, **{word.__name__: word for word in words}))
    return path


def _names(runs: Sequence[Path]) -> list[str]:
    """Return short distinct names of the runs: their folders', with as many parents as needed."""
    parts = [[part for part in path.absolute().parts if part not in ("evaluation", path.anchor)] for path in runs]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {path}" for number, path in enumerate(runs, start=1)]


def _side(path: Path, name: str) -> Side:
    if not path.is_dir():
        raise KeylmError(f"{path}: no such folder; {ACCEPTED}")
    own = ("benchmarks", "typing.json", "everyday.json")
    folder = path if any((path / name).exists() for name in own) else evaluation_folder(path)
    home = next((parent for parent in (path, *path.absolute().parents[:2]) if (parent / "recipe.toml").is_file()), None)
    if (path / "metrics.jsonl").is_file():
        home = path
    read = Reader(folder)
    records = read_benchmarks(folder, read.missing)
    typing, robustness = (read(file, parse_json, dict, shape) for file, shape in MEASURED.items())
    everyday = read_everyday(read)
    run = read_run(home) if home else None
    refuse_damaged(folder, read.missing)
    if home and run:
        refuse_damaged(home, run.missing)
    measured = bool(records or typing or robustness or everyday)
    if not measured and not (path / "metrics.jsonl").is_file():
        raise KeylmError(f"{path}: holds neither an evaluation nor metrics.jsonl; {ACCEPTED}")
    return Side(name, path, run, records, typing, robustness, everyday)


def _benchmarks(sides: Sequence[Side]) -> tuple[Compared, ...]:
    """Return every line that two sides or more have, with p-values corrected over all that are shown."""
    measured = [{figure.line: figure for figure in figures_of(side.records)} for side in sides]
    rows = []
    for line in dict.fromkeys(line for figures in measured for line in figures):
        figures = tuple(found.get(line) for found in measured)
        differences = tuple(
            None if index == 0 else difference(line, figures[0], figure, sides[0].records, side.records)
            for index, (side, figure) in enumerate(zip(sides, figures, strict=True))
        )
        rows.append(Compared(line, figures, differences))
    tests = [found.p for row in rows for found in row.differences if found and found.p is not None]
    corrected = iter(holm(tests))
    return tuple(
        replace(
            row,
            differences=tuple(
                replace(found, corrected=next(corrected)) if found and found.p is not None else found
                for found in row.differences
            ),
        )
        for row in rows
    )


def _typing_rows(side: Side) -> dict[tuple[str, str, str], Interval]:
    """Return the model's own rows, and the area under the retention curve, which is read the same way."""
    rows = {}
    for row in side.typing.get("rows") or ():
        if isinstance(row, dict) and row.get("system") == "model":
            key = (str(row.get("measure")), str(row.get("set")), str(row.get("unit")))
            rows[key] = Interval(number(row.get("value")), number(row.get("low")), number(row.get("high")))
    area = number(side.robustness.get("area"))
    if math.isfinite(area):
        low, high = (number(side.robustness.get(key)) for key in ("area_low", "area_high"))
        curves = [curve for curve in side.robustness.get("curves") or () if isinstance(curve, dict)]
        counted = [curve for curve in curves if curve.get("retention") and not curve.get("reason")]
        names = ", ".join(str(curve.get("benchmark")) for curve in counted)
        rows["area under the retention curve", names, "1 = nothing lost"] = Interval(area, low, high)
    return rows


def _typing(sides: Sequence[Side]) -> tuple[TypingLine, ...]:
    found = [_typing_rows(side) for side in sides]
    lines = []
    for key in dict.fromkeys(key for rows in found for key in rows):
        values = tuple(rows.get(key) for rows in found)
        hashes = [_test_set(side.typing, key[1]) for side in sides]
        verdicts = tuple(
            "" if index == 0 else _verdict(values[0], value, hashes[0] == hashes[index])
            for index, value in enumerate(values)
        )
        lines.append(TypingLine(*key, values, verdicts))
    return tuple(lines)


def _test_set(typing: Row, name: str) -> tuple[Any, ...]:
    """Return what two figures of typing must share to be compared."""
    found = table(table(typing, "sets"), name)
    return found.get("hash"), found.get("items"), typing.get("protocol")


def _verdict(first: Interval | None, other: Interval | None, same_set: bool) -> str:
    """Return "higher" or "lower" if intervals are disjoint, else "overlap", or why they cannot be compared."""
    if first is None or other is None:
        return "not measured in both"
    if not same_set:
        return "not comparable: another test set or protocol"
    if not math.isfinite(first.low + first.high + other.low + other.high):
        return "not comparable: no interval"
    return "higher" if other.low > first.high else "lower" if other.high < first.low else "overlap"


def _validation(sides: Sequence[Side]) -> tuple[ValidationLine, ...]:
    ends = [
        table(side.run.validation[-1], "bits_per_byte") if side.run and side.run.validation else {} for side in sides
    ]
    lines = []
    for source in dict.fromkeys(source for end in ends for source in end):
        held = [_held_out(side, source) for side in sides]
        alike = tuple(entry is not None and entry == held[0] for entry in held)
        lines.append(ValidationLine(source, tuple(number(end.get(source)) for end in ends), alike))
    return tuple(lines)


def _held_out(side: Side, source: str) -> tuple[int, int] | None:
    """Return documents and bytes that are held out of a source: alike for the same text under any tokenizer."""
    entry = table(table(table(side.run.manifest if side.run else {}, "sources"), source), "validation")
    return (entry["documents"], entry["bytes"]) if {"documents", "bytes"} <= set(entry) else None


def _recipe(sides: Sequence[Side]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    flat = [dict(_dotted(side.run.recipe)) if side.run else {} for side in sides]
    rows = []
    for key in dict.fromkeys(key for recipe in flat for key in recipe):
        if len({recipe.get(key) for recipe in flat if recipe}) > 1:
            rows.append((key, tuple(recipe.get(key, page.DASH) for recipe in flat)))
    return tuple(rows)


def _dotted(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, entry in value.items():
        if isinstance(entry, dict):
            yield from _dotted(entry, f"{before}{key}.")
        else:
            yield f"{before}{key}", json.dumps(entry, ensure_ascii=False)


def _chart(found: Comparison) -> Chart:
    """Differences of shares to the first side, in percentage points, with their intervals."""
    rows, used = [], set()
    for row in found.benchmarks:
        dots = []
        for index, apart in enumerate(row.differences):
            share = any(figure is not None and figure.is_share for figure in row.figures)
            if apart and share and math.isfinite(apart.value):
                used.add(index)
                bounds = (100 * apart.value, 100 * apart.low, 100 * apart.high)
                dots.append(Dot(column_colour(index - 1), *bounds, marker=shape(index - 1)[0], strong=True))
        rows.append(Measure(row.line.title, tuple(dots)))
    unit = f"points above {found.names[0]}"
    plot = DotPlot("differences", "Differences on each benchmark", unit, tuple(rows), apart=True, zero=True)
    narrow, wide = (Markup(interval_chart(plot, size.width)) for size in (NARROW, WIDE))
    keys = tuple(Key(column_colour(index - 1), found.names[index], mark=shape(index - 1)[1]) for index in sorted(used))
    return Chart(narrow, wide, keys, keep_keys=True)


def figure_text(figure: Figure | None) -> str:
    """Return a figure with its standard error as a cell shows it."""
    return page.DASH if figure is None else str(figure)


def difference_text(row: Compared, index: int) -> str:
    """Return a side's difference with its interval, in points if the line is a share, or why there is none."""
    apart, figure = row.differences[index], row.figures[index]
    if apart is None or figure is None:
        return apart.reason if apart else ""
    if apart.reason:
        return apart.reason
    scale = 100 if figure.is_share else 1
    value, low, high = (page.signed(scale * bound, 1) for bound in (apart.value, apart.low, apart.high))
    return f"{value} ({low} … {high})"


def p_text(apart: Difference | None) -> str:
    """Return the corrected p of a difference as a cell shows it."""
    if apart is None or apart.corrected is None:
        return ""
    return "p < 0.001" if apart.corrected < 0.001 else f"p = {apart.corrected:.3f}"


def as_text(found: Comparison) -> str:
    """Return the comparison as plain text for a terminal, every part a table of aligned columns."""
    names = found.names
    parts = [_text_table(["per cent", *_heads(names)], [_benchmark_cells(row) for row in found.benchmarks])]
    typing = [[f"{row.measure}, {row.test_set}", *_typing_cells(row)] for row in found.typing]
    parts.append(_text_table(["typing", *_heads(names)], typing))
    if found.everyday:
        parts.append(_text_table(["everyday prompts", *found.everyday.columns], counts_table(found.everyday)))
    validation = [[row.source, *_validation_cells(row)] for row in found.validation]
    parts.append(_text_table(["validation, bits per byte", *_heads(names)], validation))
    recipe = [[key, *(_shortened(value) for value in values)] for key, values in found.recipe]
    parts.append(_text_table(["recipe", *names], recipe))
    if found.benchmarks:
        note = f"Differences are to {names[0]}, in points, with 95 % intervals; p corrected by Holm; * below {LEVEL:g}."
        parts.insert(1, note)
    return "\n\n".join(part for part in parts if part)


def _heads(names: Sequence[str]) -> list[str]:
    return [names[0], *(text for name in names[1:] for text in (name, f"− {names[0]}"))]


def _benchmark_cells(row: Compared) -> list[str]:
    cells = [row.line.title, figure_text(row.figures[0])]
    for index, apart in list(enumerate(row.differences))[1:]:
        star = " *" if is_clear(apart) else ""
        words = (difference_text(row, index), p_text(apart))
        cells += [figure_text(row.figures[index]), "  ".join(word for word in words if word) + star]
    return cells


def is_clear(apart: Difference | None) -> bool:
    """Return whether a difference is significant after correction."""
    return apart is not None and apart.corrected is not None and apart.corrected < LEVEL


def value_text(value: Interval | None, unit: str) -> str:
    """Return a typing value as a cell shows it."""
    return page.DASH if value is None else page.in_unit(value.value, unit)


def _typing_cells(row: TypingLine) -> list[str]:
    cells = [value_text(row.values[0], row.unit)]
    for value, verdict in list(zip(row.values, row.verdicts, strict=True))[1:]:
        cells += [value_text(value, row.unit), verdict]
    return cells


def validation_text(row: ValidationLine, index: int) -> str:
    """Return a side's difference in bits per byte, or why there is none."""
    apart = row.values[index] - row.values[0]
    if not math.isfinite(apart):
        return "not measured in both"
    return page.signed(apart, 3) if row.alike[index] else "not comparable: other held-out documents"


def _validation_cells(row: ValidationLine) -> list[str]:
    shown = [f"{value:.3f}" if math.isfinite(value) else page.DASH for value in row.values]
    cells = shown[:1]
    for index in range(1, len(shown)):
        cells += [shown[index], validation_text(row, index)]
    return cells


def _shortened(text: str, most: int = 48) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _text_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns aligned, the first to the left; "" without rows."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = []
    for row in [heads, *rows]:
        cells = (text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)
