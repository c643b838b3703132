"""The verbs that measure a model."""

import os
import shlex
import sys
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from keylm.base.console import console, errors, say
from keylm.base.errors import KeylmError, how_to_install
from keylm.cli.options import MODEL_HELP, QuietOption, interruptible
from keylm.model.released import NAMES, find_model

if TYPE_CHECKING:
    from keylm.evaluation.results import EvaluationFolder, Figure

BESIDE = {"KeyLM": "KeyLM-75M", "Pythia": "Pythia-70M", "GPT-2": "GPT-2-124M", "SmolLM": "SmolLM-135M"}
"""Published rows that the table shows, by what its columns are called; the report shows all."""


def evaluate(
    model: Annotated[str, typer.Argument(help=f"{MODEL_HELP}, or a name on the hub.")],
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="card, extras, robustness (or robustness_5, _10, _20), typing, instructions, everyday, or a task of "
            "lm_eval; with commas or repeatedly. By default card."
        ),
    ] = None,
    tasks_path: Annotated[
        Path | None, typer.Option(help="A folder with items (data/…) or with lm_eval's task files; else from the hub.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First items of each task only, for a quick try.")] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="A folder with casual/ and typo/ for typing on real errors and held-out chat; of a model of another "
            "language than English, with text.jsonl.zst and typo_sentences.jsonl.zst."
        ),
    ] = None,
    items: Annotated[Path | None, typer.Option(help="For instructions: their evaluation.jsonl.zst.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where results go; by default in the run or the model.")] = None,
    chat: Annotated[
        Literal["ifeval", "all", "none"], typer.Option(help="Which tasks get the model's chat template, if it has one.")
    ] = "ifeval",
    scoring: Annotated[
        Literal["fast", "harness"], typer.Option(help="keylm's batching of log-likelihoods, or the harness's own.")
    ] = "fast",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1; by default a GPU where there is one.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes for typing, on CPUs; by default one a core, four at most.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Measure a model: benchmarks through lm_eval (zero-shot), typing errors, typing; finished parts are kept.

    A stopped evaluation resumes with the same command.
    """
    place = str(find_model(Path(model))) if model in NAMES else model
    if quiet or not errors.is_terminal:
        os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported: no bars where nobody sees them
    from keylm.evaluation.results import EvaluationFolder, default_folder, table

    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise KeylmError(f"keylm eval needs more packages; accepted: {how_to_install('eval')}") from None
    from keylm.evaluation.benchmarks import BenchmarkOptions
    from keylm.evaluation.measure import measure

    folder = EvaluationFolder(out or default_folder(model, limit))
    requested = [name for item in tasks or ["card"] for name in item.split(",") if name]
    options = BenchmarkOptions(limit, chat, scoring, device, tasks_path)
    command = shlex.join(["keylm", *sys.argv[1:]])
    where = {"corpus": corpus, "items": items}
    with interruptible("stopped; the same command goes on with what is not measured yet"):
        measure(place, requested, folder, options, **where, workers=workers, command=command, quiet=quiet)
    if not quiet:
        show(table(folder.benchmarks()), folder)
        show_typing(folder)
        show_instructions(folder)
        show_everyday(folder)
    show_report(folder, quiet=quiet)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of evaluations: two or more.")],
    out: Annotated[Path | None, typer.Option(help="Also write a page (HTML) there.")] = None,
) -> None:
    """Put runs side by side: benchmarks with significance, typing, validation, what differs in their recipes."""
    from keylm.report.compare import as_text, write_comparison
    from keylm.report.compare import compare as compare_runs

    say(as_text(compare_runs(runs)))
    if out:
        say(str(write_comparison(runs, out)))


def show_report(folder: "EvaluationFolder", *, quiet: bool) -> None:
    """Rewrite the report of the run that contains an evaluation, and print its path."""
    from keylm.report.run_report import write_report

    if folder.path.name == "evaluation" and (folder.path.parent / "recipe.toml").is_file():
        say(str(write_report(folder.path.parent)), quiet=quiet)


def show_typing(folder: "EvaluationFolder") -> None:
    """Print the typing figures: the model's with its 95 % interval, and the other systems'."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in folder.measures(folder.typing):
        share = row["unit"] in ("", "share")
        scale, digits = (100, 1) if share else (1, 3)
        value, low, high = (
            "–" if row[key] is None else f"{scale * row[key]:.{digits}f}" for key in ("value", "low", "high")
        )
        cells = found.setdefault((row["set"], row["measure"] + ("" if share else f", {row['unit']}")), {})
        cells[row["system"]] = f"{value} ({low} to {high})" if row["system"] == "model" else value
    for name in dict.fromkeys(name for name, _ in found):
        shown = Table(f"typing, {name}", "model", "others", box=None, pad_edge=False)
        for (place, measure), cells in found.items():
            if place == name:
                others = ", ".join(f"{system} {value}" for system, value in cells.items() if system != "model")
                shown.add_row(measure, cells.get("model", ""), others)
        console.print(shown)


def show_instructions(folder: "EvaluationFolder") -> None:
    """Print the shares of constraints that the model keeps, IFEval's beside, and of typos that it fixes."""
    from keylm.evaluation.following import HEADS, following

    rows = folder.measures(folder.instructions)
    if beside := following(folder.benchmarks(), rows) if rows else []:
        table = Table(*HEADS, box=None, pad_edge=False)
        for line in beside:
            table.add_row(*line.cells())
        console.print(table)
    found: dict[str, Table] = {}
    for row in rows:
        name = row["set"].replace("_", "-")
        shown = found.setdefault(name, Table(f"instructions, {name}", "per cent", "items", box=None, pad_edge=False))
        value, low, high = ("–" if row[key] is None else f"{100 * row[key]:.1f}" for key in ("value", "low", "high"))
        label = row["measure"].replace("_", " ") + ("" if row["system"] == "model" else f" ({row['system']})")
        shown.add_row(label, f"{value} ({low} to {high})", str(row["n"]))
    for shown in found.values():
        console.print(shown)


def show_everyday(folder: "EvaluationFolder") -> None:
    """Print how many of the answers to everyday prompts are empty, cut off or repetitive."""
    from keylm.base.files import read_object
    from keylm.base.shapes import check
    from keylm.evaluation.shapes import EVERYDAY
    from keylm.report.everyday_answers import counts_table, everyday_answers

    found = read_object(folder.everyday) if folder.everyday.is_file() else {}
    check(EVERYDAY, found, str(folder.everyday))
    if answers := everyday_answers({"here": found}):
        shown = Table("everyday prompts", *answers.columns, box=None, pad_edge=False)
        for row in counts_table(answers):
            shown.add_row(*row)
        console.print(shown)


def show(figures: "Sequence[Figure]", folder: "EvaluationFolder") -> None:
    """Print the table next to published figures."""
    from keylm.recipe.benchmark_table import published_models

    if not figures:
        return
    published = {row["model"]: row["figures"] for row in published_models()}
    heads = ["per cent", "here", "chance", "items", *BESIDE]
    lines = []
    for figure in figures:
        floor = "" if figure.line.floor is None else f"{100 * figure.line.floor:.0f}"
        beside = [published[name].get(figure.line.title) for name in BESIDE.values()]
        cells = ["" if value is None else f"{value:.1f}" for value in beside]
        lines.append([figure.line.title, str(figure), floor, f"{figure.n:,}", *cells])
    widths = [max(map(len, column)) + 2 for column in zip(heads, *lines, strict=True)]
    fitting = max(4, sum(width <= console.width for width in accumulate(widths)))
    shown = Table(*heads[:fitting], box=None, pad_edge=False)
    for number, column in enumerate(shown.columns):
        column.no_wrap, column.justify = True, "right" if number else "left"
    for line in lines:
        shown.add_row(*line[:fitting])
    console.print(shown)
    say(
        "± is one standard error. Published, as their sources give them, protocols differ by up to a point: "
        f"{', '.join(BESIDE.values())}.\n{folder.path}"
    )
