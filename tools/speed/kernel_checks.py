"""Whether the decoder's kernels compute, on this GPU and in a model's own shapes, what the plain formulas do."""

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch

from keylm.runtimes.cached_decoder import CachedDecoder
from keylm.runtimes.decoding import FusedOperations, Newest, PlainOperations, Spots
from keylm.runtimes.sampling import RowSettings, text_seed

ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 0.01}
"""Relative difference of a kernel from its formula."""


def checked_kernels(decoder: CachedDecoder) -> dict[str, Any]:
    """Return each kernel's relative difference from the formula; one that fails or differs is replaced by it."""
    fused, plain = decoder.operations, PlainOperations()
    if not isinstance(fused, FusedOperations):
        return {"kernels": "none on this device"}
    found: dict[str, Any] = {}
    for name, case in _cases(decoder).items():
        try:
            exact = [each.double() for each in case(plain)]
            pairs = zip(case(fused), exact, strict=True)
            found[name] = max(float((one.double() - other).norm() / other.norm()) for one, other in pairs)
            wrong = "" if found[name] < ALLOWED[decoder.dtype] else "differs"
        except Exception as error:
            traceback.print_exc()
            wrong = f"{type(error).__name__}: {str(error)[:300]}"
        if wrong:
            found[name] = {"replaced": wrong, "difference": found.get(name)}
            setattr(fused, name, getattr(plain, name))
    return found


def _cases(decoder: CachedDecoder) -> dict[str, Callable[[PlainOperations], Sequence[torch.Tensor]]]:
    """Return a call of each operation, in the decoder's shapes."""
    shape, heads, device = decoder.shape, decoder._heads, decoder.device
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int, kind: torch.dtype = decoder.dtype) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(device, kind)

    lengths = (1, 130, 64, 190)
    total = sum(lengths)
    hidden, change, weight = normal(9, shape.hidden_size), normal(9, shape.hidden_size), normal(shape.hidden_size)
    states, weights = (
        normal(total, heads.queries + 2 * heads.kv, heads.size),
        normal(heads.queries + heads.kv, heads.size),
    )
    q, k, v = (normal(total, count, heads.size) for count in (heads.queries, heads.kv, heads.kv))
    keys, values = (normal(5, heads.kv, 256, heads.size) for _ in range(2))
    rows, places = torch.tensor([3, 0, 4, 1], device=device), torch.tensor([0, 255, 64, 63], device=device)
    owners = torch.repeat_interleave(torch.tensor(lengths)).to(device)
    spots = Spots(owners, *(torch.cat([torch.arange(each) for each in lengths]).to(device) for _ in range(2)))
    floats = (
        torch.tensor(each, device=device)
        for each in ([0.9, 1.0, 0.8, 1.0], [0.0, 0.0, 0.02, 0.0], [1.1, 1.0, 1.3, 1.0])
    )
    seeds = torch.tensor([text_seed(0, number) for number in range(4)], device=device)
    temperatures, top_ks = torch.tensor([0.7, 0.0, 1.2, 1.0], device=device), torch.tensor([0, 0, 40, 0], device=device)
    settings = RowSettings(temperatures, top_ks.int(), *floats, seeds)
    logits, seen = normal(4, decoder.vocab_size, kind=torch.float32) * 3, normal(4, decoder.vocab_size) > 1
    order, written = torch.tensor([2, 0, 3, 1], device=device), torch.arange(4, device=device)

    def stored(operations: PlainOperations) -> Sequence[torch.Tensor]:
        cache = keys.clone(), values.clone()
        found = operations.turn_and_store(states, weights, decoder._rotation, heads, cache, spots, True)
        return [*found, *cache]

    return {
        "add_norm": lambda o: o.add_norm(hidden, change, weight, 1e-6),
        "turn_and_store": stored,
        "attend_cached": lambda o: [
            o.attend_cached(q[:4], (keys, values), Newest(Spots(rows, places, places), 256), heads)
        ],
        "attend_whole": lambda o: [o.attend_whole(q, k, v, lengths, heads)],
        "gate": lambda o: [o.gate(torch.cat((hidden, change), 1))],
        "choose": lambda o: list(o.choose(logits, order, settings, written, seen, True)[:2]),
    }
