"""Models that are small enough to compute with in a test."""

from typing import Any

import torch

from keylm.recipe.schema import Model

SHAPE = Model(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    intermediate_size=48,
    max_position_embeddings=16,
)


def shape(**changes: int) -> Model:
    """Return SHAPE with some of its sizes changed."""
    return Model(**{**SHAPE.model_dump(), **changes})


def random_qwen3(seed: int, vocab_size: int, **shape: int) -> Any:
    """Return a small Qwen3ForCausalLM with random weights; `shape` changes its configuration."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(seed)
    config = Qwen3Config(vocab_size=vocab_size, **{**small, "head_dim": 8, "intermediate_size": 32, **shape})
    return Qwen3ForCausalLM(config).eval()
