"""`keylm data verify`: proves that a manifest and its sources give the batches that it promises.

Invariant: what is proved was recomputed from the sources here; no shard of the manifest's own is trusted.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from keylm.console import say
from keylm.data.build import build_shards, data_settings, order, windows_taken
from keylm.data.curated import curated_recipe
from keylm.data.curriculum import Batch, BatchLoader, Curriculum
from keylm.data.shards import read_manifest
from keylm.data.store import finished_store
from keylm.errors import KeylmError
from keylm.recipe import Recipe
from keylm.run_folder import RunFolder


def verify(recipe: Recipe, folder: RunFolder, step: int | None, *, workers: int | None, quiet: bool = False) -> str:
    """Build the shards anew from the sources and compare; return the SHA-256 of batch `step` (the last by default).

    With a `step` only what the batches up to it read is built. `folder` holds the manifest (shards/manifest.json) and
    the tokenizer; the shards themselves need not be there. Raises KeylmError naming the first thing that differs.
    """
    manifest = read_manifest(folder.shards)
    curation = manifest["curation"]
    data = curated_recipe(recipe, folder.curated) if curation else recipe
    _same_settings(data, folder, manifest)
    curriculum = Curriculum(recipe)
    if step is not None and step >= curriculum.total_steps:
        raise KeylmError(f"--step: got {step}; accepted: 0 to {curriculum.total_steps - 1}")
    wanted = windows_taken(recipe) if step is None else curriculum.given(step + 1)
    with tempfile.TemporaryDirectory(prefix="keylm-verify-") as scratch:
        shards = Path(scratch) / "shards"
        build_shards(data, folder.tokenizer, shards, workers=workers, windows=wanted, curation=curation, quiet=quiet)
        rebuilt = read_manifest(shards)
        compared = _same_shards(rebuilt, manifest)
        say(f"{compared} shards built anew from the sources have the SHA-256 of the manifest", quiet=quiet)
        last = curriculum.total_steps - 1 if step is None else step
        store = finished_store(shards, verify="none")
        return batch_hash(BatchLoader(Curriculum(recipe, store.layout), store).batch(last))


def batch_hash(batch: Batch) -> str:
    """Return the SHA-256 of a batch: tokens, labels, document numbers and, if any, partners, little-endian."""
    digest = hashlib.sha256()
    partners = () if batch.partners is None else (batch.partners,)
    for array in (batch.tokens, batch.labels, batch.documents, *partners):
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _same_settings(recipe: Recipe, folder: RunFolder, manifest: dict[str, Any]) -> None:
    ours = {**data_settings(recipe, folder.tokenizer, manifest["curation"]), "order": order(recipe)}
    for what, value in ours.items():
        if manifest.get(what) != value:
            raise KeylmError(f"{what}: the manifest says {manifest.get(what)!r}, recipe and tokenizer here {value!r}")


def _same_shards(rebuilt: dict[str, Any], manifest: dict[str, Any]) -> int:
    """Return how many shards were compared; raise KeylmError at the first that differs."""
    compared = 0
    for name, entry in rebuilt["sources"].items():
        promised = manifest["sources"][name]
        for what in ("origin", "settings"):
            if entry[what] != promised[what]:
                raise KeylmError(f"sources.{name}: its {what} is {entry[what]}, the manifest's {promised[what]}")
        for split in ("train", "validation"):
            ours, theirs = entry[split]["shards"], promised[split]["shards"]
            if len(ours) > len(theirs) or (entry["exhausted"] and len(ours) < len(theirs)):
                raise KeylmError(f"sources.{name}: gives {len(ours)} {split} shards, the manifest says {len(theirs)}")
            for record, other in zip(ours, theirs, strict=False):
                if record != other:
                    raise KeylmError(f"sources.{name}: {record['file']} is {record}, the manifest says {other}")
                compared += 1
    return compared
