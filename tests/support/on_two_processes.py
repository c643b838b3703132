"""What test_sharded_parts.py starts as two processes: the parts of sharded training against the plain ones."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from shapes import shape  # a script: its own folder is on the path
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from keylm.base.errors import FailedElsewhere, KeylmError
from keylm.model.attention import Packing
from keylm.model.decoder import Decoder, initialise
from keylm.recipe.schema import Optimizer
from keylm.training import checkpoint, distributed
from keylm.training.distributed import Ranks, join
from keylm.training.objective import Objective
from keylm.training.optimizer import Muon, Optimizers
from keylm.training.prefetch import MicroBatch
from keylm.training.sharding import clip_gradients, is_sharded, local, shard, synchronise


def muon_equals_plain_muon(ranks: Ranks, folder: Path) -> None:
    """Matrices of odd numbers and rows, also with no row on one rank; likewise with normalised neurons."""
    for normalise in (False, True):
        _muon_equals_plain_muon(ranks, normalise)


def _muon_equals_plain_muon(ranks: Ranks, normalise: bool) -> None:
    spread = spreader(ranks)
    generator = torch.Generator().manual_seed(0)
    shapes = [*[(8, 8)] * 3, (7, 12), (24, 5), (1, 4)]
    plain = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    sharded = [torch.nn.Parameter(spread(parameter.detach())) for parameter in plain]
    ours, theirs = (Muon(parameters, 0.02, 0.1, normalise) for parameters in (sharded, plain))
    for _ in range(3):
        for one, other in zip(plain, sharded, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = spread(one.grad)
        ours.step()
        theirs.step()
    assert local(sharded[-1]).shape[0] == (1 if ranks.leads else 0)
    for one, other in zip(plain, sharded, strict=True):
        assert is_sharded(ours.state[other]["momentum"])
        torch.testing.assert_close(other.full_tensor(), one, rtol=1e-6, atol=1e-6)


def fused_adamw_takes_shards(ranks: Ranks, folder: Path) -> None:
    """What AdamW is on a GPU."""
    spread = spreader(ranks)
    generator = torch.Generator().manual_seed(0)
    plain = torch.nn.Parameter(torch.randn((7, 3), generator=generator))
    sharded = torch.nn.Parameter(spread(plain.detach()))
    ours, theirs = (torch.optim.AdamW([parameter], fused=True) for parameter in (sharded, plain))
    for _ in range(2):
        plain.grad = torch.randn((7, 3), generator=generator)
        sharded.grad = spread(plain.grad)
        ours.step()
        theirs.step()
    torch.testing.assert_close(sharded.full_tensor(), plain, rtol=1e-6, atol=1e-6)
    assert not is_sharded(ours.state[sharded]["step"])


def gradients_are_those_of_all_ranks(ranks: Ranks, folder: Path) -> None:
    """In bf16 with two micro-batches a rank, the norm and what validation asks for as well."""
    whole, decoder = (decoder_of(50) for _ in range(2))
    objective = Objective(decoder, 0.01, 0.5)
    shard(objective, decoder, ranks, bf16=True)
    tokens = torch.randint(0, 50, (4, 16), generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, part = Objective(whole, 0.01, 0.5), MicroBatch(tokens, tokens, Packing(), None)
        with torch.no_grad():
            torch.testing.assert_close(objective.token_losses(part), plain.token_losses(part), rtol=0.05, atol=0.05)
        (plain(*part).total / 64).backward()
    mine = tokens[ranks.rank * 2 : ranks.rank * 2 + 2]
    for row in range(2):
        part = mine[row : row + 1]
        synchronise(objective, row == 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (objective(part, part, Packing(), None).total * 2 / 64).backward()
    for (name, one), other in zip(whole.named_parameters(), decoder.parameters(), strict=True):
        gradient = other.grad.full_tensor()
        assert gradient.dtype == torch.float32 == other.dtype
        scale = one.grad.abs().max().item()
        torch.testing.assert_close(gradient, one.grad, rtol=0.1, atol=0.05 * scale, msg=name)
    norms = [clip_gradients(model.parameters(), 0.5).item() for model in (decoder, whole)]
    assert norms[0] == pytest.approx(norms[1], rel=0.02)
    assert clip_gradients(decoder.parameters(), 1.0).item() == pytest.approx(0.5, rel=1e-3)


def state_at(step: int) -> checkpoint.CheckpointState:
    return checkpoint.CheckpointState(step=step, recipe="r", shards="x")


def a_write_that_fails_on_one_rank_is_heard_of_on_all(ranks: Ranks, folder: Path) -> None:
    """And leaves nothing behind."""
    decoder, aside = decoder_of(50), ranks.aside()
    shard(Objective(decoder, 0.0, 0.0), decoder, ranks, bf16=False)
    optimizers = Optimizers(decoder, Optimizer())
    arguments = decoder.state_dict(), optimizers.state_tensors(), aside
    checkpoint.save_sharded_checkpoint(folder, state_at(1), *arguments)
    if not ranks.leads:
        torch.distributed.checkpoint.filesystem.FileSystemWriter._write_data = _full
    distributed.LEAVE_SECONDS = 0.1
    with pytest.raises(KeylmError, match="No space left") as caught:
        checkpoint.save_sharded_checkpoint(folder, state_at(2), *arguments)
    if ranks.leads:
        assert "step-00000002: cannot be written by process 1: " in str(caught.value)
    else:
        assert isinstance(caught.value, FailedElsewhere)
    ranks.wait()
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def spreader(ranks: Ranks) -> Callable[[Tensor], Tensor]:
    mesh = init_device_mesh("cpu", (ranks.world_size,))
    return lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)])


def decoder_of(vocabulary: int) -> Decoder:
    decoder = Decoder(shape(intermediate_size=50), vocabulary)
    initialise(decoder, 3)
    for parameter in decoder.parameters():  # projections and head start at (about) zero
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return decoder


CHECKS = (
    muon_equals_plain_muon,
    fused_adamw_takes_shards,
    gradients_are_those_of_all_ranks,
    a_write_that_fails_on_one_rank_is_heard_of_on_all,
)

if __name__ == "__main__":
    with join("cpu") as ranks:
        for check in CHECKS:
            own = Path(sys.argv[1]) / check.__name__
            ranks.lead(own.mkdir)
            check(ranks, own)
            if ranks.leads:
                print(f"passed: {check.__name__}", flush=True)
