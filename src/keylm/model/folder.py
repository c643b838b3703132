"""A checkpoint as a model folder in the stock Qwen3 layout, which transformers opens with no custom code.

The folder is written by transformers itself from a Qwen3ForCausalLM that took our weights, so whatever it could
not load it could not have saved.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.base.files import atomic_folder, read_json, sha256_file, sha256_json, write_json
from keylm.recipe.load import Recipe
from keylm.recipe.schema import Model
from keylm.text.tokenizer import END_OF_TEXT, IM_END, PAD, tokenizer_config

SHARD_SIZE = "45MB"
"""Largest weight file: below what common file hosts and git servers accept."""

SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1}
"""What a model folder tells others to draw with, in transformers' names; runtimes/generation.py's defaults."""


def silence_transformers() -> None:
    """Keep transformers' own progress bars and advice out of what keylm prints."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def check_model_folder(folder: Path) -> None:
    """Raise KeylmError where a folder holds no model that transformers could open, with a hint where one is near."""
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


def model_fingerprint(folder: Path) -> str:
    """Return the SHA-256 that stands for a model folder's weights, configuration and tokenizer."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")])
    return sha256_json({file.name: sha256_file(file) for file in files})


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
        _save(model, temporary)
        shutil.copyfile(tokenizer / "tokenizer.json", temporary / "tokenizer.json")
        write_json(temporary / "tokenizer_config.json", tokenizer_config(recipe.model.max_position_embeddings))


@contextlib.contextmanager
def opening(folder: Path) -> Iterator[None]:
    """Let transformers read a model folder without its remarks. Raises KeylmError where there is none, or it cannot."""
    check_model_folder(folder)
    silence_transformers()
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise KeylmError(f"{folder}: transformers cannot open it: {error}") from None


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def export_folder(source: Path, folder: Path, card: str | None = None) -> None:
    """Write a model folder anew for the hub: bf16, in shards of SHARD_SIZE, with its tokenizer and `card` (README.md).

    Whole or not at all. Raises KeylmError where transformers cannot open `source`.
    """
    with opening(source):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    with atomic_folder(folder) as temporary:
        _save(model, temporary)
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, temporary / name)
        if card is not None:
            (temporary / "README.md").write_text(card, encoding="utf-8")


def _save(model: Any, folder: Path) -> None:
    """Write a bf16 model's weights and configuration."""
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    config = read_json(folder / "config.json")
    # transformers 5 reads rope_parameters; older readers and converters look for rope_theta.
    theta = (config.get("rope_parameters") or {}).get("rope_theta")
    if theta is not None:
        config["rope_theta"] = theta
    config["torch_dtype"] = "bfloat16"
    write_json(folder / "config.json", config)
