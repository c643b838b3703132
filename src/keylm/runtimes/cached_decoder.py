"""The decoder for serving: the same weights as model.py's, one token or many at a time, on cached keys and values.

Invariant: in fp32 its logits are those of model.Decoder (a test compares them), whatever else is in the cache.
Matrices that read the same input are joined once, when the model is loaded. `int8` keeps the weights as 8-bit
integers, one scale an output row, and rounds the inputs of each product as it comes (torch's dynamic quantisation):
about a quarter of the memory to read for every token, and results that differ a little.

A cache has rows (texts) of `context` places. Its memory is reserved at once and committed by the system as it is
written: at the 75M shape 24 KiB a token. Shapes: B texts, L tokens of each, H hidden, D head_dim, V vocabulary.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.model.decoder import rope
from keylm.model.folder import DecoderConfig, check_model_folder, read_config, read_weights
from keylm.model.tensors import Stored, check_finite, check_shapes
from keylm.recipe.schema import Model as Shape

Precision = Literal["fp32", "int8"]
Product = Callable[[Tensor], Tensor]
"""x [rows, in] to x @ weight.T [rows, out]."""


@dataclass(frozen=True)
class Weights(DecoderConfig):
    """A model folder's configuration and tensors."""

    tensors: dict[str, Tensor]
    """By name, fp32."""


@dataclass(frozen=True)
class Layer:
    """One block, its products ready."""

    qkv: Product
    out: Product
    gate_up: Product
    down: Product
    before: Tensor
    """Weights of the norm before attention [H], …"""
    heads: Tensor
    """of the queries' and the keys' [heads + KV heads, D], …"""
    after: Tensor
    """and of that before the feed-forward [H]."""


class Cache:
    """Keys and values of `rows` texts, fp32 [layers][rows, KV heads, context, D] each."""

    def __init__(self, shape: Shape, rows: int, context: int) -> None:
        size = (rows, shape.num_key_value_heads, context, shape.head_dim)
        # numpy's zeros are not written, so memory is taken as texts grow; and masked places must be finite.
        self.keys = [torch.from_numpy(np.zeros(size, np.float32)) for _ in range(shape.num_hidden_layers)]
        self.values = [torch.from_numpy(np.zeros(size, np.float32)) for _ in range(shape.num_hidden_layers)]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` places of one row to another."""
        for part in (*self.keys, *self.values):
            part[target, :, :length] = part[source, :, :length]


class CachedDecoder:
    """Logits of tokens that continue a cache."""

    def __init__(self, weights: Weights, precision: Precision = "fp32") -> None:
        self.shape, self.vocab_size, self.ends = weights.shape, weights.vocab_size, weights.ends
        self.context = weights.shape.max_position_embeddings
        product = int8 if precision == "int8" else dense
        tensors = weights.tensors
        self._embedding = tensors["model.embed_tokens.weight"]
        self._norm = tensors["model.norm.weight"]
        self._head = product(tensors.get("lm_head.weight", self._embedding))
        self._layers = [_layer(tensors, n, weights.shape, product) for n in range(weights.shape.num_hidden_layers)]
        cos, sin = rope(self.context, self.shape.head_dim, self.shape.rope_theta, torch.device("cpu"))
        self._cos, self._sin = cos[:, 0], sin[:, 0]

    def cache(self, rows: int, context: int | None = None) -> Cache:
        """Return an empty cache."""
        return Cache(self.shape, rows, context or self.context)

    @torch.inference_mode()
    def prefill(self, cache: Cache, row: int, start: int, ids: Sequence[int]) -> Tensor:
        """Read tokens of one text, the first at place `start`; return their hidden states [L, H]."""
        end = start + len(ids)
        places = torch.arange(start, end)
        mask = None if len(ids) == 1 else torch.arange(end) <= places[:, None]
        return self.read_at(cache, row, ids, places, places, end, mask)

    @torch.inference_mode()
    def read_at(
        self,
        cache: Cache,
        row: int,
        ids: Sequence[int],
        places: Tensor,
        positions: Tensor,
        end: int,
        mask: Tensor | None,
    ) -> Tensor:
        """Read tokens of a row into `places` [L] at rotary `positions`; return [L, H]. `mask`: bool [L, end]."""
        heads, kv_heads = self.shape.num_attention_heads, self.shape.num_key_value_heads
        count = len(ids)

        def attend(index: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            keys_of, values_of = cache.keys[index][row], cache.values[index][row]
            keys_of[:, places], values_of[:, places] = keys.transpose(0, 1), values.transpose(0, 1)
            # Heads that share keys become more queries of one head.
            grouped = queries.view(count, kv_heads, heads // kv_heads, -1).permute(1, 2, 0, 3)
            spread = None if mask is None else mask[None, None]
            shared = [part[:, None, :end].expand(-1, heads // kv_heads, -1, -1) for part in (keys_of, values_of)]
            found = F.scaled_dot_product_attention(grouped, shared[0], shared[1], attn_mask=spread)
            return found.permute(2, 0, 1, 3).reshape(count, -1)

        return self._through(torch.tensor(ids), positions, attend)

    @torch.inference_mode()
    def step(self, cache: Cache, rows: Sequence[int], ids: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Read one more token for each of B rows, which have `lengths` tokens; return hidden states [B, H]."""
        heads, kv_heads = self.shape.num_attention_heads, self.shape.num_key_value_heads
        places = torch.tensor(lengths)
        longest = max(lengths) + 1
        together = list(rows) == list(range(rows[0], rows[0] + len(rows)))
        at = torch.tensor(rows)
        mask = (torch.arange(longest) <= places[:, None])[:, None, None]

        def attend(index: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            keys_of, values_of = cache.keys[index], cache.values[index]
            keys_of[at, :, places], values_of[at, :, places] = keys, values
            if together:
                shared = [part[rows[0] : rows[0] + len(rows), :, :longest] for part in (keys_of, values_of)]
            else:
                shared = [part[:, :, :longest].index_select(0, at) for part in (keys_of, values_of)]
            grouped = queries.view(len(rows), kv_heads, heads // kv_heads, -1)
            return F.scaled_dot_product_attention(grouped, shared[0], shared[1], attn_mask=mask).reshape(len(rows), -1)

        return self._through(torch.tensor(ids), places, attend)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits [..., V] of hidden states [..., H]."""
        return self._head(hidden)

    def _through(
        self, ids: Tensor, positions: Tensor, attend: Callable[[int, Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Return the final hidden states [rows, H] of tokens (int64 [rows]) at `positions` (int64 [rows])."""
        heads, kv_heads, size = self.shape.num_attention_heads, self.shape.num_key_value_heads, self.shape.head_dim
        eps = self.shape.rms_norm_eps
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]
        hidden = self._embedding[ids]
        for index, layer in enumerate(self._layers):
            states = layer.qkv(_normed(hidden, layer.before, eps)).view(len(ids), -1, size)
            turned = _rotated(_normed(states[:, : heads + kv_heads], layer.heads, eps), cos, sin)
            hidden = hidden + layer.out(
                attend(index, turned[:, :heads], turned[:, heads:], states[:, heads + kv_heads :])
            )
            gate, up = layer.gate_up(_normed(hidden, layer.after, eps)).chunk(2, dim=-1)
            hidden = hidden + layer.down(F.silu(gate) * up)
        return _normed(hidden, self._norm, eps)


def load_weights(folder: Path) -> Weights:
    """Read a model folder. Raises KeylmError if it is not a Qwen3 model or is damaged."""
    check_model_folder(folder)
    facts = read_config(folder)
    return with_tensors(facts, {name: tensor.float() for name, tensor in read_weights(folder).items()}, folder)


def with_tensors(facts: DecoderConfig, tensors: dict[str, Tensor], place: Path) -> Weights:
    """Return a model's weights. Raises KeylmError, naming `place`, where the tensors are not those of its shape."""
    found = {name: Stored(place, tuple(tensor.shape)) for name, tensor in tensors.items()}
    check_shapes(found, facts.shape, facts.vocab_size, place, tied=facts.tied)
    check_finite(tensors, found, place)
    return Weights(**vars(facts), tensors=tensors)


def dense(weight: Tensor) -> Product:
    """Return the product with a matrix, in fp32."""
    return lambda x: F.linear(x, weight)


def int8(weight: Tensor) -> Product:
    """Return the product with a matrix kept as 8-bit integers. Raises KeylmError where this torch has no kernel."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch means to drop this tensor type; the kernels are still its fastest
            scale = weight.abs().amax(1).clamp_min(1e-12) / 127
            zero = torch.zeros(len(weight), dtype=torch.int64)
            packed = torch.ops.quantized.linear_prepack(
                torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8), None
            )
            torch.ops.quantized.linear_dynamic(torch.zeros(1, weight.shape[1]), packed, True)
    except (AttributeError, RuntimeError) as error:
        raise KeylmError(f"this torch has no 8-bit products ({error}); accepted: --precision fp32") from None
    product: Callable[..., Tensor] = torch.ops.quantized.linear_dynamic
    return lambda x: product(x, packed, True)


def _layer(tensors: Mapping[str, Tensor], number: int, shape: Shape, product: Callable[[Tensor], Product]) -> Layer:
    def named(*names: str) -> Tensor:
        found = [tensors[f"model.layers.{number}.{name}.weight"] for name in names]
        return found[0] if len(found) == 1 else torch.cat(found)

    queries, keys = named("self_attn.q_norm"), named("self_attn.k_norm")
    return Layer(
        qkv=product(named("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        out=product(named("self_attn.o_proj")),
        gate_up=product(named("mlp.gate_proj", "mlp.up_proj")),
        down=product(named("mlp.down_proj")),
        before=named("input_layernorm"),
        heads=torch.cat((queries.expand(shape.num_attention_heads, -1), keys.expand(shape.num_key_value_heads, -1))),
        after=named("post_attention_layernorm"),
    )


def _normed(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return RMS normalisation over the last dimension; in these sizes quicker than torch's, a composite."""
    return hidden * (hidden.square().mean(-1, keepdim=True) + eps).rsqrt_() * weight


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return `heads` [rows, heads, D] turned; as model.rotate."""
    swapped = heads.roll(heads.shape[-1] // 2, -1)
    return heads * cos + swapped * sin
