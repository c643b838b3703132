"""How fast attention over packed documents is, by kernel, on a run's own windows.

    keylm data build RECIPE --run-dir RUN
    python -m tools.speed.attention RUN [--windows 16] [--kernels causal masked flex flash2 flash4]

Forward and backward of one layer of the run's shape in bf16. `causal` ignores documents (the bound for a dense kernel);
`masked` is the plain way with a dense mask; `flex` is FlexAttention with a block mask; the others are variable-length
kernels: `flash2` comes with torch, `flash4` is the package flash-attn-4. Prints milliseconds, operations a second
within documents, and the largest difference from `masked` in fp32.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from keylm.base.machine import device_name
from keylm.data.curriculum import BatchLoader, Curriculum
from keylm.data.store import finished_store
from keylm.model.attention import TORCH, Kernel, document_mask, newest_kernel
from keylm.recipe.run_folder import RunFolder
from keylm.training.prefetch import cumulative_lengths
from tools.command import run_script, script_parser

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries [B, L, heads, D], keys and values [B, L, KV heads, D] to [B, L, heads, D]."""


def heads_first(*tensors: Tensor) -> list[Tensor]:
    """Return [B, heads, L, D] of [B, L, heads, D]."""
    return [tensor.transpose(1, 2) for tensor in tensors]


def causal(documents: Tensor) -> Attention:
    """Return plain causal attention; documents see each other."""

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q, k, v = heads_first(queries, keys, values)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)

    return attend


def masked(documents: Tensor) -> Attention:
    """Return attention with a dense mask, keys and values repeated for all heads."""
    mask = document_mask(documents)

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        groups = queries.shape[2] // keys.shape[2]
        q, k, v = heads_first(queries, keys.repeat_interleave(groups, 2), values.repeat_interleave(groups, 2))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    return attend


def flex(documents: Tensor) -> Attention:
    """Return compiled FlexAttention over the blocks that any document touches."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (documents[batch, query] == documents[batch, key])

    rows, length = documents.shape
    blocks = torch.compile(create_block_mask)(seen, rows, None, length, length, device=documents.device)
    kernel = torch.compile(flex_attention)

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q, k, v = heads_first(queries, keys, values)
        attended: Any = kernel(q, k, v, block_mask=blocks, enable_gqa=True)
        return attended.transpose(1, 2)

    return attend


def packed(documents: Tensor, kernel: Kernel | None) -> Attention:
    """Return one of keylm's variable-length kernels over the documents, one after the other."""
    cu_seqlens, length = boundaries(documents), documents.shape[1]
    if kernel is None:
        raise RuntimeError("flash-attn-4 is not installed, or the GPU is older than Hopper")

    class Packed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Tensor) -> Tensor:
            out, lse = kernel.forward(*tensors, cu_seqlens, length)
            ctx.save_for_backward(*tensors, out, lse)
            return out

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
            return kernel.backward(grads[0].contiguous(), *ctx.saved_tensors, cu_seqlens, length)

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        flat = [tensor.flatten(0, 1) for tensor in (queries, keys, values)]
        return Packed.apply(*flat).view_as(queries)  # type: ignore[no-untyped-call, no-any-return]

    return attend


def boundaries(documents: Tensor) -> Tensor:
    """Return int32 [documents + 1]: where each one begins in the flattened windows, and where the last one ends."""
    return torch.from_numpy(cumulative_lengths(documents.cpu().numpy())).to(documents.device)


KERNELS = {
    "causal": causal,
    "masked": masked,
    "flex": flex,
    "flash2": lambda documents: packed(documents, TORCH),
    "flash4": lambda documents: packed(documents, newest_kernel(documents.device)),
}


def heads_of(recipe: Any, windows: int, kind: torch.dtype, device: torch.device) -> list[Tensor]:
    """Return random queries, keys and values of the recipe's shape."""
    shape = recipe.model
    sizes = (shape.num_attention_heads, shape.num_key_value_heads, shape.num_key_value_heads)
    torch.manual_seed(0)
    drawn = [torch.randn(windows, recipe.training.context, size, shape.head_dim, device=device) for size in sizes]
    return [tensor.to(kind).requires_grad_() for tensor in drawn]


def milliseconds(attend: Attention, tensors: list[Tensor], device: torch.device, repeats: int) -> float:
    """Return the mean time of forward and backward."""
    for _ in range(3):
        attend(*tensors).sum().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        attend(*tensors).sum().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats * 1e3


def main() -> None:
    """Measure from the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS), choices=list(KERNELS))
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    recipe, device = run.saved_recipe(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    store = finished_store(run.shards, verify="none")
    batch = BatchLoader(Curriculum(recipe, store.layout), store).batch(0)
    documents = torch.from_numpy(np.ascontiguousarray(batch.documents[: arguments.windows])).to(device)
    lengths = boundaries(documents).diff().float()
    print(
        f"{device_name(device)}, torch {torch.__version__}, {documents.shape[0]} windows of {documents.shape[1]}, ",
        end="",
    )
    print(f"{len(lengths)} documents, {lengths.mean():.0f} tokens each")
    # 12 operations a head, dimension and pair of tokens, as training_speed.py counts them.
    pairs = (lengths.double() * (lengths.double() + 1) / 2).sum().item()
    flops = 12 * recipe.model.num_attention_heads * recipe.model.head_dim * pairs
    exact = masked(documents)(*heads_of(recipe, len(documents), torch.float32, device)).detach()
    for name in arguments.kernels:
        tensors = heads_of(recipe, len(documents), torch.bfloat16, device)
        try:
            attend = KERNELS[name](documents)
            off = (attend(*tensors).detach().float() - exact).abs().max().item()
            spent = milliseconds(attend, tensors, device, arguments.repeats)
        except (RuntimeError, NotImplementedError, TypeError, AssertionError) as error:
            print(f"{name:8} cannot run here: {str(error).splitlines()[0][:300]}")
            continue
        print(f"{name:8} {spent:8.3f} ms   {flops / spent / 1e9:7.1f} TFLOP/s   {off:.4f} off")


if __name__ == "__main__":
    run_script(main)
