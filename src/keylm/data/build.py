"""The build: every source's documents to shards, and the manifest that names them all.

Invariants: the manifest depends on the documents, the tokenizer and the recipe's data settings alone, not on when,
where, by how many workers or after how many interruptions it was built; a shard that is built and whose source is
unchanged is not built again; shards are built in the order in which training needs them.
"""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from keylm.base.console import Status, say
from keylm.base.errors import KeylmError
from keylm.base.files import read_table, sweep
from keylm.data.curriculum import Curriculum
from keylm.data.manifest import Settings, ShardManifest
from keylm.data.provenance import (
    CurationFacts,
    DataProvenance,
    bytes_read,
    source_origin,
    window_order,
)
from keylm.data.source_builder import SourceBuilder
from keylm.data.workers import Workers
from keylm.recipe.load import Recipe
from keylm.text.tokenizer import DocumentTokenizer

SMALL_BYTES = 24_000_000
"""Text that is encoded faster than worker processes start."""


def build_shards(
    recipe: Recipe,
    provenance: DataProvenance,
    tokenizer_folder: Path,
    folder: Path,
    *,
    workers: int | None = None,
    windows: Mapping[str, int] | None = None,
    quiet: bool = False,
) -> ShardManifest:
    """Build all used sources' shards in `folder`, at least `windows` each; return the manifest. Raises KeylmError."""
    sweep(folder)
    settings = provenance.settings(recipe, tokenizer_folder)
    sizes = {name: bytes_read(recipe.sources, name) for name in recipe.used_sources}
    small = sum(math.inf if size is None else size for size in sizes.values()) < SMALL_BYTES
    count = 1 if small else workers or os.cpu_count() or 1
    with Workers(recipe, tokenizer_folder, count) as crew:
        builders = _builders(recipe, provenance, tokenizer_folder, folder, crew)
        _build_in_order(recipe, builders, windows or windows_taken(recipe), sizes, quiet=quiet)
    origins = _origins(recipe, builders, provenance.curation)
    for builder in builders.values():
        builder.check_unchanged()  # after hashing the files, which takes its time too
    records = {name: builder.record() for name, builder in builders.items()}
    order = window_order(recipe)
    manifest = ShardManifest(**dict(settings), order=order, origins=origins, sources=records).sealed()
    manifest.write(folder)
    return manifest


def _origins(
    recipe: Recipe, builders: Mapping[str, SourceBuilder], curation: CurationFacts | None
) -> dict[str, Settings]:
    """Return what each source that is read, if only for its typos, comes from before any curation."""
    revisions: dict[str, str] = {}
    for name in sorted(builders, key=lambda name: not recipe.sources[name].typos_of):  # what a source read itself wins
        revisions |= builders[name].revisions
    curated = curation.origins if curation else {}
    return {
        name: curated.get(name) or source_origin(name, source, revisions.get(name))
        for name, source in recipe.read_sources.items()
    }


def changed_sources(recipe: Recipe, provenance: DataProvenance, tokenizer_folder: Path, folder: Path) -> list[str]:
    """Return the used sources whose shards in `folder` the next build would not reuse."""
    settings = provenance.settings(recipe, tokenizer_folder)
    saved = {name: read_table(folder / name / "source.json").get("fingerprint") for name in recipe.used_sources}
    return [name for name, known in saved.items() if known and known != provenance.fingerprint(name, settings)]


def discard_stale(recipe: Recipe, provenance: DataProvenance, tokenizer_folder: Path, folder: Path) -> None:
    """Delete the shards in `folder` that the next build would not reuse, and the manifest, which it rewrites."""
    (folder / "manifest.json").unlink(missing_ok=True)
    with Workers(recipe, tokenizer_folder, 1) as nobody:
        _builders(recipe, provenance, tokenizer_folder, folder, nobody)


def _builders(
    recipe: Recipe, provenance: DataProvenance, tokenizer_folder: Path, folder: Path, workers: Workers
) -> dict[str, SourceBuilder]:
    """Return each used source's builder, which keeps what it can reuse of an earlier build."""
    settings = provenance.settings(recipe, tokenizer_folder)
    lengths = DocumentTokenizer(tokenizer_folder).byte_lengths()
    return {
        name: SourceBuilder(recipe, name, folder / name, provenance, settings, lengths, workers)
        for name in recipe.used_sources
    }


def _build_in_order(
    recipe: Recipe,
    builders: dict[str, SourceBuilder],
    wanted: Mapping[str, int],
    sizes: Mapping[str, int | None],
    *,
    quiet: bool,
) -> None:
    """Build shard by shard: the first one of every source, then always the one that training needs next.

    `wanted`: windows of each source; `sizes`: the bytes of text that each has, where that is known.
    """
    curriculum = Curriculum(recipe)
    left = {name: builder for name, builder in builders.items() if not builder.is_done(wanted[name])}
    for name in builders:
        if name not in left:
            builders[name].check()  # an earlier build may have refused it

    def progress() -> tuple[int, int]:
        """Return the bytes of text that are built, and those that will be at the end."""
        ends = (builder.expected_bytes(wanted[name], sizes[name]) for name, builder in builders.items())
        return sum(builder.text_bytes for builder in builders.values()), sum(ends)

    done, total = progress()
    with Status("shards", total, start=done, quiet=quiet) as status:
        while left:
            name = min(left, key=lambda n: (left[n].shards > 0, curriculum.needed_at(n, left[n].windows)))
            left[name].build_shard(_reporter(status, *progress()))
            if left[name].is_done(wanted[name]):
                builder = left.pop(name)
                builder.finish()
                builder.check()
                say(builder.summary(), quiet=quiet)


def _reporter(status: Status, before: int, total: int) -> Callable[[int, str], None]:
    """Return what reports a shard's progress; `before`: bytes of text in the shards before it, `total`: in the end."""
    return lambda size, facts: status.update(before + size, facts, max(total, before + size))


def windows_taken(recipe: Recipe) -> dict[str, int]:
    """Return how many windows a recipe takes of each used source, all epochs together."""
    curriculum = Curriculum(recipe)
    return curriculum.given(curriculum.total_steps)


def check_published(recipe: Recipe, manifest: ShardManifest) -> None:
    """Raise KeylmError unless a published build has what `recipe` trains on."""
    if manifest.context != recipe.training.context:
        raise KeylmError(
            f"training.context: got {recipe.training.context}, the published build has windows of "
            f"{manifest.context}; accepted: that number"
        )
    for name, windows in windows_taken(recipe).items():
        built = manifest.sources.get(name)
        if built is None:
            raise KeylmError(f"sources.{name}: not in the published build; it has: {', '.join(manifest.sources)}")
        if not built.exhausted and built.train.windows < windows:
            raise KeylmError(
                f"sources.{name}: the published build has {built.train.windows} windows of it, the recipe takes "
                f"{windows}; accepted: fewer tokens, or a larger build"
            )
