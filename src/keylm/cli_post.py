"""`keylm sft` and `keylm dpo`: from a pretrained model to one that follows instructions."""

import time
from pathlib import Path
from typing import Annotated

import typer

from keylm.cli_options import QuietOption, SetOption, WorkersOption
from keylm.console import is_leader, say, seconds
from keylm.errors import Interrupted, KeylmError

BaseArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The model to begin with, such as runs/nano/model.")
]
OutOption = Annotated[Path, typer.Option("--out", metavar="RUN", help="The run folder; the model is in RUN/model.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Put an earlier run aside and start anew.")]


def sft(
    model: BaseArgument,
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA…", help="Conversations: files, folders, or hub:OWNER/NAME of a data set."),
    ],
    out: OutOption,
    epochs: Annotated[float, typer.Option(min=0.001, help="How often the data are gone through.")] = 2.0,
    learning_rate: Annotated[
        float, typer.Option(min=1e-9, help="Muon's at the peak; AdamW's rates are scaled alike.")
    ] = 0.002,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens in a step; by default as suits the amount of data.")
    ] = None,
    overrides: SetOption = None,
    workers: WorkersOption = None,
    fresh: FreshOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tune a model on conversations: loss on the assistant's turns alone. Writes a recipe and runs it.

    A run that was stopped goes on where it was.
    """
    from keylm.post.sft import Tuning
    from keylm.post.sft import sft as tune

    if not epochs > 0 or not learning_rate > 0:  # NaN is in no range
        raise KeylmError(f"--epochs {epochs}, --learning-rate {learning_rate}; accepted: numbers over 0")
    started = time.monotonic()
    tuning = Tuning(epochs, learning_rate, batch_tokens)
    try:
        folder = tune(model, data, out, tuning, overrides or [], workers=workers, fresh=fresh, quiet=quiet)
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command goes on from what is finished") from None
    if is_leader():
        say(
            f"model   {folder.model}\nreport  {folder.report}\ntime    {seconds(time.monotonic() - started)}",
            quiet=quiet,
        )
        say(f"try     keylm chat {folder.model}", quiet=quiet)
