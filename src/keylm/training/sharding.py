"""Fully sharded training (FSDP2): each process holds its rows of every parameter, gradient and optimizer state.

A block's parameters are gathered just before it computes and let go after it; gradients are averaged over ranks and
scattered in backward (Zhao et al., arXiv 2304.11277; torch.distributed.fsdp.fully_shard). Sharded tensors are
DTensors cut along dimension 0 as torch.chunk cuts: ceil(rows / processes) rows each, the last ones fewer or none.

Nothing here is imported from torch before it is needed: that costs over a second, which most runs need not pay.
"""

import math
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from keylm.base.errors import KeylmError
from keylm.model.decoder import Decoder
from keylm.training.distributed import Ranks


def shard(objective: nn.Module, decoder: Decoder, ranks: Ranks, *, bf16: bool) -> None:
    """Shard the parameters of `objective`, which holds `decoder`, over all ranks, in place.

    Every rank must hold the same weights; they may still be on the CPU. With `bf16` parameters are gathered in bf16
    and gradients averaged in fp32; the shards are the fp32 master weights either way.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    # Inputs stay as they are: rotations are fp32, and autocast sees to the products.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    for layer in decoder.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(objective, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    # What runs first is the root, and validation does; every rank calls it as often.
    register_fsdp_forward_method(objective, "token_losses")


def synchronise(objective: nn.Module, on: bool) -> None:
    """Say whether the coming backward averages gradients over ranks, or adds them up on each."""
    objective.set_requires_gradient_sync(on)  # type: ignore[operator]  # FSDP makes it an FSDPModule


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is spread over processes."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """Return this process's rows of a sharded tensor, sharing its memory; another tensor as it is."""
    rows: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return rows


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale all gradients together to a norm of at most `most`; return the one they had over all ranks, fp32 []."""
    parameters = list(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if is_sharded(norm):
        norm = norm.full_tensor()  # type: ignore[attr-defined]
    torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


def on_whole_matrices(work: Callable[[Tensor], Tensor], shards: Tensor, like: Tensor) -> Tensor:
    """Return `work` of whole matrices, of which each rank has a shard; fp32 [n, own rows, columns] like `shards`.

    `shards` stacks this rank's rows of n matrices sharded as `like` is. Each rank is given ceil(n / ranks) of them
    whole, so that the work is shared, and hands the rows back. Rows and matrices are padded with zeros to equal
    parts. On a GPU everything travels in bf16, in which `work` computes there anyway.
    """
    count, own, columns = shards.shape
    rows, group = like.shape[0], like.device_mesh.get_group()  # type: ignore[attr-defined]
    ranks = dist.get_world_size(group)
    chunk, each = math.ceil(rows / ranks), math.ceil(count / ranks)
    sent = shards.bfloat16() if shards.is_cuda else shards
    sent = F.pad(sent, (0, 0, 0, chunk - own, 0, each * ranks - count)).contiguous()
    arrived = torch.empty_like(sent)
    dist.all_to_all_single(arrived, sent, group=group)
    whole = arrived.view(ranks, each, chunk, columns).transpose(0, 1).reshape(each, ranks * chunk, columns)
    done = F.pad(work(whole[:, :rows]).to(sent.dtype), (0, 0, 0, ranks * chunk - rows))
    sent = done.view(each, ranks, chunk, columns).transpose(0, 1).contiguous()
    dist.all_to_all_single(arrived.view_as(sent), sent, group=group)
    return arrived[:count, :own].float()


def check_even(windows: int, processes: int, micro_batch: int) -> None:
    """Raise KeylmError where processes would have unequal numbers of micro-batches: sharded ones step together."""
    most, least = (math.ceil(share / micro_batch) for share in (math.ceil(windows / processes), windows // processes))
    if most != least:
        raise KeylmError(
            f"training.parallel = 'fsdp': {windows} windows a batch give some of {processes} processes {most} "
            f"micro-batches of {micro_batch} windows and others {least}; accepted: training.batch_tokens or "
            "training.micro_batch_windows with which all have the same number, or parallel = 'ddp'"
        )
