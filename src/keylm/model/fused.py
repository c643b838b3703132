"""A block's element-wise operations in one pass over memory each: SwiGLU; norms and rotation of queries and keys.

On a GPU these are memory-bound, and compiled code passes over gate, up, queries and keys several times in backward. The
kernels are in fused_kernels.py; the tests compare them with the plain formulas of decoder.py. Shapes: T tokens, D
head_dim, I intermediate size; sums are fp32.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from keylm.base.machine import AMPERE, compute_capability

HAS_TRITON = find_spec("triton") is not None
"""torch for CPUs comes without it."""


def can_fuse(device: torch.device, head_dim: int) -> bool:
    """Return whether the kernels here run on `device`, in bf16, with heads of this size."""
    return HAS_TRITON and compute_capability(device) >= AMPERE and head_dim.bit_count() == 1


def kernels() -> Any:
    """Return the module of kernels, which cannot be imported without Triton."""
    from keylm.model import fused_kernels

    return fused_kernels


ROWS, COLUMNS = 16, 128
"""Tokens and columns that one program takes of SwiGLU."""


def _swiglu_grid(tokens: int, inner: int) -> tuple[int, int]:
    return -(-tokens // ROWS), -(-inner // COLUMNS)


@torch.library.custom_op("keylm::swiglu", mutates_args=())
def swiglu(both: Tensor) -> Tensor:
    """Return silu(gate) * up, [T, I], of gate and up side by side, [T, 2 I]."""
    tokens, inner = both.shape[0], both.shape[1] // 2
    out = both.new_empty(tokens, inner)
    kernels().swiglu[_swiglu_grid(tokens, inner)](both.contiguous(), out, tokens, inner, ROWS, COLUMNS)
    return out


@swiglu.register_fake
def _(both: Tensor) -> Tensor:
    return both.new_empty(both.shape[0], both.shape[1] // 2)


@torch.library.custom_op("keylm::swiglu_backward", mutates_args=())
def swiglu_backward(grad: Tensor, both: Tensor) -> Tensor:
    """Return the gradient of `both` from that of the output, [T, I]."""
    tokens, inner = grad.shape
    found = torch.empty_like(both, memory_format=torch.contiguous_format)
    grid = _swiglu_grid(tokens, inner)
    kernels().swiglu_backward[grid](grad.contiguous(), both.contiguous(), found, tokens, inner, ROWS, COLUMNS)
    return found


@swiglu_backward.register_fake
def _(grad: Tensor, both: Tensor) -> Tensor:
    return torch.empty_like(both, memory_format=torch.contiguous_format)


swiglu.register_autograd(
    lambda ctx, grad: swiglu_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


TOKENS = 32
"""Tokens that one program norms and rotates, all heads of them."""


@torch.library.custom_op("keylm::norm_rotate", mutates_args=())
def norm_rotate(
    heads: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, kv_heads: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries and keys, RMS-normalised and rotated, and values: [T, query or KV heads, D].

    heads [T, query heads + 2 KV heads, D], in that order; weights [D]; cos and sin as `rope` gives them, fp32
    [L, 1, D], of tokens whose position is their number modulo L. D is a power of two.
    """
    tokens, count, size = heads.shape
    shapes = [(tokens, number, size) for number in (count - 2 * kv_heads, kv_heads, kv_heads)]
    q, k, v = (heads.new_empty(shape) for shape in shapes)
    tables = (q_weight, k_weight, cos, sin, tokens, len(cos), eps)
    kernels().norm_rotate[(-(-tokens // TOKENS),)](
        heads.contiguous(), q, k, v, *tables, count - 2 * kv_heads, kv_heads, size, TOKENS
    )
    return q, k, v


@norm_rotate.register_fake
def _(
    heads: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, kv_heads: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, count, size = heads.shape
    keys, values = (heads.new_empty(tokens, kv_heads, size) for _ in range(2))
    return heads.new_empty(tokens, count - 2 * kv_heads, size), keys, values


@torch.library.custom_op("keylm::norm_rotate_backward", mutates_args=())
def norm_rotate_backward(
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    heads: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    kv_heads: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `heads` and of both weights."""
    tokens, count, size = heads.shape
    found, programs = torch.empty_like(heads, memory_format=torch.contiguous_format), -(-tokens // TOKENS)
    # Summed in a fixed order, for bitwise reproducibility.
    weights = heads.new_empty((programs, 2, size), dtype=torch.float32)
    grads = (dq.contiguous(), dk.contiguous(), dv.contiguous())
    tables = (q_weight, k_weight, weights, cos, sin, tokens, len(cos), eps)
    kernels().norm_rotate_backward[(programs,)](
        *grads, heads.contiguous(), found, *tables, count - 2 * kv_heads, kv_heads, size, TOKENS
    )
    of_queries, of_keys = weights[:, 0].sum(dim=0), weights[:, 1].sum(dim=0)
    return found, of_queries.to(q_weight.dtype), of_keys.to(k_weight.dtype)


@norm_rotate_backward.register_fake
def _(
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    heads: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    kv_heads: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    found = torch.empty_like(heads, memory_format=torch.contiguous_format)
    return found, torch.empty_like(q_weight), torch.empty_like(k_weight)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.kv_heads, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    gradients = norm_rotate_backward(*grads, *ctx.saved_tensors, ctx.kv_heads, ctx.eps)
    return *gradients, None, None, None, None


norm_rotate.register_autograd(_differentiate, setup_context=_save)
