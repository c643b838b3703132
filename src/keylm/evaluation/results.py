"""An evaluation's files, and the results table.

    EVALUATION/benchmarks/NAME.json   one finished benchmark: metrics, standard errors, every item's outcome
    EVALUATION/typing.json            the typing evaluation
    EVALUATION/instructions.json      constraints kept and typos fixed, on held-out items
    EVALUATION/everyday.json          answers to sixty everyday prompts, to be read
    EVALUATION/robustness.json        accuracy under typing errors
    EVALUATION/evaluation.json        the rows of all of it, a list, for other programs

A benchmark's record: {"benchmark", "metrics": {metric: {"value", "stderr"}}, "n", "items": {metric: [one number an
item]}, "harness", "task_hashes", "seconds", "command", "settings"}; values are fractions (except perplexity).
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keylm.base.files import DamagedFile, read_object, write_json
from keylm.base.shapes import check
from keylm.evaluation.shapes import BENCHMARK, MEASURES
from keylm.evaluation.statistics import bootstrap_error
from keylm.recipe.benchmark_table import BENCHMARKS

Record = dict[str, Any]
"""A finished benchmark's file."""


class EvaluationFolder:
    """The files of one model's evaluation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.typing, self.robustness = path / "typing.json", path / "robustness.json"
        self.instructions, self.everyday = path / "instructions.json", path / "everyday.json"
        self.rows = path / "evaluation.json"

    def benchmark(self, name: str) -> Path:
        """Return the file of a benchmark, which need not exist."""
        return self.path / "benchmarks" / f"{name}.json"

    def measures(self, file: Path) -> list[dict[str, Any]]:
        """Return the rows of typing.json or instructions.json. Raises DamagedFile where it holds none."""
        found = read_object(file) if file.is_file() else {}
        check(MEASURES, found, str(file))
        return list(found.get("rows", []))

    def benchmarks(self) -> dict[str, Record]:
        """Return all finished benchmarks by name; a damaged file is that of an unfinished one."""
        found = sorted((self.path / "benchmarks").glob("*.json"))
        return {file.stem: record for file in found if (record := _sound(file))}


def _sound(file: Path) -> Record | None:
    with contextlib.suppress(DamagedFile):
        return read_benchmark(file)
    return None


def read_benchmark(file: Path) -> Record:
    """Return a finished benchmark's record. Raises DamagedFile where the file holds none."""
    record = read_object(file)
    check(BENCHMARK, record, "")
    return record


def default_folder(model: str, limit: int | None = None) -> Path:
    """Return where a model's evaluation belongs: in its run folder, in the model's own, or in ./evaluations."""
    path = Path(model)
    if not path.exists():
        folder = Path("evaluations") / model.replace("/", "--")
    elif (path.absolute().parent / "recipe.toml").exists():
        folder = path.parent / "evaluation"
    else:
        folder = path / "evaluation"
    return folder / f"limit-{limit}" if limit else folder


@dataclass(frozen=True)
class ResultLine:
    """A line of the results table: the mean of metrics of one or more benchmarks."""

    title: str
    """also the name of its published figures"""
    parts: tuple[tuple[str, str], ...]
    """(benchmark, metric)"""
    floor: float | None = None
    """chance level"""


def suite_lines(suite: str) -> tuple[ResultLine, ...]:
    """Return the lines of a suite's benchmarks, in the table's order."""
    lines: dict[str, ResultLine] = {}
    for name, row in BENCHMARKS.items():
        if row.suite == suite:
            parts = tuple((name, metric) for metric in row.metrics)
            before = lines[row.main_line].parts if row.main_line in lines else ()
            lines[row.main_line] = ResultLine(row.main_line, (*before, *parts), row.chance)
            for metric in row.also:
                lines[f"{row.title} {metric}"] = ResultLine(f"{row.title} {metric}", ((name, metric),), row.chance)
    return tuple(lines.values())


CARD, EXTRAS = suite_lines("card"), suite_lines("extras")


@dataclass(frozen=True)
class Figure:
    """A measured line of the table."""

    line: ResultLine
    value: float
    stderr: float | None
    n: int

    @property
    def is_share(self) -> bool:
        """Return whether the value is a fraction, shown in per cent."""
        return all(metric != "perplexity" for _, metric in self.line.parts)

    def __str__(self) -> str:
        """Return the value: a share in per cent, with its standard error."""
        if not self.is_share:
            return f"{self.value:,.1f}" if self.value < 1e5 else f"{self.value:.1e}"
        return f"{100 * self.value:.1f}" + ("" if self.stderr is None else f" ± {100 * self.stderr:.1f}")


def table(benchmarks: Mapping[str, Record], lines: Sequence[ResultLine] = CARD + EXTRAS) -> list[Figure]:
    """Return the lines whose parts are all in `benchmarks`."""
    found = []
    for line in lines:
        parts = [benchmarks.get(name, {}).get("metrics", {}).get(metric) for name, metric in line.parts]
        if all(part is not None for part in parts):
            records = [benchmarks[name] for name in dict.fromkeys(name for name, _ in line.parts)]
            mean = math.fsum(part["value"] for part in parts) / len(parts)
            found.append(Figure(line, mean, _stderr(line, parts, records), sum(record["n"] for record in records)))
    return found


def _stderr(line: ResultLine, parts: Sequence[Mapping[str, Any]], records: Sequence[Record]) -> float | None:
    """Return the standard error of the mean of a line's parts; metrics of one benchmark are resampled together."""
    if len(records) == len(parts):
        errors = [part["stderr"] for part in parts]
        return None if None in errors else math.hypot(*errors) / len(errors)
    items = [records[0].get("items", {}).get(metric, []) for _, metric in line.parts]
    return bootstrap_error(items) if items[0] and len({len(part) for part in items}) == 1 else None


def write_rows(folder: EvaluationFolder, model: str) -> None:
    """Write evaluation.json from all finished benchmarks: one row a benchmark and metric."""
    rows = [
        {
            "model": model,
            "benchmark": name,
            "metric": metric,
            "value": part["value"],
            "stderr": part["stderr"],
            "n": record["n"],
            "harness": record["harness"],
            "command": record.get("command", ""),
        }
        for name, record in folder.benchmarks().items()
        for metric, part in record["metrics"].items()
    ]
    write_json(folder.rows, rows)
