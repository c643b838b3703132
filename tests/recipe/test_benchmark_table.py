"""The table of benchmarks: what a row accepts, and that a new row is all that a new benchmark needs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keylm.base.errors import KeylmError
from keylm.recipe.benchmark_table import BENCHMARKS, published_models, read_benchmarks

SOURCE = Path(__file__).parents[2] / "src"
ROW = """
[riddles]
suite = "card"
title = "Riddles"
metrics = ["acc"]
chance = 0.5
harness = "piqa/piqa.yaml"
files = { validation = "riddles/validation.jsonl" }
mistyped = "goal"
item = { known_by = "riddle", stem = "riddle", choices = ["first", "second"], gold = "right" }
training = { hub = "someone/riddles", split = "validation", prompt = "Riddle: {riddle}" }
published = { "KeyLM-75M" = 12.5 }
"""
OTHER = ROW.replace("riddles]", "others]").replace("0.5", "0.25")
EVERYWHERE = r"""
import json, sys
from pathlib import Path
from keylm.curate.decontamination import Decontaminator
from keylm.evaluation.benchmarks import SUITES
from keylm.evaluation.prompt_noise import noises
from keylm.evaluation.results import CARD, table
from keylm.evaluation.robustness import curves
from keylm.evaluation.task_files import harness_folders, write_task_files
from keylm.recipe.benchmark_table import published_models
from keylm.recipe.schema import Evaluation
from keylm.report.run_report import MAIN
from keylm.training.benchmarks_in_training import choice_item
from keylm.recipe.benchmark_table import TRAINING

folder = Path(sys.argv[1])
record = json.loads((folder / "data/riddles/validation.jsonl").read_text())
found = Decontaminator.from_paths([folder / "data"]).check(f"{record['riddle']} {record['first']}")
measured = {"metrics": {"acc": {"value": 0.5, "stderr": 0.1}}, "n": 9}
point = {"benchmark": "riddles", "metric": "acc", "seed": 0, "stderr": 0.01, "n": 9}
points = [{**point, "rate": 0, "value": 0.9}, {**point, "rate": 20, "value": 0.7}]
print(json.dumps({
    "suite": "riddles" in SUITES["card"],
    "mistyped": [name for name in SUITES["robustness_20"] if name.startswith("riddles")],
    "row": [str(figure.line.title) for figure in table({"riddles": measured}, CARD)],
    "published": [row["figures"]["Riddles acc"] for row in published_models() if "Riddles acc" in row["figures"]],
    "tasks": sorted(write_task_files(folder / "data", folder / "tasks")),
    "files": sorted(file.name for file in (folder / "tasks").iterdir()),
    "folders": [place.name for place in harness_folders(["riddles"])],
    "held": found.items,
    "area": curves(points)["area"],
    "report": MAIN["riddles"],
    "prompt": choice_item(record, TRAINING["riddles"]).prompt,
    "recipe": Evaluation(benchmarks=("riddles",)).benchmarks,
}))
"""


def test_a_new_row_is_found_in_every_place(tmp_path):
    pytest.importorskip("lm_eval")
    shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "src/keylm/recipe/benchmarks.toml").open("a") as table:
        table.write(ROW)
    (tmp_path / "data/riddles").mkdir(parents=True)
    riddle = "What has a bed but never sleeps and a mouth but never eats"
    record = {"riddle": riddle, "first": "a river", "second": "a lazy giant", "right": 0}
    (tmp_path / "data/riddles/validation.jsonl").write_text(json.dumps(record) + "\n")
    command = [sys.executable, "-c", EVERYWHERE, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    noisy = [f"riddles_typos_{rate}_{seed}" for rate in (10, 20, 5) for seed in (1, 2, 3)]
    assert found == {
        "suite": True,
        "mistyped": noisy[3:6],
        "row": ["Riddles acc"],
        "published": [12.5],
        "tasks": ["riddles", *noisy],
        "files": ["riddles.yaml", *(f"{name}.yaml" for name in noisy)],
        "folders": ["piqa"],
        "held": {"riddles": {"0": 15}},
        "area": pytest.approx(0.75),
        "report": ["acc", 0.5],
        "prompt": f"Riddle: {riddle}",
        "recipe": ["riddles"],
    }


def test_files_of_the_harness_are_there():
    lm_eval = pytest.importorskip("lm_eval")
    tasks = Path(lm_eval.__file__).parent / "tasks"
    for name, row in BENCHMARKS.items():
        place = tasks / row.harness
        assert place.is_dir() if row.has_parts else place.is_file(), name


def test_published_figures_are_per_cent_of_models_with_a_source():
    models = {row["model"]: row for row in published_models()}
    for name, row in BENCHMARKS.items():
        assert set(row.published) <= set(models), name
        assert all(1 < figure < 100 for figure in row.published.values()), name
    assert all(row["source"] and row["parameters"] and row["figures"] for row in models.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"card"', '"other"', "riddles.suite: .*'card' or 'extras'"),
        ("chance = 0.5", "chance = 1.5", "riddles.chance: .*less than 1"),
        ("chance = 0.5", "", "riddles: .*mistyped: needs chance"),
        ('gold = "right"', "gold = 0", ""),
        (', gold = "right"', "", "training: needs item.choices and item.gold"),
        ("piqa/piqa.yaml", "piqa", "harness: a folder where files name"),
        ("title =", "titel =", "riddles.title: is missing"),
        ('"Riddles"', '"Riddles"\nstands_in_for = "nothing"', "riddles.stands_in_for: 'nothing'; accepted: riddles"),
        (
            "[riddles]",
            f"{ROW.replace('riddles]', 'others]').replace('0.5', '0.25')}\n[riddles]",
            "riddles.chance: another",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_rejected(old, new, message, tmp_path):
    assert old in ROW
    file = tmp_path / "benchmarks.toml"
    file.write_text(ROW.replace(old, new, 1))
    if not message:
        assert read_benchmarks(file)["riddles"].item.gold == 0
        return
    with pytest.raises(KeylmError, match=message):
        read_benchmarks(file)
