"""The run report: one self-contained HTML file that says what a run was, what it trained on and what it reached.

Invariants: only files of the run folder are read; the same files give the same bytes; a file that is not
there (a run stopped midway) costs its section and is named, never the report.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from markupsafe import Markup

from keylm.base.files import atomic_write
from keylm.evaluation.following import HEADS
from keylm.recipe.benchmark_table import BENCHMARKS
from keylm.report import charts, drawing, page
from keylm.report.charts import Bar, CurveLine, Part, Plot, Span
from keylm.report.cost import cost_of
from keylm.report.drawing import Array, duration, human, source_colour
from keylm.report.evaluation import EvaluationSection, contamination_rows, read_evaluation
from keylm.report.page import Chart, Key
from keylm.report.run_record import Run, column, last, mean, number, read_run, table

MANY_EPOCHS = 4
"""Repeats up to which text is worth about as much as new text (Muennighoff et al. 2023)."""
REGISTERS = ("formal", "casual", "conversational", "structured", "synthetic")

MOST_LABELLED = 14
"""Most lines that are named at their ends; beyond that, all names are in a legend below."""

MAIN = {name: (row.metrics[0], row.chance) for name, row in BENCHMARKS.items()}
"""(main metric, share right by guessing) by benchmark."""


def write_report(run: Path) -> Path:
    """Write `report.html` into the run folder from its files, whole or not at all; return its path."""
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: no such run folder")
    path = run / "report.html"
    atomic_write(path, render(read_run(run), read_evaluation(run)))
    return path


@dataclass(frozen=True)
class Progress:
    """The axis of tokens seen, shape [training rows]; `edges`: the rows at which the stages `spans` begin."""

    tokens: Array
    edges: list[int]
    spans: tuple[Span, ...]


def _progress(run: Run) -> Progress:
    tokens = column(run.train, "tokens")
    names = [str(row.get("stage", "")) for row in run.train]
    edges = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    ends = [float(tokens[i - 1]) for i in [*edges[1:], len(names)]] if names else []
    spans = (Span(names[i], start, end) for i, start, end in zip(edges, [0.0, *ends[:-1]], ends, strict=False))
    return Progress(tokens, edges, tuple(spans))


def _full(plot: Plot, keys: Sequence[Key] = (), note: str = "") -> Chart:
    narrow, wide = (Markup(charts.line_chart(plot, size)) for size in (drawing.NARROW, drawing.WIDE))
    return Chart(narrow, wide, tuple(keys), note)


def _half(name: str, alt: str, x: Array, raw: Array, smoothed: Array, spans: tuple[Span, ...] = ()) -> Chart:
    lines = (CurveLine("", drawing.ACCENT, x, raw, faint=True), CurveLine("", drawing.ACCENT, x, smoothed))
    plot = Plot(name, alt, lines, spans, x="seconds" if name == "speed" else "tokens", zero=True)
    return Chart(Markup(charts.line_chart(plot, drawing.HALF)), Markup())


def _loss_chart(run: Run, progress: Progress) -> Chart:
    loss = column(run.train, "loss")
    x, raw, smoothed = charts.trace(progress.tokens, loss, progress.edges)
    end = f"{last(smoothed):.2f} at the end"
    lines = (CurveLine("", drawing.ACCENT, x, raw, faint=True), CurveLine(end, drawing.ACCENT, x, smoothed))
    bad = sum("loss" in row and not math.isfinite(number(row["loss"])) for row in run.train)
    note = f"Faint: as measured. Strong: smoothed within each stage, {end}."
    note += f" {bad} step{'s' * (bad > 1)} had no finite loss." if bad else ""
    return _full(Plot("loss", f"Training loss over tokens seen, {end}", lines, progress.spans), note=note)


def _source_lines(run: Run, name: str, alt: str, progress: Progress, curves: Sequence[tuple[Array, Array]]) -> Chart:
    """One line (x, y) for each of the run's sources that has a finite value."""
    lines, keys = [], []
    crowded = sum(bool(np.isfinite(y).any()) for _, y in curves) > MOST_LABELLED
    for index, (source, (x, y)) in enumerate(zip(run.sources, curves, strict=True)):
        if np.isfinite(y).any():
            value, colour, dashed = f"{last(y):.2f}", source_colour(index), index >= drawing.SOURCE_COLOURS
            marks = name == "validation" and len(x) <= 60
            label = "" if crowded else f"{drawing.short(source, 20, 1)}  {value}"
            lines.append(CurveLine(label, colour, x, y, dashed=dashed, marks=marks))
            keys.append(Key(colour, source, value, dashed))
    return replace(_full(Plot(name, alt, tuple(lines), progress.spans), keys), keep_keys=crowded)


def _validation_chart(run: Run, progress: Progress) -> Chart:
    curves = []
    for source in run.sources:
        tokens, bits = column(run.validation, "tokens"), column(run.validation, "bits_per_byte", source)
        measured = np.isfinite(bits)
        x, y, _ = charts.trace(tokens[measured], bits[measured], [0])
        curves.append((x, y))
    return _source_lines(run, "validation", "Validation bits per byte of each source", progress, curves)


def _benchmark_chart(run: Run, progress: Progress) -> Chart:
    """Accuracy of the benchmarks measured during training, and chance level."""
    lines, keys = [], []
    items: dict[float | None, float] = {}
    names = sorted({name for row in run.benchmarks for name in table(row, "results")})
    for index, name in enumerate(names):
        metric, floor = MAIN.get(name, ("acc", None))
        y = 100 * column(run.benchmarks, "results", name, metric)
        use = np.isfinite(y)
        if use.any():
            title, value = f"{name} {metric}", f"{last(y):.1f}"
            colour = source_colour(index)
            lines.append(
                CurveLine(f"{title}  {value}", colour, column(run.benchmarks, "tokens")[use], y[use], marks=True)
            )
            keys.append(Key(colour, title, value))
            items[floor] = max(items.get(floor, 0.0), last(column(run.benchmarks, "results", name, "n")))
    floors = tuple(sorted({100 * floor for floor in items if floor is not None}))
    alt = "Accuracy on benchmarks during training"
    few = min((count for count in items.values() if count > 0), default=math.nan)
    reach = 196 * math.sqrt(0.25 / few) if few > 0 else math.nan
    note = f"With {few:,.0f} items, chance alone moves a figure by up to {reach:.1f} points (95 %)." if few > 0 else ""
    return _full(Plot("benchmark-curves", alt, tuple(lines), progress.spans, floors=floors), keys, note)


def _source_chart(run: Run, progress: Progress) -> Chart:
    losses = (column(run.train, "source_loss", source) for source in run.sources)
    traces = (charts.trace(progress.tokens, loss, progress.edges) for loss in losses)
    curves = [(x, smoothed) for x, _, smoothed in traces]
    return _source_lines(run, "sources", "Smoothed training loss of each source", progress, curves)


def _mixture_chart(run: Run, name: str, groups: Mapping[str, Key], ink: str) -> Chart:
    """Bars of each stage's tokens; `groups` maps every source to its group, in drawing order."""
    bars, seen = [], {}
    for stage, shares in run.shares.items():
        sums: dict[Key, float] = {}
        for source in sorted(shares, key=list(groups).index):
            sums[groups[source]] = sums.get(groups[source], 0.0) + shares[source]
        parts = (Part(g.colour, n, (f"{g.name} {n:.0%}", f"{n:.0%}"), ink) for g, n in sums.items())
        seen.update(sums)
        tokens = human(number(run.recipe["stages"][stage].get("tokens")))
        bars.append(Bar(f"{stage} · {tokens} tokens", tuple(parts)))
    keys = tuple(key for key in dict.fromkeys(groups.values()) if key in seen)
    return Chart(Markup(charts.bar_chart(name, f"{name} of each stage", bars, drawing.HALF.width, 1.0)), Markup(), keys)


def _mixtures(run: Run) -> tuple[Chart, Chart]:
    """Each stage's tokens by source and by register."""
    stated = {name: table(table(run.recipe, "sources"), name).get("register", "formal") for name in run.sources}
    order = [*REGISTERS, *sorted(set(map(str, stated.values())) - set(REGISTERS))]
    tones = {register: Key(f"tone{i % drawing.TONES}", register) for i, register in enumerate(order)}
    registers = {name: tones[str(stated[name])] for name in sorted(stated, key=lambda n: order.index(str(stated[n])))}
    sources = {name: Key(source_colour(i), name) for i, name in enumerate(run.sources)}
    by_source = _mixture_chart(run, "mixture", sources, drawing.ON)
    return by_source, _mixture_chart(run, "registers", registers, drawing.INK)


def epochs(run: Run) -> dict[str, list[float]]:
    """Epochs over each source, one number a stage: windows the recipe plans over windows there are."""
    context = number(run.manifest.get("context", table(run.recipe, "training").get("context")))
    tokens = {name: number(stage.get("tokens")) for name, stage in table(run.recipe, "stages").items()}
    result = {}
    for source in run.sources:
        split = table(table(table(run.manifest, "sources"), source), "train")
        windows = number(split.get("windows"))
        if windows > 0 and context > 0 and tokens:
            result[source] = [tokens[s] * run.shares[s].get(source, 0.0) / context / windows for s in run.shares]
    return result


def _epoch_chart(run: Run) -> Chart:
    bars, table = [], epochs(run)
    for source, stages in table.items():
        colour, total = source_colour(run.sources.index(source)), sum(stages)
        parts = tuple(Part(colour, value) for value in stages if value > 0)
        bars.append(Bar(source, parts, f"{total:.2g}" if total < 10 else f"{total:.0f}"))
    full = max([MANY_EPOCHS, *(sum(stages) for stages in table.values())]) * 1.15
    widths = (drawing.NARROW.width, drawing.WIDE.width)
    drawn = (charts.bar_chart("epochs", "Epochs of each source", bars, width, full, MANY_EPOCHS) for width in widths)
    return Chart(Markup(next(drawn)), Markup(next(drawn)))


def _charts(run: Run) -> dict[str, Chart]:
    """All figures by name; one without data has no `narrow`."""
    progress = _progress(run)
    rate, norm = column(run.train, "learning_rate_scale"), column(run.train, "gradient_norm")
    x, scale, _ = charts.trace(progress.tokens, rate, progress.edges)
    elapsed, speed = np.nan_to_num(column(run.timing, "seconds")), column(run.timing, "tokens_per_second")
    speed = charts.thin(speed, elapsed, charts.MOST_POINTS)
    clock = charts.thin(np.cumsum(elapsed), np.ones(len(elapsed)), charts.MOST_POINTS)
    phases = {name: value for name, value in run.seconds.items() if name != "report"}
    bars = [Bar(name, (Part(drawing.ACCENT, value),), duration(value)) for name, value in phases.items() if value >= 0]
    time = charts.bar_chart("time", "Time by phase", bars, drawing.HALF.width, max([1e-9, *phases.values()]) * 1.3)
    mixture, registers = _mixtures(run)
    return {
        "loss": _loss_chart(run, progress),
        "validation": _validation_chart(run, progress),
        "sources": _source_chart(run, progress),
        "benchmarks": _benchmark_chart(run, progress),
        "mixture": mixture,
        "registers": registers,
        "epochs": _epoch_chart(run),
        "rate": _half("rate", "Learning-rate scale", x, scale, scale, progress.spans),
        "gradient": _half(
            "gradient", "Gradient norm", *charts.trace(progress.tokens, norm, progress.edges), progress.spans
        ),
        "speed": _half("speed", "Tokens per second", clock, speed, charts.smooth(speed, 6)),
        "time": Chart(Markup(time), Markup()),
    }


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    """The key figures: label, value, remark; what is not known yet is left out."""
    summary, seconds = run.summary, column(run.timing, "seconds")
    speed = column(run.timing, "tokens_per_second")
    planned = sum(number(stage.get("tokens")) for stage in table(run.recipe, "stages").values())
    seen = last(column(run.train, "tokens"))
    bits = table(run.validation[-1], "bits_per_byte") if run.validation else {}
    trained = float(np.nansum(seconds))
    pace = float(np.nansum(speed * seconds) / max(1e-9, np.nansum(seconds)))
    values = [
        ("Parameters", human(summary.parameters), ""),
        ("Tokens seen", human(seen), f"of {human(planned)} planned" if planned > 0 else ""),
        ("Validation", f"{mean(bits.values()):.3f}", f"bits per byte, mean of {len(bits)} sources"),
        ("Training time", duration(trained) if trained > 0 else "nan", f"{len(run.train):,} steps"),
        ("Speed", human(pace) if pace > 0 else "nan", "tokens per second"),
        ("Device", summary.device or "nan", summary.device_name),
    ]
    return [value for value in values if value[1] != "nan"]


def render(run: Run, evaluation: EvaluationSection) -> bytes:
    """The report of a run and its evaluation as a HTML page, UTF-8."""
    colours = {source: source_colour(index) for index, source in enumerate(run.sources)}
    return page.render(
        "report.html.jinja",
        run=run,
        charts=_charts(run),
        tiles=_tiles(run),
        colours=colours,
        cost=cost_of(run),
        evaluation=evaluation,
        contamination=contamination_rows(evaluation.contamination),
        following_heads=HEADS,
    )
