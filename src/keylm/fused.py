"""Element-wise work of a block in one pass over memory each: SwiGLU, and the norms and rotation of queries and keys.

On a GPU these are bound by memory. What a compiler makes of them reads gate, up and slope twice where both gradients
go into one tensor, and passes over queries and keys three times backward; here everything is read and written once.
Triton kernels (Tillet et al., MAPL 2019); keylm/model.py has the plain formulas, which the tests compare. Shapes: T
tokens, D head_dim, I intermediate size; sums are fp32.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None

if HAS_TRITON:
    import triton
    import triton.language as tl
else:  # torch for CPUs comes without

    class triton:  # noqa: N801
        """What stands in for it: nothing here runs then."""

        jit = staticmethod(lambda function: function)

    class tl:  # noqa: N801
        """Its language."""

        constexpr = int


def fuses(tensor: Tensor) -> bool:
    """Return whether the kernels here are for `tensor`: on a GPU, in bf16. In fp32 the plain formulas are used."""
    return HAS_TRITON and tensor.is_cuda and tensor.dtype == torch.bfloat16


ROWS, COLUMNS = 16, 128
"""Tokens and columns that one program takes of SwiGLU."""


@triton.jit
def _swiglu(both, out, tokens, inner, rows: tl.constexpr, columns: tl.constexpr):
    row = (tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows))[:, None]
    column = (tl.program_id(1) * columns + tl.arange(0, columns))[None, :]
    inside = (row < tokens) & (column < inner)
    gate = tl.load(both + row * 2 * inner + column, mask=inside, other=0).to(tl.float32)
    up = tl.load(both + row * 2 * inner + inner + column, mask=inside, other=0).to(tl.float32)
    tl.store(out + row * inner + column, gate * tl.sigmoid(gate) * up, mask=inside)


@triton.jit
def _swiglu_backward(slope, both, found, tokens, inner, rows: tl.constexpr, columns: tl.constexpr):
    row = (tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows))[:, None]
    column = (tl.program_id(1) * columns + tl.arange(0, columns))[None, :]
    inside = (row < tokens) & (column < inner)
    gate = tl.load(both + row * 2 * inner + column, mask=inside, other=0).to(tl.float32)
    up = tl.load(both + row * 2 * inner + inner + column, mask=inside, other=0).to(tl.float32)
    outer = tl.load(slope + row * inner + column, mask=inside, other=0).to(tl.float32)
    share = tl.sigmoid(gate)
    of_gate = outer * up * share * (1 + gate * (1 - share))
    tl.store(found + row * 2 * inner + column, of_gate, mask=inside)
    tl.store(found + row * 2 * inner + inner + column, outer * gate * share, mask=inside)


def _swiglu_grid(tokens: int, inner: int) -> tuple[int, int]:
    return -(-tokens // ROWS), -(-inner // COLUMNS)


@torch.library.custom_op("keylm::swiglu", mutates_args=())
def swiglu(both: Tensor) -> Tensor:
    """Return silu(gate) * up, [T, I], of gate and up side by side, [T, 2 I]."""
    tokens, inner = both.shape[0], both.shape[1] // 2
    out = both.new_empty(tokens, inner)
    _swiglu[_swiglu_grid(tokens, inner)](both.contiguous(), out, tokens, inner, ROWS, COLUMNS)
    return out


@swiglu.register_fake
def _(both: Tensor) -> Tensor:
    return both.new_empty(both.shape[0], both.shape[1] // 2)


@torch.library.custom_op("keylm::swiglu_backward", mutates_args=())
def swiglu_backward(slope: Tensor, both: Tensor) -> Tensor:
    """Return the gradient of `both` from that of the output, [T, I]."""
    tokens, inner = slope.shape
    found = torch.empty_like(both, memory_format=torch.contiguous_format)
    grid = _swiglu_grid(tokens, inner)
    _swiglu_backward[grid](slope.contiguous(), both.contiguous(), found, tokens, inner, ROWS, COLUMNS)
    return found


@swiglu_backward.register_fake
def _(slope: Tensor, both: Tensor) -> Tensor:
    return torch.empty_like(both, memory_format=torch.contiguous_format)


swiglu.register_autograd(
    lambda ctx, slope: swiglu_backward(slope, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


TOKENS = 16
"""Tokens that one program norms and rotates, all heads of them."""


@triton.jit
def _rotation(cos, sin, row, half, length, size: tl.constexpr):
    """Return the cosines and sines of each row's position, [rows, D / 2]; the tables are [L, D], positive behind."""
    place = (row % length) * size + size // 2 + half
    return tl.load(cos + place), tl.load(sin + place)


@triton.jit
def _norm_rotate(
    heads,
    q,
    k,
    v,
    q_weight,
    k_weight,
    cos,
    sin,
    tokens,
    length,
    eps,
    query_heads: tl.constexpr,
    kv_heads: tl.constexpr,
    size: tl.constexpr,
    rows: tl.constexpr,
):
    row = (tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows))[:, None]
    half = tl.arange(0, size // 2)[None, :]
    inside = row < tokens
    c, s = _rotation(cos, sin, row, half, length, size)
    for head in tl.static_range(query_heads + 2 * kv_heads):
        begin = heads + (row * (query_heads + 2 * kv_heads) + head) * size + half
        first = tl.load(begin, mask=inside, other=0).to(tl.float32)
        second = tl.load(begin + size // 2, mask=inside, other=0).to(tl.float32)
        if head < query_heads + kv_heads:
            scale = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / size + eps)[:, None]
            weight = q_weight if head < query_heads else k_weight
            first = first * scale * tl.load(weight + half).to(tl.float32)
            second = second * scale * tl.load(weight + size // 2 + half).to(tl.float32)
            first, second = first * c - second * s, second * c + first * s
        if head < query_heads:
            end = q + (row * query_heads + head) * size + half
        elif head < query_heads + kv_heads:
            end = k + (row * kv_heads + head - query_heads) * size + half
        else:
            end = v + (row * kv_heads + head - query_heads - kv_heads) * size + half
        tl.store(end, first, mask=inside)
        tl.store(end + size // 2, second, mask=inside)


@triton.jit
def _norm_rotate_backward(
    dq,
    dk,
    dv,
    heads,
    found,
    q_weight,
    k_weight,
    weights,
    cos,
    sin,
    tokens,
    length,
    eps,
    query_heads: tl.constexpr,
    kv_heads: tl.constexpr,
    size: tl.constexpr,
    rows: tl.constexpr,
):
    row = (tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows))[:, None]
    half = tl.arange(0, size // 2)[None, :]
    inside = row < tokens
    c, s = _rotation(cos, sin, row, half, length, size)
    q_first, q_second, k_first, k_second = (tl.zeros([size // 2], tl.float32) for _ in range(4))
    for head in tl.static_range(query_heads + 2 * kv_heads):
        if head < query_heads:
            end = dq + (row * query_heads + head) * size + half
        elif head < query_heads + kv_heads:
            end = dk + (row * kv_heads + head - query_heads) * size + half
        else:
            end = dv + (row * kv_heads + head - query_heads - kv_heads) * size + half
        first = tl.load(end, mask=inside, other=0).to(tl.float32)
        second = tl.load(end + size // 2, mask=inside, other=0).to(tl.float32)
        offset = (row * (query_heads + 2 * kv_heads) + head) * size + half
        if head < query_heads + kv_heads:
            first, second = first * c + second * s, second * c - first * s
            one = tl.load(heads + offset, mask=inside, other=0).to(tl.float32)
            two = tl.load(heads + offset + size // 2, mask=inside, other=0).to(tl.float32)
            scale = tl.rsqrt((tl.sum(one * one, 1) + tl.sum(two * two, 1)) / size + eps)[:, None]
            one, two = one * scale, two * scale
            if head < query_heads:
                q_first += tl.sum(first * one, 0)
                q_second += tl.sum(second * two, 0)
                weight = q_weight
            else:
                k_first += tl.sum(first * one, 0)
                k_second += tl.sum(second * two, 0)
                weight = k_weight
            first = first * tl.load(weight + half).to(tl.float32)
            second = second * tl.load(weight + size // 2 + half).to(tl.float32)
            common = ((tl.sum(first * one, 1) + tl.sum(second * two, 1)) / size)[:, None]
            first, second = scale * (first - one * common), scale * (second - two * common)
        tl.store(found + offset, first, mask=inside)
        tl.store(found + offset + size // 2, second, mask=inside)
    place = weights + tl.program_id(0) * 2 * size + tl.arange(0, size // 2)
    tl.store(place, q_first)
    tl.store(place + size // 2, q_second)
    tl.store(place + size, k_first)
    tl.store(place + size + size // 2, k_second)


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
    _norm_rotate[(-(-tokens // TOKENS),)](
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
    weights = heads.new_empty((programs, 2, size), dtype=torch.float32)  # added up in a fixed order, for the same bits
    slopes = (dq.contiguous(), dk.contiguous(), dv.contiguous())
    tables = (q_weight, k_weight, weights, cos, sin, tokens, len(cos), eps)
    _norm_rotate_backward[(programs,)](
        *slopes, heads.contiguous(), found, *tables, count - 2 * kv_heads, kv_heads, size, TOKENS
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


def _differentiate(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
    gradients = norm_rotate_backward(*slopes, *ctx.saved_tensors, ctx.kv_heads, ctx.eps)
    return *gradients, None, None, None, None


norm_rotate.register_autograd(_differentiate, setup_context=_save)
