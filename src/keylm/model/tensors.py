"""The tensors of a model folder: which there are, which there must be, and their values.

Invariant: a tensor that is missing, left over, of another shape, of integers or not finite is an error that names it
and its file. Whoever fills such gaps with random numbers, as transformers does, computes another model.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.model.config_files import INDEX, read_config_file
from keylm.recipe.schema import Model

FLOATS = ("F64", "F32", "F16", "BF16")


class Stored(NamedTuple):
    """A tensor as a file's header describes it."""

    file: Path
    shape: tuple[int, ...]


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Return the tensors of a model folder by name, from the files' headers.

    Raises KeylmError where a file is damaged, a tensor is in two files or not of floats, or the index says otherwise.
    """
    found: dict[str, Stored] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with reading(file), safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # the object is no mapping
                part = tensors.get_slice(name)
                if part.get_dtype() not in FLOATS:
                    raise KeylmError(f"{file}: tensor {name} is of {part.get_dtype()}; accepted: {', '.join(FLOATS)}")
                if name in found:
                    raise KeylmError(f"{file}: tensor {name} is in {found[name].file.name} too; accepted: one of each")
                found[name] = Stored(file, tuple(part.get_shape()))
    if (folder / INDEX).is_file():
        listed = read_config_file(folder / INDEX)["weight_map"]
        for name in {**listed, **found}:
            there, where = found.get(name), listed.get(name)
            if there is None or there.file.name != where:
                has = f"is in {there.file.name}" if there else "is in no file"
                raise KeylmError(f"{folder / INDEX}: tensor {name} {has}, the index says {where}; accepted: one place")
    return found


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what safetensors says of a damaged file into a KeylmError."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise KeylmError(f"{file}: cannot be read: {error}; accepted: a whole safetensors file") from None


def expected_shapes(shape: Model, vocab_size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of each tensor of Qwen3's layout. A generator: a shape may state 2^20 layers."""
    hidden, head, inner = shape.hidden_size, shape.head_dim, shape.intermediate_size
    queries, keys = shape.num_attention_heads * head, shape.num_key_value_heads * head
    layer: dict[str, tuple[int, ...]] = {
        **{"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)},
        **{"self_attn.q_norm": (head,), "self_attn.k_norm": (head,)},
        **{"self_attn.q_proj": (queries, hidden), "self_attn.o_proj": (hidden, queries)},
        **{"self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden)},
        **{"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)},
    }
    yield "model.embed_tokens.weight", (vocab_size, hidden)
    for number in range(shape.num_hidden_layers):
        for name, size in layer.items():
            yield f"model.layers.{number}.{name}.weight", size
    yield "model.norm.weight", (hidden,)
    yield HEAD, (vocab_size, hidden)


HEAD = "lm_head.weight"


def check_shapes(found: Mapping[str, Stored], shape: Model, vocab_size: int, place: Path, *, tied: bool) -> None:
    """Raise KeylmError where the tensors are not exactly those of a shape; of a `tied` model the head may be absent."""
    left = dict(found)
    for name, size in expected_shapes(shape, vocab_size):
        tensor = left.pop(name, None)
        if tensor is None and not (tied and name == HEAD):
            raise KeylmError(f"{place}: tensor {name} is missing; accepted: one of shape {size}")
        if tensor is not None and tensor.shape != size:
            raise KeylmError(f"{tensor.file}: tensor {name} has shape {tensor.shape}; accepted: {size}")
    for name, tensor in left.items():
        raise KeylmError(f"{tensor.file}: tensor {name} is none of the model's; accepted: exactly the model's tensors")


def check_finite(tensors: Mapping[str, Tensor], found: Mapping[str, Stored], place: Path) -> None:
    """Raise KeylmError where a tensor holds infinities or no numbers."""
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            file = found[name].file if name in found else place
            raise KeylmError(f"{file}: tensor {name} holds values that are not finite; accepted: finite weights")
