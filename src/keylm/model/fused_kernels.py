"""The Triton kernels of fused.py, which documents what they compute and their shapes.

Triton: Tillet et al., MAPL 2019, triton-lang.org. A program takes `rows` tokens; loads past the last one are masked.
"""

import triton
import triton.language as tl


@triton.jit
def swiglu(both, out, tokens, inner, rows: tl.constexpr, columns: tl.constexpr):
    """Write silu(gate) * up, [tokens, inner], of `both`, [tokens, 2 inner]."""
    row = (tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows))[:, None]
    column = (tl.program_id(1) * columns + tl.arange(0, columns))[None, :]
    inside = (row < tokens) & (column < inner)
    gate = tl.load(both + row * 2 * inner + column, mask=inside, other=0).to(tl.float32)
    up = tl.load(both + row * 2 * inner + inner + column, mask=inside, other=0).to(tl.float32)
    tl.store(out + row * inner + column, gate * tl.sigmoid(gate) * up, mask=inside)


@triton.jit
def swiglu_backward(grad, both, found, tokens, inner, rows: tl.constexpr, columns: tl.constexpr):
    """Write the gradient of `both`; gate, up and gradient are read once for both halves."""
    row = (tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows))[:, None]
    column = (tl.program_id(1) * columns + tl.arange(0, columns))[None, :]
    inside = (row < tokens) & (column < inner)
    gate = tl.load(both + row * 2 * inner + column, mask=inside, other=0).to(tl.float32)
    up = tl.load(both + row * 2 * inner + inner + column, mask=inside, other=0).to(tl.float32)
    outer = tl.load(grad + row * inner + column, mask=inside, other=0).to(tl.float32)
    share = tl.sigmoid(gate)
    of_gate = outer * up * share * (1 + gate * (1 - share))
    tl.store(found + row * 2 * inner + column, of_gate, mask=inside)
    tl.store(found + row * 2 * inner + inner + column, outer * gate * share, mask=inside)


@triton.jit
def _rotation(cos, sin, row, half, length, size: tl.constexpr):
    """Return the cosines and sines of each row's position, [rows, D / 2]; the tables are [L, D]."""
    place = (row % length) * size + size // 2 + half
    return tl.load(cos + place), tl.load(sin + place)


@triton.jit
def norm_rotate(
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
    """Write q, k and v from `heads`, [tokens, heads, size]; each half of a head is a tile [rows, size / 2]."""
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
def norm_rotate_backward(
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
    """Write the gradient of `heads`, and this program's share of the weights', [2, size]."""
    row = (tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows))[:, None]
    half = tl.arange(0, size // 2)[None, :]
    inside = row < tokens
    c, s = _rotation(cos, sin, row, half, length, size)
    q_first, q_second = tl.zeros([size // 2], tl.float32), tl.zeros([size // 2], tl.float32)
    k_first, k_second = tl.zeros([size // 2], tl.float32), tl.zeros([size // 2], tl.float32)
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
