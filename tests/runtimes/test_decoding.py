"""The decoder's kernels give what the plain formulas give.

On a GPU as they are; without one through Triton's interpreter, where the package is installed and TRITON_INTERPRET=1 is
set. The interpreter multiplies no matrices in bf16, so attention is tried in fp16 there.
"""

import os

import pytest
import torch
from support.shapes import random_qwen3, shape
from torch import Tensor

from keylm.model.decoder import rope
from keylm.model.fused import HAS_TRITON
from keylm.runtimes.batch_generation import BatchGenerator
from keylm.runtimes.cached_decoder import CachedDecoder, Weights
from keylm.runtimes.decoding import FusedOperations, Heads, Newest, PlainOperations, Spots
from keylm.runtimes.sampling import RowSettings, Sampling, text_seed

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
runs = HAS_TRITON and (DEVICE.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1")
pytestmark = pytest.mark.skipif(not runs, reason="needs an NVIDIA GPU, or Triton's interpreter")
KINDS = [(torch.float32, 1e-5), (torch.bfloat16, 0.008)]
HEADS = Heads(queries=6, kv=2, size=32, eps=1e-6)
ROWS, CONTEXT = 5, 150


def normal(*shape: int, seed: int, kind: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, kind)


def close(found: Tensor, expected: Tensor, most: float) -> bool:
    assert found.dtype == expected.dtype
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item() < most


@pytest.mark.parametrize(("kind", "most"), KINDS)
@pytest.mark.parametrize("adds", [True, False])
def test_add_and_norm(kind: torch.dtype, most: float, adds: bool) -> None:
    hidden, weight = normal(7, 48, seed=0, kind=kind), normal(48, seed=1, kind=kind)
    change = normal(7, 48, seed=2, kind=kind) if adds else None
    for found, expected in zip(
        FusedOperations().add_norm(hidden, change, weight, 1e-6),
        PlainOperations().add_norm(hidden, change, weight, 1e-6),
        strict=True,
    ):
        assert close(found, expected, most)


def caches(kind: torch.dtype) -> tuple[Tensor, Tensor]:
    keys, values = (normal(ROWS, HEADS.kv, CONTEXT, HEADS.size, seed=seed, kind=kind) for seed in (3, 4))
    return keys, values


@pytest.mark.parametrize(("kind", "most"), KINDS)
@pytest.mark.parametrize("keep", [True, False])
def test_turning_and_storing(kind: torch.dtype, most: float, keep: bool) -> None:
    states = normal(9, HEADS.queries + 2 * HEADS.kv, HEADS.size, seed=5, kind=kind)
    weights = normal(HEADS.queries + HEADS.kv, HEADS.size, seed=6, kind=kind)
    cos, sin = rope(CONTEXT, HEADS.size, 10_000.0, DEVICE)
    rotation = cos[:, 0].contiguous(), sin[:, 0].contiguous()
    rows = torch.tensor([0, 0, 0, 3, 3, 1, 4, 4, 4], device=DEVICE)
    places = torch.tensor([7, 8, 9, 0, 1, 149, 77, 78, 79], device=DEVICE)
    spots = Spots(rows, places, (places - 3).clamp(min=0))  # as in a tree, where they differ
    results = []
    for operations in (FusedOperations(), PlainOperations()):
        cache = caches(kind)
        q, k, v = operations.turn_and_store(states, weights, rotation, HEADS, cache, spots, keep)
        results.append((q, *cache, *((k, v) if keep else ())))
    for found, expected in zip(*results, strict=True):
        assert close(found, expected, most)


@pytest.mark.parametrize(("kind", "most"), [KINDS[0], KINDS[1] if DEVICE.type == "cuda" else (torch.float16, 0.002)])
def test_attention_over_a_cache(kind: torch.dtype, most: float) -> None:
    q = normal(4, HEADS.queries, HEADS.size, seed=7, kind=kind) * 3
    places = torch.tensor([0, 149, 64, 63], device=DEVICE)  # one token; all; a block and a token; a block
    newest = Newest(Spots(torch.tensor([2, 0, 4, 3], device=DEVICE), places, places), CONTEXT)
    found, expected = (
        operations.attend_cached(q, caches(kind), newest, HEADS)
        for operations in (FusedOperations(), PlainOperations())
    )
    assert close(found, expected, most)


SETTINGS = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.6, "top_p": 0.7},
    {"temperature": 1.3, "top_k": 5},
    {"temperature": 1.0, "min_p": 0.05, "penalty": 1.4},
    {"temperature": 2.0, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "penalty": 0.8},
    {"temperature": 0.0, "penalty": 3.0},
]


def row_settings(chosen: list[dict[str, float]]) -> RowSettings:
    def column(name: str, default: float) -> Tensor:
        return torch.tensor([each.get(name, default) for each in chosen], device=DEVICE)

    seeds = torch.tensor([text_seed(3, number) for number in range(len(chosen))], device=DEVICE)
    floats = (column(name, default) for name, default in (("top_p", 1.0), ("min_p", 0.0), ("penalty", 1.0)))
    return RowSettings(column("temperature", 1.0), column("top_k", 0).int(), *floats, seeds)


@pytest.mark.parametrize("vocabulary", [300, 1024])
def test_tokens_and_their_log_probabilities(vocabulary: int) -> None:
    """The same tokens, not merely as likely ones: the noise is a hash, and truncation is exact."""
    settings = row_settings(SETTINGS * 6)
    count = len(settings.seed)
    logits = normal(count, vocabulary, seed=8) * 3
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(9)).to(DEVICE)
    written = torch.arange(count, device=DEVICE) * 7
    seen = normal(count, vocabulary, seed=10) > 1
    found, expected = (
        operations.choose(logits, rows, settings, written, seen, True)
        for operations in (FusedOperations(), PlainOperations())
    )
    assert found.ids.tolist() == expected.ids.tolist()
    assert torch.allclose(found.log_probabilities, expected.log_probabilities, atol=1e-4)
    assert not found.broken.any()
    assert len(set(found.ids.tolist())) > count // 3


def test_logits_that_are_no_numbers_are_told() -> None:
    logits = normal(4, 300, seed=11)
    logits[1, 7], logits[2, 299], logits[3, 0] = torch.nan, torch.inf, -torch.inf
    settings = row_settings([{}] * 4)
    zeros, seen = torch.zeros(4, dtype=torch.int64, device=DEVICE), torch.zeros(4, 300, dtype=torch.bool, device=DEVICE)
    for operations in (FusedOperations(), PlainOperations()):
        found = operations.choose(logits, torch.arange(4, device=DEVICE), settings, zeros, seen, True)
        assert found.broken.tolist() == [False, True, True, False]


def test_a_whole_decoder_with_the_kernels() -> None:
    """From the prompts' tokens to sampled ones, as BatchGenerator puts the operations together."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    model = random_qwen3(1, 120, **sizes, intermediate_size=48, max_position_embeddings=64)
    whole = shape(**sizes, intermediate_size=48, max_position_embeddings=64)
    weights = Weights(whole, 120, frozenset((0,)), False, dict(model.state_dict()))
    prompts = [list(range(5, 5 + length)) for length in (9, 1, 4)]
    found = []
    for operations in (FusedOperations(), PlainOperations()):
        decoder = CachedDecoder(weights, "fp32", DEVICE)
        decoder.operations = operations
        generator = BatchGenerator(decoder, rows=2, graphs=False)
        found.append(generator.generate(prompts, Sampling(6, 1.0, 0.95, 1.2, 4)))
    assert [each.ids for each in found[0]] == [each.ids for each in found[1]]
    for one, other in zip(*found, strict=True):
        assert torch.allclose(torch.tensor(one.log_probabilities), torch.tensor(other.log_probabilities), atol=1e-4)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs an NVIDIA GPU")
def test_graphs_change_nothing() -> None:
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    model = random_qwen3(1, 500, **sizes, intermediate_size=128, max_position_embeddings=256)
    whole = shape(**sizes, intermediate_size=128, max_position_embeddings=256)
    weights = Weights(whole, 500, frozenset((0,)), False, dict(model.state_dict()))
    prompts = [list(range(5, 5 + 3 * length)) for length in range(1, 30)]
    found = []
    for graphs in (True, False):
        generator = BatchGenerator(CachedDecoder(weights, "fp32", DEVICE), rows=12, graphs=graphs)
        found.append(generator.generate(prompts, Sampling(60, 1.0, 0.95, 1.2, 4)))
        assert generator.graphs == graphs, generator.why_no_graphs
    assert [each.ids for each in found[0]] == [each.ids for each in found[1]]
    for one, other in zip(*found, strict=True):
        assert torch.allclose(torch.tensor(one.log_probabilities), torch.tensor(other.log_probabilities), atol=1e-3)
