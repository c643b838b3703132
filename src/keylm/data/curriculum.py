"""The curriculum is arithmetic: `batch(step)` is a pure function of (manifest, stages, seed, step).

How a window of the run is found, without visiting any window before it:
1. the step's place in the run gives the stage and the window's number in it;
2. a fixed pattern of 1,000 places per stage gives its source. The pattern holds each source in exact proportion
   and spreads it evenly; as it repeats, every run of 1,000 consecutive windows holds the exact proportions;
3. counting that source's places before it (whole patterns times the count, plus a table look-up, plus what
   earlier stages gave) numbers the window within its source;
4. that number, divided by the source's windows, gives epoch and place. In the first epoch the source's shards come
   in the order in which they are built, in later ones in a seeded order; the place gives the shard;
5. the place within the shard goes through a seeded permutation, a Feistel network that can be evaluated at any index
   (Black & Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002);
6. with `data.repack`, each epoch after the first packs the documents of a shard in an order of its own, into as many
   windows (`Shard.repacked`), of which 5. then takes one.

So resuming is a number, the world size does not change the batches, anyone with the manifest can recompute any
batch, and a window of the first epoch is known as soon as its shard is: training can begin while later shards are
still being built, and gives the same batches. The cost is about 20 microseconds of host time a window.
"""

import hashlib
import heapq
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from keylm.data.shards import Window
from keylm.data.store import ShardStore
from keylm.recipe.load import Recipe, stage_steps
from keylm.recipe.stage import PATTERN_WINDOWS, Stage

FEISTEL_ROUNDS = 6

Layout = Callable[[str, int], Sequence[int]]
"""(source, number) → the windows of each of the source's training shards, in order: of all of them, or, while they
are being built, of enough to hold window `number` of the first epoch."""


def fixed(shards: Mapping[str, Sequence[int]]) -> Layout:
    """Return the layout of finished sources: each one's windows per shard."""
    return lambda source, number: shards[source]


@dataclass(frozen=True)
class Pick:
    """Which window is at a position of the run."""

    source: str
    epoch: int
    shard: int
    window: int
    """its number within the shard"""
    packing: str
    """names the order in which the shard's documents are packed; empty: as it was built"""


@dataclass(frozen=True)
class Batch:
    """A rank's share of one global batch."""

    tokens: npt.NDArray[np.int64]
    """int64 [windows, context]"""
    labels: npt.NDArray[np.int64]
    """int64 [windows, context]: next tokens, -100 where no loss is taken"""
    documents: npt.NDArray[np.int32]
    """int32 [windows, context]: which document of its window a token belongs to"""
    sources: npt.NDArray[np.int64]
    """int64 [windows]: index into `Curriculum.sources`"""
    partners: npt.NDArray[np.int64] | None = None
    """int64 [windows, context]: position whose prediction this one is pulled towards, -1: none; None: no pairs"""


class Curriculum:
    """The order of all windows of a run."""

    def __init__(self, recipe: Recipe, layout: Layout = lambda source, number: ()) -> None:
        """Plan `recipe` over the shards of `layout`; without one, everything but the place of a window is known."""
        self.sources = list(recipe.used_sources)
        self.batch_windows = recipe.training.batch_windows
        self._seed, self._repack = recipe.seed, recipe.data.repack
        self._layout = layout
        self._steps = stage_steps(recipe)
        self._patterns = [_Pattern(stage, self.sources) for stage in recipe.stages.values()]
        self._names = list(recipe.stages)
        self._ends = list(accumulate(self._steps.values()))
        self._given = self._given_before_stages()

    @property
    def total_steps(self) -> int:
        """Optimizer steps in the whole run."""
        return self._ends[-1]

    def stage_ends(self) -> dict[str, int]:
        """Return, for each stage, the step at which it is over."""
        return dict(zip(self._names, self._ends, strict=True))

    def place(self, step: int) -> tuple[str, int, int]:
        """Return the stage of `step`, the step's number within it, and the stage's number of steps."""
        index = bisect_right(self._ends, step)
        if step < 0 or index == len(self._ends):
            raise IndexError(f"step {step} is not in 0 … {self.total_steps - 1}")
        name = self._names[index]
        return name, step - (self._ends[index] - self._steps[name]), self._steps[name]

    def given(self, step: int) -> dict[str, int]:
        """Return how many windows each source has given before `step` (up to the end: `total_steps`)."""
        index = min(bisect_right(self._ends, step), len(self._ends) - 1)
        start = self._ends[index] - self._steps[self._names[index]]
        counts = self._patterns[index].counts_before((step - start) * self.batch_windows)
        return {name: self._given[index][n] + int(counts[n]) for n, name in enumerate(self.sources)}

    def picks(self, step: int) -> list[Pick]:
        """Return the windows of `step`'s global batch, in order."""
        name, within, _ = self.place(step)
        stage = self._names.index(name)
        first = within * self.batch_windows
        return [self._pick(stage, place) for place in range(first, first + self.batch_windows)]

    def _pick(self, stage: int, place: int) -> Pick:
        pattern = self._patterns[stage]
        index = pattern.source(place)
        source = self.sources[index]
        number = self._given[stage][index] + int(pattern.counts_before(place)[index])
        epoch, shard, within, size = self._locate(source, number)
        key = f"{self._seed}/{source}/{epoch}/{shard}"
        return Pick(source, epoch, shard, permute(within, size, key), key if self._repack and epoch else "")

    def _locate(self, source: str, number: int) -> tuple[int, int, int, int]:
        """Return window `number`'s epoch and shard, its place in that shard's turn, and the shard's windows."""
        shards = tuple(self._layout(source, number))
        epoch, position = divmod(number, sum(shards))
        key = f"{self._seed}/{source}/{epoch}" if epoch else ""
        ends = _shard_ends(shards, key)
        turn = bisect_right(ends, position)
        shard = permute(turn, len(shards), key) if epoch else turn
        return epoch, shard, position - (ends[turn - 1] if turn else 0), shards[shard]

    def needed_at(self, source: str, window: int) -> float:
        """Return the first step that takes more than `window` windows of a source; infinity if none does."""
        low, high = 0, self.total_steps
        if self.given(high)[source] <= window:
            return math.inf
        while low < high:
            middle = (low + high) // 2
            if self.given(middle + 1)[source] > window:
                high = middle
            else:
                low = middle + 1
        return low

    def upcoming(self, step: int) -> Iterator[tuple[float, str, int]]:
        """Yield (step, source, shard) in the order in which shards are needed, from those in use at `step` on."""
        given = self.given(step)
        return heapq.merge(*(self._upcoming(source, given[source]) for source in self.sources))

    def _upcoming(self, source: str, number: int) -> Iterator[tuple[float, str, int]]:
        while (needed := self.needed_at(source, number)) < math.inf:
            _, shard, within, size = self._locate(source, number)
            yield needed, source, shard
            number += size - within

    def shards_begun(self, step: int) -> dict[str, int]:
        """Return how many of each source's shards were read from before `step`."""
        begun = {}
        for source, number in self.given(step).items():
            shards = self._layout(source, number - 1) if number else ()
            begun[source] = min(bisect_left(list(accumulate(shards)), number) + 1, len(shards)) if number else 0
        return begun

    def _given_before_stages(self) -> list[list[int]]:
        """Return, for each stage, how many windows each source gave in the stages before it."""
        given = [[0] * len(self.sources)]
        for name, pattern in zip(self._names, self._patterns, strict=True):
            counts = pattern.counts_before(self._steps[name] * self.batch_windows)
            given.append([before + int(count) for before, count in zip(given[-1], counts, strict=True)])
        return given


@lru_cache(maxsize=1024)
def _shard_ends(shards: tuple[int, ...], key: str) -> list[int]:
    """Return where each shard ends in an epoch: in order, or in the order of the permutation that `key` names."""
    order = (permute(place, len(shards), key) for place in range(len(shards))) if key else range(len(shards))
    return list(accumulate(shards[shard] for shard in order))


class _Pattern:
    """A stage's repeating pattern of PATTERN_WINDOWS places, each with the index of its source."""

    def __init__(self, stage: Stage, sources: list[str]) -> None:
        counts = proportions([stage.weights.get(name, 0.0) for name in sources])
        # The k-th of a source's n places belongs at (k + 1/2) / n of the pattern.
        places = [((2 * k + 1) / (2 * n), index) for index, n in enumerate(counts) for k in range(n)]
        self._order = np.array([index for _, index in sorted(places)])
        one_hot = self._order[:, None] == np.arange(len(sources))
        self._before = np.vstack([np.zeros(len(sources), dtype=np.int64), np.cumsum(one_hot, axis=0)])

    def source(self, place: int) -> int:
        return int(self._order[place % PATTERN_WINDOWS])

    def counts_before(self, place: int) -> npt.NDArray[np.int64]:
        rounds, rest = divmod(place, PATTERN_WINDOWS)
        counts: npt.NDArray[np.int64] = rounds * self._before[-1] + self._before[rest]
        return counts


def proportions(weights: list[float]) -> list[int]:
    """Return whole numbers in proportion to `weights` that sum to PATTERN_WINDOWS (largest remainders)."""
    total = sum(weights)
    exact = [weight / total * PATTERN_WINDOWS for weight in weights]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(weights)), key=lambda n: (counts[n] - exact[n], n))
    for n in by_remainder[: PATTERN_WINDOWS - sum(counts)]:
        counts[n] += 1
    return counts


def permute(index: int, size: int, key: str) -> int:
    """Return where `index` goes in the permutation of 0 … size-1 that `key` names.

    A Feistel network on the next even number of bits is a bijection; walking on until the value is below `size`
    makes it one on 0 … size-1, in fewer than four rounds on average.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    digest = _key_bytes(key)
    while True:
        left, right = index >> half, index & ((1 << half) - 1)
        for number in range(FEISTEL_ROUNDS):
            message = bytes([number]) + right.to_bytes(8, "little")
            mixed = hashlib.blake2b(message, key=digest, digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(mixed, "little") & ((1 << half) - 1))
        index = left << half | right
        if index < size:
            return index


@lru_cache(maxsize=256)
def _key_bytes(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=32).digest()


class BatchLoader:
    """Reads the windows that the curriculum picks."""

    def __init__(self, curriculum: Curriculum, store: ShardStore) -> None:
        self.curriculum, self._store = curriculum, store

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Return rank `rank`'s share of `step`'s global batch: the shares, in order, are the global batch."""
        picks = self.curriculum.picks(step)
        share = picks[rank * len(picks) // world_size : (rank + 1) * len(picks) // world_size]
        windows = [self._store.shard(p.source, p.shard, packing=p.packing).window(p.window) for p in share]
        return stack(windows, [self.curriculum.sources.index(pick.source) for pick in share])


def stack(windows: list[Window], sources: list[int]) -> Batch:
    """Return windows as one batch; `sources` are their sources' indices."""
    return Batch(
        tokens=np.stack([window.tokens for window in windows]).astype(np.int64),
        labels=np.stack([window.labels for window in windows]),
        documents=np.stack([window.documents for window in windows]),
        sources=np.array(sources, dtype=np.int64),
        partners=_stacked_partners(windows),
    )


def _stacked_partners(windows: list[Window]) -> npt.NDArray[np.int64] | None:
    if all(window.partners is None for window in windows):
        return None
    nobody = np.full(len(windows[0].tokens), -1, dtype=np.int64)
    return np.stack([nobody if window.partners is None else window.partners for window in windows])
