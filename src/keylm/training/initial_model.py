"""Training that begins with a finished model instead of drawn weights: instruction tuning, going on with other data.

Invariant: which model a run began with is known by the content of its weights, recorded in the run folder before
training and carried by every checkpoint; so the folder may move, and once training has begun may go, but a model that
was altered or exchanged meanwhile is refused. Weights become fp32 master weights whatever they are stored as.
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.base.files import read_table, sha256_file, sha256_json, write_json
from keylm.model.decoder import Decoder
from keylm.model.folder import check_model_folder, qwen3_config
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder

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
    found, known = weights_hash(path), read_table(folder.initial).get("sha256")
    if begun and known != found:
        raise KeylmError(
            f"training.initial_model: {path} has other weights than those that {folder.path} was begun with (SHA-256 "
            f"{found[:16]}…, then {str(known)[:16]}…); accepted: the same model, another --run-dir, or --fresh"
        )
    if known != found:
        write_json(folder.initial, {"path": str(path), "sha256": found})


def initial_hash(folder: RunFolder) -> str:
    """Return the recorded hash of the weights that a run began with."""
    return str(read_table(folder.initial).get("sha256"))


def weights_hash(model: Path) -> str:
    """Return the SHA-256 that stands for a model folder's weights alone."""
    return sha256_json({file.name: sha256_file(file) for file in sorted(model.glob("*.safetensors"))})


def check_shape(recipe: Recipe) -> None:
    """Raise KeylmError where the initial model is none, or is not of the recipe's shape and layout."""
    path = Path(str(recipe.training.initial_model))
    check_model_folder(path)
    config = model_config(path)
    wanted = qwen3_config(recipe.model, recipe.tokenizer.vocab_size)
    for key, value in wanted.items():
        if key not in FREE and config.get(key) != value:
            section = "tokenizer" if key == "vocab_size" else "model"
            field = f"{section}.{key}" if key in ("vocab_size", *type(recipe.model).model_fields) else key
            raise KeylmError(
                f"training.initial_model: {path} has {field} = {config.get(key)!r}, the recipe asks {value!r}; "
                "accepted: the same of both"
            )


def model_config(path: Path) -> dict[str, Any]:
    """Return a model folder's configuration, with the values that Qwen3's layout leaves out where they are usual.

    Raises KeylmError where it is not a decoder in the Qwen3 layout.
    """
    config = read_table(path / "config.json")
    if config.get("model_type") != "qwen3":
        raise KeylmError(
            f"{path}: config.json says model_type = {config.get('model_type')!r}; accepted: 'qwen3', the layout that "
            "keylm exports"
        )
    theta = config.get("rope_theta") or 10_000.0
    usual = {
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "rms_norm_eps": 1e-6,
    }
    return {**usual, **config}


def load_initial(model: Decoder, recipe: Recipe, folder: RunFolder) -> None:
    """Fill `model` (on the CPU, fp32) with the weights of the recipe's initial model.

    Raises KeylmError where they are not all there, or are not those that the run folder names.
    """
    path = Path(str(recipe.training.initial_model))
    check_model_folder(path)
    if weights_hash(path) != initial_hash(folder):
        raise KeylmError(f"training.initial_model: {path} changed after it was looked at; start the command again")
    fill(model, path)


def fill(model: Decoder, path: Path) -> None:
    """Fill `model` (on the CPU, fp32) with a model folder's weights. Raises KeylmError where they are not all there."""
    weights = read_weights(path)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in weights.items()}
    if got != wanted:
        odd = sorted(name for name in {**wanted, **got} if wanted.get(name) != got.get(name))
        raise KeylmError(
            f"training.initial_model: {path}: tensor {odd[0]} is {got.get(odd[0], 'missing')}, the model has "
            f"{wanted.get(odd[0], 'none of that name')}; accepted: exactly the model's tensors"
        )
    model.load_state_dict(weights)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a model folder's tensors by name, as they are stored. Raises KeylmError where a file is damaged."""
    weights: dict[str, Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                weights |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise KeylmError(f"{file}: cannot be read: {error}; accepted: a whole safetensors file") from None
    return weights
