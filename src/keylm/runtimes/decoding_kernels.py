"""The Triton kernels of decoding.py and sampling.py, which have the plain formulas and the shapes.

Attention over a cache is memory-bound: each program reads the keys and values of one KV head of one text once, for all
query heads that share it, and only as far as the text goes (flash decoding without splits: Dao et al., 2023; Triton:
Tillet et al., MAPL 2019). Sums are fp32.
"""

import triton
import triton.language as tl


@triton.jit
def add_norm(hidden, change, weight, total, normed, eps, size: tl.constexpr, padded: tl.constexpr, adds: tl.constexpr):
    """Write hidden + change, and its RMS normalisation, of one token; without `adds` the latter alone."""
    place = tl.arange(0, padded)
    inside = place < size
    offset = tl.program_id(0).to(tl.int64) * size + place
    value = tl.load(hidden + offset, mask=inside, other=0).to(tl.float32)
    if adds:
        value += tl.load(change + offset, mask=inside, other=0).to(tl.float32)
        value = value.to(total.dtype.element_ty).to(tl.float32)  # as the next layer reads it
        tl.store(total + offset, value, mask=inside)
    scale = tl.rsqrt(tl.sum(value * value, 0) / size + eps)
    tl.store(normed + offset, value * scale * tl.load(weight + place, mask=inside, other=0).to(tl.float32), mask=inside)


@triton.jit
def turn_and_store(
    states,
    weights,
    cos,
    sin,
    positions,
    rows,
    places,
    q,
    k,
    v,
    keys,
    values,
    context,
    eps,
    query_heads: tl.constexpr,
    kv_heads: tl.constexpr,
    size: tl.constexpr,
    padded: tl.constexpr,
    keep: tl.constexpr,
):
    """Norm and rotate the heads of one token; write queries to q, keys and values to the cache, if `keep` to k, v."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, padded)[:, None]
    half = tl.arange(0, size // 2)[None, :]
    total: tl.constexpr = query_heads + 2 * kv_heads
    offset = (token * total + head) * size + half
    first = tl.load(states + offset, mask=head < total, other=0).to(tl.float32)
    second = tl.load(states + offset + size // 2, mask=head < total, other=0).to(tl.float32)
    turns = head < query_heads + kv_heads
    scale = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / size + eps)[:, None]
    one = first * scale * tl.load(weights + head * size + half, mask=turns, other=0).to(tl.float32)
    two = second * scale * tl.load(weights + head * size + size // 2 + half, mask=turns, other=0).to(tl.float32)
    turn = tl.load(positions + token) * size + half
    c, s = tl.load(cos + turn), tl.load(sin + turn + size // 2)
    first = tl.where(turns, one * c - two * s, first)
    second = tl.where(turns, two * c + one * s, second)
    query = head < query_heads
    place = (token * query_heads + head) * size + half
    tl.store(q + place, first, mask=query)
    tl.store(q + place + size // 2, second, mask=query)
    row, at = tl.load(rows + token).to(tl.int64), tl.load(places + token).to(tl.int64)
    key = (head >= query_heads) & turns
    number = head - query_heads
    place = ((row * kv_heads + number) * context + at) * size + half
    tl.store(keys + place, first, mask=key)
    tl.store(keys + place + size // 2, second, mask=key)
    value = (head >= query_heads + kv_heads) & (head < total)
    number = number - kv_heads
    place = ((row * kv_heads + number) * context + at) * size + half
    tl.store(values + place, first, mask=value)
    tl.store(values + place + size // 2, second, mask=value)
    if keep:
        place = (token * kv_heads + number) * size + half
        tl.store(v + place, first, mask=value)
        tl.store(v + place + size // 2, second, mask=value)
        place += kv_heads * size
        tl.store(k + place, first, mask=key)
        tl.store(k + place + size // 2, second, mask=key)


@triton.jit
def attend_cached(
    q,
    keys,
    values,
    rows,
    lengths,
    out,
    context,
    scale,
    group: tl.constexpr,
    kv_heads: tl.constexpr,
    size: tl.constexpr,
    padded: tl.constexpr,
    block: tl.constexpr,
):
    """Write the attention of one text's newest token, at place `lengths`, for the query heads of one KV head."""
    slot, kv = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, end = tl.load(rows + slot).to(tl.int64), tl.load(lengths + slot) + 1
    head, wide = tl.arange(0, padded)[:, None], tl.arange(0, size)[None, :]
    mine = (slot * kv_heads * group + kv * group + head) * size + wide
    queries = tl.load(q + mine, mask=head < group, other=0)
    begin = (row * kv_heads + kv) * context * size
    top = tl.full((padded,), float("-inf"), tl.float32)
    total = tl.zeros((padded,), tl.float32)
    found = tl.zeros((padded, size), tl.float32)
    for start in range(0, end, block):
        place = start + tl.arange(0, block)
        cached = begin + place[:, None] * size + wide
        read = tl.load(keys + cached, mask=place[:, None] < end, other=0)
        scores = tl.dot(queries, tl.trans(read), input_precision="ieee") * scale
        scores = tl.where(place[None, :] < end, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shares, shrink = tl.exp(scores - higher[:, None]), tl.exp(top - higher)
        read = tl.load(values + cached, mask=place[:, None] < end, other=0)
        found = found * shrink[:, None] + tl.dot(shares.to(read.dtype), read, input_precision="ieee")
        total, top = total * shrink + tl.sum(shares, 1), higher
    tl.store(out + mine, found / total[:, None], mask=head < group)


@triton.jit
def _mixed(word):
    word = (word ^ (word >> 16)) * 0x85EBCA6B
    word = (word ^ (word >> 13)) * 0xC2B2AE35
    return word ^ (word >> 16)


@triton.jit
def _waiting_times(seed, written, token):
    """As sampling.waiting_times."""
    low, high = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    stream = _mixed(low + written.to(tl.uint32) * 0x9E3779B9)
    bits = _mixed(_mixed(token.to(tl.uint32) + stream) ^ high)
    uniform = tl.minimum(bits.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10, 0.99999994)
    series = uniform * (1 + uniform * (0.5 + uniform * (0.3333333333333333 + uniform * 0.25)))
    return tl.where(uniform < 0.015625, series, -tl.log(1 - uniform))


@triton.jit
def _least(bits, measures, target, needed):
    """Return the largest bound, as bits, such that the measures at or above it add up to `target`; 0 unless needed.

    Positive floats order as their bits do, so bisecting these 30 times gives the exact bound.
    """
    low, high = 0, 0x3F800001  # just above 1.0
    for _ in range(tl.where(needed, 30, 0)):
        middle = (low + high) // 2
        enough = tl.sum(tl.where(bits >= middle, measures, 0.0), 0) >= target
        low, high = tl.where(enough, middle, low), tl.where(enough, high, middle)
    return low


@triton.jit
def choose(
    logits,
    rows,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    penalties,
    seeds,
    counts,
    seen,
    ids,
    log_probabilities,
    broken,
    vocabulary,
    padded: tl.constexpr,
):
    """Choose the next token of one text; settings, counts and `seen` are by cache row."""
    slot = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + slot).to(tl.int64)
    token = tl.arange(0, padded)
    inside = token < vocabulary
    raw = tl.load(logits + slot * vocabulary + token, mask=inside, other=float("-inf")).to(tl.float32)
    temperature, penalty = tl.load(temperatures + row), tl.load(penalties + row)
    greedy = temperature < 0.01
    temperature = tl.where(greedy, 1.0, temperature)
    top = tl.max(raw, 0)
    total = tl.log(tl.sum(tl.exp((raw - top) / temperature), 0))  # not a number, if any logit is not one or infinite
    scores = raw
    if penalty != 1.0:
        known = tl.load(seen + row * vocabulary + token, mask=inside, other=0) != 0
        scores = tl.where(known, tl.where(raw > 0, raw / penalty, raw * penalty), raw)
    scores = (scores - tl.max(scores, 0)) / temperature
    odds = tl.exp(scores)
    bits = odds.to(tl.int32, bitcast=True)
    top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
    least = _least(bits, tl.where(inside, 1.0, 0.0), top_k.to(tl.float32), (top_k > 0) & (top_k < vocabulary))
    left = tl.where(bits >= least, odds, 0.0)
    least = tl.maximum(least, _least(bits, left, top_p * tl.sum(left, 0), top_p < 1.0))
    may = (bits >= least) & (odds >= tl.load(min_ps + row)) & inside
    noisy = scores - tl.log(_waiting_times(tl.load(seeds + row), tl.load(counts + row), token))
    noisy = tl.where(may, noisy, float("-inf"))
    chosen = tl.minimum(tl.argmax(tl.where(greedy, scores, noisy), 0), vocabulary - 1)  # of broken logits any
    tl.store(ids + slot, chosen.to(tl.int64))
    own = tl.sum(tl.where(token == chosen, raw, 0.0), 0)
    tl.store(log_probabilities + slot, (own - top) / temperature - total)
    tl.store(broken + slot, total != total)
