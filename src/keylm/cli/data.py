"""`keylm data …`: build, plan, verify and inspect the data of a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from keylm.base.console import say
from keylm.base.errors import KeylmError
from keylm.cli.options import (
    ExecutorOption,
    QuietOption,
    RecipeArgument,
    RunDirOption,
    SetOption,
    WorkersOption,
    interruptible,
)
from keylm.recipe.load import load_recipe

app = typer.Typer(help="Build, plan, verify and inspect data.", no_args_is_help=True)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/nano.")]


@app.command()
def build(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    workers: WorkersOption = None,
    executor: ExecutorOption = "local",
    quiet: QuietOption = False,
) -> None:
    """Curate and tokenize the sources into shards, without training. Can be stopped and resumed at any time."""
    from keylm.data.manifest import read_manifest
    from keylm.pipeline.run import run

    parsed = load_recipe(recipe, overrides)
    path = run_dir or Path("runs") / parsed.name
    with interruptible("stopped; the same command goes on from the shards that are finished"):
        folder = run(parsed, path, until="shards", workers=workers, executor=executor, quiet=quiet)
    manifest = read_manifest(folder.shards)
    tokens = sum(source.train.tokens for source in manifest.sources.values())
    say(
        f"manifest  {folder.shards / 'manifest.json'}: {tokens:,} tokens to train on, hash {manifest.hash}", quiet=quiet
    )


@app.command()
def plan(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the plan to this .svg, .png or .pdf as well.")] = None,
) -> None:
    """Show how many tokens and epochs each source gives in each stage. Exact once the shards are built."""
    from keylm.pipeline.data_plan import show_plan
    from keylm.recipe.run_folder import RunFolder

    parsed = load_recipe(recipe, overrides)
    show_plan(parsed, RunFolder(run_dir or Path("runs") / parsed.name), plot)


@app.command()
def verify(
    run_dir: RunArgument,
    recipe: Annotated[
        str | None, typer.Option(help="A recipe whose sources to read; by default the one in the run folder.")
    ] = None,
    overrides: SetOption = None,
    step: Annotated[int | None, typer.Option(min=0, help="Verify this batch only; by default all of them.")] = None,
    from_curated: Annotated[
        bool, typer.Option("--from-curated", help="Start from the run's curated files: faster, but proves less.")
    ] = False,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Rebuild from the sources, compare with the manifest, and print the SHA-256 of a batch."""
    from keylm.pipeline.verify import verify as verify_data
    from keylm.recipe.run_folder import RunFolder

    folder = RunFolder(run_dir)
    folder.saved_recipe()  # says so where this is no run folder
    parsed = load_recipe(recipe or str(folder.recipe), overrides)
    digest = verify_data(parsed, folder, step, workers=workers, from_curated=from_curated, quiet=quiet)
    say(f"batch SHA-256 {digest}")


@app.command()
def show(
    run_dir: RunArgument,
    step: Annotated[int, typer.Option(min=0, help="Which batch.")] = 0,
    windows: Annotated[int, typer.Option(min=1, help="How many of its windows to print.")] = 8,
    characters: Annotated[int, typer.Option(min=0, help="How much of each document's text to print.")] = 240,
) -> None:
    """Print what a step trains on: its sources, documents and text, recomputed from the manifest."""
    from keylm.pipeline.show import show_batch

    show_batch(run_dir, step, windows, characters)


@app.command()
def instructions(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    corpus: Annotated[Path, typer.Option(help="A folder of documents: wikipedia.jsonl.zst and others, at any depth.")],
    count: Annotated[int, typer.Option(min=1, help="Conversations to write, with and without constraints.")] = 200_000,
    everyday: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of them without constraints.")] = 0.4,
    preferences: Annotated[int, typer.Option(min=0, help="Prompts with a good answer, for preference tuning.")] = 0,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Give these a minimal violation; else the model's own are to be found.")
    ] = False,
    prompts: Annotated[
        int, typer.Option(min=0, help="Prompts with constraints and no answer, for reinforcement learning.")
    ] = 0,
    evaluation: Annotated[int, typer.Option(min=0, help="Held-out items of each of the three sets.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other pairs.")] = 0,
    name: Annotated[str, typer.Option(help="What the assistant calls itself.")] = "KeyLM",
    open_only: Annotated[bool, typer.Option("--open-only", help="Leave out files with no open licence.")] = False,
    decontaminate: Annotated[
        list[Path] | None, typer.Option(help="Benchmark items, files or folders; documents with one are left out.")
    ] = None,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Generate instruction data with constraints that a program checks, from documents; see docs/instruction_data.md.

    If stopped, it leaves nothing; the same command starts over.
    """
    from keylm.instructions.generator import GeneratorSettings
    from keylm.instructions.instruction_files import InstructionPlan, default_workers, print_summary, write_instructions

    if not name.strip():
        raise KeylmError("--name: got an empty name; accepted: some text")
    settings, items = GeneratorSettings(seed, name.strip()), tuple(decontaminate or ())
    plan = InstructionPlan(
        corpus, count, everyday, preferences, rejected, prompts, evaluation, settings, open_only, items
    )
    with interruptible("stopped; nothing was written, and the same command begins anew"):
        manifest = write_instructions(out, plan, workers=workers or default_workers(), quiet=quiet)
    print_summary(out, manifest, quiet=quiet)
