"""The decoder in plain PyTorch: the architecture and parameter names of Hugging Face's Qwen3ForCausalLM.

Grouped-query attention with RMS-normalised queries and keys, rotary positions, SwiGLU, pre-normalisation, no
biases, untied output head (Qwen3 technical report, arXiv 2505.09388; RoPE: arXiv 2104.09864; GQA: 2305.13245).
A state dict moves between this module and transformers unchanged. Shapes below: B batch, L length, H hidden,
D head_dim, V vocabulary.

Projections of one input are one matmul: queries, keys and values; gate and up. The weights stay separate, as the
layout and Muon need them.
"""

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keylm.model.attention import Packing, attend
from keylm.model.fused import norm_rotate, swiglu
from keylm.recipe.schema import Model as Shape

Rotation = tuple[Tensor, Tensor]
"""What `rope` returns."""
COMPILED_TOGETHER = 4
"""Layers in one compiled graph."""
ALONE = Packing()
"""For windows that hold one document each."""


class Decoder(nn.Module):
    """Token ids to logits."""

    def __init__(self, shape: Shape, vocab_size: int) -> None:
        super().__init__()
        self.shape, self.vocab_size = shape, vocab_size
        self.model = Backbone(shape, vocab_size)
        self.lm_head = nn.Linear(shape.hidden_size, vocab_size, bias=False)

    def forward(self, tokens: Tensor, packing: Packing = ALONE) -> Tensor:
        """Return logits [B, L, V] of tokens (int64 [B, L]); `packing`: the documents within rows, by default one."""
        logits: Tensor = self.lm_head(self.model(tokens, packing))
        return logits

    def fuse(self) -> None:
        """Use the kernels of model/fused.py from now on; for models that compute in bf16 where `can_fuse` allows it."""
        for module in self.modules():
            if isinstance(module, Attention | FeedForward):
                module.fused = True


class Backbone(nn.Module):
    """Token ids to final hidden states."""

    def __init__(self, shape: Shape, vocab_size: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.head_dim, self.rope_theta = shape.head_dim, shape.rope_theta
        self._run_blocks, self._together = run_blocks, 1

    def compile_layers(self, *, apart: bool = False) -> None:
        """Compile the layers, COMPILED_TOGETHER at a time, or each separately if `apart`.

        All groups share one compilation, so training starts soon; one graph of the whole model takes a minute longer
        and was not faster (LOG.md). A single block leaves the compiler nothing to fuse at its boundaries.
        """
        if apart:
            for layer in self.layers:
                layer.compile(dynamic=False)
            return
        layers = len(self.layers)
        self._together = next(size for size in range(min(COMPILED_TOGETHER, layers), 0, -1) if layers % size == 0)
        self._run_blocks = torch.compile(run_blocks, dynamic=False)

    def forward(self, tokens: Tensor, packing: Packing = ALONE) -> Tensor:
        """Return hidden states [B, L, H]; the residual stream is in autocast's dtype where that is on."""
        hidden: Tensor = self.embed_tokens(tokens)
        if torch.is_autocast_enabled(tokens.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(tokens.device.type))
        rotation = rope(tokens.shape[1], self.head_dim, self.rope_theta, tokens.device)
        mask = packing.mask()
        for first in range(0, len(self.layers), self._together):
            group = tuple(self.layers[first : first + self._together])
            hidden = self._run_blocks(group, hidden, rotation, packing.cu_seqlens, mask)  # type: ignore[arg-type]
        normed: Tensor = self.norm(hidden)
        return normed


def run_blocks(
    layers: Sequence["Block"], hidden: Tensor, rotation: Rotation, cu_seqlens: Tensor | None, mask: Tensor | None
) -> Tensor:
    """Return the residual stream [B, L, H] after some blocks."""
    for layer in layers:
        hidden = layer(hidden, rotation, cu_seqlens, mask)
    return hidden


class Block(nn.Module):
    """Attention and feed-forward, each on the normalised residual stream and added to it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = FeedForward(shape)
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)

    def forward(self, hidden: Tensor, rotation: Rotation, cu_seqlens: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return the residual stream [B, L, H] after this block; `cu_seqlens` and `mask` as `attend` takes them."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotation, cu_seqlens, mask)
        after: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return after


class Attention(nn.Module):
    """Causal grouped-query attention with per-head normalised queries and keys."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        self.head_dim = shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, shape.hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_dim, shape.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, shape.rms_norm_eps)
        self.fused = False

    def forward(self, hidden: Tensor, rotation: Rotation, cu_seqlens: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return attention's output [B, L, H]; `cu_seqlens` and `mask` as `attend` takes them."""
        batch, length, _ = hidden.shape
        weights = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight))
        heads = F.linear(hidden, weights).view(batch, length, -1, self.head_dim)
        if self.fused:
            settings = (self.q_norm.weight, self.k_norm.weight, *rotation, self.kv_heads, self.q_norm.eps)
            flat = norm_rotate(heads.flatten(0, 1), *settings)
            queries, keys, values = (each.view(batch, length, -1, self.head_dim) for each in flat)
        else:
            queries, keys, values = torch.split(heads, [self.heads, self.kv_heads, self.kv_heads], dim=2)
            queries, keys = rotate(self.q_norm(queries), rotation), rotate(self.k_norm(keys), rotation)
        attended = attend(queries, keys, values, cu_seqlens, mask)
        output: Tensor = self.o_proj(attended.flatten(2))
        return output


class FeedForward(nn.Module):
    """SwiGLU: a gated linear unit with SiLU (arXiv 2002.05202)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)
        self.fused = False

    def forward(self, hidden: Tensor) -> Tensor:
        """Return [B, L, H]."""
        both = F.linear(hidden, torch.cat((self.gate_proj.weight, self.up_proj.weight)))
        if self.fused:
            inner = swiglu(both.flatten(0, 1)).view(*both.shape[:-1], -1)
        else:
            gate, up = both.chunk(2, dim=-1)
            inner = F.silu(gate) * up
        output: Tensor = self.down_proj(inner)
        return output


class RMSNorm(nn.Module):
    """Root-mean-square normalisation of the last dimension, computed in fp32 (arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        """Return `hidden` at unit root mean square times the weight, in its own dtype."""
        normed = F.rms_norm(hidden.float(), self.weight.shape, eps=self.eps)
        return (self.weight * normed).to(hidden.dtype)


def rope(length: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cos and signed sin, fp32 [L, 1, D], of positions 0 … L-1; the sine is negative in the first half.

    Positions continue across packed documents: rotary attention depends only on differences of positions.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), 1.0 / theta**exponents)
    angles = angles[:, None]
    return torch.cat((angles.cos(), angles.cos()), dim=-1), torch.cat((-angles.sin(), angles.sin()), dim=-1)


def rotate(heads: Tensor, rotation: Rotation) -> Tensor:
    """Return `heads` [B, L, heads, D] turned by `rotation`; dimension d pairs with d + D/2."""
    cos, sin = rotation
    # The halves are swapped by indexing alone, which fuses with the norm before it, forward and backward.
    swapped = heads.view(*heads.shape[:-1], 2, -1).flip(-2).view(heads.shape)
    turned = heads * cos + swapped * sin
    return turned.to(heads.dtype)


def count_parameters(shape: Shape, vocab_size: int) -> int:
    """Return the number of parameters, without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(shape, vocab_size).parameters())


def initialise(model: Decoder, seed: int) -> None:
    """Fill every parameter from its own seeded generator, so that neither order nor device changes any of them.

    Output and down projections start at zero, other matrices uniform with variance 1/fan_in, the embedding
    normal, the head normal with deviation 0.001, norm weights at one.
    """

    def fill(named: tuple[str, nn.Parameter]) -> None:
        name, parameter = named
        digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        with torch.no_grad():
            parameter.copy_(_initial(name, parameter.shape, generator))

    with ThreadPoolExecutor() as pool:  # a generator samples on one core
        list(pool.map(fill, model.named_parameters()))


def _initial(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return torch.zeros(shape)
    if name == "model.embed_tokens.weight":
        return torch.randn(shape, generator=generator)
    if name == "lm_head.weight":
        return torch.randn(shape, generator=generator) * 0.001
    bound = math.sqrt(3 / shape[1])
    return torch.rand(shape, generator=generator) * (2 * bound) - bound
