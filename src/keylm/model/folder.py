"""The model folder, written and read: a checkpoint in the stock Qwen3 layout, which transformers opens as it is.

Invariants: the folder is written by transformers itself from a Qwen3ForCausalLM that took our weights, so whatever it
could not load it could not have saved; a folder is checked, read and hashed here and nowhere else.
"""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.base.files import atomic_folder, sha256_file, sha256_json, write_json
from keylm.base.shapes import explain
from keylm.model.config_files import KEYLM_FILE, check_config_files, read_config_file
from keylm.model.tensors import check_finite, check_shapes, reading, stored_tensors
from keylm.recipe.load import Recipe
from keylm.recipe.schema import Model
from keylm.text.tokenizer import END_OF_TEXT, IM_END, PAD, tokenizer_config

SHARD_SIZE = "45MB"
"""Largest weight file: below what common file hosts and git servers accept."""

ENGLISH_ALONE = ("en",)

SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1}
"""The sampling that a model folder recommends, in transformers' names; the defaults of runtimes/generation.py."""


def silence_transformers() -> None:
    """Keep transformers' own progress bars and advice out of what keylm prints."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def check_model_folder(folder: Path) -> None:
    """Raise KeylmError where a folder holds no model that transformers could open, with a hint if one is nearby."""
    if not (folder / "config.json").is_file():
        hint = f"; did you mean {folder / 'model'}?" if (folder / "model" / "config.json").is_file() else ""
        raise KeylmError(f"{folder}: no config.json in it; accepted: a model folder such as runs/nano/model{hint}")
    if not list(folder.glob("*.safetensors")):
        index = folder / "model.safetensors.index.json"
        fetch = f"git sparse-checkout add '/models/{folder.name}/*.safetensors'"
        hint = f"; where the clone left them out: {fetch}" if index.is_file() else ""
        raise KeylmError(f"{folder}: no *.safetensors in it; accepted: a model folder with weights{hint}")
    if not list(folder.glob("tokenizer*")):
        raise KeylmError(f"{folder}: no tokenizer in it; accepted: a model folder with tokenizer.json")
    check_config_files(folder)
    found = stored_tensors(folder)
    if read_config_file(folder / "config.json")["model_type"] == "qwen3":
        config = read_config(folder)
        check_shapes(found, config.shape, config.vocab_size, folder, tied=config.tied)


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 that identifies a model folder's weights alone: the same training begins with the same."""
    return _hash_of(folder.glob("*.safetensors"))


def model_fingerprint(folder: Path) -> str:
    """Return the SHA-256 that identifies a model folder: weights, configuration and tokenizer; measures go by it."""
    return _hash_of([*folder.glob("*.safetensors"), *folder.glob("*.json")])


def _hash_of(files: Iterable[Path]) -> str:
    return sha256_json({file.name: sha256_file(file) for file in files})


@dataclass(frozen=True)
class DecoderConfig:
    """A model folder's configuration."""

    shape: Model
    vocab_size: int
    ends: frozenset[int]
    """tokens that end a text or a turn"""
    tied: bool
    """whether the embedding is the head too"""


def read_config(folder: Path) -> DecoderConfig:
    """Return a model folder's configuration. Raises KeylmError where it is not that of a sound Qwen3 model."""
    entries = qwen3_entries(folder)
    fields = {**entries, "rope_theta": entries["rope_parameters"]["rope_theta"]}
    missing = [key for key in (*Model.model_fields, "vocab_size") if key not in fields]
    if missing:
        raise KeylmError(f"{folder}: config.json has no {missing[0]}; accepted: a model that keylm exported")
    try:
        shape = Model(**{key: fields[key] for key in Model.model_fields})
    except ValidationError as error:
        raise KeylmError(f"{folder}: config.json: {explain(error.errors()[0], Model)}") from None
    return DecoderConfig(shape, fields["vocab_size"], _ends(folder, entries), entries["tie_word_embeddings"])


def qwen3_entries(folder: Path) -> dict[str, Any]:
    """Return config.json with the usual values of what Qwen3's layout may omit. Raises KeylmError for others."""
    config = read_config_file(folder / "config.json")
    if config.get("model_type") != "qwen3":
        raise KeylmError(
            f"{folder}: config.json says model_type = {config.get('model_type')!r}; accepted: 'qwen3', the layout that "
            "keylm exports"
        )
    rope = {"rope_type": "default", "rope_theta": config.get("rope_theta") or 10_000.0}
    usual = {
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "rms_norm_eps": 1e-6,
    }
    return {**usual, **config, "rope_parameters": {**rope, **(config.get("rope_parameters") or {})}}


def _ends(folder: Path, config: Mapping[str, Any]) -> frozenset[int]:
    file = folder / "generation_config.json"
    generation = read_config_file(file) if file.is_file() else {}
    for place, entries in (("config.json", config), (file.name, generation)):
        for key in ("eos_token_id", "bos_token_id", "pad_token_id"):
            if any(token >= config["vocab_size"] for token in _listed(entries.get(key))):
                raise KeylmError(f"{folder / place}: {key}: got {entries[key]}; accepted: below {config['vocab_size']}")
    listed = generation.get("eos_token_id")
    return frozenset(_listed(config.get("eos_token_id") if listed is None else listed))


def _listed(ids: int | list[int] | None) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return a model folder's tensors by name, as they are stored. Raises KeylmError where a file is damaged."""
    found, weights = stored_tensors(folder), dict[str, Tensor]()
    for file in sorted({tensor.file for tensor in found.values()}):
        with reading(file), safe_open(file, framework="pt") as tensors:
            weights |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    check_finite(weights, found, folder)
    return weights


def qwen3_config(shape: Model, vocab_size: int) -> dict[str, Any]:
    """Return the arguments of Qwen3Config for a recipe's shape."""
    return {
        **shape.model_dump(exclude={"rope_theta"}),
        "vocab_size": vocab_size,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "bos_token_id": None,
        "eos_token_id": END_OF_TEXT,
        "pad_token_id": PAD,
    }


def export_model(recipe: Recipe, weights: dict[str, Tensor], tokenizer: Path, folder: Path) -> None:
    """Write `weights` (fp32 or bf16, by parameter name) as a bf16 model folder, whole or not at all."""
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    silence_transformers()
    with torch.device("meta"):
        model = Qwen3ForCausalLM(Qwen3Config(**qwen3_config(recipe.model, recipe.tokenizer.vocab_size)))
    half = {name: value.to(torch.bfloat16) for name, value in weights.items()}
    model.load_state_dict(half, strict=True, assign=True)
    model.generation_config = GenerationConfig(eos_token_id=[END_OF_TEXT, IM_END], pad_token_id=PAD, **SAMPLING)
    with atomic_folder(folder) as temporary:
        save_model(model, temporary)
        shutil.copyfile(tokenizer / "tokenizer.json", temporary / "tokenizer.json")
        write_json(temporary / "tokenizer_config.json", tokenizer_config(recipe.model.max_position_embeddings))
        if (languages := _languages(recipe)) != ENGLISH_ALONE:
            write_json(temporary / KEYLM_FILE, {"languages": list(languages)})


def _languages(recipe: Recipe) -> tuple[str, ...]:
    """Return the languages of a recipe's model: where it names none, those of the model that it begins with."""
    initial = recipe.training.initial_model
    given = recipe.language != ENGLISH_ALONE or initial is None or not Path(initial).is_dir()
    return recipe.language if given else model_languages(Path(str(initial)))


def model_languages(folder: Path) -> tuple[str, ...]:
    """Return the languages of a model folder, by code or code/layout: what keylm.json says, else English.

    Raises KeylmError for a damaged file.
    """
    path = folder / KEYLM_FILE
    if not path.is_file():
        return ENGLISH_ALONE
    return tuple(read_config_file(path)["languages"])


def save_model(model: Any, folder: Path) -> None:
    """Write a bf16 model's weights and configuration."""
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    config = read_config_file(folder / "config.json")  # which refuses to have written `auto_map`
    # transformers 5 reads rope_parameters; older readers and converters look for rope_theta.
    theta = (config.get("rope_parameters") or {}).get("rope_theta")
    if theta is not None:
        config["rope_theta"] = theta
    config["torch_dtype"] = "bfloat16"
    write_json(folder / "config.json", config)
