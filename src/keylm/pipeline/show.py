"""`keylm data show`: recompute any batch of a run from its manifest and print it."""

from collections import Counter
from pathlib import Path

from keylm.base.console import console, say
from keylm.base.errors import KeylmError
from keylm.data.build import check_published
from keylm.data.curriculum import Curriculum
from keylm.data.manifest import ShardManifest, read_manifest
from keylm.data.provenance import window_order
from keylm.data.shards import RepackedShard, Window
from keylm.data.store import finished_store
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder
from keylm.text.tokenizer import DocumentTokenizer


def show_batch(run_dir: Path, step: int, windows: int, characters: int) -> None:
    """Print a step's sources, and documents and text of its first `windows` windows. Raises KeylmError."""
    folder = RunFolder(run_dir)
    recipe = folder.saved_recipe()
    _check_order(recipe, read_manifest(folder.shards))
    store = finished_store(folder.shards, verify="opened")
    curriculum = Curriculum(recipe, store.layout)
    if step >= curriculum.total_steps:
        raise KeylmError(f"--step: got {step}; accepted: 0 to {curriculum.total_steps - 1}")
    stage, within, steps = curriculum.place(step)
    picks = curriculum.picks(step)
    counts = ", ".join(f"{name} {number}" for name, number in Counter(pick.source for pick in picks).items())
    size = f"{len(picks)} windows of {recipe.training.context}"
    say(f"step {step}: stage {stage} ({within + 1} of {steps}), {size}: {counts}")
    tokenizer = DocumentTokenizer(folder.tokenizer)
    for number, pick in enumerate(picks[:windows]):
        shard = store.shard(pick.source, pick.shard, packing=pick.packing)
        again = " (repacked)" if isinstance(shard, RepackedShard) else ""
        where = f"{pick.source}, epoch {pick.epoch}, shard {pick.shard}{again}, window {pick.window}"
        console.rule(f"window {number}: {where}", align="left")
        _show_window(shard.window(pick.window), shard.origins(pick.window), tokenizer, characters)
    if len(picks) > windows:
        say(f"… and {len(picks) - windows} more windows (--windows {len(picks)} shows all)")


def _check_order(recipe: Recipe, manifest: ShardManifest) -> None:
    """Raise KeylmError where the shards are those of another recipe than the one in the run folder."""
    if recipe.data.shards is not None:
        check_published(recipe, manifest)
        return
    ours = {"seed": recipe.seed, "context": recipe.training.context, "order": window_order(recipe).model_dump()}
    theirs = manifest.model_dump(include=set(ours))
    for what, value in ours.items():
        if theirs[what] != value:
            raise KeylmError(
                f"{what}: the shards were built with {theirs[what]!r}, the recipe says {value!r}; "
                "`keylm data build` builds those of the recipe"
            )


def _show_window(
    window: Window, origins: list[tuple[str, int, int]], tokenizer: DocumentTokenizer, characters: int
) -> None:
    bounds = [start for _, _, start in origins] + [len(window.tokens)]
    for (file, line, start), end in zip(origins, bounds[1:], strict=True):
        trained = int((window.labels[start:end] >= 0).sum())
        where = f"{file}:{line}" if file else "padding"
        say(f"[{where}] tokens {start}–{end - 1}, {trained} carry loss")
        if file and characters:
            text = tokenizer.decode(window.tokens[start:end])
            say(f"    {text[:characters]!r}{' …' if len(text) > characters else ''}")
