"""An evaluation in a run folder, as the report shows it: benchmarks, contamination, commands.

Every file is optional. One that is missing or unreadable is named in place of its part of the page.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from markupsafe import Markup

from keylm.base.files import DamagedFile, parse_json
from keylm.evaluation.following import FollowingRow, following
from keylm.evaluation.results import CARD, EXTRAS, Figure, Record, ResultLine, read_benchmark, table
from keylm.evaluation.shapes import CONTAMINATION, EVERYDAY, MEASURES, ROBUSTNESS, ROWS
from keylm.recipe.benchmark_table import published_models
from keylm.report.dot_plot import Dot, DotPlot, Measure, interval_chart, shape
from keylm.report.drawing import ACCENT, NARROW, WIDE, source_colour
from keylm.report.everyday_answers import EverydayAnswers, everyday_answers
from keylm.report.page import DASH, Chart, Key
from keylm.report.run_record import UNREADABLE, Reader, Row, number
from keylm.report.typing_tables import Robustness, TypingGroup, instruction_groups, robustness_of, typing_groups

BESIDE = ("KeyLM-75M", "KeyLM-75M-Instruct", "Pythia-70M", "GPT-2-124M", "SmolLM-135M")
"""Published models beside ours in the table and the chart; the others are in a separate table."""
INTERVAL = 1.96
"""Standard errors to either side of a value in a 95 % interval."""
MISTYPED = re.compile(r"_typos_\d+_\d+$")
"""Names of benchmarks with typing errors, which the robustness curves show (robustness.py)."""

MEASURED = {"typing.json": MEASURES, "robustness.json": ROBUSTNESS}

T = TypeVar("T")


@dataclass(frozen=True)
class BenchmarkRow:
    """A line of the benchmark table, as displayed; `beside`: a text for each of BESIDE."""

    title: str
    value: str
    interval: str
    chance: str
    beside: tuple[str, ...]
    items: str


@dataclass(frozen=True)
class Benchmarks:
    """The benchmark table, its chart, and what it was measured with."""

    rows: tuple[BenchmarkRow, ...]
    chart: Chart
    sources: tuple[tuple[str, str], ...]
    """(model, where its figures were published)"""
    published: tuple[Row, ...]
    lines: tuple[ResultLine, ...]
    harness: str
    limit: str
    chat: str


@dataclass(frozen=True)
class EvaluationSection:
    """What the page shows of an evaluation; None where there is nothing to show, and `missing` says why."""

    place: str
    benchmarks: Benchmarks | None
    typing: tuple[TypingGroup, ...]
    typing_facts: Row
    instructions: tuple[TypingGroup, ...]
    following: tuple[FollowingRow, ...]
    everyday: EverydayAnswers | None
    robustness: Robustness | None
    contamination: Row
    commands: tuple[str, ...]
    missing: dict[str, str]


def read_evaluation(run: Path) -> EvaluationSection:
    """Read a run's evaluation: the full one, or where there is none the one with most items."""
    folder = evaluation_folder(run)
    place = folder.relative_to(run).as_posix()
    read = Reader(folder, "not measured")
    typing, robustness = (read(name, parse_json, dict, shape) for name, shape in MEASURED.items())
    contamination = read("contamination.json", parse_json, dict, CONTAMINATION)
    # Only tuned models are measured, so missing figures are not reported.
    instructions, everyday = read_instructions(read), read_everyday(read)
    commands = (row.get("command") for row in read("evaluation.json", parse_json, list, ROWS))

    def shown(name: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            read.missing[name] = f"cannot be read: {type(error).__name__}: {error}"
            return None

    records = read_benchmarks(folder, read.missing)
    return EvaluationSection(
        place=place,
        benchmarks=shown("benchmarks", lambda: benchmarks_of(records)),
        typing=shown("typing.json", lambda: typing_groups(typing)) or (),
        typing_facts=typing,
        instructions=shown("instructions.json", lambda: instruction_groups(instructions)) or (),
        following=shown("instructions.json", lambda: tuple(following(records, instructions.get("rows") or ()))) or (),
        everyday=shown("everyday.json", lambda: everyday_answers({"this model": everyday})),
        robustness=shown("robustness.json", lambda: robustness_of(robustness)),
        contamination=contamination,
        commands=tuple(dict.fromkeys(str(command) for command in commands if command)),
        missing={f"{place}/{name}": read.missing[name] for name in sorted(read.missing)},
    )


def read_instructions(read: Reader) -> Row:
    """Return instructions.json where it is there."""
    return _read_if_there(read, "instructions.json", MEASURES)


def read_everyday(read: Reader) -> Row:
    """Return everyday.json where it is there."""
    return _read_if_there(read, "everyday.json", EVERYDAY)


def _read_if_there(read: Reader, name: str, shape: Any) -> Row:
    return dict(read(name, parse_json, dict, shape)) if (read.folder / name).is_file() else {}


def evaluation_folder(run: Path) -> Path:
    """Return RUN/evaluation, or the part of it with the highest limit where only such were measured."""
    whole = run / "evaluation"
    limited = [path for path in whole.glob("limit-*") if path.name.removeprefix("limit-").isdecimal()]
    if limited and not any(path.suffix == ".json" or path.name == "benchmarks" for path in whole.iterdir()):
        return max(limited, key=lambda path: int(path.name.removeprefix("limit-")))
    return whole


def read_benchmarks(folder: Path, missing: dict[str, str]) -> dict[str, Record]:
    """Return the finished benchmarks of an evaluation folder; what cannot be read is added to `missing`."""
    found: dict[str, Record] = {}
    for file in sorted((folder / "benchmarks").glob("*.json")):
        try:
            found[file.stem] = read_benchmark(file)
        except (OSError, DamagedFile) as error:
            missing[f"benchmarks/{file.name}"] = f"{UNREADABLE}: {error}"
    if not found:
        missing["benchmarks"] = "not measured"
    return found


def figures_of(records: Mapping[str, Record]) -> list[Figure]:
    """Return the lines of the table, and each metric of the clean benchmarks that is in no line."""
    figures = table(records, CARD + EXTRAS)
    used = {name for figure in figures for name, _ in figure.line.parts}
    rest = [name for name in records if name not in used and not MISTYPED.search(name)]
    lines = [ResultLine(f"{name} {metric}", ((name, metric),)) for name in rest for metric in records[name]["metrics"]]
    return figures + table(records, lines)


def interval_of(figure: Figure) -> tuple[float, float]:
    """Return the bounds of a figure's 95 % interval, NaN where its standard error is not known."""
    if figure.stderr is None:
        return math.nan, math.nan
    reach = INTERVAL * figure.stderr
    return max(0.0, figure.value - reach), figure.value + reach


def benchmarks_of(records: Mapping[str, Record]) -> Benchmarks | None:
    """Return the benchmark table; None where nothing was measured."""
    figures = figures_of(records)
    if not figures:
        return None
    published = {row["model"]: row for row in published_models() if row["figures"]}
    beside = [name for name in BESIDE if name in published]
    rows = tuple(_benchmark_row(figure, [published[name]["figures"] for name in beside]) for figure in figures)
    titles = {title for row in published.values() for title in row["figures"]}
    lines = tuple(figure.line for figure in figures if figure.line.title in titles)
    return Benchmarks(
        rows=rows,
        chart=_benchmark_chart(figures, {name: published[name]["figures"] for name in beside}),
        sources=tuple((name, str(published[name]["source"])) for name in beside),
        published=tuple(row for row in published.values() if any(line.title in row["figures"] for line in lines)),
        lines=lines,
        harness=", ".join(sorted({str(record.get("harness", "version not recorded")) for record in records.values()})),
        limit=_limit_note(records),
        chat=", ".join(name for name, record in records.items() if record.get("settings", {}).get("chat")),
    )


def _benchmark_row(figure: Figure, beside: Sequence[Mapping[str, float]]) -> BenchmarkRow:
    scale, (low, high) = 100 if figure.is_share else 1, interval_of(figure)
    line = figure.line
    published = [figures.get(line.title) for figures in beside]
    return BenchmarkRow(
        title=line.title,
        value=f"{scale * figure.value:.1f}",
        interval=f"{scale * low:.1f}–{scale * high:.1f}" if math.isfinite(low) else "no interval",
        chance=DASH if line.floor is None else f"{100 * line.floor:.0f}",
        beside=tuple(DASH if value is None else f"{value:.1f}" for value in published),
        items=f"{figure.n:,}",
    )


def _benchmark_chart(figures: Sequence[Figure], beside: Mapping[str, Mapping[str, float]]) -> Chart:
    rows, seen = [], set()
    for figure in figures:
        if not figure.is_share:
            continue
        low, high = interval_of(figure)
        dots = [Dot(ACCENT, 100 * figure.value, 100 * low, 100 * high, strong=True)]
        for index, (name, published) in enumerate(beside.items()):
            value = published.get(figure.line.title)
            if value is not None:
                seen.add(name)
                dots.append(Dot(source_colour(index + 1), value, marker=shape(index + 1)[0]))
        chance = math.nan if figure.line.floor is None else 100 * figure.line.floor
        rows.append(Measure(figure.line.title, tuple(dots), str(figure), chance))
    plot = DotPlot("benchmarks", "Each benchmark with its 95 % interval", "per cent correct", tuple(rows))
    narrow, wide = (Markup(interval_chart(plot, size.width)) for size in (NARROW, WIDE))
    keys = [Key(ACCENT, "this model, with 95 % interval", mark=shape(0)[1])]
    for index, name in enumerate(beside, start=1):
        if name in seen:
            keys.append(Key(source_colour(index), name, mark=shape(index)[1]))
    note = "Dashed: what guessing gets. Right: the value ± one standard error."
    return Chart(narrow, wide, tuple(keys), note, keep_keys=True)


def _limit_note(records: Mapping[str, Record]) -> str:
    limits: dict[int, list[str]] = {}
    for name, record in records.items():
        limit = number(record.get("settings", {}).get("limit"))
        if limit > 0 and not MISTYPED.search(name):
            limits.setdefault(int(limit), []).append(name)
    parts = (f"the first {limit:,} items of each task of {', '.join(names)}" for limit, names in limits.items())
    return "; ".join(parts)


def contamination_rows(contamination: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the rows of the contamination table in words; what is not known says so."""
    rows = [row for row in contamination.get("rows") or () if isinstance(row, dict)]
    return [{key: _count(row.get(key)) for key in ("benchmark", "items", "before", "after")} for row in rows]


def _count(value: Any) -> str:
    if value is None:
        return "not known"
    return f"{value:,}" if isinstance(value, int) else str(value)
