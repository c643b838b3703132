"""Where curated sources lie, for whoever reads them; what curates them is data/curate/, which needs datatrove."""

from pathlib import Path
from typing import Literal

from keylm.data.sources import CURATED
from keylm.recipe import Recipe
from keylm.recipe_sections import Source

Executor = Literal["local", "ray", "slurm"]
"""What runs the tasks of a curation: processes here, a Ray cluster, a Slurm cluster."""


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
