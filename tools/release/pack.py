"""Build what the release trains on and pack it for another machine.

    python -m tools.release.pack --corpus CORPUS --evaluation BENCHMARKS --work WORK
    python -m tools.release.unpack_run WORK/packed DATA            # there

WORK/instructions: instruction data made from the corpus; WORK/data: the run folder in which sources are curated and
tokenized, and searched for benchmark items once more; WORK/packed: both as parts of at most --part-bytes. Started
again, it goes on where it was.
"""

import argparse
import shutil
from pathlib import Path

from keylm.base.errors import KeylmError
from keylm.evaluation.contamination import scan
from keylm.instructions.instruction_files import read_manifest
from keylm.recipe.run_folder import RunFolder
from tools.release.pack_run import PART_BYTES, pack_build
from tools.release.plan import Clock, keylm, parser, read_plan, run

SECONDS = 3600


def make(arguments: argparse.Namespace) -> None:
    """Make instructions, build, what the build holds of benchmarks, parts. Raises KeylmError where a step fails."""
    plan, clock = read_plan(arguments.plan), Clock("pack", SECONDS)
    instructions, data = arguments.work / "instructions", arguments.work / "data"
    if (instructions / "manifest.json").is_file():
        if not read_manifest(instructions)["settings"].get("decontaminate"):
            raise KeylmError(f"{instructions}: made without a look for benchmark items; remove it to have it made anew")
    else:
        wanted = [word for name, amount in plan.instructions.items() for word in (f"--{name}", str(amount))]
        items = ("--decontaminate", str(arguments.evaluation / "data"))
        finished(keylm("data", "instructions", str(instructions), "--corpus", str(arguments.corpus), *wanted, *items))
    places = {"corpus": arguments.corpus, "evaluation": arguments.evaluation, "instructions": instructions}
    given = [*plan.overrides, *(f"paths.{name}={path.resolve()}" for name, path in places.items()), *arguments.set]
    chosen = [word for override in given for word in ("--set", override)]
    finished(keylm("data", "build", str(plan.recipe), "--run-dir", str(data), *chosen))
    recipe = RunFolder(data).saved_recipe()
    if recipe.curation and recipe.curation.decontaminate:
        scan(recipe, data)
    (data / "instructions").mkdir(exist_ok=True)
    for name in ("evaluation.jsonl.zst", "preferences.jsonl.zst", "prompts.jsonl.zst", "manifest.json"):
        if (instructions / name).is_file():
            shutil.copyfile(instructions / name, data / "instructions" / name)
    pack_build(data, arguments.work / "packed", part_bytes=arguments.part_bytes)
    clock.done()


def finished(code: int) -> None:
    """Raise KeylmError where a command failed; it has said why."""
    if code:
        raise KeylmError(f"the command ended with {code}; mended, the same command goes on")


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--corpus", type=Path, required=True)
    given.add_argument("--evaluation", type=Path, required=True, help="benchmark items, to decontaminate from")
    given.add_argument("--work", type=Path, required=True)
    given.add_argument("--part-bytes", type=int, default=PART_BYTES)
    given.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a field of the recipe")
    run(make, given.parse_args())


if __name__ == "__main__":
    main()
