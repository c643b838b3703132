"""What a decoder computes between its products, twice: in plain torch, on any device, and in Triton on a GPU.

Invariant: both give the same up to rounding (tests/runtimes/test_decoding.py compares them); the plain formulas are the
reference, and fp32 in all but what is stored. Shapes: T tokens, B texts, H hidden, D head_dim; a layer's cache of keys
or of values is [rows, KV heads, context, D].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from keylm.model.attention import best_kernel, has_kernel
from keylm.model.fused import can_fuse, swiglu
from keylm.runtimes.sampling import Chosen, RowSettings, choose

SMALLEST_HEAD = 16
"""What a matrix unit multiplies at least."""
LONGEST_ROW = 65_536
"""Vocabulary that one program of the sampling kernel holds."""
ATTENTION = {"block": 64, "num_warps": 4, "num_stages": 2}
"""Cached tokens that a program of attention reads at once; its warps; the blocks that are on their way."""


class Heads(NamedTuple):
    """How a decoder's heads are divided."""

    queries: int
    kv: int
    size: int
    eps: float


class Spots(NamedTuple):
    """Where T tokens go: one place of a row of the cache each."""

    rows: Tensor
    """int64 [T]"""
    places: Tensor
    """int64 [T]"""
    positions: Tensor
    """int64 [T]: for the rotation; mostly the places"""


@dataclass(frozen=True)
class Newest:
    """B texts of which each has one new token."""

    spots: Spots
    longest: int
    """At least the tokens that any of them has, the new one included."""
    adjacent: slice | None = None
    """The rows, where they are neighbours: nothing is copied then."""

    @cached_property
    def mask(self) -> Tensor:
        """What each may attend to, bool [B, 1, 1, longest]; the same in every layer."""
        places = self.spots.places
        return (torch.arange(self.longest, device=places.device) <= places[:, None])[:, None, None]


class PlainOperations:
    """The formulas, which say what the kernels compute."""

    def add_norm(self, hidden: Tensor, change: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Return hidden + change [T, H], and its RMS normalisation times `weight` [H]."""
        total = hidden if change is None else hidden + change
        return total, normed(total, weight, eps)

    def turn_and_store(
        self,
        states: Tensor,
        weights: Tensor,
        rotation: tuple[Tensor, Tensor],
        heads: Heads,
        cache: tuple[Tensor, Tensor],
        spots: Spots,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Norm and rotate queries and keys, and write keys and values into a layer's cache; return all three.

        states [T, query + 2 KV heads, D]; weights [query + KV heads, D]; rotation: cos and sin, fp32 [context, D]. Keys
        and values returned mean something only if `keep`.
        """
        turning = heads.queries + heads.kv
        cos, sin = (table[spots.positions][:, None] for table in rotation)
        turned = normed(states[:, :turning], weights, heads.eps).float()
        turned = (turned * cos + turned.roll(heads.size // 2, -1) * sin).to(states.dtype)
        q, k, v = turned[:, : heads.queries], turned[:, heads.queries :], states[:, turning:]
        cache[0][spots.rows, :, spots.places], cache[1][spots.rows, :, spots.places] = k, v
        return q, k, v

    def attend_cached(self, q: Tensor, cache: tuple[Tensor, Tensor], newest: Newest, heads: Heads) -> Tensor:
        """Return the attention [B, query heads * D] of queries [B, query heads, D] to all that their rows hold."""
        longest = newest.longest
        if newest.adjacent is not None:
            k, v = (part[newest.adjacent, :, :longest] for part in cache)
        else:
            k, v = (part[:, :, :longest].index_select(0, newest.spots.rows) for part in cache)
        # Heads that share keys become more queries of one head.
        grouped = q.view(len(q), heads.kv, -1, heads.size)
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=newest.mask).reshape(len(q), -1)

    def attend_whole(self, q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], heads: Heads) -> Tensor:
        """Return causal attention [T, query heads * D] within texts of `lengths` tokens, one after the other."""
        # Padded on the right, where nothing that counts attends to.
        device, longest = q.device, max(lengths)
        filled = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
        padded = []
        for part in (q, k, v):
            whole = part.new_zeros(len(lengths), longest, part.shape[1], heads.size)
            whole[filled] = part
            padded.append(whole.transpose(1, 2))
        grouped = heads.queries != heads.kv
        found = F.scaled_dot_product_attention(padded[0], padded[1], padded[2], is_causal=True, enable_gqa=grouped)
        return found.transpose(1, 2)[filled].flatten(1)

    def gate(self, both: Tensor) -> Tensor:
        """Return silu(gate) * up [T, I] of both side by side."""
        gate, up = both.chunk(2, dim=-1)
        return F.silu(gate) * up

    def choose(
        self, logits: Tensor, rows: Tensor, settings: RowSettings, written: Tensor, seen: Tensor | None, filtered: bool
    ) -> Chosen:
        """Return what sampling.choose does for rows of settings, counts and seen tokens."""
        own = RowSettings(*(each[rows] for each in settings))
        return choose(logits, own, written[rows], None if seen is None else seen[rows], filtered=filtered)


class FusedOperations(PlainOperations):
    """The same in kernels; head_dim and the hidden size as model.fused.can_fuse wants them."""

    def __init__(self) -> None:
        from keylm.runtimes import decoding_kernels  # which cannot be imported without Triton

        self._kernels: Any = decoding_kernels
        self.attention = dict(ATTENTION)

    def add_norm(self, hidden: Tensor, change: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """As in PlainOperations."""
        size, adds = hidden.shape[1], change is not None
        total = torch.empty_like(hidden) if adds else hidden
        found = torch.empty_like(hidden)
        self._kernels.add_norm[(len(hidden),)](
            hidden, change if adds else hidden, weight, total, found, eps, size, _power(size), adds
        )
        return total, found

    def turn_and_store(
        self,
        states: Tensor,
        weights: Tensor,
        rotation: tuple[Tensor, Tensor],
        heads: Heads,
        cache: tuple[Tensor, Tensor],
        spots: Spots,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As in PlainOperations."""
        tokens = len(states)
        q = states.new_empty(tokens, heads.queries, heads.size)
        k, v = (states.new_empty(tokens if keep else 0, heads.kv, heads.size) for _ in range(2))
        shape = (heads.queries, heads.kv, heads.size, _power(heads.queries + 2 * heads.kv), keep)
        at = (spots.positions, spots.rows, spots.places)
        self._kernels.turn_and_store[(tokens,)](
            states, weights, *rotation, *at, q, k, v, *cache, cache[0].shape[2], heads.eps, *shape
        )
        return q, k, v

    def attend_cached(self, q: Tensor, cache: tuple[Tensor, Tensor], newest: Newest, heads: Heads) -> Tensor:
        """As in PlainOperations; reads each row as far as it goes, whatever `longest` is."""
        q = q.contiguous()
        out, group = torch.empty_like(q), heads.queries // heads.kv
        shape = (group, heads.kv, heads.size, max(16, _power(group)))  # matrix units take 16 rows at least
        rows, lengths = newest.spots.rows, newest.spots.places
        self._kernels.attend_cached[(len(q), heads.kv)](
            q, *cache, rows, lengths, out, cache[0].shape[2], heads.size**-0.5, *shape, **self.attention
        )
        return out.flatten(1)

    def attend_whole(self, q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], heads: Heads) -> Tensor:
        """As in PlainOperations: variable-length flash attention where its kernel takes the tensors."""
        if q.dtype.itemsize != 2 or not has_kernel(q.device, heads.size):
            return super().attend_whole(q, k, v, lengths, heads)
        starts = torch.tensor([0, *lengths]).cumsum(0).int().to(q.device)
        q, k, v = (part.contiguous() for part in (q, k, v))
        found, _ = best_kernel(q.device, heads.size).forward(q, k, v, starts, max(lengths))
        return found.flatten(1)

    def gate(self, both: Tensor) -> Tensor:
        """As in PlainOperations."""
        gated: Tensor = swiglu(both)
        return gated

    def choose(
        self, logits: Tensor, rows: Tensor, settings: RowSettings, written: Tensor, seen: Tensor | None, filtered: bool
    ) -> Chosen:
        """As in PlainOperations."""
        count, vocabulary = logits.shape
        if vocabulary > LONGEST_ROW or seen is None:
            return super().choose(logits, rows, settings, written, seen, filtered)
        ids = torch.empty(count, dtype=torch.int64, device=logits.device)
        log_probabilities = torch.empty(count, dtype=torch.float32, device=logits.device)
        broken = torch.empty(count, dtype=torch.bool, device=logits.device)
        self._kernels.choose[(count,)](
            logits.contiguous(),
            rows,
            *settings,
            written,
            seen.view(torch.uint8),
            ids,
            log_probabilities,
            broken.view(torch.uint8),
            vocabulary,
            _power(vocabulary),
            num_warps=16,
        )
        return Chosen(ids, log_probabilities, broken)


def operations(device: torch.device, head_dim: int) -> PlainOperations:
    """Return the fastest operations for a device and heads of this size."""
    return FusedOperations() if can_fuse(device, head_dim) and head_dim >= SMALLEST_HEAD else PlainOperations()


def normed(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return RMS normalisation over the last dimension; in these sizes quicker than torch's, a composite."""
    wide = hidden.float()
    return (wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt_() * weight).to(hidden.dtype)


def _power(size: int) -> int:
    """Return the least power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()
