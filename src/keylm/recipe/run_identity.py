"""What decides the results of training and of the stages after it, as the hashes that runs and checkpoints record.

Invariant: a run is never continued as another one, and a stage is done again exactly when something that decides its
result changed. What decides the data is in data/provenance.py.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from pydantic import JsonValue

from keylm.base.files import sha256_json
from keylm.recipe.load import Recipe
from keylm.recipe.marks import IsFree, covers, marked
from keylm.recipe.run_folder import RunFolder
from keylm.recipe.schema import Evaluation, Model

FREE_FIELDS = marked(Recipe, IsFree)
"""The fields that a run may change between two starts."""
NEWER = (("repack", False), ("average", 0.0), ("language", ["en"]))
"""(field, default) of fields that earlier versions lacked and that change nothing at their default."""


@dataclass(frozen=True)
class TrainingProvenance:
    """What decides a training besides its shards."""

    recipe: str
    """SHA-256 of the recipe's identity"""
    initial: str | None
    """SHA-256 of the weights that it begins with, None where they are initialised from the seed"""

    @classmethod
    def of(cls, recipe: Recipe, folder: RunFolder) -> Self:
        """Return what decides the training of `recipe` in `folder`, where its initial model is recorded."""
        begins_with = folder.initial_weights() if recipe.training.initial_model else None
        return cls(identity_hash(recipe), begins_with)

    def inputs(self, manifest: str) -> str:
        """Return the hash of the training's inputs; `manifest` is the hash of its shards."""
        return sha256_json([self.recipe, manifest, *([self.initial] if self.initial else [])])

    def of_checkpoint(self, shards: str) -> dict[str, str]:
        """Return what a checkpoint records; `shards` is the hash of the shards trained on so far."""
        return {"recipe": self.recipe, "shards": shards} | ({"initial": self.initial} if self.initial else {})


def export_inputs(weights: JsonValue, tokenizer: str, shape: Model, name: str) -> str:
    """Return the hash of what decides a model folder called `name`: SHA-256 of weights and tokenizer, and the shape."""
    return sha256_json([weights, tokenizer, shape.model_dump(), name])


def sample_inputs(models: list[str], evaluation: Evaluation) -> str:
    """Return the hash of what decides the samples; `models` are the SHA-256 of their weight files."""
    return sha256_json([models, evaluation.prompts, evaluation.chats, evaluation.sample_tokens])


def report_inputs(version: str, files: Iterable[str]) -> str:
    """Return the hash of what decides the report: keylm's version, and the SHA-256 of the files that it shows."""
    return sha256_json([version, *files])


def identity(recipe: Recipe) -> dict[str, JsonValue]:
    """Return the fields that may not change within a run, with dotted keys, and the orders that count."""
    flat = _flat(recipe.to_data())
    fields = {".".join(key): value for key, value in flat.items() if not covers(FREE_FIELDS, key)}
    if recipe.training.initial_model is not None:  # which one is decided by its content: TrainingProvenance.initial
        fields["training.initial_model"] = "given"
    # The curriculum goes by these orders, which a table of fields does not show.
    return {**fields, "order of stages": list(recipe.stages), "order of sources": list(recipe.used_sources)}


def identity_hash(recipe: Recipe) -> str:
    """Return the SHA-256 of a recipe's identity; runs from before there were the fields of NEWER keep theirs."""
    fields = identity(recipe).items()
    return sha256_json({key: value for key, value in fields if (key.rpartition(".")[2], value) not in NEWER})


def differences(before: Recipe, now: Recipe) -> list[str]:
    """Return each field that differs as `field was …, is …`."""
    old, new = identity(before), identity(now)
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in changed]


def _flat(data: Mapping[str, JsonValue], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], JsonValue]:
    """Return nested tables as one, its keys from the root down."""
    flat: dict[tuple[str, ...], JsonValue] = {}
    for key, value in data.items():
        here = (*above, key)
        flat |= _flat(value, here) if isinstance(value, dict) else {here: value}
    return flat
