"""A run folder as reports and comparisons read it: it may be partly written, damaged or not there yet.

Invariant: only files of the folder are read; one that is missing or cannot be read is named, and is empty.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from keylm.base.errors import KeylmError
from keylm.base.files import parse_json
from keylm.base.json_lines import parse_rows
from keylm.base.shapes import check
from keylm.evaluation.shapes import MANIFEST, RECIPE, SAMPLES, STAGES, SUMMARY
from keylm.recipe.load import parse_toml
from keylm.report.drawing import Array

FILES = (
    "recipe.toml",
    "shards/manifest.json",
    "metrics.jsonl",
    "timing.jsonl",
    "samples.json",
    "summary.json",
    "stages.json",
)

Row = dict[str, Any]
UNREADABLE = "cannot be read"


class Reader:
    """Reads files of a folder; `missing` says of each that gave nothing why."""

    def __init__(self, folder: Path, absent: str = "not there yet") -> None:
        self.folder, self.missing, self._absent = folder, dict[str, str](), absent

    def __call__(self, name: str, parse: Callable[[str], Any], kind: type, shape: Any = None) -> Any:
        """Return `parse` of a file, an empty `kind` if it is missing, damaged or not of `shape` (pydantic's)."""
        try:
            value = parse((self.folder / name).read_text(encoding="utf-8", errors="replace"))
            if not isinstance(value, kind):
                raise ValueError(f"holds no {kind.__name__}")
            if shape:
                check(shape, value, "")
            return value
        except FileNotFoundError:
            self.missing[name] = self._absent
        except (OSError, ValueError) as error:
            self.missing[name] = f"{UNREADABLE}: {error}"
        return kind()


def refuse_damaged(folder: Path, missing: Mapping[str, str]) -> None:
    """Raise KeylmError for the first of a reader's `missing` files that is there and damaged."""
    for name, why in missing.items():
        if why.startswith(UNREADABLE):
            raise KeylmError(f"{folder / name}: {why}")


@dataclass(frozen=True)
class RunFacts:
    """What summary.json says (RunSummary), as far as it can be read; "" and NaN for the rest."""

    keylm: str = ""
    torch: str = ""
    python: str = ""
    device: str = ""
    device_name: str = ""
    command: str = ""
    date: str = ""
    world_size: float = math.nan
    parameters: float = math.nan

    @classmethod
    def of(cls, summary: Row) -> "RunFacts":
        """Return the facts in a summary."""
        known: dict[str, Any] = {}
        for field in fields(cls):
            if (value := summary.get(field.name)) is not None:
                known[field.name] = str(value) if isinstance(field.default, str) else number(value)
        return cls(**known)


@dataclass(frozen=True)
class Run:
    """What was found in a run folder; a file that is not there or cannot be read is in `missing`."""

    recipe_text: str
    recipe: Row
    manifest: Row
    train: list[Row]
    validation: list[Row]
    benchmarks: list[Row]
    timing: list[Row]
    samples: list[Row]
    summary: RunFacts
    seconds: dict[str, float]
    """of each finished stage"""
    missing: dict[str, str]

    @property
    def sources(self) -> list[str]:
        """Names of all sources: the recipe's order, then what only the other files name."""
        found = [*table(self.recipe, "sources"), *sorted(table(self.manifest, "sources"))]
        for row in self.validation[-1:] + self.train[-1:]:
            found += sorted(table(row, "source_loss") or table(row, "bits_per_byte"))
        return list(dict.fromkeys(found))

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """Share of the tokens that each stage takes from each source; a stage's shares sum to 1."""
        result = {}
        for name, stage in table(self.recipe, "stages").items():
            weights = {source: number(weight) for source, weight in table(stage, "weights").items()}
            total = sum(weights.values())
            result[name] = {source: weight / total for source, weight in weights.items() if weight > 0 and total}
        return result

    @property
    def tokens_seen(self) -> float:
        """Tokens trained on so far; NaN where no step was taken."""
        return last(column(self.train, "tokens"))


def read_run(folder: Path) -> Run:
    """Read a run folder."""
    read = Reader(folder)
    recipe_text = read("recipe.toml", str, str)
    metrics, stages = (
        read("metrics.jsonl", parse_rows, list),
        read("stages.json", parse_json, dict, STAGES),
    )
    train, validation, benchmarks = (
        _latest(row for row in metrics if row.get("kind") == kind) for kind in ("train", "validation", "benchmark")
    )
    return Run(
        recipe_text=recipe_text,
        recipe=read("recipe.toml", parse_toml, dict, RECIPE),
        manifest=read("shards/manifest.json", parse_json, dict, MANIFEST),
        train=train,
        validation=validation,
        benchmarks=benchmarks,
        timing=_latest(read("timing.jsonl", parse_rows, list)),
        samples=read("samples.json", parse_json, list, SAMPLES),
        summary=RunFacts.of(read("summary.json", parse_json, dict, SUMMARY)),
        seconds={name: number(table(stages, name).get("seconds")) for name in stages},
        missing={name: read.missing[name] for name in FILES if name in read.missing},
    )


def _latest(rows: Iterable[Row]) -> list[Row]:
    """One row a step, in order: a resumed run may write a step again, and the later row wins."""
    by_step = {row["step"]: row for row in rows if isinstance(row.get("step"), int)}
    return [by_step[step] for step in sorted(by_step)]


def table(row: Any, key: str) -> dict[str, Any]:
    """Return the table under `key`, an empty one if there is none."""
    value = row.get(key) if isinstance(row, Mapping) else None
    return value if isinstance(value, dict) else {}


MOST = 1e18
"""Numbers from here on are damage: no figure of a run comes near, and charts of them are nothing but that point."""


def number(value: Any) -> float:
    """Return the value as a float, NaN where it is no number."""
    return float(value) if isinstance(value, int | float) and abs(value) < MOST else math.nan


def column(rows: Sequence[Row], *keys: str) -> Array:
    """Return the values under `keys` (nested) of all rows, shape [rows]; NaN if there is none."""
    values = []
    for row in rows:
        value: Any = row
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        values.append(number(value))
    return np.array(values, dtype=np.float64)


def mean(values: Iterable[Any]) -> float:
    """Return the mean of what is finite, NaN of nothing."""
    finite = [value for value in map(number, values) if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def last(values: Array) -> float:
    """Return the last finite value, NaN if there is none."""
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if finite.size else math.nan
