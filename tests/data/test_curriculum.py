"""The order of all windows: exact proportions, permutations, O(1) resume, the same batches on any world size."""

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recipes import tiny_recipe

from keylm.data.build import build_shards
from keylm.data.curriculum import BatchLoader, Curriculum, fixed, permute, proportions
from keylm.data.provenance import DataProvenance
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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    folder = tmp_path_factory.mktemp("built")
    recipe = tiny_recipe(folder)
    train_tokenizer(tokenizer_sample(recipe, recipe.sources), recipe.tokenizer.vocab_size, folder / "tokenizer", 32)
    build_shards(recipe, DataProvenance.of(recipe), folder / "tokenizer", folder / "shards", quiet=True)
    return recipe, folder


@given(step=st.integers(0, 3), world_size=st.integers(1, 8))
def test_the_global_batch_is_the_same_on_any_number_of_ranks(built: tuple[Recipe, Path], step: int, world_size: int):
    recipe, folder = built
    store = finished_store(folder / "shards", verify="none")
    loader = BatchLoader(Curriculum(recipe, store.layout), store)
    whole = loader.batch(step)
    shares = [loader.batch(step, rank, world_size) for rank in range(world_size)]
    for name in ("tokens", "labels", "documents", "sources"):
        joined = np.concatenate([getattr(share, name) for share in shares])
        np.testing.assert_array_equal(joined, getattr(whole, name))


def test_steps_outside_the_run_are_refused():
    curriculum = Curriculum(recipe_with(STAGES), fixed(SHARDS))
    for step in (-1, curriculum.total_steps):
        with pytest.raises(IndexError, match=f"step {step} is not in"):
            curriculum.place(step)
