"""The build: every source's documents to shards, and the manifest that names them all.

Invariants: the manifest depends on the documents, the tokenizer and the recipe's data settings alone, not on when,
where, by how many workers or after how many interruptions it was built; a shard that is built and whose source is
unchanged is not built again; shards are built in the order in which training needs them.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keylm.base.console import Status, say
from keylm.base.errors import KeylmError
from keylm.base.files import read_table, sha256_file, sweep, write_json
from keylm.data.curated import CurationFacts
from keylm.data.curriculum import Curriculum
from keylm.data.shards import FORMAT, manifest_hash
from keylm.data.source_builder import SourceBuilder, fingerprint
from keylm.data.sources import input_bytes, source_origin
from keylm.data.workers import Workers
from keylm.recipe.load import Recipe, stage_steps
from keylm.text.tokenizer import DocumentTokenizer

SMALL_BYTES = 24_000_000
"""Text that is encoded faster than worker processes start."""


def build_shards(
    recipe: Recipe,
    tokenizer_folder: Path,
    folder: Path,
    *,
    workers: int | None = None,
    windows: Mapping[str, int] | None = None,
    curation: CurationFacts | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Build the shards of all used sources in `folder` and return the manifest.

    `workers` are processes (by default one a core). Of each source at least `windows` windows are built, by default
    as many as the recipe takes, and never more than there are. `curation` is what made the sources' files, where
    `recipe` reads curated ones. Raises KeylmError where a source cannot be read, changes meanwhile, or gives nothing
    to train on.
    """
    sweep(folder)
    wanted = windows or windows_taken(recipe)
    settings = data_settings(recipe, tokenizer_folder, curation)
    total = sum(input_bytes(name, source) for name, source in recipe.used_sources.items())
    count = 1 if 0 < total < SMALL_BYTES else workers or os.cpu_count() or 1
    with Workers(recipe, tokenizer_folder, count) as crew, Status("shards", total or None, quiet=quiet) as status:
        builders = _take_up(recipe, tokenizer_folder, folder, settings, crew)
        _build_in_order(recipe, builders, wanted, status, quiet=quiet)
    origins = _origins(recipe, builders, curation)
    for builder in builders.values():
        builder.check_unchanged()  # behind the hashes of the files, which take their time too
    entries = {name: builder.entry() for name, builder in builders.items()}
    manifest: dict[str, Any] = {**settings, "order": order(recipe), "origins": origins, "sources": entries}
    manifest["hash"] = manifest_hash(manifest)
    write_json(folder / "manifest.json", manifest)
    return manifest


def _origins(
    recipe: Recipe, builders: Mapping[str, SourceBuilder], curation: CurationFacts | None
) -> dict[str, dict[str, Any]]:
    """Return what each source that is read, also if only for its typos, comes from before any curation."""
    revisions: dict[str, str] = {}
    for name in sorted(builders, key=lambda name: not recipe.sources[name].typos_of):  # a source's own word counts
        revisions |= builders[name].revisions
    curated = curation.origins if curation else {}
    return {
        name: curated.get(name) or source_origin(name, source, revisions.get(name))
        for name, source in recipe.read_sources.items()
    }


def changed_sources(recipe: Recipe, tokenizer_folder: Path, folder: Path, curation: CurationFacts | None) -> list[str]:
    """Return the used sources of which `folder` has shards that the next build would not take up.

    Raises KeylmError where a source's files are missing.
    """
    settings = data_settings(recipe, tokenizer_folder, curation)
    saved = {name: read_table(folder / name / "source.json").get("fingerprint") for name in recipe.used_sources}
    return [name for name, known in saved.items() if known and known != fingerprint(recipe, name, settings)]


def discard_stale(recipe: Recipe, tokenizer_folder: Path, folder: Path, curation: CurationFacts | None) -> None:
    """Delete the shards in `folder` that the next build would not take up, and the manifest, which it writes anew."""
    (folder / "manifest.json").unlink(missing_ok=True)
    settings = data_settings(recipe, tokenizer_folder, curation)
    with Workers(recipe, tokenizer_folder, 1) as nobody:
        _take_up(recipe, tokenizer_folder, folder, settings, nobody)


def _take_up(
    recipe: Recipe, tokenizer_folder: Path, folder: Path, settings: dict[str, Any], workers: Workers
) -> dict[str, SourceBuilder]:
    """Return each used source's builder, which has kept what an earlier build left and it can go on from."""
    lengths = DocumentTokenizer(tokenizer_folder).byte_lengths()
    return {
        name: SourceBuilder(recipe, name, folder / name, settings, lengths, workers) for name in recipe.used_sources
    }


def _build_in_order(
    recipe: Recipe, builders: dict[str, SourceBuilder], wanted: Mapping[str, int], status: Status, *, quiet: bool
) -> None:
    """Build shard by shard: the first one of every source, then always the one that training needs next."""
    curriculum = Curriculum(recipe)
    left = {name: builder for name, builder in builders.items() if not builder.is_done(wanted[name])}
    for name in builders:
        if name not in left:
            builders[name].check()  # an earlier build may have refused it
    while left:
        name = min(left, key=lambda n: (left[n].shards > 0, curriculum.needed_at(n, left[n].windows)))
        before = sum(builder.text_bytes for builder in builders.values())
        left[name].build_shard(_told(status, before))
        if left[name].is_done(wanted[name]):
            builder = left.pop(name)
            builder.finish()
            builder.check()
            say(builder.summary(), quiet=quiet)


def _told(status: Status, before: int) -> Callable[[int, str], None]:
    """Return what tells of a shard's progress; `before`: bytes of text in the shards before it."""
    return lambda size, facts: status.update(before + size, facts)


def windows_taken(recipe: Recipe) -> dict[str, int]:
    """Return how many windows a recipe takes of each used source, all epochs together."""
    curriculum = Curriculum(recipe)
    return curriculum.given(curriculum.total_steps)


def data_settings(recipe: Recipe, tokenizer_folder: Path, curation: CurationFacts | None) -> dict[str, Any]:
    """Return what, beside the sources themselves, decides what the shards hold."""
    return {
        "format": FORMAT,
        "seed": recipe.seed,
        "context": recipe.training.context,
        "shard_tokens": recipe.data.shard_tokens,
        "holdout": recipe.evaluation.holdout,
        "tokenizer_sha256": sha256_file(tokenizer_folder / "tokenizer.json"),
        "curation": {"hash": curation.hash, "settings": curation.settings} if curation else None,
    }


def check_published(recipe: Recipe, manifest: Mapping[str, Any]) -> None:
    """Raise KeylmError unless a published build has what `recipe` trains on."""
    if manifest["context"] != recipe.training.context:
        raise KeylmError(
            f"training.context: got {recipe.training.context}, the published build has windows of "
            f"{manifest['context']}; accepted: that number"
        )
    for name, windows in windows_taken(recipe).items():
        entry = manifest["sources"].get(name)
        if entry is None:
            raise KeylmError(f"sources.{name}: not in the published build; it has: {', '.join(manifest['sources'])}")
        if not entry["exhausted"] and entry["train"]["windows"] < windows:
            raise KeylmError(
                f"sources.{name}: the published build has {entry['train']['windows']} windows of it, the recipe takes "
                f"{windows}; accepted: fewer tokens, or a larger build"
            )


def order(recipe: Recipe) -> dict[str, Any]:
    """Return what, beside the shards, decides which window stands where in the run."""
    steps = stage_steps(recipe)
    return {
        "batch_windows": recipe.training.batch_windows,
        "sources": list(recipe.used_sources),
        "stages": [
            {"name": name, "steps": steps[name], "weights": dict(stage.weights)}
            for name, stage in recipe.stages.items()
        ],
    }
