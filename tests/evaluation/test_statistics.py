import random

import numpy as np
import pytest

from keylm.evaluation.keystrokes import measure_prediction
from keylm.evaluation.statistics import Tallies, ratio
from keylm.evaluation.typing_items import TypingItem


def test_a_ratio_is_of_sums_not_of_means():
    assert ratio([(1, 1), (0, 9)], 0)["value"] == pytest.approx(0.1)


def test_an_interval_is_that_of_the_binomial_where_items_are_single_words():
    parts = [(float(n < 120), 1.0) for n in range(400)]
    found = ratio(parts, 0)
    half = 1.96 * (0.3 * 0.7 / 400) ** 0.5
    assert found["low"] == pytest.approx(0.3 - half, abs=0.006)
    assert found["high"] == pytest.approx(0.3 + half, abs=0.006)
    assert found["stderr"] == pytest.approx(half / 1.96, abs=0.001)


def test_words_of_one_document_do_not_count_as_many():
    single = ratio([(float(n % 2), 1.0) for n in range(400)], 0)
    clustered = ratio([(20.0 * (n % 2), 20.0) for n in range(20)], 0)
    assert clustered["high"] - clustered["low"] > 3 * (single["high"] - single["low"])


def test_one_item_has_no_interval():
    assert ratio([(1, 2)], 0) == {"value": 0.5, "low": None, "high": None, "stderr": None}


def test_items_without_anything_to_count_give_no_row():
    tallies = Tallies()
    tallies.add("a", "model", 0, -1, 0)
    tallies.add("b", "model", 0, 1, 2, "tokens")
    assert [(row["measure"], row["n"], row["unit"]) for row in tallies.rows("set", 0)] == [("b", 1, "tokens")]


def test_the_seed_decides_the_interval():
    parts = [(float(x), 1.0) for x in np.random.default_rng(1).random(30)]
    assert ratio(parts, 5) == ratio(parts, 5)
    assert ratio(parts, 5) != ratio(parts, 6)


def test_intervals_cover_the_skill_of_a_model_whose_skill_is_known():
    text = "one two three four five six seven eight nine ten eleven twelve"
    items = [TypingItem(number, text, text) for number in range(40)]
    skill, covered, rounds = 0.35, 0, 100
    for number in range(rounds):
        chance = random.Random(number)

        def suggest(before, partial, chance=chance):
            word = text[len(before) :].split()[0]
            return [word] if chance.random() < skill else ["wrong"]

        tallies = Tallies()
        assert list(measure_prediction({"stub": suggest}, items, tallies)) == list(range(1, 41))
        [row] = [row for row in tallies.rows("set", number) if row["measure"] == "next word top-1"]
        assert row["n"] == 40
        covered += row["low"] <= skill <= row["high"]
    # 95 % of 100 is 95; four standard errors below it is 86.
    assert covered >= 86
