"""Where curated sources lie, for whoever reads them; what curates them is data/curate/, which needs datatrove."""

from pathlib import Path
from typing import Literal

from keylm.data.sources import CURATED
from keylm.recipe import Recipe
from keylm.recipe_sections import Source

Executor = Literal["local", "ray", "slurm"]
"""What runs the tasks of a curation: processes here, a Ray cluster, a Slurm cluster."""


def is_curated(source: Source) -> bool:
    """Return whether a recipe with a `curation` table curates this source."""
    return source.curate and not source.typos_of


def curated_recipe(recipe: Recipe, folder: Path) -> Recipe:
    """Return `recipe` with the curated documents in `folder` in the place of each curated source's own."""
    replaced = {
        name: source.model_copy(update={"path": str(folder / name), "hub": None, "adapter": CURATED, "max_bytes": None})
        if is_curated(source) and name in recipe.read_sources
        else source
        for name, source in recipe.sources.items()
    }
    return recipe.model_copy(update={"sources": replaced})
