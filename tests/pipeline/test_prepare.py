"""What is made before training: again where its inputs changed, never where training has begun with it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.recipes import tiny_recipe

from keylm.base.errors import KeylmError
from keylm.base.files import read_json
from keylm.data.curated import Executor
from keylm.data.manifest import read_manifest
from keylm.pipeline.run import run
from keylm.pipeline.show import show_batch
from keylm.recipe.load import Recipe, load_recipe
from keylm.recipe.run_folder import RunFolder, checkpoint_paths

NAMES = ("tales", "notes", "chat")


def as_it_lies(folder: Path, *overrides: str) -> Recipe:
    """Return the recipe in `folder` without writing its sources again."""
    return load_recipe(folder / "recipe.toml", list(overrides))


def test_a_trained_run_goes_on_without_its_sources(tmp_path: Path) -> None:
    folder = run(tiny_recipe(tmp_path), tmp_path / "run", until="train", quiet=True)
    for name in NAMES:
        (tmp_path / f"{name}.jsonl").unlink()
    run(as_it_lies(tmp_path), folder.path, quiet=True)
    assert folder.report.is_file()
    shutil.rmtree(checkpoint_paths(folder.checkpoints)[-1])
    run(as_it_lies(tmp_path), folder.path, quiet=True)


def test_data_build_makes_an_altered_shard_of_a_trained_run_again(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    folder = run(recipe, tmp_path / "run", until="train", quiet=True)
    shard = folder.shards / "tales" / "train-00000.safetensors"
    sound, manifest = shard.read_bytes(), (folder.shards / "manifest.json").read_bytes()
    shard.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    run(recipe, folder.path, until="shards", quiet=True)
    assert shard.read_bytes() == sound
    assert (folder.shards / "manifest.json").read_bytes() == manifest
    before = {file: file.stat().st_mtime_ns for file in folder.shards.rglob("*")}
    run(recipe, folder.path, until="shards", quiet=True)
    assert {file: file.stat().st_mtime_ns for file in folder.shards.rglob("*")} == before


def test_shards_of_another_recipe_are_not_shown(tmp_path: Path) -> None:
    run(tiny_recipe(tmp_path), tmp_path / "run", until="shards", quiet=True)
    more = ['sources.more={path="notes.jsonl"}', "stages.pretrain.weights={tales=1, more=1}"]
    folder = run(tiny_recipe(tmp_path, more), tmp_path / "run", until="tokenizer", quiet=True)
    with pytest.raises(KeylmError, match=r"order: the shards were built with .* builds those of the recipe"):
        show_batch(folder.path, 0, 1, 10)
    run(tiny_recipe(tmp_path, more), folder.path, until="shards", quiet=True)
    show_batch(folder.path, 0, 1, 10)


def test_before_training_another_published_build_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    builds = [run(as_it_lies(tmp_path, s), tmp_path / s, until="shards", quiet=True) for s in ("seed=7", "seed=8")]
    for built in builds:
        shutil.copytree(built.tokenizer, built.shards / "tokenizer")
        published = recipe.model_copy(update={"data": recipe.data.model_copy(update={"shards": str(built.shards)})})
        folder = run(published, tmp_path / "run", until="shards", quiet=True)
        assert read_manifest(folder.shards) == read_manifest(built.shards)


def test_published_shards_ask_for_no_sources(tmp_path: Path) -> None:
    built = run(tiny_recipe(tmp_path), tmp_path / "built", until="shards", quiet=True)
    shutil.copytree(built.tokenizer, built.shards / "tokenizer")
    for name in NAMES:
        (tmp_path / f"{name}.jsonl").unlink()
    folder = run(as_it_lies(tmp_path, f'data.shards="{built.shards}"'), tmp_path / "run", until="train", quiet=True)
    assert checkpoint_paths(folder.checkpoints)


@pytest.mark.parametrize("until", ["shards", "report"])
def test_a_source_that_is_not_there_is_one_clear_error_before_anything_is_made(until: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    (tmp_path / "notes.jsonl").unlink()
    with pytest.raises(KeylmError, match=r"sources\.notes\.path: .* does not exist; accepted: a file or folder"):
        run(recipe, tmp_path / "run", until=until, quiet=True)
    assert not (tmp_path / "run" / "tokenizer").exists()


CORRECTIONS = [
    "sources.notes.max_bytes=900",
    "tokenizer.vocab_size=390",
    "model.max_position_embeddings=64",
    "evaluation.holdout=0.2",
    "sources.chat.loss=all",
    "stages.pretrain.weights={tales=1}",
    "seed=8",
]


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_before_training_a_recipe_can_be_corrected_and_gives_what_it_gives_in_a_new_folder(
    correction: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny_recipe(tmp_path), tmp_path / "run", until="shards", quiet=True)
    recipe = as_it_lies(tmp_path, correction)
    folder = run(recipe, tmp_path / "run", until="shards")
    assert "the recipe has changed since the last start: " in capsys.readouterr().out
    assert folder.saved_recipe() == recipe
    anew = run(recipe, tmp_path / "anew", until="shards", quiet=True)
    assert read_manifest(folder.shards) == read_manifest(anew.shards)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder.tokenizer / name).read_bytes() == (anew.tokenizer / name).read_bytes()


def test_a_given_tokenizer_is_looked_at_again_with_another_recipe(tmp_path: Path) -> None:
    given = run(tiny_recipe(tmp_path), tmp_path / "first", until="tokenizer", quiet=True).tokenizer
    run(as_it_lies(tmp_path, f'tokenizer.path="{given}"'), tmp_path / "run", until="tokenizer", quiet=True)
    other = as_it_lies(tmp_path, f'tokenizer.path="{given}"', "tokenizer.vocab_size=500")
    with pytest.raises(KeylmError, match=r"tokenizer\.vocab_size: got 500, but .* has 400 entries"):
        run(other, tmp_path / "run", until="tokenizer", quiet=True)


def test_a_saved_recipe_that_is_no_recipe_is_replaced_before_training_alone(tmp_path: Path) -> None:
    folder = run(tiny_recipe(tmp_path), tmp_path / "run", until="tokenizer", quiet=True)
    folder.recipe.write_text("no = recipe")
    run(as_it_lies(tmp_path), folder.path, until="train", quiet=True)
    folder.recipe.write_text("no = recipe")
    with pytest.raises(KeylmError, match=r"recipe\.toml: "):
        run(as_it_lies(tmp_path), folder.path, quiet=True)


@pytest.mark.parametrize("left", ["checkpoint", "refused checkpoint", "model"])
def test_once_trained_another_recipe_is_refused(left: str, tmp_path: Path) -> None:
    folder = run(tiny_recipe(tmp_path), tmp_path / "run", until="export", quiet=True)
    if left != "model":
        shutil.rmtree(folder.model)
    for path in checkpoint_paths(folder.checkpoints)[left == "checkpoint" :]:
        path.rename(path.with_name(f"refused-{path.name}")) if left != "model" else shutil.rmtree(path)
    with pytest.raises(KeylmError, match="was begun with another recipe: seed was 7, is 8; accepted"):
        run(as_it_lies(tmp_path, "seed=8"), folder.path, until="shards", quiet=True)


@pytest.mark.parametrize("executor", ["ray", "slurm"])
def test_an_executor_without_curation_is_said_to_be_ignored(
    executor: Executor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny_recipe(tmp_path), tmp_path / "run", until="tokenizer", executor=executor)
    told = capsys.readouterr().out
    assert told.count(f"--executor {executor}: the recipe has no [curation], which is all that it runs; ignored") == 1
    run(tiny_recipe(tmp_path), tmp_path / "local", until="tokenizer")
    assert "--executor" not in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_data_are_built_where_the_device_of_the_training_is_not(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, ["training.device=cuda"])
    folder = run(recipe, tmp_path / "run", until="shards", quiet=True)
    assert read_manifest(folder.shards).hash
    with pytest.raises(KeylmError, match=r"training\.device: got 'cuda', which this machine or torch lacks"):
        run(recipe, folder.path, until="train", quiet=True)


def test_the_shards_of_a_killed_curated_run_are_not_replaced_by_others(tmp_path: Path) -> None:
    pytest.importorskip("datatrove", reason="datatrove is not installed: pip install 'keylm[curate]'")
    curation = (
        "curation={near_duplicates=false, minimum_characters=1, language_threshold=0.0, "
        "filters={formal=[], casual=[], conversational=[], structured=[], synthetic=[]}}"
    )
    folder = RunFolder(tmp_path / "run")
    run(tiny_recipe(tmp_path, [curation]), folder.path, until="train", workers=1, quiet=True)
    (folder.shards / "manifest.json").unlink()
    kept = {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}
    notes = tmp_path / "notes.jsonl"
    notes.write_text(notes.read_text().replace("fox", "dog"))
    with pytest.raises(KeylmError, match=r"was trained with other data: changed since are sources\.notes: its files"):
        run(as_it_lies(tmp_path, curation), folder.path, until="train", workers=1, quiet=True)
    assert {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()} == kept
    assert json.dumps(read_json(folder.curated / "report.json"))
