"""Pack what one stretch of a stage needs on another machine: the shards that it reads, and where the last one stopped.

    python -m tools.release.stretch stable --data WORK/data --out PACKED --tokens 1_000_000_000 [--run OUT/stable]
    python -m tools.release.unpack_run PACKED THERE                 # there; --data THERE, --out THERE/run
    python -m tools.release.train stable --data THERE --out THERE/run --seconds 1500
    python -m tools.release.stretch stable --back THERE/run/stable --out BACK
    python -m tools.release.unpack_run BACK OUT/stable              # here again

A stage at a steady rate may be longer than a machine is to be had for. The stretches together are one run: the newest
checkpoint, with the optimizer's state, and the metrics travel, and the steps are the same as without a break. Of the
build, only shards that the stretch reads travel, in the order in which it needs them (as one Zstandard stream, so that
training can begin before the last parts have arrived).
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from keylm.base.errors import KeylmError
from keylm.data.curriculum import Curriculum, fixed
from keylm.data.manifest import ShardManifest, read_manifest
from keylm.data.store import FIRST_HELD_OUT
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder, checkpoint_paths
from keylm.training.checkpoint import read_checkpoint
from tools.release.pack_run import PART_BYTES, pack_files
from tools.release.plan import parser, read_plan, run, stage_recipe

RECORDS = ("recipe.toml", "metrics.jsonl", "timing.jsonl")


def stretch_files(recipe: Recipe, data: Path, start: int, stop: int) -> list[tuple[str, Path]]:
    """Return (name in the archive, file) of what steps `start` to `stop` of `recipe` read of the build in `data`."""
    build = RunFolder(data)
    manifest = read_manifest(build.shards)
    held_out = [f"{source}/{FIRST_HELD_OUT}" for source in recipe.used_sources]
    shards = [name for name in held_out if (build.shards / name).is_file()]
    shards += dict.fromkeys(needed(recipe, manifest, start, stop))
    tokenizer = [(f"shards/tokenizer/{file.name}", file) for file in sorted(build.tokenizer.iterdir())]
    first = [("recipe.toml", build.recipe), ("shards/manifest.json", build.shards / "manifest.json")]
    return [*first, *tokenizer, *((f"shards/{name}", build.shards / name) for name in shards)]


def needed(recipe: Recipe, manifest: ShardManifest, start: int, stop: int) -> Iterator[str]:
    """Yield the training shards that steps `start` to `stop` read, SOURCE/FILE, in the order in which they do."""
    shards = {name: [record.windows for record in source.train.shards] for name, source in manifest.sources.items()}
    for step, source, shard in Curriculum(recipe, fixed(shards)).upcoming(start):
        if step >= stop:
            return
        yield f"{source}/{manifest.sources[source].train.shards[shard].file}"


def wait_for_shards(recipe: Recipe, data: Path, steps: tuple[int, int], patience: float) -> None:
    """Return once `data` has what `steps` (from, to) read, while parts are still being unpacked there.

    Raises KeylmError where nothing more arrives for `patience` seconds.
    """
    shards, fewest, since = RunFolder(data).shards, 1 << 30, time.monotonic()
    while True:
        there = (shards / "manifest.json").is_file()
        names = set(needed(recipe, read_manifest(shards), *steps)) if there else {"manifest.json"}
        lacking = sorted(name for name in names if not (shards / name).is_file())
        if not lacking:
            return
        if len(lacking) != fewest:
            fewest, since = len(lacking), time.monotonic()
        if time.monotonic() - since > patience:
            raise KeylmError(
                f"{shards / lacking[0]}: nothing arrived for {patience:g} s; accepted: a folder that all parts of the "
                f"stretch are being unpacked into ({len(lacking)} files are missing)"
            )
        time.sleep(min(1.0, patience / 10))


def run_files(run: Path) -> tuple[int, list[tuple[str, Path]]]:
    """Return the step that `run` has reached and (name, file) of what its next stretch resumes from.

    Raises KeylmError without a checkpoint.
    """
    found = checkpoint_paths(RunFolder(run).checkpoints)
    if not found:
        raise KeylmError(f"{run}: no checkpoint in it; accepted: the run folder of a stretch")
    checkpoint = read_checkpoint(found[-1])
    places = [*(run / name for name in RECORDS), *sorted(checkpoint.folder.rglob("*"))]
    return checkpoint.step, [(file.relative_to(run).as_posix(), file) for file in places if file.is_file()]


def pack(arguments: argparse.Namespace) -> None:
    """Pack a stretch, or what one left. Raises KeylmError."""
    if arguments.back:
        pack_files(run_files(arguments.back)[1], arguments.out, part_bytes=arguments.part_bytes)
        return
    if not arguments.data or not arguments.tokens:
        raise KeylmError("give --data and --tokens, or --back")
    recipe = stage_recipe(
        read_plan(arguments.plan), arguments.stage, RunFolder(arguments.data).shards, arguments.initial, arguments.set
    )
    start, resumed = run_files(arguments.run) if arguments.run else (0, [])
    stop = start + -(-arguments.tokens // recipe.training.batch_tokens)
    print(f"steps {start:,} to {stop:,} of {Curriculum(recipe).total_steps:,}")
    carried = [(f"run/{arguments.stage}/{name}", file) for name, file in resumed]
    files = stretch_files(recipe, arguments.data, start, stop)
    pack_files([*carried, *files], arguments.out, part_bytes=arguments.part_bytes)


def main() -> None:
    given = parser(__doc__)
    given.add_argument("stage", help="a stage of the plan")
    given.add_argument("--data", type=Path, help="the run folder of the build")
    given.add_argument("--run", type=Path, help="the stage's run folder, as the last stretch left it")
    given.add_argument("--tokens", type=int, help="how far the stretch may get")
    given.add_argument("--back", type=Path, metavar="RUN", help="pack what a stretch left in this run folder instead")
    given.add_argument("--initial", type=Path, help="the model that the stage began with, where it began with one")
    given.add_argument("--out", type=Path, required=True)
    given.add_argument("--part-bytes", type=int, default=PART_BYTES)
    given.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a field of the recipe")
    run(pack, given.parse_args())


if __name__ == "__main__":
    main()
