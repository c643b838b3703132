"""Shards of any sizes: every window once an epoch, known before later shards are, and needed when the picks say."""

import json
import math
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keylm.data.curriculum import Curriculum, Pick, fixed
from keylm.recipe.load import Recipe, parse_recipe

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=8)
layouts = st.fixed_dictionaries({"a": sizes, "b": sizes})
Shards = dict[str, list[int]]


def recipe_with(first: int, second: int, batch_windows: int, seed: int = 3) -> Recipe:
    """Return a recipe of two stages of so many windows over the sources a and b."""
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    shape |= {"head_dim": 16, "intermediate_size": 64, "max_position_embeddings": 16}
    data = {
        "name": "shards",
        "seed": seed,
        "model": shape,
        "sources": {"a": {"path": "x"}, "b": {"path": "x"}},
        "stages": {
            "first": {"tokens": 16 * first, "weights": {"a": 2.0, "b": 1.0}},
            "second": {"tokens": 16 * second, "weights": {"b": 3.0, "a": 1.0}},
        },
        "training": {"batch_tokens": 16 * batch_windows, "context": 16},
    }
    return parse_recipe(json.loads(json.dumps(data)), "test")


def picked(curriculum: Curriculum) -> list[list[Pick]]:
    return [curriculum.picks(step) for step in range(curriculum.total_steps)]


@given(layouts, st.integers(1, 9))
def test_every_window_comes_once_an_epoch_whatever_the_shards_sizes(shards: Shards, batch_windows: int) -> None:
    picks = [pick for step in picked(Curriculum(recipe_with(150, 150, batch_windows), fixed(shards))) for pick in step]
    for source, each in shards.items():
        windows = {(shard, window) for shard, size in enumerate(each) for window in range(size)}
        of_source = [pick for pick in picks if pick.source == source]
        for start in range(0, len(of_source), len(windows)):
            epoch = of_source[start : start + len(windows)]
            assert {pick.epoch for pick in epoch} == {start // len(windows)}
            shown = Counter((pick.shard, pick.window) for pick in epoch)
            assert max(shown.values()) == 1
            assert shown.keys() <= windows
            assert len(epoch) < len(windows) or shown.keys() == windows


def test_epochs_differ_in_the_order_of_shards_and_of_windows_within_each() -> None:
    shards = {"a": [20, 30, 10, 25, 15], "b": [10]}
    picks = [p for step in picked(Curriculum(recipe_with(900, 1, 10), fixed(shards))) for p in step if p.source == "a"]
    epochs = [picks[start : start + 100] for start in range(0, 500, 100)]
    orders = [list(dict.fromkeys(pick.shard for pick in epoch)) for epoch in epochs]
    assert all(len(order) == 5 for order in orders), "a shard is read to its end before the next"
    assert orders[0] == [0, 1, 2, 3, 4]
    assert len({tuple(order) for order in orders}) > 2
    within = {tuple(pick.window for pick in epoch if pick.shard == 1) for epoch in epochs}
    assert len(within) == 5
    assert tuple(range(30)) not in within


@given(layouts, sizes, st.integers(1, 9))
def test_the_first_epoch_does_not_depend_on_shards_that_come_later(
    shards: Shards, more: list[int], batch_windows: int
) -> None:
    recipe = recipe_with(100, 60, batch_windows)
    longer = Curriculum(recipe, fixed({"a": shards["a"] + more, "b": shards["b"] + more[::-1]}))
    for ours, theirs in zip(picked(Curriculum(recipe, fixed(shards))), picked(longer), strict=True):
        assert [pick for pick in ours if pick.epoch == 0] == [
            other for pick, other in zip(ours, theirs, strict=True) if pick.epoch == 0
        ]


@given(layouts, st.integers(1, 9))
def test_no_more_shards_are_asked_for_than_hold_the_window(shards: Shards, batch_windows: int) -> None:
    recipe = recipe_with(120, 40, batch_windows)

    def growing(source: str, number: int) -> list[int]:
        """Give what a build has made that makes one shard after the other, just in time."""
        each = shards[source]
        count = next((n for n in range(1, len(each) + 1) if sum(each[:n]) > number), len(each))
        return each[:count]

    assert picked(Curriculum(recipe, growing)) == picked(Curriculum(recipe, fixed(shards)))


@settings(max_examples=40)
@given(layouts, st.integers(1, 9), st.integers(1, 80), st.integers(1, 80))
def test_what_is_needed_when_is_what_a_count_over_all_picks_gives(
    shards: Shards, batch_windows: int, first: int, second: int
) -> None:
    curriculum = Curriculum(recipe_with(first, second, batch_windows), fixed(shards))
    steps = picked(curriculum)
    shown = {
        source: [number for number, step in enumerate(steps) for p in step if p.source == source] for source in shards
    }
    for source, taken in shown.items():
        for window in {0, 1, len(taken) // 2, len(taken) - 1, len(taken), len(taken) + 5} - {-1}:
            assert curriculum.needed_at(source, window) == (taken[window] if window < len(taken) else math.inf)
    begun: dict[str, set[int]] = {source: set() for source in shards}
    for step, picks in enumerate(steps):
        assert curriculum.shards_begun(step) == {source: len(used) for source, used in begun.items()}
        if step in (0, len(steps) // 3, len(steps) - 1):
            coming = list(curriculum.upcoming(step))
            assert sorted(coming) == upcoming(steps, step)
            assert [needed for needed, _, _ in coming] == sorted(needed for needed, _, _ in coming)
        for pick in picks:
            begun[pick.source].add(pick.shard)
    assert curriculum.shards_begun(len(steps)) == {source: len(used) for source, used in begun.items()}


def upcoming(steps: list[list[Pick]], step: int) -> list[tuple[float, str, int]]:
    """Return (first step from `step` on that reads it, source, shard) for each turn of each shard."""
    turns: dict[tuple[str, int, int], int] = {}
    for number in range(step, len(steps)):
        for pick in steps[number]:
            turns.setdefault((pick.source, pick.epoch, pick.shard), number)
    return sorted((float(number), source, shard) for (source, _, shard), number in turns.items())


@given(layouts, st.integers(1, 9))
def test_repacking_changes_no_window_of_the_first_epoch_and_the_places_of_none(shards: Shards, windows: int) -> None:
    plain = recipe_with(150, 150, windows)
    repacking = plain.model_copy(update={"data": plain.data.model_copy(update={"repack": True})})
    steps = zip(*(picked(Curriculum(recipe, fixed(shards))) for recipe in (plain, repacking)), strict=True)
    packings: dict[str, tuple[str, int, int]] = {}
    for ours, theirs in (pair for step in steps for pair in zip(*step, strict=True)):
        assert replace(theirs, packing="") == ours
        assert bool(theirs.packing) == (theirs.epoch > 0)
        if theirs.packing:
            place = theirs.source, theirs.epoch, theirs.shard
            assert packings.setdefault(theirs.packing, place) == place, "each turn of a shard has an order of its own"


def test_the_windows_of_two_sources_are_drawn_apart() -> None:
    shards = {"a": [50], "b": [50]}
    orders = defaultdict(list)
    for step in picked(Curriculum(recipe_with(75, 75, 5), fixed(shards))):
        for pick in step:
            orders[pick.source].append(pick.window)
    assert orders["a"][:50] != orders["b"][:50]


@pytest.mark.parametrize("shards", [{"a": [1], "b": [1]}, {"a": [1] * 30, "b": [1, 1]}])
def test_shards_of_one_window_are_read_over_and_over(shards: Shards) -> None:
    curriculum = Curriculum(recipe_with(200, 50, 4), fixed(shards))
    picks = [pick for step in picked(curriculum) for pick in step if pick.source == "a"]
    assert {pick.window for pick in picks} == {0}
    assert picks[-1].epoch == (len(picks) - 1) // len(shards["a"])
