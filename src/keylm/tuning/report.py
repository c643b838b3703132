"""The page of a preference tuning, from the run folder's files alone: curves, pairs, how to do it again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from keylm.base.files import read_table
from keylm.base.json_lines import read_rows
from keylm.recipe.run_folder import RunFolder
from keylm.report import charts, drawing, page
from keylm.report.charts import CurveLine, Plot
from keylm.report.page import Chart, Key
from keylm.report.run_record import column
from keylm.tuning.pairs import read_pairs

SHOWN_PAIRS = 8
CURVES = {
    "accuracy": ("Preference", "share of pairs whose chosen answer has the higher reward"),
    "margin": ("Margin", "reward of the chosen answer less that of the rejected one"),
    "loss": ("Loss", "nats a pair"),
}
"""Figure by column of metrics.jsonl: title, unit."""


def render(path: Path) -> bytes:
    """Return the page of the preference tuning in `path` as HTML, UTF-8."""
    folder = RunFolder(path)
    learnt, held = (read_rows(folder.metrics, kind) for kind in ("preference", "held_out"))
    pairs = read_pairs(path / "pairs.jsonl")
    every = max(1, len(pairs) // SHOWN_PAIRS)
    run = read_table(path / "dpo.json")
    return page.render(
        "report_preference.html.jinja",
        name=path.absolute().name,
        run=run,
        summary=read_table(folder.summary),
        charts=[(progress_chart(name, words[0], "pairs", learnt, held), *words) for name, words in CURVES.items()],
        held=held[:1] + held[-1:],
        pairs=pairs[::every][:SHOWN_PAIRS],
    )


def progress_chart(
    name: str,
    title: str,
    seen: Literal["pairs", "prompts"],
    learnt: Sequence[dict[str, Any]],
    held: Sequence[dict[str, Any]] = (),
) -> Chart:
    """Draw one column of metrics.jsonl over what was seen: of what was learnt from, and of what was held out."""
    x, raw, smoothed = charts.trace(column(learnt, seen), column(learnt, name), [0])
    label = "learnt" if held else ""
    lines = [CurveLine("", drawing.ACCENT, x, raw, faint=True), CurveLine(label, drawing.ACCENT, x, smoothed)]
    keys = [Key(drawing.ACCENT, f"{seen} learnt from: as measured, and smoothed")]
    if held:
        colour = drawing.source_colour(1)
        lines.append(
            CurveLine("held out", colour, column(held, seen), column(held, name), marks=True, dots=len(held) < 2)
        )
        keys.append(Key(colour, f"{seen} held out"))
    return lines_chart(Plot(name, f"{title} over {seen} seen", tuple(lines), x=seen), keys)


def lines_chart(plot: Plot, keys: Sequence[Key]) -> Chart:
    """Draw a plot in both sizes of a page; nothing where it has no finite point."""
    if not any(np.isfinite(line.y).any() for line in plot.lines):
        return Chart(Markup(), Markup())
    narrow, wide = (Markup(charts.line_chart(plot, size)) for size in (drawing.NARROW, drawing.WIDE))
    return Chart(narrow, wide, tuple(keys))
