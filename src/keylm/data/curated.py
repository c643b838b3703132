"""Where curated sources are, for their readers; they are written by curate/, which needs datatrove."""

from pathlib import Path
from typing import Literal

from keylm.base.errors import KeylmError
from keylm.base.files import read_table
from keylm.data.manifest import CurationRecord
from keylm.data.provenance import CurationFacts, source_origin, source_settings
from keylm.data.sources import CURATED
from keylm.recipe.load import Recipe
from keylm.recipe.schema import Source

Executor = Literal["local", "ray", "slurm"]
"""What runs the tasks of a curation: processes here, a Ray cluster, a Slurm cluster."""


def curation_facts(recipe: Recipe, folder: Path) -> CurationFacts:
    """Return folder/report.json of the curation of `recipe` as written. Raises KeylmError where none is finished."""
    report = read_table(folder / "report.json")
    if "hash" not in report:
        raise KeylmError(f"{folder}: no finished curation; accepted: a folder in which the build has curated")
    origins = {}
    for name, source in curated_sources(recipe).items():
        # Reports of older versions name no origins: then they are computed now.
        origin = report["sources"].get(name, {}).get("origin") or source_origin(name, source)
        origins[name] = {**origin, "settings": {**source_settings(source), "register": source.text_register}}
    record = CurationRecord(hash=str(report["hash"]), settings=report["settings"])
    return CurationFacts(record, origins)


def curated_sources(recipe: Recipe) -> dict[str, Source]:
    """Return the sources that are curated: those read, but for those that a recipe leaves out of it."""
    return {name: source for name, source in recipe.read_sources.items() if source.curate}


def curated_recipe(recipe: Recipe, folder: Path) -> Recipe:
    """Return `recipe` with the curated documents in `folder` in the place of each curated source's own."""
    replaced = {
        name: source.model_copy(update={"path": str(folder / name), "hub": None, "adapter": CURATED, "max_bytes": None})
        for name, source in curated_sources(recipe).items()
    }
    return recipe.model_copy(update={"sources": {**recipe.sources, **replaced}})
