"""`keylm`: each verb parses its arguments and calls one importable function."""

import errno
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

import keylm
from keylm.base.console import console, errors, is_leader, prepare_streams, say, seconds
from keylm.base.errors import FailedElsewhere, Interrupted, KeylmError, TrainingDiverged
from keylm.cli import data as cli_data
from keylm.cli import evaluate as cli_eval
from keylm.cli import release as cli_release
from keylm.cli import serve as cli_serve
from keylm.cli import tuning as cli_tuning
from keylm.cli.options import (
    ExecutorOption,
    ModelArgument,
    QuietOption,
    RecipeArgument,
    RunDirOption,
    SetOption,
    TemperatureOption,
    WorkersOption,
    interruptible,
)
from keylm.cli.verbs import Verbs
from keylm.model.released import DEFAULT
from keylm.recipe.load import load_recipe

app = typer.Typer(
    cls=Verbs,
    help="Make a small language model from scratch: one recipe from raw text to a talking model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(cli_data.app, name="data")
app.command("eval")(cli_eval.evaluate)
app.command()(cli_eval.compare)
app.command()(cli_tuning.sft)
app.command()(cli_tuning.dpo)
app.command()(cli_tuning.grpo)
app.command()(cli_release.export)
app.command()(cli_release.card)
app.command()(cli_release.push)
app.command()(cli_serve.serve)

TokensOption = Annotated[int, typer.Option(min=1, help="Most tokens to write.")]
TopPOption = Annotated[float, typer.Option(min=0.0, max=1.0, help="Sample from top tokens of this total probability.")]
PenaltyOption = Annotated[float, typer.Option(min=0.1, help="Above 1 discourages repetition.")]
SeedOption = Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Sample the same text each time.")]


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    until: Annotated[
        str, typer.Option(help="Last stage: tokenizer, shards, train, export, samples or report.")
    ] = "report",
    fresh: Annotated[bool, typer.Option("--fresh", help="Set an earlier run aside and start over.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Resume the run in the run folder; --no-resume refuses to.")
    ] = True,
    workers: WorkersOption = None,
    executor: ExecutorOption = "local",
    quiet: QuietOption = False,
) -> None:
    """Make a model: tokenizer, shards, training, export, samples, report.

    A stopped run resumes with the same command. With several GPUs:
    torchrun --nproc-per-node 2 -m keylm run RECIPE
    """
    from keylm.pipeline.prepare import STAGES
    from keylm.pipeline.run import run as run_recipe

    if until not in STAGES:
        raise KeylmError(f"--until: got {until!r}; accepted: {', '.join(STAGES)}")
    parsed = load_recipe(recipe, overrides)
    path = run_dir or Path("runs") / parsed.name
    if not resume and not fresh and (path / "recipe.toml").exists():
        raise KeylmError(f"{path}: holds a run already, and --no-resume was given; accepted: --run-dir, --fresh")
    started = time.monotonic()
    with interruptible("stopped; the same command goes on from what is finished"):
        folder = run_recipe(parsed, path, until=until, workers=workers, executor=executor, fresh=fresh, quiet=quiet)
    if until == "report" and not quiet and is_leader():
        show_result(folder.path, time.monotonic() - started)


@app.command()
def doctor(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    processes: Annotated[int, typer.Option(min=1, help="How many GPUs or processes torchrun will start.")] = 1,
) -> None:
    """Check a recipe before hours are spent: size, memory, disk, data, speed, and one real step of each stage."""
    from keylm.pipeline.doctor import examine

    parsed = load_recipe(recipe, overrides)
    if not examine(parsed, run_dir or Path("runs") / parsed.name, processes):
        raise typer.Exit(2)


@app.command()
def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads standard input.")],
    max_new_tokens: TokensOption = 200,
    temperature: TemperatureOption = 0.7,
    top_p: TopPOption = 0.9,
    repetition_penalty: PenaltyOption = 1.1,
    seed: SeedOption = None,
) -> None:
    """Continue a text, token by token."""
    from keylm.runtimes.generation import Generator, Sampling, check_unicode

    sampling = Sampling(max_new_tokens, temperature, top_p, repetition_penalty, seed)
    text = sys.stdin.buffer.read().decode(errors="surrogateescape") if prompt == "-" else prompt
    check_unicode(text)
    generator = Generator(model)
    emit(text)
    generator.complete(text, sampling, emit)
    emit("\n")


@app.command()
def chat(
    model: ModelArgument = Path(DEFAULT),
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    max_new_tokens: TokensOption = 200,
    temperature: TemperatureOption = 0.7,
    top_p: TopPOption = 0.9,
    repetition_penalty: PenaltyOption = 1.1,
    loop_guard: Annotated[
        int, typer.Option(min=0, help="Length in tokens of a run that an answer may not repeat; 0 allows all.")
    ] = 8,
    seed: SeedOption = None,
) -> None:
    """Talk with a model. /help lists the commands; Ctrl-C stops an answer, /exit or Ctrl-D ends the chat."""
    from keylm.cli.chat import Chat, converse
    from keylm.runtimes.generation import Generator, Sampling

    sampling = Sampling(max_new_tokens, temperature, top_p, repetition_penalty, seed, loop_guard)
    conversation = Chat(Generator(model), sampling, system)
    say("/help lists the commands, /exit ends the chat.")
    converse(conversation, lambda: input("> "), emit, say, lambda text: errors.print(text))


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/nano.")]) -> None:
    """Rewrite a run's report.html, also while it is still training."""
    from keylm.recipe.run_folder import RunFolder
    from keylm.report.run_report import write_report

    RunFolder(run_dir).saved_recipe()
    say(str(write_report(run_dir)))


@app.command()
def version() -> None:
    """Print keylm's version."""
    say(keylm.__version__)


def show_result(run_dir: Path, elapsed: float) -> None:
    """Print a sample of a finished run, and where its model and report are."""
    from keylm.base.files import read_json
    from keylm.recipe.run_folder import RunFolder

    folder = RunFolder(run_dir)
    samples = read_json(folder.samples)
    for sample in [s for s in samples if s["prompt"] is not None][-1:] + [s for s in samples if s["messages"]][:1]:
        console.rule("sample")
        if sample["messages"]:
            for turn in sample["messages"]:
                say(f"{turn['role']}: {turn['content']}")
        else:
            say(sample["prompt"] + sample["text"])
    console.rule()
    say(f"model   {folder.model}\nreport  {folder.report}\ntime    {seconds(elapsed)}")
    say(f'try     keylm generate {folder.model} "Once upon a time"   or   keylm chat {folder.model}')


def emit(text: str) -> None:
    """Write a piece of text at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> None:
    """Run the command line; user errors are one message and their exit code."""
    prepare_streams()
    try:
        app()
    except KeylmError as error:
        shared = isinstance(error, FailedElsewhere | Interrupted | TrainingDiverged)  # all processes raise these
        if is_leader() or not shared:
            errors.print(("" if isinstance(error, Interrupted) else "error: ") + str(error), soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        full = " (nothing half-written was left)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        place = f"{error.filename}: " if error.filename else ""
        errors.print(f"error: {place}{error.strerror or error}{full}", soft_wrap=True)
        sys.exit(2)
