"""The benchmarks, a row each: benchmarks.toml has all that keylm knows of one; how it is scored is lm_eval's own.

The table is in this package because a recipe names benchmarks, and a package imports only those above it. To add a
benchmark: its row, its items where they are kept offline (`files`), and a test of its figures.
"""

import json
import tomllib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from keylm.base.errors import KeylmError
from keylm.base.shapes import explain

Text = Annotated[str, Field(min_length=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
PARTS = "{part}"
"""Where a file's name has the name of a part."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ItemFields(_Row):
    """Which fields of a record hold the question, its choices and the right one (curate/evaluation_items.py)."""

    known_by: Text | None = None
    """a field that only records of this benchmark have; None: they have one of the common forms"""
    stem: Text
    """the field of the question"""
    blank: Text | None = None
    """what marks the answer's place inside the stem"""
    choices: tuple[Text, ...] = ()
    """the field of all choices, or a field for each"""
    gold: Text | Literal[0] | None = None
    """the field of the right choice (index, letter or label); 0: the first of `choices`, others may be absent"""
    gold_from: int = 0
    """the index of the first choice"""
    marks: Literal["wikihow"] | None = None
    """marks in the text that the harness removes"""


class InTraining(_Row):
    """How the benchmark is measured on the model being trained (training/benchmarks_in_training.py)."""

    hub: Text
    config: Text | None = None
    split: Text
    """the one that the harness measures on"""
    prompt: Text
    """a format string over the record's fields; `!c` capitalises a field as str.capitalize does"""


class BenchmarkSpec(_Row):
    """A benchmark."""

    suite: Literal["card", "extras"]
    """card: the rows of a model card"""
    title: Text
    metrics: Annotated[tuple[Text, ...], Field(min_length=1)]
    """lm_eval's names; their mean is the figure, and the first is the main metric"""
    line: Text | None = None
    """the figure's name, by default title and metric; a figure of several benchmarks is their mean"""
    also: tuple[Text, ...] = ()
    """further metrics, each a figure of its own"""
    chance: Fraction | None = None
    """the share right by guessing"""
    harness: Text
    """the task's file in lm_eval/tasks; for a benchmark of many parts the folder of their files"""
    files: Annotated[dict[Text, Text], Field(min_length=1)]
    """split to file of items below data/, as .jsonl or .jsonl.gz; `{part}` stands for the name of a part"""
    without: tuple[Text, ...] = ("training_split",)
    """keys of the harness's task that name splits which offline items need not have"""
    stands_in_for: Text | None = None
    """the benchmark of a suite in whose place this one is measured where only its items are offline"""
    slow: bool = False
    """measured after the others of its suite"""
    mistyped: Text | None = None
    """the field of the harness's processed items that is mistyped; None: not measured under typing errors"""
    item: ItemFields | None = None
    training: InTraining | None = None
    published: dict[Text, float] = {}
    """zero-shot figures of other models in per cent, by the model's name"""

    @property
    def has_parts(self) -> bool:
        """Whether the benchmark consists of many tasks."""
        return any(PARTS in file for file in self.files.values())

    @property
    def main_line(self) -> str:
        """The name of the benchmark's figure."""
        return self.line or f"{self.title} {self.metrics[0]}"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.mistyped and (self.chance is None or self.metrics[0] not in ("acc", "acc_norm")):
            raise ValueError("mistyped: needs chance, and acc or acc_norm as the main metric")
        if self.training and not (self.item and self.item.choices and self.item.gold is not None):
            raise ValueError("training: needs item.choices and item.gold")
        if self.has_parts == self.harness.endswith(".yaml"):
            raise ValueError(f"harness: a folder where files name a {PARTS}, else a file .yaml")
        return self


def read_benchmarks(path: Path) -> dict[str, BenchmarkSpec]:
    """Return the rows of a table by name, in its order. Raises KeylmError for a row that is not accepted."""
    rows: dict[str, BenchmarkSpec] = {}
    lines: dict[str, float | None] = {}
    for name, plain in tomllib.loads(path.read_text(encoding="utf-8")).items():
        try:
            rows[name] = BenchmarkSpec.model_validate(plain)
        except ValidationError as error:
            raise KeylmError(f"{path}: {explain(error.errors()[0], BenchmarkSpec, name)}") from None
        if lines.setdefault(rows[name].main_line, rows[name].chance) != rows[name].chance:
            raise KeylmError(f"{path}: {name}.chance: another than the others of {rows[name].main_line!r}")
    for name, row in rows.items():
        if row.stands_in_for not in (None, *rows):
            raise KeylmError(f"{path}: {name}.stands_in_for: {row.stands_in_for!r}; accepted: {', '.join(rows)}")
    return rows


BENCHMARKS = read_benchmarks(Path(str(files("keylm.recipe") / "benchmarks.toml")))
MISTYPED = {name: row for name, row in BENCHMARKS.items() if row.mistyped}
"""Those that are also measured with typing errors in their prompts."""
TRAINING = {name: row for name, row in BENCHMARKS.items() if row.training}
"""Those that can be measured on the model being trained."""


def titles(names: Iterable[str] = BENCHMARKS) -> str:
    """Return the benchmarks' titles in words, in alphabetical order."""
    return ", ".join(sorted({BENCHMARKS[name].title for name in names}, key=str.lower))


def published_models() -> list[dict[str, Any]]:
    """Return the models with published zero-shot figures: {"model", "parameters", "tokens", "source", "figures"}.

    `figures` are in per cent by line of the results table; protocols differ by up to about a point.
    """
    models = json.loads(files("keylm.recipe").joinpath("published_models.json").read_text(encoding="utf-8"))
    for model in models:
        rows = [row for row in BENCHMARKS.values() if model["model"] in row.published]
        model["figures"] = {row.main_line: row.published[model["model"]] for row in rows}
    return list(models)
