"""All measurements of a model: benchmarks, robustness, typing, instructions, everyday prompts, contamination."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keylm.base.console import say
from keylm.base.errors import KeylmError
from keylm.base.files import read_table, sweep_ended, write_json
from keylm.evaluation import benchmarks, robustness
from keylm.evaluation.prompt_noise import noises
from keylm.evaluation.results import EvaluationFolder, Record, write_rows
from keylm.recipe.run_folder import RunFolder

TYPING = "typing"
"""Name of the typing evaluation in --tasks, which is no task of lm_eval."""
INSTRUCTIONS = "instructions"
"""Name in --tasks of the evaluation of constraints that a program checks."""
EVERYDAY = "everyday"
"""Name in --tasks of the prompts whose answers are to be read."""


def measure(
    model: str,
    requested: Sequence[str],
    folder: EvaluationFolder,
    options: benchmarks.BenchmarkOptions,
    *,
    corpus: Path | None = None,
    items: Path | None = None,
    workers: int | None = None,
    command: str = "",
    quiet: bool = False,
) -> None:
    """Measure `requested` suites and tasks of a model and write the files of `folder`, finished parts at any end."""
    sweep_ended(folder.path)
    try:
        tasks = [name for name in requested if name not in (TYPING, INSTRUCTIONS, EVERYDAY)]
        if TYPING in requested:
            _typing(model, folder, options.limit, corpus, workers, quiet=quiet)
        if INSTRUCTIONS in requested:
            _instructions(model, folder, options, items, quiet=quiet)
        if EVERYDAY in requested:
            _everyday(model, folder, options, quiet=quiet)
        if tasks:
            benchmarks.evaluate(model, tasks, folder, options, command=command, quiet=quiet)
    finally:
        write_summaries(folder, model)
        run = RunFolder(Path(model).absolute().parent)
        if run.recipe.is_file():
            from keylm.evaluation.contamination import contamination_record  # imports pyarrow

            write_json(folder.path / "contamination.json", contamination_record(run.path))


def write_summaries(folder: EvaluationFolder, model: str) -> None:
    """Write evaluation.json from the benchmarks' records, and robustness.json where prompts were mistyped."""
    found = folder.benchmarks()
    if found:
        write_rows(folder, model)
    points = robustness_points(found)
    if {point["rate"] for point in points} > {0}:
        write_json(folder.robustness, robustness_record(points))


def _typing(
    model: str, folder: EvaluationFolder, limit: int | None, corpus: Path | None, workers: int | None, *, quiet: bool
) -> None:
    from keylm.evaluation.typing import evaluate_typing

    if not Path(model).is_dir():
        raise KeylmError(f"{model}: typing is measured on a model folder; accepted: its files on this machine")
    settings = {"model": benchmarks.fingerprint(model), "items": limit, "corpus": corpus is not None}
    if read_table(folder.typing).get("settings") == settings:
        say("typing  measured already", quiet=quiet)
        return
    parts = folder.path / "typing.parts.json"
    found = evaluate_typing(Path(model), corpus=corpus, items=limit, quiet=quiet, workers=workers, unfinished=parts)
    write_json(folder.typing, {**found, "settings": settings})
    parts.unlink(missing_ok=True)


def _instructions(
    model: str, folder: EvaluationFolder, options: benchmarks.BenchmarkOptions, items: Path | None, *, quiet: bool
) -> None:
    import torch

    from keylm.evaluation.instructions import measure_instructions

    if not Path(model).is_dir():
        raise KeylmError(f"{model}: instructions are measured on a model folder; accepted: its files on this machine")
    if items is None:
        raise KeylmError("instructions: no items; accepted: --items evaluation.jsonl.zst of `keylm data instructions`")
    device = torch.device(benchmarks.chosen_device(options.device))
    measure_instructions(Path(model), items, folder.instructions, limit=options.limit, device=device, quiet=quiet)


def _everyday(model: str, folder: EvaluationFolder, options: benchmarks.BenchmarkOptions, *, quiet: bool) -> None:
    import torch

    from keylm.evaluation.everyday_prompts import measure_everyday

    if not Path(model).is_dir():
        raise KeylmError(f"{model}: everyday prompts are put to a model folder; accepted: its files on this machine")
    device = torch.device(benchmarks.chosen_device(options.device))
    measure_everyday(Path(model), folder.everyday, device=device, quiet=quiet)


def robustness_points(found: dict[str, Record]) -> list[dict[str, Any]]:
    """Return the accuracies under typing errors (rate 0: clean) in the benchmarks' records."""
    tasks = noises()
    mistyped = {noise.benchmark for name, noise in tasks.items() if name in found}
    points = []
    for name, record in found.items():
        noise = tasks.get(name)
        if noise is None and name not in mistyped:
            continue
        benchmark, rate, seed = (noise.benchmark, noise.rate, noise.seed) if noise else (name, 0, 0)
        for metric in ("acc", "acc_norm"):
            figure = record["metrics"].get(metric)
            if figure is not None:
                place = {"benchmark": benchmark, "metric": metric, "rate": rate, "seed": seed}
                points.append({**place, **figure, "n": record["n"]})
    return points


def robustness_record(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the contents of robustness.json: the points, and each benchmark's curve by its main metric."""
    found = robustness.curves(points)
    low, high = found["interval"] or (None, None)
    rows = [row for row in found["curves"] if row["metric"] == robustness.main_metric(row["benchmark"])]
    return {
        "points": list(points),
        "curves": [_curve(row) for row in rows],
        "area": found["area"],
        "area_low": low,
        "area_high": high,
        "reason": found["reason"],
    }


def _curve(row: dict[str, Any]) -> dict[str, Any]:
    """Return a benchmark's row of `robustness.curves` for robustness.json, with a list for each column."""
    columns = {key: [at[key] for at in row["rates"]] for key in ("rate", "accuracy", "spread", "retention")}
    return {
        "benchmark": row["benchmark"],
        "metric": row["metric"],
        "floor": row["chance"],
        "rates": columns["rate"],
        "values": columns["accuracy"],
        "spread": columns["spread"],
        "retention": None if None in columns["retention"] else columns["retention"],  # known at all rates or at none
        "area": row["area"],
        "reason": row["reason"],
    }
