"""`keylm sft`, `keylm dpo`, `keylm grpo`: from a pretrained model to one that follows instructions."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from keylm.base.console import is_leader, say, seconds
from keylm.base.errors import KeylmError
from keylm.cli.options import (
    MODEL_HELP,
    QuietOption,
    SetOption,
    TemperatureOption,
    WorkersOption,
    interruptible,
    settings_of,
)
from keylm.model.released import find_model
from keylm.recipe.run_folder import RunFolder

BaseArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", callback=find_model, help=f"{MODEL_HELP}, to start from.")
]
OutOption = Annotated[Path, typer.Option("--out", metavar="RUN", help="The run folder; the model is in RUN/model.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Set an earlier run aside and start over.")]
AdamRateOption = Annotated[float, typer.Option(min=1e-12, help="AdamW's, at the peak.")]
BetaOption = Annotated[float, typer.Option(min=1e-6, help="Strength of the KL penalty to the initial model.")]
AnswerTokensOption = Annotated[int, typer.Option(min=1, help="Most tokens of a sampled answer.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Read only the first lines.")]
OrderSeedOption = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of sampling and of the order.")]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to compute.")]


def sft(
    model: BaseArgument,
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA…", help="Conversations: files, folders, or hub:OWNER/NAME of a data set."),
    ],
    out: OutOption,
    epochs: Annotated[float, typer.Option(min=0.001, help="Passes over the data.")] = 2.0,
    learning_rate: Annotated[float, typer.Option(min=1e-9, help="Muon's peak rate; AdamW's scale with it.")] = 0.002,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens per step; by default chosen by the amount of data.")
    ] = None,
    overrides: SetOption = None,
    workers: WorkersOption = None,
    fresh: FreshOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tune a model on conversations: loss on the assistant's turns alone. Writes a recipe and runs it.

    A stopped run resumes with the same command.
    """
    from keylm.tuning.sft import Tuning
    from keylm.tuning.sft import sft as tune

    if not epochs > 0 or not learning_rate > 0:  # NaN is in no range
        raise KeylmError(f"--epochs {epochs}, --learning-rate {learning_rate}; accepted: numbers over 0")
    started = time.monotonic()
    tuning = Tuning(epochs, learning_rate, batch_tokens)
    with interruptible("stopped; the same command goes on from what is finished"):
        folder = tune(model, data, out, tuning, overrides or [], workers=workers, fresh=fresh, quiet=quiet)
    if is_leader():
        _say_result(folder, started, quiet=quiet)
        say(f"try     keylm chat {folder.model}", quiet=quiet)


def dpo(
    model: BaseArgument,
    pairs: Annotated[
        list[Path],
        typer.Argument(
            metavar="PAIRS…", help="JSON lines of prompt, chosen and rejected; or of prompt, chosen and constraints."
        ),
    ],
    out: OutOption,
    epochs: Annotated[float, typer.Option(min=0.001, help="A second epoch harms small models.")] = 1.0,
    learning_rate: AdamRateOption = 2e-6,
    beta: BetaOption = 0.1,
    batch_pairs: Annotated[int, typer.Option(min=1, help="Pairs per step.")] = 32,
    micro_batch_pairs: Annotated[
        int | None, typer.Option(min=1, help="Pairs per forward pass; by default 16 on a GPU, else 8.")
    ] = None,
    tries: Annotated[int, typer.Option(min=1, help="Answers sampled in search of one that violates.")] = 4,
    temperature: TemperatureOption = 1.0,
    max_new_tokens: AnswerTokensOption = 256,
    limit: LimitOption = None,
    seed: OrderSeedOption = 0,
    device: DeviceOption = "auto",
    fresh: FreshOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tune a model to prefer good answers (DPO): pip install -e '.[post]' in keylm's clone.

    If the data have constraints instead of rejected answers, answers are sampled from the model, and those that violate
    the constraints are the rejected ones. A stopped command resumes when run again.
    """
    from keylm.tuning.dpo import dpo as tune
    from keylm.tuning.preference_settings import Preference
    from keylm.tuning.trl_runs import Tools

    if not all(value > 0 for value in (epochs, learning_rate, beta)):  # NaN is in no range
        raise KeylmError(f"--epochs {epochs}, --learning-rate {learning_rate}, --beta {beta}; accepted: numbers over 0")
    started, settings = time.monotonic(), settings_of(Preference, locals())
    with interruptible("stopped; the same command goes on from what is finished"):
        folder = tune(model, pairs, out, settings, Tools(device, micro_batch_pairs, quiet=quiet), fresh=fresh)
    _say_result(folder, started, quiet=quiet)


def grpo(
    model: BaseArgument,
    prompts: Annotated[list[Path], typer.Argument(metavar="PROMPTS…", help="JSON lines of prompt and constraints.")],
    out: OutOption,
    epochs: Annotated[float, typer.Option(min=0.001, help="Passes over the prompts.")] = 1.0,
    learning_rate: AdamRateOption = 3e-6,
    beta: BetaOption = 0.04,
    batch_prompts: Annotated[int, typer.Option(min=1, help="Prompts per step.")] = 32,
    answers: Annotated[int, typer.Option(min=2, help="Answers sampled for each prompt of a step.")] = 8,
    micro_batch_answers: Annotated[
        int | None, typer.Option(min=1, help="Answers per forward pass; by default 64 on a GPU, else 16.")
    ] = None,
    temperature: TemperatureOption = 1.0,
    max_new_tokens: AnswerTokensOption = 256,
    least_words: Annotated[int, typer.Option(min=0, help="Fewest words of an answer with full credit.")] = 8,
    replay: Annotated[
        list[Path] | None, typer.Option(help="Text or conversations that are not to be forgotten. Repeatable.")
    ] = None,
    replay_weight: Annotated[float, typer.Option(min=0.0, help="Weight of the loss on them.")] = 0.1,
    limit: LimitOption = None,
    seed: OrderSeedOption = 0,
    device: DeviceOption = "auto",
    fresh: FreshOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tune a model by rewards for constraints that its answers keep (GRPO): pip install -e '.[post]' in keylm's clone.

    The model answers each prompt several times, and answers that keep more constraints than the others become likelier.
    A stopped command resumes when run again.
    """
    from keylm.tuning.grpo import grpo as tune
    from keylm.tuning.reward_settings import Reinforcement
    from keylm.tuning.trl_runs import Tools

    if not all(value > 0 for value in (epochs, learning_rate, beta, temperature)) or not replay_weight >= 0:
        raise KeylmError(
            f"--epochs {epochs}, --learning-rate {learning_rate}, --beta {beta}, --temperature {temperature}, "
            f"--replay-weight {replay_weight}; accepted: numbers over 0, of the last also 0"
        )
    started, settings = time.monotonic(), settings_of(Reinforcement, locals())
    tools = Tools(device, micro_batch_answers, quiet=quiet)
    with interruptible("stopped; the same command goes on from the last checkpoint"):
        folder = tune(model, prompts, out, settings, tools, replay=replay or [], fresh=fresh)
    _say_result(folder, started, quiet=quiet)


def _say_result(folder: RunFolder, started: float, *, quiet: bool) -> None:
    spent = seconds(time.monotonic() - started)
    say(f"model   {folder.model}\nreport  {folder.report}\ntime    {spent}", quiet=quiet)
