"""The fit of loss against tokens: it finds what made the points, and counts repeated tokens for less."""

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from support.recipes import tiny_recipe

BUDGETS = np.array([50e6, 100e6, 200e6, 400e6])


@pytest.fixture
def scaling():
    return importlib.import_module("tools.studies.scaling_fit")


def results(file: Path, floor: float, scale: float, alpha: float, noise: float = 0.0) -> Path:
    """Write a grid's results whose sources follow one law, each with a factor of its own and a noise."""
    random = np.random.default_rng(0)
    factors = dict(zip("abcdef", (0.8, 0.9, 1.0, 1.0, 1.1, 1.2), strict=True))
    variants = {}
    for tokens in BUDGETS:
        loss = floor + scale * tokens**-alpha
        bits = {name: factor * loss * (1 + noise * random.normal()) for name, factor in factors.items()}
        run = {"seed": 1, "error": None, "tokens": tokens, "bits_per_byte": bits}
        variants[f"t{tokens:.0f}"] = {"runs": [run]}
    variants["broken"] = {"runs": [{"seed": 1, "error": "diverged", "tokens": 7}]}
    file.write_text(json.dumps({"weights": dict.fromkeys(factors, 1 / 6), "variants": variants}))
    return file


@pytest.mark.parametrize(("floor", "scale", "alpha"), [(0.8, 60.0, 0.28), (1.1, 4000.0, 0.55), (0.0, 8.0, 0.1)])
def test_the_law_behind_exact_points_is_found(scaling, floor, scale, alpha):
    law = scaling.fit(BUDGETS, floor + scale * BUDGETS**-alpha)
    assert law.alpha == pytest.approx(alpha, abs=1e-4)
    assert law.floor == pytest.approx(floor, abs=1e-3)
    assert law.scale == pytest.approx(scale, rel=5e-3)
    assert law.at(18e9) == pytest.approx(floor + scale * 18e9**-alpha, abs=1e-3)


def test_one_outlier_among_many_points_hardly_moves_the_law(scaling):
    tokens = np.geomspace(20e6, 2e9, 12)
    losses = 0.8 + 60 * tokens**-0.28
    losses[5] *= 1.05
    law = scaling.fit(tokens, losses)
    assert law.at(18e9) == pytest.approx(0.8 + 60 * 18e9**-0.28, abs=2e-3)


def test_results_of_a_grid_give_a_prediction_with_its_spreads(scaling, tmp_path, capsys):
    file = results(tmp_path / "results.json", 0.8, 60.0, 0.28, noise=0.002)
    points = scaling.read_points([file], None)
    assert [point.tokens for point in points] == list(BUDGETS)
    found = scaling.analyse(points, {"long": 18e9}, None)["predictions"]["long"]
    truth = 0.8 + 60 * 18e9**-0.28
    low, high = found["interval"]
    assert low < found["bits_per_byte"] < high
    assert abs(found["bits_per_byte"] - truth) < 0.1
    assert found["without_a_point"][0] < found["without_a_point"][1]
    scaling.main([str(file)])
    said = capsys.readouterr().out
    assert "18,000,000,000 tokens, all new" in said
    assert "an extrapolation" in said
    assert "repeated" not in said
    with pytest.raises(SystemExit, match="runs of 2 lengths"):
        scaling.main([str(file), "--only", "t50000000", "t100000000"])


def test_repeated_tokens_count_for_less(scaling):
    weights, unique = {"a": 0.5, "b": 0.5}, {"a": 100.0, "b": 1000.0}
    assert scaling.effective_tokens(200, weights, unique) == 200
    worth = 100 + 100 * 15.4 * (1 - math.exp(-9 / 15.4)) + 1000
    assert scaling.effective_tokens(2000, weights, unique) == pytest.approx(worth)
    assert scaling.effective_tokens(1e12, weights, unique) == pytest.approx(1100 * 16.4)


def test_a_run_folder_is_a_point_once_it_has_come_to_its_end(scaling, tmp_path):
    recipe = tiny_recipe(tmp_path)
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    metrics = tmp_path / "metrics.jsonl"
    row = {"kind": "validation", "step": 10, "tokens": 2560, "bits_per_byte": {"tales": 2.0, "notes": 1.0, "chat": 1.0}}
    metrics.write_text(json.dumps(row) + "\n")
    (point,) = scaling.read_points([metrics], None)
    assert point.tokens == 2560
    assert point.weights["chat"] == pytest.approx(0.8 * 4 / 10)
    assert point.weights["tales"] == pytest.approx(0.75 * 6 / 10 + 0.2 * 4 / 10)
    metrics.write_text(json.dumps({**row, "tokens": 1536}) + "\n")
    with pytest.raises(SystemExit, match="has not come to its end"):
        scaling.read_points([metrics], None)
