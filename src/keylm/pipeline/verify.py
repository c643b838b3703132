"""`keylm data verify`: proves that a manifest's sources give the batches it promises.

Invariant: what is proved was recomputed from the sources here; none of the manifest's shards is trusted, and no
curated file unless requested.
"""

import hashlib
import os
import tempfile
from pathlib import Path

from keylm.base.console import say
from keylm.base.errors import KeylmError
from keylm.data.build import build_shards, windows_taken
from keylm.data.curated import curated_recipe, curation_facts
from keylm.data.curriculum import Batch, BatchLoader, Curriculum
from keylm.data.manifest import SPLITS, Settings, ShardManifest, read_manifest
from keylm.data.provenance import CurationFacts, DataProvenance, build_settings, source_origin, window_order
from keylm.data.store import finished_store
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder


def verify(
    recipe: Recipe,
    folder: RunFolder,
    step: int | None,
    *,
    workers: int | None,
    from_curated: bool = False,
    quiet: bool = False,
) -> str:
    """Rebuild the shards from the sources and compare; return the SHA-256 of batch `step` (the last by default).

    With a `step` only what the batches up to it read is built; what a recipe curates is curated again, all of it, or,
    with `from_curated`, read from the run folder. `folder` holds the manifest (shards/manifest.json) and
    the tokenizer; the shards themselves need not exist. Raises KeylmError naming the first thing that differs.
    """
    manifest = read_manifest(folder.shards)
    curriculum = Curriculum(recipe)
    if step is not None and step >= curriculum.total_steps:
        raise KeylmError(f"--step: got {step}; accepted: 0 to {curriculum.total_steps - 1}")
    if (recipe.curation is None) != (manifest.curation is None):
        which = ("the manifest", "the recipe") if recipe.curation is None else ("the recipe", "the manifest")
        raise KeylmError(f"curation: {which[0]} has it, {which[1]} has not")
    _same_settings(recipe, folder, manifest)
    recipe = _pinned(recipe, manifest)
    if not (from_curated and recipe.curation):
        _same_files(recipe, manifest)
    wanted = windows_taken(recipe) if step is None else curriculum.given(step + 1)
    with tempfile.TemporaryDirectory(prefix="keylm-verify-") as scratch:
        shards = Path(scratch) / "shards"
        curated = folder.curated if from_curated else Path(scratch) / "curated"
        data, facts = _curated(recipe, curated, manifest, workers, anew=not from_curated, quiet=quiet)
        provenance = DataProvenance.of(data, facts)
        build_shards(data, provenance, folder.tokenizer, shards, workers=workers, windows=wanted, quiet=quiet)
        compared = _same_shards(read_manifest(shards), manifest)
        source = f"the curated files in {curated}" if facts and from_curated else "the sources"
        doubt = "; how those were made from the sources was not checked" if facts and from_curated else ""
        anew = ", curated anew," if facts and not from_curated else ""
        say(f"{compared} shards built anew from {source}{anew} have the SHA-256 of the manifest{doubt}", quiet=quiet)
        last = curriculum.total_steps - 1 if step is None else step
        store = finished_store(shards, verify="none")
        return batch_hash(BatchLoader(Curriculum(recipe, store.layout), store).batch(last))


def _curated(
    recipe: Recipe, folder: Path, manifest: ShardManifest, workers: int | None, *, anew: bool, quiet: bool
) -> tuple[Recipe, CurationFacts | None]:
    """Return the recipe over the curated sources in `folder`, curated again if `anew`. Raises KeylmError."""
    if recipe.curation is None:
        return recipe, None
    if anew:
        from keylm.curate.pipeline import curate  # needs an extra

        curate(recipe, folder, workers=workers or os.cpu_count() or 1, quiet=quiet)
    facts = curation_facts(recipe, folder)
    theirs = manifest.curation.model_dump() if manifest.curation else {}
    ours = facts.record.model_dump()
    for what in ("settings", "hash"):
        if ours[what] != theirs.get(what):
            raise KeylmError(f"curation: its {what} is {ours[what]}, the manifest's {theirs.get(what)}")
    return curated_recipe(recipe, folder), facts


def _pinned(recipe: Recipe, manifest: ShardManifest) -> Recipe:
    """Return the recipe with data sets on the hub at the commit that the manifest names: a branch moves on."""
    pinned = {
        name: source.model_copy(update={"revision": manifest.origins.get(name, {}).get("revision")})
        for name, source in recipe.read_sources.items()
        if source.hub and source.revision is None
    }
    return recipe.model_copy(update={"sources": {**recipe.sources, **pinned}})


def _same_files(recipe: Recipe, manifest: ShardManifest) -> None:
    """Raise KeylmError where a source's files are not those of the manifest, before hours are spent on them."""
    for name, source in recipe.read_sources.items():
        if source.path is not None:
            _same_origin(name, source_origin(name, source), manifest)


def _same_origin(name: str, ours: Settings, manifest: ShardManifest) -> None:
    promised = manifest.origins.get(name, {})
    if any(value != promised.get(key) for key, value in ours.items()):
        raise KeylmError(f"sources.{name}: its origin is {ours}, the manifest's {promised or 'missing'}")


def batch_hash(batch: Batch) -> str:
    """Return the SHA-256 of a batch: tokens, labels, document numbers and, if any, partners, little-endian."""
    digest = hashlib.sha256()
    partners = () if batch.partners is None else (batch.partners,)
    for array in (batch.tokens, batch.labels, batch.documents, *partners):
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _same_settings(recipe: Recipe, folder: RunFolder, manifest: ShardManifest) -> None:
    settings = build_settings(recipe, folder.tokenizer, None).model_dump(exclude={"curation"})
    ours = {**settings, "order": window_order(recipe).model_dump()}
    theirs = manifest.model_dump(include=set(ours))
    for what, value in ours.items():
        if theirs[what] != value:
            raise KeylmError(f"{what}: the manifest says {theirs[what]!r}, recipe and tokenizer here {value!r}")


def _same_shards(rebuilt: ShardManifest, manifest: ShardManifest) -> int:
    """Return how many shards were compared; raise KeylmError at the first that differs."""
    compared = 0
    for name, origin in rebuilt.origins.items():
        _same_origin(name, origin, manifest)
    for name, source in rebuilt.sources.items():
        promised = manifest.sources.get(name)
        if promised is None:
            raise KeylmError(f"sources.{name}: the manifest has no such source")
        if source.settings != promised.settings:
            raise KeylmError(f"sources.{name}: its settings is {source.settings}, the manifest's {promised.settings}")
        for split in SPLITS:
            ours, theirs = source.split(split).shards, promised.split(split).shards
            if len(ours) > len(theirs) or (source.exhausted and len(ours) < len(theirs)):
                raise KeylmError(f"sources.{name}: gives {len(ours)} {split} shards, the manifest says {len(theirs)}")
            for record, other in zip(ours, theirs, strict=False):
                if record != other:
                    raise KeylmError(f"sources.{name}: {record.file} is {record}, the manifest says {other}")
                compared += 1
    return compared
