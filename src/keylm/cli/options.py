"""Options that several verbs share."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from keylm.base.errors import Interrupted
from keylm.model.released import NAMES, find_model

Settings = TypeVar("Settings")
MODEL_HELP = f"A model folder, such as runs/nano/model, or a released model's name ({', '.join(NAMES)})"
ModelArgument = Annotated[Path, typer.Argument(callback=find_model, help=f"{MODEL_HELP}.")]
RecipeArgument = Annotated[str, typer.Argument(help="A recipe's TOML file, or the name of a packaged one (nano).")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field: dotted.key=value, e.g. training.batch_tokens=65536. Repeatable."),
]
RunDirOption = Annotated[Path | None, typer.Option(help="The run folder; by default runs/NAME of the recipe.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Processes that read and tokenize documents; by default one a core.")
]
ExecutorOption = Annotated[
    Literal["local", "ray", "slurm"], typer.Option(help="What runs the curation: local processes, Ray or Slurm.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
TemperatureOption = Annotated[float, typer.Option(min=0.0, help="0 is greedy; higher is freer.")]


@contextlib.contextmanager
def interruptible(message: str) -> Iterator[None]:
    """Let Ctrl-C end the block with this message. Raises Interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(message) from None


def settings_of(kind: type[Settings], options: Mapping[str, Any]) -> Settings:
    """Return the dataclass `kind` with the options that have its fields' names; other fields keep their defaults."""
    names = [field.name for field in fields(kind) if field.name in options]  # type: ignore[arg-type]
    return kind(**{name: options[name] for name in names})
