"""The verbs that measure a model."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from keylm.cli_options import QuietOption
from keylm.console import console, say
from keylm.errors import Interrupted, KeylmError

if TYPE_CHECKING:
    from keylm.evaluation.results import EvaluationFolder, Figure

BESIDE = {
    "KeyLM": "KeyLM-75M",
    "Pythia": "Pythia-70M",
    "GPT-2": "GPT-2-124M",
    "SmolLM": "SmolLM-135M",
}
"""Published rows that the table shows, by what its columns are called; the report shows all."""


def evaluate(
    model: Annotated[str, typer.Argument(help="A model folder such as runs/nano/model, or a name on the hub.")],
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="card, extras, or a task of lm_eval; with commas or repeatedly. By default card."),
    ] = None,
    tasks_path: Annotated[
        Path | None, typer.Option(help="A folder with items (data/…) or with lm_eval's task files; else from the hub.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first items of each task, to try things.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where results go; by default RUN/evaluation, or in the model folder."),
    ] = None,
    chat: Annotated[
        Literal["ifeval", "all", "none"], typer.Option(help="Which tasks get the model's chat template, if it has one.")
    ] = "ifeval",
    scoring: Annotated[
        Literal["fast", "harness"], typer.Option(help="keylm's batching of log-likelihoods, or the harness's own.")
    ] = "fast",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1; by default a GPU where there is one.")] = "auto",
    quiet: QuietOption = False,
) -> None:
    """Measure a model on benchmarks through lm_eval, zero-shot; a stopped evaluation goes on where it was."""
    from keylm.evaluation.results import EvaluationFolder, default_folder, table, write_rows

    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise KeylmError("keylm eval needs more packages; accepted: pip install 'keylm[eval]'") from None
    from keylm.evaluation import benchmarks

    folder = EvaluationFolder(out or default_folder(model, limit))
    asked = [name for item in tasks or ["card"] for name in item.split(",") if name]
    options = benchmarks.Options(limit, chat, scoring, device, tasks_path)
    try:
        benchmarks.evaluate(model, asked, folder, options, quiet=quiet)
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command goes on with what is not measured yet") from None
    finally:
        if folder.benchmarks():
            write_rows(folder, model, shlex.join(["keylm", *sys.argv[1:]]))
    if not quiet:
        show(table(folder.benchmarks()), folder)


def show(figures: "Sequence[Figure]", folder: "EvaluationFolder") -> None:
    """Print the table with published figures beside."""
    from keylm.evaluation.results import references

    published = {row["model"]: row["figures"] for row in references()}
    shown = Table("per cent", "here", "chance", *BESIDE, "items", box=None, pad_edge=False, padding=(0, 1))
    for column in shown.columns:
        column.no_wrap = True
    for column in shown.columns[1:]:
        column.justify = "right"
    for figure in figures:
        line = figure.line
        floor = "" if line.floor is None else f"{100 * line.floor:.0f}"
        beside = [published[name].get(line.reference or "") for name in BESIDE.values()]
        cells = ["" if value is None else f"{value:.1f}" for value in beside]
        shown.add_row(line.title, str(figure), floor, *cells, f"{figure.n:,}")
    console.print(shown)
    say(
        "± is one standard error. Published, as their sources give them, protocols differ by up to a point: "
        f"{', '.join(BESIDE.values())}.\n{folder.path}"
    )
