"""The page of a tuning by rewards, from the run folder's files alone: curves, families, answers, how to do it again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keylm.base.files import read_table
from keylm.base.json_lines import read_rows
from keylm.recipe.run_folder import RunFolder
from keylm.report import charts, drawing, page
from keylm.report.charts import CurveLine, Plot
from keylm.report.page import Chart, Key
from keylm.report.run_record import column
from keylm.tuning.report import lines_chart, progress_chart

CURVES = {
    "reward": ("Reward", "mean over answers"),
    "kept": ("Constraints kept", "share of all constraints"),
    "kl": ("KL divergence from the initial model", "nats a token"),
    "length": ("Length", "tokens an answer"),
    "cut_off": ("Cut off", "share of answers that did not end within the limit"),
    "entropy": ("Entropy", "nats a token"),
    "replay_loss": ("Replayed text", "loss, nats a token"),
}
"""Figure by column of metrics.jsonl: title, unit."""
SHOWN_FAMILIES, SHOWN_ANSWERS = 6, 8
ENDS = 0.1
"""Share of the rows at the beginning and at the end that the table compares."""


def render(path: Path) -> bytes:
    """Return the page of the tuning in `path` as HTML, UTF-8."""
    folder = RunFolder(path)
    rows, summary = read_rows(folder.metrics, "reward"), read_table(folder.summary)
    every = max(1, len(rows) // SHOWN_ANSWERS)
    drawn = [(progress_chart(name, words[0], "prompts", rows), *words) for name, words in CURVES.items()]
    replay = summary.get("replay")
    return page.render(
        "report_rewards.html.jinja",
        name=path.absolute().name,
        run=read_table(path / "grpo.json"),
        summary=summary,
        charts=drawn,
        families=_families(rows),
        family_chart=_family_chart(rows),
        answers=[{**row["sample"], "step": row["step"]} for row in rows[::every] if row.get("sample")][:SHOWN_ANSWERS],
        replay=replay and {**replay, "change": page.signed(100 * (replay["after"] / replay["before"] - 1), 2)},
    )


def _families(rows: Sequence[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """Return each family's share kept in the first and in the last rows that have it, the most improved first."""
    table = []
    for name in _names(rows):
        values = column(rows, "families", name)
        values = values[np.isfinite(values)]
        count = max(1, round(ENDS * len(values)))
        table.append((name, float(values[:count].mean()), float(values[-count:].mean())))
    return sorted(table, key=lambda entry: entry[1] - entry[2])


def _names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the families, those that occur in most rows first."""
    found = [name for row in rows for name in row.get("families", {})]
    return sorted(set(found), key=lambda name: (-found.count(name), name))


def _family_chart(rows: Sequence[dict[str, Any]]) -> Chart:
    """Draw the share kept of the most frequent families."""
    lines, keys = [], []
    for index, name in enumerate(_names(rows)[:SHOWN_FAMILIES]):
        colour = drawing.source_colour(index)
        x, _, smoothed = charts.trace(column(rows, "prompts"), column(rows, "families", name), [0])
        lines.append(CurveLine(name, colour, x, smoothed))
        keys.append(Key(colour, name))
    return lines_chart(Plot("families", "Share kept by family over prompts seen", tuple(lines), x="prompts"), keys)
