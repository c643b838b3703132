"""What decides a training makes another run, and nothing else does."""

import json
from pathlib import Path

import pytest
from support.recipes import tiny_recipe

from keylm.base.files import sha256_json, write_json
from keylm.recipe.run_folder import RunFolder
from keylm.recipe.run_identity import NEWER, TrainingProvenance, differences, identity, identity_hash


def test_what_decides_nothing_makes_no_other_run(tmp_path: Path):
    plain = identity_hash(tiny_recipe(tmp_path))
    for same in (
        *("training.parallel=fsdp", "training.micro_batch_windows=2"),
        *('evaluation.benchmarks=["piqa"]', "evaluation.benchmark_items=9", "evaluation.benchmarks_every_steps=9"),
    ):
        assert identity_hash(tiny_recipe(tmp_path, [same])) == plain, same
    faster = tiny_recipe(tmp_path, ["optimizer.muon_learning_rate=0.5"])
    assert differences(tiny_recipe(tmp_path), faster) == ["optimizer.muon_learning_rate was 0.02, is 0.5"]


@pytest.mark.parametrize(
    ("key", "value"), [("data.repack", True), ("stages.pretrain.average", 0.25), ("language", ["de"])]
)
def test_a_newer_field_makes_another_run_and_its_default_leaves_earlier_hashes(tmp_path: Path, key, value) -> None:
    given = ["stages.pretrain.decay=0.5"]
    plain, changed = tiny_recipe(tmp_path, given), tiny_recipe(tmp_path, [*given, f"{key}={json.dumps(value)}"])
    default = next(default for name, default in NEWER if key.endswith(name))
    assert differences(plain, changed) == [f"{key} was {default!r}, is {value!r}"]
    assert identity_hash(changed) != identity_hash(plain)
    names = {name for name, _ in NEWER}
    before = {key: value for key, value in identity(plain).items() if key.rpartition(".")[2] not in names}
    assert identity_hash(plain) == sha256_json(before)


def test_orders_count_which_tables_do_not_show(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    turned = recipe.model_copy(update={"sources": dict(reversed(recipe.sources.items()))})
    assert differences(recipe, turned) == [
        "order of sources was ['tales', 'notes', 'chat'], is ['chat', 'notes', 'tales']"
    ]
    turned = recipe.model_copy(update={"stages": dict(reversed(recipe.stages.items()))})
    assert identity_hash(turned) != identity_hash(recipe)


def test_an_initial_model_counts_by_its_weights_not_by_its_path(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    one, two = (tiny_recipe(tmp_path, [f"training.initial_model={name}"]) for name in ("one", "two"))
    assert identity(one) == identity(two) != identity(tiny_recipe(tmp_path))
    write_json(folder.initial, {"path": "one", "sha256": "ab"})
    first = TrainingProvenance.of(one, folder)
    assert first == TrainingProvenance.of(two, folder)
    assert first.of_checkpoint("s") == {"recipe": identity_hash(one), "shards": "s", "initial": "ab"}
    write_json(folder.initial, {"path": "one", "sha256": "cd"})
    assert TrainingProvenance.of(one, folder).inputs("m") != first.inputs("m")


def test_a_training_from_drawn_weights_is_decided_by_recipe_and_shards(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    found = TrainingProvenance.of(recipe, RunFolder(tmp_path / "run"))
    assert found.of_checkpoint("s") == {"recipe": identity_hash(recipe), "shards": "s"}
    assert found.inputs("m") == sha256_json([identity_hash(recipe), "m"])
