"""The decoder of a finished model, on cached keys and values: model/decoder.py's weights, one token or many at once.

Invariant: in fp32 its logits are those of model.decoder.Decoder (a test compares them), whatever else is in the cache.
Matrices that read the same input are joined once, when the model is loaded; `take` replaces their values in place. On
a GPU it computes in bf16 with the kernels of decoding.py, and logits in fp32. `int8`, on a CPU, keeps the weights as
8-bit integers, one scale an output row, and rounds the inputs of each product as it comes (torch's dynamic
quantisation): about a quarter of the memory to read for every token, and results that differ a little.

A cache has rows (texts) of `context` places. On a CPU its memory is reserved at once and committed by the system as it
is written: at the 75M shape 24 KiB a token, half of that on a GPU. Shapes: B texts, L tokens of each, T tokens, H
hidden, D head_dim, V vocabulary.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.model.decoder import rope
from keylm.model.folder import DecoderConfig, check_model_folder, read_config, read_weights
from keylm.model.tensors import HEAD, Stored, check_finite, check_shapes
from keylm.recipe.schema import Model as Shape
from keylm.runtimes.decoding import Heads, Newest, Spots, operations

Precision = Literal["fp32", "bf16", "int8"]
Product = Callable[[Tensor], Tensor]
"""x [rows, in] to x @ weight.T [rows, out]."""
CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}
"""Of hidden states and caches."""
EMBEDDING = "model.embed_tokens.weight"


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
    """Keys and values of `rows` texts, [layers][rows, KV heads, context, D] each."""

    def __init__(
        self, shape: Shape, rows: int, context: int, device: torch.device = CPU, dtype: torch.dtype = torch.float32
    ) -> None:
        self.rows, self.context = rows, context
        size = (rows, shape.num_key_value_heads, context, shape.head_dim)

        def empty() -> Tensor:
            # numpy's zeros are not written, so memory is taken as texts grow; and masked places must be finite.
            if device.type == "cpu" and dtype == torch.float32:
                return torch.from_numpy(np.zeros(size, np.float32))
            return torch.zeros(size, device=device, dtype=dtype)

        self.keys = [empty() for _ in range(shape.num_hidden_layers)]
        self.values = [empty() for _ in range(shape.num_hidden_layers)]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` places of one row to another."""
        for part in (*self.keys, *self.values):
            part[target, :, :length] = part[source, :, :length]


class CachedDecoder:
    """Logits of tokens that continue a cache."""

    def __init__(self, weights: Weights, precision: Precision = "fp32", device: torch.device = CPU) -> None:
        """Take a copy of the weights. Raises KeylmError where `precision` is none of the device's."""
        if precision == "int8" and device.type != "cpu":
            raise KeylmError(f"8-bit products on {device.type}; accepted: fp32 or bf16 there, int8 on a CPU")
        self.shape, self.vocab_size, self.ends = weights.shape, weights.vocab_size, weights.ends
        self.context = weights.shape.max_position_embeddings
        self.device, self.precision, self.dtype = device, precision, DTYPES[precision]
        self.operations = operations(device, self.shape.head_dim)
        self._heads = Heads(
            self.shape.num_attention_heads,
            self.shape.num_key_value_heads,
            self.shape.head_dim,
            self.shape.rms_norm_eps,
        )
        self._tensors = weights.tensors
        self._parts: list[tuple[str, Tensor]] = []
        """Where each tensor's values are."""
        self._embedding = self._joined(EMBEDDING)
        self._norm = self._joined("model.norm.weight")
        tied = HEAD not in weights.tensors
        self._head = self._head_product(self._embedding if tied else self._joined(HEAD))
        self._layers = [self._layer(f"model.layers.{n}.") for n in range(self.shape.num_hidden_layers)]
        del self._tensors
        cos, sin = rope(self.context, self.shape.head_dim, self.shape.rope_theta, device)
        self._rotation = cos[:, 0].contiguous(), sin[:, 0].contiguous()

    @torch.inference_mode()
    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Take new weights, by name and in any dtype, as those of a model in training; others than its are ignored.

        In place: caches stay valid only as memory, captured graphs stay valid. Raises KeylmError where one is missing
        or of another shape, before anything is changed, and of int8.
        """
        if self.precision == "int8":
            raise KeylmError("new weights for an int8 decoder; accepted: fp32 or bf16")
        for name, part in self._parts:
            if name not in tensors or tensors[name].shape[-1] != part.shape[-1] or tensors[name].numel() > part.numel():
                found = tuple(tensors[name].shape) if name in tensors else "nothing"
                raise KeylmError(f"tensor {name}: got {found}; accepted: the shape of the model that was opened")
        for name, part in self._parts:
            part.copy_(tensors[name])

    def cache(self, rows: int, context: int | None = None) -> Cache:
        """Return an empty cache."""
        return Cache(self.shape, rows, context or self.context, self.device, self.dtype)

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
        heads, count = self._heads, len(ids)
        spots = Spots(*(self._placed(each) for each in (torch.full_like(places, row), places, positions)))
        spread = None if mask is None else self._placed(mask)[None, None]

        def attend(index: int, states: Tensor) -> Tensor:
            keys, values = cache.keys[index], cache.values[index]
            q, _, _ = self._stored(index, states, (keys, values), spots)
            # Heads that share keys become more queries of one head.
            grouped = q.reshape(count, heads.kv, -1, heads.size).permute(1, 2, 0, 3)
            shared = [part[row, :, None, :end].expand(-1, grouped.shape[1], -1, -1) for part in (keys, values)]
            found = F.scaled_dot_product_attention(grouped, shared[0], shared[1], attn_mask=spread)
            return found.permute(2, 0, 1, 3).reshape(count, -1)

        return self._through(self._placed(torch.tensor(ids)), attend)

    @torch.inference_mode()
    def prefill_whole(self, cache: Cache, rows: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
        """Read whole texts into rows of their own, in one pass; return their last hidden states [B, H]."""
        lengths = [len(ids) for ids in texts]
        ends = torch.tensor(lengths).cumsum(0)
        owners = torch.repeat_interleave(torch.tensor(lengths))
        places = torch.arange(int(ends[-1])) - (ends - torch.tensor(lengths))[owners]
        packed = torch.stack((torch.tensor(list(chain.from_iterable(texts))), torch.tensor(rows)[owners], places))
        ids, *spot = self._placed(packed)
        spots = Spots(spot[0], spot[1], spot[1])

        def attend(index: int, states: Tensor) -> Tensor:
            q, k, v = self._stored(index, states, (cache.keys[index], cache.values[index]), spots, keep=True)
            return self.operations.attend_whole(q, k, v, lengths, self._heads)

        return self._through(ids, attend)[self._placed(ends - 1)]

    @torch.inference_mode()
    def step(self, cache: Cache, rows: Sequence[int], ids: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Read one more token for each of B rows, which have `lengths` tokens; return hidden states [B, H]."""
        at, tokens, places = self._placed(torch.tensor([list(rows), list(ids), list(lengths)]))
        return self.step_at(cache, tokens, Newest(Spots(at, places, places), max(lengths) + 1, adjacent(rows)))

    @torch.inference_mode()
    def step_at(self, cache: Cache, ids: Tensor, newest: Newest) -> Tensor:
        """Return as `step` does of what is on the device: ids int64 [B]. No copy, no wait: a graph can capture it."""

        def attend(index: int, states: Tensor) -> Tensor:
            layer = cache.keys[index], cache.values[index]
            q, _, _ = self._stored(index, states, layer, newest.spots)
            return self.operations.attend_cached(q, layer, newest, self._heads)

        return self._through(ids, attend)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits fp32 [..., V] of hidden states [..., H]."""
        return self._head(hidden)

    def _stored(
        self, index: int, states: Tensor, layer: tuple[Tensor, Tensor], spots: Spots, *, keep: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights, heads = self._layers[index].heads, self._heads
        return self.operations.turn_and_store(states, weights, self._rotation, heads, layer, spots, keep)

    def _through(self, ids: Tensor, attend: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Return the final hidden states [T, H] of tokens (int64 [T]); `attend` takes a layer's number and qkv."""
        eps, add_norm = self.shape.rms_norm_eps, self.operations.add_norm
        hidden, read = add_norm(self._embedding[ids], None, self._layers[0].before, eps)
        after = [*(layer.before for layer in self._layers[1:]), self._norm]
        for index, (layer, following) in enumerate(zip(self._layers, after, strict=True)):
            states = layer.qkv(read).view(len(ids), -1, self._heads.size)
            hidden, read = add_norm(hidden, layer.out(attend(index, states)), layer.after, eps)
            hidden, read = add_norm(hidden, layer.down(self.operations.gate(layer.gate_up(read))), following, eps)
        return read

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _joined(self, *names: str) -> Tensor:
        """Return tensors one above the other, a copy in the decoder's dtype on its device."""
        parts = [self._tensors[name] for name in names]
        whole = torch.cat([part.to(self.device, self.dtype) for part in parts])
        if self.precision != "int8":  # else nothing would ever be freed
            self._parts += zip(names, torch.split(whole, [len(part) for part in parts]), strict=True)
        return whole

    def _layer(self, prefix: str) -> Layer:
        def named(*names: str) -> Tensor:
            return self._joined(*(f"{prefix}{name}.weight" for name in names))

        product = int8 if self.precision == "int8" else dense
        queries, keys, size = self._heads.queries, self._heads.kv, self._heads.size
        heads = torch.empty(queries + keys, size, dtype=self.dtype, device=self.device)
        for name, part in (("q_norm", heads[:queries]), ("k_norm", heads[queries:])):
            part.copy_(self._tensors[f"{prefix}self_attn.{name}.weight"])
            self._parts.append((f"{prefix}self_attn.{name}.weight", part))
        return Layer(
            qkv=product(named("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            out=product(named("self_attn.o_proj")),
            gate_up=product(named("mlp.gate_proj", "mlp.up_proj")),
            down=product(named("mlp.down_proj")),
            before=named("input_layernorm"),
            heads=heads,
            after=named("post_attention_layernorm"),
        )

    def _head_product(self, weight: Tensor) -> Product:
        if self.precision == "int8":
            return int8(weight)
        if self.dtype == torch.float32:
            return dense(weight)
        if self.device.type == "cuda":
            # Rounded to bf16, many tokens would be equally likely.
            return lambda x: torch.mm(x.flatten(0, -2), weight.T, out_dtype=torch.float32).view(*x.shape[:-1], -1)
        return lambda x: F.linear(x.float(), weight.float())


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
    """Return the product with a matrix, in its dtype."""
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


def adjacent(rows: Sequence[int]) -> slice | None:
    """Return rows as a slice where they are neighbours in ascending order."""
    return slice(rows[0], rows[0] + len(rows)) if list(rows) == list(range(rows[0], rows[0] + len(rows))) else None
