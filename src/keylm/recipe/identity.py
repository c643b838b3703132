"""What of a recipe decides what is trained, so that a run is never continued as another one."""

from typing import Any

from keylm.base.files import sha256_json
from keylm.recipe.load import Recipe

MAY_CHANGE = (
    "name",
    "description",
    "paths",
    "licences",  # the weights tell
    "data.stream",
    "data.shards",
    "data.cache_bytes",
    "checkpoints",
    "evaluation.benchmark",  # all three fields
    "evaluation.prompts",
    "evaluation.chats",
    "evaluation.sample_tokens",
    "training.attention",
    "training.deterministic",
    "training.device",
    "training.compile",
    "training.micro_batch_windows",
    "training.parallel",
)
"""Fields that a run may change between two starts: they decide nothing, or rounding alone, as the world size does."""


def identity(recipe: Recipe) -> dict[str, Any]:
    """Return the fields that may not change within a run, with dotted keys, and the orders that count."""
    fields = {key: value for key, value in _flat(recipe.to_data()).items() if not key.startswith(MAY_CHANGE)}
    if recipe.optimizer.matrices == "muon":  # AdamW's part in the matrices decides nothing, and older runs know none
        fields = {key: value for key, value in fields.items() if not key.startswith("optimizer.matri")}
    if recipe.training.initial_model is not None:  # which one is told by its content: training/initial.py
        fields["training.initial_model"] = "given"
    # The curriculum goes by these orders, which a table of fields does not show.
    return {**fields, "order of stages": list(recipe.stages), "order of sources": list(recipe.used_sources)}


def identity_hash(recipe: Recipe) -> str:
    """Return the SHA-256 of a recipe's identity."""
    return sha256_json(identity(recipe))


def differences(before: Recipe, now: Recipe) -> list[str]:
    """Return each field that differs as `field was …, is …`."""
    old, new = identity(before), identity(now)
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in changed]


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
