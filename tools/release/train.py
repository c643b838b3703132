"""Train one stage of the release on a published build, from the model that the stage before left.

    python -m tools.release.train stable --data DATA --out OUT [--seconds 900]
    python -m tools.release.train stable_2 --data DATA --out OUT --initial OUT/stable/model

DATA is what pack.py built (unpacked by unpack_run.py on another machine); with --arriving it may still be arriving.
OUT/STAGE is a run folder like any other, OUT/STAGE/model the model. Started again, it goes on from its last checkpoint.
Of a stage whose time is up what was reached is exported: OUT/STAGE/model is then the last checkpoint's, and
reached.json says how far it came. That is sound where the rate does not fall: another stage can follow.
"""

import argparse
from pathlib import Path

from keylm.base.errors import KeylmError
from keylm.base.files import write_json
from keylm.base.json_lines import read_rows
from keylm.model.folder import export_model
from keylm.recipe.load import stage_steps
from keylm.recipe.run_folder import RunFolder, checkpoint_paths
from keylm.training.checkpoint import read_checkpoint
from tools.release.plan import Clock, keylm, parser, read_plan, run, stage_recipe
from tools.release.stretch import wait_for_shards
from tools.release.unpack_run import PATIENCE
from tools.studies.processes import visible_gpus


def train(arguments: argparse.Namespace) -> Path:
    """Train the stage; return the model's folder. Raises KeylmError."""
    plan = read_plan(arguments.plan)
    recipe = stage_recipe(plan, arguments.stage, arguments.data / "shards", arguments.initial, arguments.set)
    budget = plan.stages[arguments.stage]
    clock = Clock(arguments.stage, arguments.seconds or budget["seconds"])
    folder = RunFolder(arguments.out / arguments.stage)
    file = arguments.out / f"{arguments.stage}.toml"
    if arguments.arriving:
        begun = checkpoint_paths(folder.checkpoints)
        start = read_checkpoint(begun[-1]).step if begun else 0
        wait_for_shards(recipe, arguments.data, (start, start + arguments.arriving), PATIENCE)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file.write_text(recipe.to_toml(), encoding="utf-8")
    command = ("run", str(file), "--run-dir", str(folder.path))
    gpus = len(visible_gpus(budget["gpus"] or None))
    (folder.path / "reached.json").unlink(missing_ok=True)  # of an earlier try, which may be finished now
    if keylm(*command, gpus=gpus, seconds=clock.left()):
        export_reached(folder, gpus)
    clock.done()
    return folder.model


def export_reached(folder: RunFolder, gpus: int) -> None:
    """Export the last checkpoint of a run that did not come to its end. Raises KeylmError where there is none."""
    found = checkpoint_paths(folder.checkpoints)
    if not found:
        raise KeylmError(f"{folder.path}: no checkpoint; look at what training said")
    recipe, last = folder.saved_recipe(), read_checkpoint(found[-1])
    export_model(recipe, last.model(), folder.tokenizer, folder.model)
    step = last.step
    reached = {"step": step, "of": sum(stage_steps(recipe).values()), "tokens": step * recipe.training.batch_tokens}
    spent = sum(row["seconds"] for row in read_rows(folder.timing) if row["step"] < step)
    write_json(folder.path / "reached.json", {**reached, "world_size": gpus, "seconds": spent})
    print(f"time is up: exported step {reached['step']:,} of {reached['of']:,}, {reached['tokens']:,} tokens")


def main() -> None:
    given = parser(__doc__)
    given.add_argument("stage", help="a stage of the plan")
    given.add_argument("--data", type=Path, required=True, help="the unpacked build")
    given.add_argument("--out", type=Path, required=True)
    given.add_argument("--initial", type=Path, help="the model to begin with")
    given.add_argument("--seconds", type=float, help="in place of the plan's")
    given.add_argument(
        "--arriving", type=int, metavar="STEPS", help="begin once what so many steps read has been unpacked"
    )
    given.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a field of the recipe")
    run(train, given.parse_args())


if __name__ == "__main__":
    main()
