"""Variable-length attention equals masked attention; the kernels themselves are tested in tests/gpu."""

import itertools

import numpy as np
import pytest
import torch
from support.shapes import shape
from torch import Tensor

from keylm.model.attention import Packing, attend, document_mask, packed_attention, packed_attention_backward
from keylm.model.decoder import Decoder, initialise
from keylm.training.prefetch import cumulative_lengths

GROUPED = shape(num_attention_heads=4, num_key_value_heads=2, head_dim=8)
NUMBERS = np.array([[0] * 5 + [1] * 1 + [2] * 10, [0] * 16, [0] * 15 + [1]], dtype=np.int32)


def probabilities(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Return causal attention's weights of one document, [heads, length, length], and their log-denominators."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1) > 0, -torch.inf)
    return scores.softmax(-1), scores.logsumexp(-1)


def documents(cu_seqlens: Tensor, queries: Tensor, *tensors: Tensor):
    """Yield each document's range, and its part of the tensors, heads first, those of keys and values repeated."""
    for begin, end in itertools.pairwise(cu_seqlens.tolist()):
        parts = [tensor[begin:end].transpose(0, 1) for tensor in (queries, *tensors)]
        yield slice(begin, end), [part.repeat_interleave(queries.shape[1] // len(part), 0) for part in parts]


@pytest.fixture(scope="module", autouse=True)
def kernels_on_the_cpu():
    """Give the operations a slow body for the CPU, where they have none, so that what surrounds them can be tested."""

    @packed_attention.register_kernel("cpu")
    def forward(queries, keys, values, cu_seqlens, longest):
        assert cu_seqlens.diff().max() <= longest
        out, lse = torch.empty_like(queries), queries.new_empty(queries.shape[1], len(queries))
        for part, (q, k, v) in documents(cu_seqlens, queries, keys, values):
            weights, lse[:, part] = probabilities(q, k)
            out[part] = (weights @ v).transpose(0, 1)
        return out, lse

    @packed_attention_backward.register_kernel("cpu")
    def backward(grad, queries, keys, values, out, lse, cu_seqlens, longest):
        gradients = [torch.zeros(tensor.shape) for tensor in (queries, keys, values)]
        for part, (q, k, v, outer) in documents(cu_seqlens, queries, keys, values, grad):
            weights, _ = probabilities(q, k)
            inner = outer @ v.mT
            inner = weights * (inner - (inner * weights).sum(-1, keepdim=True)) / q.shape[-1] ** 0.5
            for gradient, found in zip(gradients, (inner @ k, inner.mT @ q, weights.mT @ outer), strict=True):
                gradient[part] = found.unflatten(0, (gradient.shape[1], -1)).sum(1).transpose(0, 1)
        return tuple(gradients)


def test_documents_start_where_ids_change_and_windows_start():
    assert cumulative_lengths(NUMBERS).tolist() == [0, 5, 6, 16, 32, 47, 48]
    assert cumulative_lengths(NUMBERS).dtype == np.int32


def test_a_document_mask_is_causal_within_documents():
    mask = document_mask(torch.from_numpy(NUMBERS))[:, 0]
    for window, row, column in np.ndindex(3, 16, 16):
        allowed = column <= row and NUMBERS[window, row] == NUMBERS[window, column]
        assert bool(mask[window, row, column]) == allowed


def test_both_ways_give_the_same_output():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 16, heads, 8, generator=generator) for heads in (4, 2, 2))
    cu_seqlens = torch.from_numpy(cumulative_lengths(NUMBERS))
    by_mask = attend(q, k, v, None, document_mask(torch.from_numpy(NUMBERS)))
    torch.testing.assert_close(attend(q, k, v, cu_seqlens, None), by_mask)


@pytest.mark.parametrize("compiled", [False, True])
def test_both_ways_give_the_model_the_same_gradients(compiled: bool, monkeypatch):
    # Captured, made functional and cut into a forward and a backward graph; writing C++ for them would take half a
    # minute, and kernels that are written are tested in tests/gpu.
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **k: compile(*a, **k, backend="aot_eager_decomp_partition"))
    gradients = []
    for packing in (
        Packing(document_ids=torch.from_numpy(NUMBERS)),
        Packing(cu_seqlens=torch.from_numpy(cumulative_lengths(NUMBERS))),
    ):
        model = Decoder(GROUPED, 40)
        initialise(model, 1)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
        if compiled and packing.cu_seqlens is not None:
            torch._dynamo.mark_dynamic(packing.cu_seqlens, 0)
            model.model.compile_layers()
        tokens = torch.randint(0, 40, NUMBERS.shape, generator=torch.Generator().manual_seed(3))
        torch.nn.functional.cross_entropy(model(tokens, packing).flatten(0, 1), tokens.roll(-1).flatten()).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    by_mask, by_begins = gradients
    for name, gradient in by_mask.items():
        torch.testing.assert_close(by_begins[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(("layers", "together"), [(8, 4), (6, 3), (5, 1)])
def test_all_groups_of_layers_share_one_compilation(layers: int, together: int, monkeypatch):
    torch._dynamo.reset()
    model = Decoder(GROUPED.model_copy(update={"num_hidden_layers": layers}), 40)
    initialise(model, 1)
    counted, compile = torch._dynamo.testing.CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **k: compile(*a, **k, backend=counted))
    model.model.compile_layers()
    assert model.model._together == together
    for documents in (NUMBERS, np.zeros_like(NUMBERS)):  # another number of documents is no reason to compile anew
        cu_seqlens = torch.from_numpy(cumulative_lengths(documents))
        torch._dynamo.mark_dynamic(cu_seqlens, 0)
        model(torch.zeros(3, 16, dtype=torch.int64), Packing(cu_seqlens=cu_seqlens))
    assert counted.frame_count == 1
