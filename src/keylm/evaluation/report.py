"""The run report: one self-contained HTML file that says what a run was, what it saw and what came of it.

Invariants: only files of the run folder are read; the same files give the same bytes; a file that is not
there (a run stopped midway) costs its section and is named, never the report.
"""

import itertools
import json
import math
import platform
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from keylm.evaluation import charts
from keylm.evaluation.charts import Array, Bar, Line, Part, Plot, Span, duration, human, source_colour
from keylm.files import atomic_write

FILES = (
    "recipe.toml",
    "shards/manifest.json",
    "metrics.jsonl",
    "timing.jsonl",
    "samples.json",
    "summary.json",
)
MANY_EPOCHS = 4
"""Repeats up to which text is worth about as much as new text (Muennighoff et al. 2023)."""
REGISTERS = ("formal", "casual", "conversational", "structured", "synthetic")

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What was found in a run folder; a file that is not there or cannot be read is in `missing`."""

    recipe_text: str
    recipe: Row
    manifest: Row
    train: list[Row]
    validation: list[Row]
    timing: list[Row]
    samples: list[Row]
    summary: Row
    missing: dict[str, str]

    @property
    def sources(self) -> list[str]:
        """Names of all sources: the recipe's order, then what only the other files name."""
        found = [*_table(self.recipe, "sources"), *sorted(_table(self.manifest, "sources"))]
        for row in self.validation[-1:] + self.train[-1:]:
            found += sorted(_table(row, "source_loss") or _table(row, "bits_per_byte"))
        return list(dict.fromkeys(found))

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """Share of the tokens that each stage takes from each source; a stage's shares sum to 1."""
        result = {}
        for name, stage in _table(self.recipe, "stages").items():
            weights = {source: _number(weight) for source, weight in _table(stage, "weights").items()}
            total = sum(weights.values())
            result[name] = {
                source: weight / total for source, weight in weights.items() if weight > 0 and total
            }
        return result


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a swatch in the CSS variable `colour`, a name, a value."""

    colour: str
    name: str
    value: str = ""
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """A figure of the page: `wide` takes the page's width, `narrow` stands for it on a phone, or alone."""

    title: str
    unit: str
    narrow: Markup
    wide: Markup = Markup("")
    note: str = ""
    keys: list[Key] = field(default_factory=list)


def write_report(run: Path) -> Path:
    """Write `report.html` into the run folder from what lies there, whole or not at all; return its path."""
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: no such run folder")
    path = run / "report.html"
    atomic_write(path, render(read_run(run)))
    return path


def read_run(folder: Path) -> Run:
    """Read what a run folder holds."""
    missing: dict[str, str] = {}

    def read(name: str, parse: Callable[[str], Any], kind: type) -> Any:
        try:
            value = parse((folder / name).read_text(encoding="utf-8"))
            if not isinstance(value, kind):
                raise ValueError(f"holds no {kind.__name__}")
            return value
        except FileNotFoundError:
            missing[name] = "not there yet"
        except (OSError, ValueError) as error:
            missing[name] = f"cannot be read: {error}"
        return kind()

    recipe_text = read("recipe.toml", str, str)
    metrics = read("metrics.jsonl", _rows, list)
    return Run(
        recipe_text=recipe_text,
        recipe=read("recipe.toml", tomllib.loads, dict),
        manifest=read("shards/manifest.json", json.loads, dict),
        train=_latest(row for row in metrics if row.get("kind") == "train"),
        validation=_latest(row for row in metrics if row.get("kind") == "validation"),
        timing=_latest(read("timing.jsonl", _rows, list)),
        samples=[row for row in read("samples.json", json.loads, list) if isinstance(row, dict)],
        summary=read("summary.json", json.loads, dict),
        missing={name: missing[name] for name in FILES if name in missing},
    )


def _rows(text: str) -> list[Row]:
    """Rows of JSON lines; a line that was cut off while being written is left out."""
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _latest(rows: Any) -> list[Row]:
    """One row a step, in order: a resumed run may write a step again, and the later row counts."""
    by_step = {row["step"]: row for row in rows if isinstance(row.get("step"), int)}
    return [by_step[step] for step in sorted(by_step)]


def _table(row: Any, key: str) -> dict[str, Any]:
    value = row.get(key) if isinstance(row, Mapping) else None
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _column(rows: Sequence[Row], *keys: str) -> Array:
    """The values under `keys` (nested) of all rows, shape [rows]; NaN where there is none."""
    values = []
    for row in rows:
        value: Any = row
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        values.append(_number(value))
    return np.array(values, dtype=np.float64)


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _last(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if finite.size else math.nan


# --- charts


@dataclass(frozen=True)
class Progress:
    """The training rows on the axis of tokens seen: `edges` are the rows at which stages begin."""

    tokens: Array
    edges: list[int]
    spans: tuple[Span, ...]


def _progress(run: Run) -> Progress:
    tokens = _column(run.train, "tokens")
    names = [str(row.get("stage", "")) for row in run.train]
    edges = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    ends = [float(tokens[i - 1]) for i in [*edges[1:], len(names)]] if names else []
    starts = [0.0, *ends[:-1]]
    spans = (Span(names[edge], start, end) for edge, start, end in zip(edges, starts, ends, strict=True))
    return Progress(tokens, edges, tuple(spans))


def _draw(plot: Plot, *sizes: charts.Size) -> list[Markup]:
    return [Markup(charts.line_chart(plot, size)) for size in sizes]


def _loss_chart(run: Run, progress: Progress) -> Chart:
    loss = _column(run.train, "loss")
    x, raw, smoothed = charts.trace(progress.tokens, loss, progress.edges)
    end = f"{_last(smoothed):.2f} at the end"
    lines = (Line("", charts.ACCENT, x, raw, faint=True), Line(end, charts.ACCENT, x, smoothed))
    alt = f"Training loss over tokens seen; {end}"
    narrow, wide = _draw(Plot("loss", alt, lines, progress.spans), charts.NARROW, charts.WIDE)
    bad = int((~np.isfinite(loss)).sum())
    note = f"Faint: as measured; strong: smoothed within each stage, {end}."
    note += f" {bad} steps had no finite loss." if bad else ""
    return Chart("Training loss", "nats per token", narrow, wide, note)


def _source_lines(
    run: Run, curves: Mapping[str, tuple[Array, Array]], marks: bool
) -> tuple[list[Line], list[Key]]:
    """A line and a legend entry for each source that has a curve (x, y)."""
    lines, keys = [], []
    for index, name in enumerate(run.sources):
        x, y = curves.get(name, (np.empty(0), np.empty(0)))
        if not np.isfinite(y).any():
            continue
        value, dashed = f"{_last(y):.2f}", index >= charts.SOURCE_COLOURS
        colour = source_colour(index)
        lines.append(Line(f"{charts.short(name, 20)}  {value}", colour, x, y, dashed=dashed, marks=marks))
        keys.append(Key(colour, name, value, dashed))
    return lines, keys


def _validation_chart(run: Run, progress: Progress) -> Chart:
    tokens = _column(run.validation, "tokens")
    curves = {}
    for name in run.sources:
        y = _column(run.validation, "bits_per_byte", name)
        x, y, _ = charts.trace(tokens[np.isfinite(y)], y[np.isfinite(y)], [0])
        curves[name] = (x, y)
    lines, keys = _source_lines(run, curves, marks=len(run.validation) <= 60)
    plot = Plot("validation", "Validation bits per byte of each source", tuple(lines), progress.spans)
    narrow, wide = _draw(plot, charts.NARROW, charts.WIDE)
    return Chart("Validation", "bits per byte, held-out documents", narrow, wide, keys=keys)


def _source_chart(run: Run, progress: Progress) -> Chart:
    curves = {}
    for name in run.sources:
        x, _, y = charts.trace(progress.tokens, _column(run.train, "source_loss", name), progress.edges)
        curves[name] = (x, y)
    lines, keys = _source_lines(run, curves, marks=False)
    plot = Plot("sources", "Smoothed training loss of each source", tuple(lines), progress.spans)
    narrow, wide = _draw(plot, charts.NARROW, charts.WIDE)
    return Chart(
        "Training loss by source", "nats per token, smoothed within each stage", narrow, wide, keys=keys
    )


def _mixture_chart(run: Run, by: Mapping[str, tuple[str, str]], title: str) -> Chart:
    """Bars of each stage's tokens; `by` maps a source to its group's name and colour."""
    bars, seen, ink = [], {}, charts.ON if title == "Sources" else charts.INK
    for stage, shares in run.shares.items():
        groups: dict[tuple[str, str], float] = {}
        for source, share in shares.items():
            group = by.get(source, (source, charts.MUTED))
            groups[group] = groups.get(group, 0.0) + share
        order = sorted(groups, key=list(dict.fromkeys(by.values())).index)
        parts = [Part(g[1], groups[g], (f"{g[0]} {groups[g]:.0%}", f"{groups[g]:.0%}"), ink) for g in order]
        seen.update(dict.fromkeys(order))
        tokens = human(_number(run.recipe["stages"][stage].get("tokens")))
        bars.append(Bar(f"{stage} · {tokens} tokens", tuple(parts)))
    svg = charts.bar_chart(
        f"mixture-{title}", f"Share of tokens in each stage by {title.lower()}", bars, 400, 1.0
    )
    keys = [Key(colour, name) for name, colour in seen]
    return Chart(title, "share of each stage's tokens", Markup(svg), keys=keys)


def _mixture(run: Run) -> list[Chart]:
    table = _table(run.recipe, "sources")
    if not run.shares:
        return []
    registers = {name: str(_table(table, name).get("register", "formal")) for name in run.sources}
    order = [r for r in (*REGISTERS, *sorted(set(registers.values()))) if r in registers.values()]
    tones = {register: f"tone{i % charts.TONES}" for i, register in enumerate(dict.fromkeys(order))}
    ranked = sorted(registers, key=lambda name: order.index(registers[name]))
    return [
        _mixture_chart(
            run, {name: (name, source_colour(i)) for i, name in enumerate(run.sources)}, "Sources"
        ),
        _mixture_chart(
            run, {name: (registers[name], tones[registers[name]]) for name in ranked}, "Registers"
        ),
    ]


def epochs(run: Run) -> dict[str, list[float]]:
    """Epochs over each source, one number a stage: windows the recipe plans over windows there are."""
    context = _number(run.manifest.get("context", _table(run.recipe, "training").get("context")))
    result = {}
    for source in run.sources:
        split = _table(_table(_table(run.manifest, "sources"), source), "train")
        windows = _number(split.get("windows"))
        if windows > 0 and context > 0:
            stages = _table(run.recipe, "stages")
            drawn = [
                _number(stages[stage]["tokens"]) * run.shares[stage].get(source, 0.0) for stage in run.shares
            ]
            result[source] = [tokens / context / windows for tokens in drawn]
    return result


def _epoch_chart(run: Run) -> Chart:
    table, order = epochs(run), run.sources
    bars = []
    for source, stages in table.items():
        parts = tuple(Part(source_colour(order.index(source)), value) for value in stages if value > 0)
        bars.append(Bar(source, parts, f"{sum(stages):.2g}" if sum(stages) < 10 else f"{sum(stages):.0f}"))
    full = max([MANY_EPOCHS, *(sum(stages) for stages in table.values())]) * 1.15
    narrow, wide = (
        Markup(
            charts.bar_chart(
                "epochs", "Epochs over each source", bars, size.width, full, (MANY_EPOCHS, "4 epochs")
            )
        )
        for size in (charts.NARROW, charts.WIDE)
    )
    note = "Windows the recipe plans to draw over windows there are; a hairline parts the stages. Up to about"
    return Chart(
        "Epochs",
        "passes over each source",
        narrow,
        wide,
        f"{note} 4 epochs, repeated text is nearly as good as new.",
    )


def _pace_charts(run: Run, progress: Progress) -> list[Chart]:
    """Half-width figures: learning rate, gradient norm, speed, time by phase."""
    found = []
    x, scale, _ = charts.trace(progress.tokens, _column(run.train, "learning_rate_scale"), progress.edges)
    plot = Plot(
        "rate", "Learning-rate scale", (Line("", charts.ACCENT, x, scale),), progress.spans, zero=True
    )
    found.append(Chart("Learning rate", "× the optimizer's rates", *_draw(plot, charts.HALF)))
    x, raw, smoothed = charts.trace(progress.tokens, _column(run.train, "gradient_norm"), progress.edges)
    lines = (Line("", charts.ACCENT, x, raw, faint=True), Line("", charts.ACCENT, x, smoothed))
    plot = Plot("gradient", "Gradient norm", lines, progress.spans, zero=True)
    found.append(Chart("Gradient norm", "before clipping", *_draw(plot, charts.HALF)))
    seconds, speed = _column(run.timing, "seconds"), _column(run.timing, "tokens_per_second")
    elapsed = np.cumsum(np.nan_to_num(seconds))
    means = charts.thin(speed, seconds, charts.MOST_POINTS)
    x = charts.thin(elapsed, np.ones(len(elapsed)), charts.MOST_POINTS)
    plot = Plot("speed", "Tokens per second", (Line("", charts.ACCENT, x, means),), time=True, zero=True)
    found.append(Chart("Speed", "tokens per second", *_draw(plot, charts.HALF)))
    phases = {name: _number(value) for name, value in _table(run.summary, "seconds").items()}
    bars = [
        Bar(name, (Part(charts.ACCENT, value),), duration(value))
        for name, value in phases.items()
        if value >= 0
    ]
    full = max([1e-9, *(bar.parts[0].value for bar in bars)]) * 1.3
    found.append(
        Chart("Time", "by phase", Markup(charts.bar_chart("time", "Time by phase", bars, 400, full)))
    )
    return [chart for chart in found if chart.narrow]
