"""Causal attention that stays within documents: one function, several kernels.

The boundaries of a window's documents come in one of two ways:

- `document_ids`, the document of each token: a dense mask, on any device; the reference;
- `cu_seqlens`, the start of each document in the flattened micro-batch: variable-length flash attention on a GPU in
  16 bits, which computes no score between two documents: FlashAttention 4 where flash-attn-4 is installed and the GPU
  is a Hopper or later (Dao et al., github.com/Dao-AILab/flash-attention), else torch's FlashAttention 2 (arXiv
  2307.08691).

Shapes: B windows, L tokens each, T = B * L, n documents, D head_dim.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from keylm.base.machine import AMPERE, compute_capability

NEWEST_KERNEL = (9, 10)
"""The compute capabilities that FlashAttention 4 is used on: Hopper, data-centre Blackwell."""
NEWEST_SIZES = (64, 128)
"""The head dimensions that it is used for: those tested here."""


class Packing(NamedTuple):
    """Which tokens of a micro-batch belong together."""

    document_ids: Tensor | None = None
    """int32 [B, L]: the document that each token belongs to; None: each window is one"""
    cu_seqlens: Tensor | None = None
    """int32 [n + 1]: the start of each document in the flattened windows, and their end; None: use `document_ids`"""

    def mask(self) -> Tensor | None:
        """Return the dense mask, bool [B, 1, L, L], or None where causal attention needs none."""
        return None if self.document_ids is None or self.cu_seqlens is not None else document_mask(self.document_ids)


def attend(queries: Tensor, keys: Tensor, values: Tensor, cu_seqlens: Tensor | None, mask: Tensor | None) -> Tensor:
    """Return attention's output [B, L, heads, D].

    queries [B, L, heads, D]; keys and values [B, L, KV heads, D]; `cu_seqlens` as in `Packing`, only for
    tensors on a GPU in 16 bits; `mask`: bool [B, 1, L, L], True where a token may attend; None: causal attention.
    """
    if cu_seqlens is not None:
        flat = (tensor.flatten(0, 1) for tensor in (queries, keys, values))
        attended, _ = packed_attention(*flat, cu_seqlens, queries.shape[1])
        packed: Tensor = attended.view_as(queries)
        return packed
    q, k, v = (tensor.transpose(1, 2) for tensor in (queries, keys, values))
    grouped = q.shape[1] != k.shape[1]
    if grouped and mask is not None and q.is_cuda:
        # Grouped heads with a mask would leave only the plain kernel, which writes every score into memory.
        groups, grouped = q.shape[1] // k.shape[1], False
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
    return out.transpose(1, 2)


def document_mask(document_ids: Tensor) -> Tensor:
    """Return bool [B, 1, L, L]: a token attends to itself and to earlier tokens of its own document."""
    same = document_ids[:, None, :, None] == document_ids[:, None, None, :]
    return same & torch.ones(same.shape[-2:], dtype=torch.bool, device=document_ids.device).tril()


class Kernel(NamedTuple):
    """Variable-length attention; shapes as in `packed_attention` and `packed_attention_backward`."""

    forward: Callable[[Tensor, Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


@torch.library.custom_op("keylm::packed_attention", mutates_args=())
def packed_attention(
    queries: Tensor, keys: Tensor, values: Tensor, cu_seqlens: Tensor, max_seqlen: int
) -> tuple[Tensor, Tensor]:
    """Return attention within documents, [T, heads, D], and its log-sum-exp of scores (lse), fp32 [heads, T].

    queries [T, heads, D]; keys and values [T, KV heads, D]; no document has more than `max_seqlen` tokens. One opaque
    operation to the compiler.
    """
    return best_kernel(queries.device, queries.shape[-1]).forward(queries, keys, values, cu_seqlens, max_seqlen)


@packed_attention.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> tuple[Tensor, Tensor]:
    lse = queries.new_empty((queries.shape[1], queries.shape[0]), dtype=torch.float32)
    return torch.empty_like(queries, memory_format=torch.contiguous_format), lse


@torch.library.custom_op("keylm::packed_attention_backward", mutates_args=())
def packed_attention_backward(
    grad: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values from `grad`, that of the output [T, heads, D]."""
    kernel = best_kernel(queries.device, queries.shape[-1])
    return kernel.backward(grad.contiguous(), queries, keys, values, out, lse, cu_seqlens, max_seqlen)


@packed_attention_backward.register_fake
def _(
    grad: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty_like(each, memory_format=torch.contiguous_format) for each in (queries, keys, values))
    return dq, dk, dv


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    queries, keys, values, cu_seqlens, ctx.max_seqlen = inputs
    ctx.save_for_backward(queries, keys, values, *output, cu_seqlens)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *packed_attention_backward(grad, *ctx.saved_tensors, ctx.max_seqlen), None, None


packed_attention.register_autograd(_differentiate, setup_context=_save)


def has_kernel(device: torch.device, head_dim: int) -> bool:
    """Return whether any variable-length kernel takes heads of this size on `device`."""
    return compute_capability(device) >= AMPERE and head_dim % 8 == 0 and head_dim <= 256


@lru_cache
def best_kernel(device: torch.device, head_dim: int) -> Kernel:
    """Return the fastest kernel that is installed and takes heads of this size on `device`."""
    return (newest_kernel(device) if head_dim in NEWEST_SIZES else None) or TORCH


def newest_kernel(device: torch.device) -> Kernel | None:
    """Return FlashAttention 4 where it is installed and runs on `device`, else None."""
    if compute_capability(device) not in NEWEST_KERNEL:
        return None
    try:
        from flash_attn.cute import interface
    except ImportError:
        return None

    def lengths(cu_seqlens: Tensor, max_seqlen: int) -> dict[str, Any]:
        """Return the lengths of queries and keys, which are the same tokens."""
        documents = {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens}
        return {**documents, "max_seqlen_q": max_seqlen, "max_seqlen_k": max_seqlen, "causal": True}

    def forward(
        queries: Tensor, keys: Tensor, values: Tensor, cu_seqlens: Tensor, max_seqlen: int
    ) -> tuple[Tensor, Tensor]:
        out, lse, *_ = interface._flash_attn_fwd(
            queries, keys, values, **lengths(cu_seqlens, max_seqlen), return_lse=True
        )
        return out, lse

    def backward(
        grad: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        out: Tensor,
        lse: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        same_bits = {"deterministic": torch.are_deterministic_algorithms_enabled()}
        dq, dk, dv, *_ = interface._flash_attn_bwd(
            queries, keys, values, out, grad, lse, **lengths(cu_seqlens, max_seqlen), **same_bits
        )
        return dq, dk, dv

    return Kernel(forward, backward)


def _torch_forward(
    queries: Tensor, keys: Tensor, values: Tensor, cu_seqlens: Tensor, max_seqlen: int
) -> tuple[Tensor, Tensor]:
    """FlashAttention 2, without dropout, causal."""
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        queries, keys, values, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, 0.0, True, False
    )
    return out, lse


def _torch_backward(
    grad: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
) -> tuple[Tensor, Tensor, Tensor]:
    seed, offset = (torch.zeros(2, dtype=torch.uint64, device=grad.device) for _ in range(2))  # unused: no dropout
    tensors, lengths = (grad, queries, keys, values, out, lse), (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
    dq, dk, dv = torch.ops.aten._flash_attention_backward(*tensors, *lengths, 0.0, True, seed, offset)
    return dq, dk, dv


TORCH = Kernel(_torch_forward, _torch_backward)
"""FlashAttention 2, which comes with torch."""
