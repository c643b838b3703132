"""The fused kernels give what the plain formulas give, both ways.

On a GPU as they are; without one through Triton's interpreter, where the package is installed and
TRITON_INTERPRET=1 is set.
"""

import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from keylm.model.decoder import RMSNorm, rope, rotate
from keylm.model.fused import HAS_TRITON, norm_rotate, swiglu

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
runs = HAS_TRITON and (DEVICE.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1")
pytestmark = pytest.mark.skipif(not runs, reason="needs an NVIDIA GPU, or Triton's interpreter")
KINDS = [(torch.float32, 1e-5), (torch.bfloat16, 0.006)]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def distance(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact.double()).norm() / exact.double().norm()).item()


@pytest.mark.parametrize(("kind", "most"), KINDS)
@pytest.mark.parametrize("shape", [(32, 128), (5, 24), (33, 300)])
def test_swiglu_both_ways(kind: torch.dtype, most: float, shape: tuple[int, int]):
    drawn, grad = normal(shape[0], 2 * shape[1], seed=0).to(kind), normal(*shape, seed=1).to(kind)
    exact = drawn.double().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    expected = F.silu(gate) * up
    expected.backward(grad.double())
    both = drawn.requires_grad_()
    found = swiglu(both)
    found.backward(grad)
    assert found.dtype == both.grad.dtype == kind
    assert distance(found, expected) < most
    assert distance(both.grad, exact.grad) < most


@pytest.mark.parametrize(("kind", "most"), KINDS)
@pytest.mark.parametrize(("windows", "length", "size"), [(2, 16, 16), (3, 7, 64)])
def test_norms_and_rotation_both_ways(kind: torch.dtype, most: float, windows: int, length: int, size: int):
    queries, kv, tokens = 4, 2, windows * length
    drawn = normal(tokens, queries + 2 * kv, size, seed=0).to(kind)
    norms = [RMSNorm(size, 1e-6).to(DEVICE) for _ in range(2)]
    for number, norm in enumerate(norms):
        norm.weight.data += 0.3 * normal(size, seed=number + 1)
    rotation = rope(length, size, 10_000.0, DEVICE)
    loss_and_grad = [normal(tokens, count, size, seed=5).to(kind) for count in (queries, kv, kv)]

    exact = drawn.double().requires_grad_()
    q, k, v = torch.split(exact.view(windows, length, -1, size).float(), [queries, kv, kv], dim=2)
    expected = [rotate(norms[0](q), rotation), rotate(norms[1](k), rotation), v]
    torch.autograd.backward(
        expected, [grad.view_as(e).float() for grad, e in zip(loss_and_grad, expected, strict=True)]
    )
    wanted = [exact.grad, *[norm.weight.grad for norm in norms]]

    heads, weights = drawn.requires_grad_(), [norm.weight.detach().requires_grad_() for norm in norms]
    found = norm_rotate(heads, *weights, *rotation, kv, 1e-6)
    torch.autograd.backward(found, loss_and_grad)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == kind
        assert distance(ours.view_as(theirs), theirs) < most
    for ours, theirs in zip([heads.grad, *[weight.grad for weight in weights]], wanted, strict=True):
        assert distance(ours, theirs) < most
