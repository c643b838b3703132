"""Training that begins with a finished model instead of fresh weights: instruction tuning, continued pretraining.

Invariant: which model a run began with is known by the content of its weights, recorded in the run folder before
training and carried by every checkpoint. So the folder may move, and may be deleted once training has begun, but a
model that was altered or replaced in the meantime is refused. Weights become fp32 master weights whatever their dtype.
"""

from pathlib import Path

from keylm.base.errors import KeylmError
from keylm.base.files import write_json
from keylm.model.decoder import Decoder
from keylm.model.folder import check_model_folder, qwen3_config, qwen3_entries, read_weights, weights_hash
from keylm.model.tensors import Stored, check_shapes
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder
from keylm.recipe.run_records import InitialModelRecord

FREE = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "attention_dropout")
"""Of `qwen3_config`, what no weight depends on (rotary positions have no table)."""


def claim_initial(recipe: Recipe, folder: RunFolder, *, begun: bool) -> None:
    """Record in the run folder which model training begins with, where the recipe names one.

    Raises KeylmError where the model's shape is not the recipe's, and where training has `begun` with other weights.
    """
    if recipe.training.initial_model is None:
        return
    path = Path(recipe.training.initial_model)
    if begun and not path.exists():
        return  # the checkpoints hold all that is needed
    check_shape(recipe)
    found, known = weights_hash(path), folder.initial_weights()
    if begun and known != found:
        raise KeylmError(
            f"training.initial_model: {path} has other weights than those that {folder.path} was begun with (SHA-256 "
            f"{found[:16]}…, then {str(known)[:16]}…); accepted: the same model, another --run-dir, or --fresh"
        )
    if known != found:
        write_json(folder.initial, InitialModelRecord(path=str(path), sha256=found).model_dump())


def check_shape(recipe: Recipe) -> None:
    """Raise KeylmError where the initial model is none, or is not of the recipe's shape and layout."""
    path = Path(str(recipe.training.initial_model))
    # What the two differ in says more than which tensor does not fit.
    config = qwen3_entries(path) if (path / "config.json").is_file() else {}
    wanted = qwen3_config(recipe.model, recipe.tokenizer.vocab_size)
    for key, value in wanted.items():
        if config and key not in FREE and config.get(key) != value:
            section = "tokenizer" if key == "vocab_size" else "model"
            field = f"{section}.{key}" if key in ("vocab_size", *type(recipe.model).model_fields) else key
            raise KeylmError(
                f"training.initial_model: {path} has {field} = {config.get(key)!r}, the recipe says {value!r}; "
                "accepted: the same of both"
            )
    check_model_folder(path)


def load_initial(model: Decoder, recipe: Recipe, folder: RunFolder) -> None:
    """Fill `model` (on the CPU, fp32) with the weights that the run folder names. Raises KeylmError for other ones."""
    path = Path(str(recipe.training.initial_model))
    check_model_folder(path)
    if weights_hash(path) != folder.initial_weights():
        raise KeylmError(f"training.initial_model: {path} changed after it was checked; start the command again")
    fill(model, path)


def fill(model: Decoder, path: Path) -> None:
    """Fill `model` (on the CPU, fp32) with a model folder's weights. Raises KeylmError where some are missing."""
    weights = read_weights(path)
    found = {name: Stored(path, tuple(tensor.shape)) for name, tensor in weights.items()}
    check_shapes(found, model.shape, model.vocab_size, path, tied=False)
    model.load_state_dict(weights)
