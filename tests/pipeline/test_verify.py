"""`data verify` proves a run's data from the sources alone, and names what is not as it was."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.recipes import tiny_recipe

from keylm.base.errors import KeylmError
from keylm.base.files import read_json, write_json
from keylm.data.curriculum import BatchLoader, Curriculum
from keylm.data.manifest import manifest_hash, read_manifest
from keylm.data.store import finished_store
from keylm.pipeline.run import run
from keylm.pipeline.verify import batch_hash, verify
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder

SETTINGS = [
    *("data.shard_tokens=1024", "model.max_position_embeddings=256", "training.context=256"),
    *("training.batch_tokens=512", "stages.pretrain.tokens=8192", "stages.chat.tokens=2048"),
    *("sources.notes.max_bytes=3000", "data.repack=true"),
]
NOISE = [
    'sources.noisy={typos_of=["tales", "chat"], forms={masked=1, pair=2, correction=1}}',
    "stages.pretrain.weights={tales=2, notes=1, noisy=1}",
]
STEPS = 20


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, its sources, and a run whose shards are built."""
    folder = tmp_path_factory.mktemp("original")
    run(tiny_recipe(folder, [*SETTINGS, *NOISE]), folder / "run", until="shards", quiet=True)
    return folder


@pytest.fixture
def built(original: Path, tmp_path: Path) -> tuple[Recipe, RunFolder]:
    """The same with a run folder of one's own."""
    shutil.copytree(original / "run", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    return folder.saved_recipe(), folder


def hashes(recipe: Recipe, folder: RunFolder) -> list[str]:
    store = finished_store(folder.shards)
    loader = BatchLoader(Curriculum(recipe, store.layout), store)
    return [batch_hash(loader.batch(step)) for step in range(STEPS)]


def test_an_intact_run_is_proved_with_nothing_but_manifest_and_tokenizer(built: tuple[Recipe, RunFolder]) -> None:
    recipe, folder = built
    expected = hashes(recipe, folder)
    assert len(set(expected)) == STEPS
    curriculum = Curriculum(recipe, finished_store(folder.shards).layout)
    assert any(pick.packing for step in range(STEPS) for pick in curriculum.picks(step)), "none is repacked"
    for shard in folder.shards.rglob("*.safetensors"):
        shard.unlink()
    kept = {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}
    assert verify(recipe, folder, None, workers=1, quiet=True) == expected[-1]
    assert {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()} == kept, "it changes nothing"


@pytest.mark.parametrize("step", [0, 7, 16, STEPS - 1])
def test_a_steps_hash_is_that_of_its_batch(step: int, built: tuple[Recipe, RunFolder]) -> None:
    recipe, folder = built
    expected = hashes(recipe, folder)[step]
    shutil.rmtree(folder.shards / "tales")
    assert verify(recipe, folder, step, workers=1, quiet=True) == expected


def test_the_hash_is_that_of_the_batchs_numbers_as_anybody_would_write_them(built: tuple[Recipe, RunFolder]) -> None:
    recipe, folder = built
    store = finished_store(folder.shards)
    batch = BatchLoader(Curriculum(recipe, store.layout), store).batch(3)
    written = batch.tokens.astype("<i8").tobytes() + batch.labels.astype("<i8").tobytes()
    written += batch.documents.astype("<i4").tobytes()
    written += b"" if batch.partners is None else batch.partners.astype("<i8").tobytes()
    assert batch_hash(batch) == hashlib.sha256(written).hexdigest()
    labels = batch.labels.copy()
    labels[0, 0] += 1
    altered = type(batch)(batch.tokens, labels, batch.documents, batch.sources, batch.partners)
    assert batch_hash(altered) != batch_hash(batch)


def test_the_pairs_of_a_batch_are_part_of_its_hash(built: tuple[Recipe, RunFolder]) -> None:
    recipe, folder = built
    store = finished_store(folder.shards)
    loader = BatchLoader(Curriculum(recipe, store.layout), store)
    batch = next(b for b in map(loader.batch, range(STEPS)) if b.partners is not None and (b.partners >= 0).any())
    other = type(batch)(batch.tokens, batch.labels, batch.documents, batch.sources, np.full_like(batch.partners, -1))
    assert batch_hash(other) != batch_hash(batch)


@pytest.mark.parametrize("step", [STEPS, 10**6])
def test_a_step_beyond_the_run_is_refused(step: int, built: tuple[Recipe, RunFolder]) -> None:
    with pytest.raises(KeylmError, match=f"--step: got {step}; accepted: 0 to {STEPS - 1}"):
        verify(*built, step, workers=1, quiet=True)


def moved(recipe: Recipe, folder: Path, name: str) -> Recipe:
    """Return the recipe with a source's file copied to `folder`."""
    source = recipe.sources[name]
    file = Path(shutil.copy(str(source.path), folder))
    return recipe.model_copy(
        update={"sources": {**recipe.sources, name: source.model_copy(update={"path": str(file)})}}
    )


def test_sources_elsewhere_with_the_same_content_prove_it_too(built: tuple[Recipe, RunFolder], tmp_path: Path) -> None:
    recipe, folder = built
    elsewhere = moved(moved(recipe, tmp_path, "tales"), tmp_path, "chat")
    assert verify(elsewhere, folder, 5, workers=1, quiet=True) == hashes(recipe, folder)[5]


@pytest.mark.parametrize("step", [None, 0])
@pytest.mark.parametrize("name", ["tales", "chat"])
def test_a_changed_source_is_refused_by_name(
    name: str, step: int | None, built: tuple[Recipe, RunFolder], tmp_path: Path
) -> None:
    recipe = moved(built[0], tmp_path, name)
    file = tmp_path / f"{name}.jsonl"
    file.write_text(file.read_text().replace("fox", "dog", 1))  # one word, as long as before
    with pytest.raises(KeylmError, match=rf"sources\.{name}: its origin is "):
        verify(recipe, built[1], step, workers=1, quiet=True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 8}, "seed: the manifest says 7, recipe and tokenizer here 8"),
        ({"data": {"shard_tokens": 2048}}, "shard_tokens: the manifest says 1024, .* 2048"),
        ({"evaluation": {"holdout": 0.2}}, r"holdout: the manifest says 0\.1, .* 0\.2"),
        ({"stages": {"chat": {"tokens": 4096}}}, "order: the manifest says "),
        ({"data": {"repack": False}}, "order: the manifest says .*'repack': True.*'repack': False"),
        ({"stages": {"pretrain": {"weights": {"tales": 4}}}}, "order: the manifest says "),
        ({"sources": {"chat": {"loss": "all"}}}, r"sources\.chat: its settings is "),
        ({"sources": {"noisy": {"passes": 2}}}, r"sources\.noisy: its settings is "),
        ({"typos": {"highest_rate": 0.1}}, r"sources\.noisy: its settings is "),
    ],
)
def test_another_recipe_is_refused_with_what_differs(
    change: dict[str, object], told: str, built: tuple[Recipe, RunFolder]
) -> None:
    other = Recipe.model_validate_json(json.dumps(merged(built[0].to_data(), change)))
    with pytest.raises(KeylmError, match=told):
        verify(other, built[1], None, workers=1, quiet=True)


def merged(data: dict[str, object], change: dict[str, object]) -> dict[str, object]:
    for key, value in change.items():
        data[key] = merged(dict(data[key]), value) if isinstance(value, dict) else value  # type: ignore[arg-type]
    return data


def test_another_tokenizer_is_refused(built: tuple[Recipe, RunFolder]) -> None:
    recipe, folder = built
    file = folder.tokenizer / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(KeylmError, match="tokenizer_sha256: the manifest says "):
        verify(recipe, folder, None, workers=1, quiet=True)


def test_a_manifest_that_promises_another_shard_is_refused_with_the_shards_name(
    built: tuple[Recipe, RunFolder],
) -> None:
    recipe, folder = built
    manifest = read_json(folder.shards / "manifest.json")
    manifest["sources"]["notes"]["train"]["shards"][0]["sha256"] = "0" * 64
    write_json(folder.shards / "manifest.json", manifest | {"hash": manifest_hash(manifest)})
    read_manifest(folder.shards)
    with pytest.raises(KeylmError, match=r"sources\.notes: train-00000\.safetensors is "):
        verify(recipe, folder, None, workers=1, quiet=True)


def test_a_manifest_that_lists_a_shard_too_many_is_refused(built: tuple[Recipe, RunFolder]) -> None:
    recipe, folder = built
    manifest = read_json(folder.shards / "manifest.json")
    entry = manifest["sources"]["notes"]
    assert entry["exhausted"]
    entry["train"]["shards"].append({**entry["train"]["shards"][-1], "file": "train-99999.safetensors"})
    write_json(folder.shards / "manifest.json", manifest | {"hash": manifest_hash(manifest)})
    with pytest.raises(KeylmError, match=r"sources\.notes: "):
        verify(recipe, folder, None, workers=1, quiet=True)


def test_the_command_prints_the_hash_and_refuses_with_exit_code_2(built: tuple[Recipe, RunFolder]) -> None:
    recipe, folder = built
    command = [sys.executable, "-m", "keylm", "data", "verify", str(folder.path), "--step", "4"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"batch SHA-256 {hashes(recipe, folder)[4]}" in done.stdout
    assert "shards built anew from the sources have the SHA-256 of the manifest" in done.stdout
    (folder.shards / "manifest.json").unlink()
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "manifest.json: no such file; accepted: " in refused.stderr
