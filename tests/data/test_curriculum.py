"""The order of all windows: exact proportions, permutations, O(1) resume, the same batches on any world size."""

import json
import time
import weakref
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recipes import tiny_recipe

from keylm.data.build import build_shards
from keylm.data.curriculum import BatchLoader, Curriculum, fixed, permute, proportions
from keylm.data.provenance import DataProvenance
from keylm.data.shards import RepackedShard, Shard
from keylm.data.store import finished_store
from keylm.data.tokenizer_sample import tokenizer_sample
from keylm.recipe.load import Recipe, parse_recipe
from keylm.text.tokenizer import train_tokenizer

SHARDS = {"a": [300, 250, 150], "b": [90], "c": [7, 6]}


def recipe_with(stages: dict[str, dict[str, float]], batch_windows: int = 7, seed: int = 5) -> Recipe:
    shape = dict(zip(["hidden_size", "num_hidden_layers", "num_attention_heads"], [32, 1, 2], strict=True))
    shape |= {"num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 64, "max_position_embeddings": 16}
    data = {
        "name": "order",
        "seed": seed,
        "model": shape,
        "sources": {name: {"path": "x"} for name in SHARDS},
        "stages": {name: {"tokens": 16 * 2000, "weights": weights} for name, weights in stages.items()},
        "training": {"batch_tokens": 16 * batch_windows, "context": 16},
    }
    return parse_recipe(json.loads(json.dumps(data)), "test")


STAGES = {"first": {"a": 0.6, "b": 0.3, "c": 0.1}, "second": {"a": 1.0, "c": 2.0}}


def all_picks(recipe: Recipe) -> dict[str, list]:
    curriculum = Curriculum(recipe, fixed(SHARDS))
    by_stage: dict[str, list] = {}
    for step in range(curriculum.total_steps):
        by_stage.setdefault(curriculum.place(step)[0], []).extend(curriculum.picks(step))
    return by_stage


def test_every_thousand_consecutive_windows_hold_the_exact_proportions():
    picks = [pick.source for pick in all_picks(recipe_with(STAGES))["first"]]
    for start in range(0, len(picks) - 1000, 37):
        assert Counter(picks[start : start + 1000]) == {"a": 600, "b": 300, "c": 100}


def test_sources_are_spread_evenly_and_not_in_blocks():
    picks = [pick.source for pick in all_picks(recipe_with(STAGES))["first"]]
    for start in range(0, 1900):
        assert abs(picks[start : start + 20].count("a") - 12) <= 2


def test_an_epoch_shows_every_window_once_and_the_next_in_another_order_across_stages():
    picks = [pick for stage in all_picks(recipe_with(STAGES)).values() for pick in stage]
    for source, shards in SHARDS.items():
        of_source = [pick for pick in picks if pick.source == source]
        epochs = {
            number: [(p.shard, p.window) for p in of_source if p.epoch == number]
            for number in range(of_source[-1].epoch)
        }
        assert of_source == sorted(of_source, key=lambda pick: pick.epoch)
        for shown in epochs.values():
            assert sorted(shown) == [(shard, n) for shard, size in enumerate(shards) for n in range(size)]
        if len(epochs) > 1:
            assert epochs[0] != epochs[1]


def test_given_counts_what_the_picks_gave():
    curriculum = Curriculum(recipe_with(STAGES), fixed(SHARDS))
    shown: Counter[str] = Counter()
    for step in range(curriculum.total_steps):
        assert curriculum.given(step) == {name: shown[name] for name in SHARDS}
        shown.update(pick.source for pick in curriculum.picks(step))
    assert curriculum.given(curriculum.total_steps) == dict(shown)


def test_a_late_step_costs_no_more_than_the_first():
    recipe = recipe_with({"long": {"a": 1.0}})
    data = recipe.to_data()
    data["stages"]["long"]["tokens"] = 10**15
    curriculum = Curriculum(parse_recipe(data, "test"), fixed({**SHARDS, "a": [10**7] * 100}))
    started = time.perf_counter()
    assert len(curriculum.picks(curriculum.total_steps - 1)) == 7
    assert time.perf_counter() - started < 0.1


def test_the_seed_changes_the_order_and_nothing_else():
    one, two = (all_picks(recipe_with(STAGES, seed=seed))["first"] for seed in (1, 2))
    assert [pick.source for pick in one] == [pick.source for pick in two]
    assert [pick.window for pick in one] != [pick.window for pick in two]


@given(st.integers(1, 3000), st.text(max_size=8))
def test_permute_is_a_bijection(size: int, key: str):
    assert sorted(permute(index, size, key) for index in range(size)) == list(range(size))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30).filter(lambda weights: sum(weights) > 0))
def test_proportions_sum_to_a_thousand_and_are_within_one(weights: list[float]):
    counts = proportions(weights)
    assert sum(counts) == 1000
    assert all(abs(n - 1000 * w / sum(weights)) <= 1 for n, w in zip(counts, weights, strict=True))


# Every source is gone through several times, those of texts in several shards.
REPEATED = [
    *("data.repack=true", "data.shard_tokens=512", "sources.tales.max_bytes=6000", "sources.notes.max_bytes=3000"),
    *("sources.chat.max_bytes=1000", "stages.pretrain.tokens=12288", "stages.chat.tokens=8192"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    folder = tmp_path_factory.mktemp("built")
    recipe = tiny_recipe(folder, REPEATED)
    train_tokenizer(tokenizer_sample(recipe, recipe.sources), recipe.tokenizer.vocab_size, folder / "tokenizer", 32)
    build_shards(recipe, DataProvenance.of(recipe), folder / "tokenizer", folder / "shards", quiet=True)
    return recipe, folder


@given(step=st.integers(0, 79), world_size=st.integers(1, 8))
def test_the_global_batch_is_the_same_on_any_number_of_ranks(built: tuple[Recipe, Path], step: int, world_size: int):
    recipe, folder = built
    store = finished_store(folder / "shards", verify="none")
    loader = BatchLoader(Curriculum(recipe, store.layout), store)
    whole = loader.batch(step)
    shares = [loader.batch(step, rank, world_size) for rank in range(world_size)]
    for name in ("tokens", "labels", "documents", "sources"):
        joined = np.concatenate([getattr(share, name) for share in shares])
        np.testing.assert_array_equal(joined, getattr(whole, name))


def epochs(loader: BatchLoader, source: str) -> list[Counter[bytes]]:
    """Return the windows of each whole epoch of a source, as the bytes of their tokens and labels."""
    found: dict[int, Counter[bytes]] = defaultdict(Counter)
    for step in range(loader.curriculum.total_steps):
        batch = loader.batch(step)
        for number, pick in enumerate(loader.curriculum.picks(step)):
            if pick.source == source:
                found[pick.epoch][np.stack([batch.tokens[number], batch.labels[number]]).tobytes()] += 1
    return [found[number] for number in range(len(found) - 1)]


def learnt(windows: Counter[bytes]) -> Counter[tuple[int, int]]:
    """Return how often each token has each label."""
    pairs = Counter()
    for window, times in windows.items():
        for pair in zip(*np.frombuffer(window, np.int64).reshape(2, -1).tolist(), strict=True):
            pairs[pair] += times
    return pairs


@pytest.mark.parametrize("source", ["tales", "notes", "chat"])
def test_a_repacked_epoch_has_other_windows_of_the_same_documents_and_conversations_stay(
    source: str, built: tuple[Recipe, Path]
) -> None:
    store = finished_store(built[1] / "shards")
    first, *later = epochs(BatchLoader(Curriculum(built[0], store.layout), store), source)
    plain = built[0].model_copy(update={"data": built[0].data.model_copy(update={"repack": False})})
    same = epochs(BatchLoader(Curriculum(plain, store.layout), store), source)
    assert len(later) >= 2
    assert same == [first] * len(same), "without repack the windows are the same again"
    for number, epoch in enumerate(later):
        assert learnt(epoch) == learnt(first)
        if source == "chat":
            assert epoch == first
        else:
            assert (epoch & first).total() < first.total() / 2
            assert epoch not in later[:number]


def test_a_batch_is_the_same_whatever_was_read_before_it(built: tuple[Recipe, Path]) -> None:
    store = finished_store(built[1] / "shards")
    loader = BatchLoader(Curriculum(built[0], store.layout), store)
    straight = [loader.batch(step) for step in range(loader.curriculum.total_steps)]
    assert any(pick.packing for pick in loader.curriculum.picks(40))
    for step in (79, 40, 41, 7, 60):
        fresh = finished_store(built[1] / "shards")
        for again in (loader, BatchLoader(Curriculum(built[0], fresh.layout), fresh)):
            np.testing.assert_array_equal(again.batch(step).tokens, straight[step].tokens)
            np.testing.assert_array_equal(again.batch(step).labels, straight[step].labels)


def test_one_repacked_shard_of_each_source_is_kept_and_none_is_made_twice(
    built: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    alive: weakref.WeakSet[Shard] = weakref.WeakSet()
    original = Shard.repacked

    def repacked(shard: Shard, order: str) -> Shard:
        made.append(order)
        result = original(shard, order)
        alive.update([result] if isinstance(result, RepackedShard) else [])
        return result

    monkeypatch.setattr(Shard, "repacked", repacked)
    store = finished_store(built[1] / "shards")
    for name in ("tales", "notes", "chat"):
        assert name == "chat" or len(store.layout(name, 10**9)) > 1
        for shard in range(len(store.layout(name, 10**9))):
            store.shard(name, shard)  # opened, as all are by the end of the first epoch
    loader = BatchLoader(Curriculum(built[0], store.layout), store)
    orders: dict[str, None] = {}
    for step in range(loader.curriculum.total_steps):
        loader.batch(step)
        orders |= dict.fromkeys(pick.packing for pick in loader.curriculum.picks(step) if pick.packing)
        assert len(alive) <= 2, "of tales and of notes"
    assert len(alive) == 2
    assert made == list(orders)


def test_steps_outside_the_run_are_refused():
    curriculum = Curriculum(recipe_with(STAGES), fixed(SHARDS))
    for step in (-1, curriculum.total_steps):
        with pytest.raises(IndexError, match=f"step {step} is not in"):
            curriculum.place(step)
