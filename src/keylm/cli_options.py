"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

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
    Literal["local", "ray", "slurm"], typer.Option(help="What runs the curation: processes here, Ray or Slurm.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
TemperatureOption = Annotated[float, typer.Option(min=0.0, help="0 is greedy; higher is freer.")]
