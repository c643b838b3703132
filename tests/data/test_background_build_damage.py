"""What is damaged is never trained on, whether it was fetched, is still being built, or is a published build's own."""

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
from support.recipes import tiny_recipe

from keylm.base.errors import KeylmError
from keylm.base.files import write_json
from keylm.data import background_build as streaming
from keylm.data.background_build import BackgroundBuild, GrowingShards, PendingBuild, open_store
from keylm.data.manifest import read_manifest
from keylm.data.provenance import DataProvenance
from keylm.data.store import ShardStore
from keylm.pipeline.run import run
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder, checkpoint_paths

SETTINGS = ["data.shard_tokens=1024", "stages.pretrain.tokens=5120", "stages.chat.tokens=2048"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, RunFolder]:
    """A run whose shards are built."""
    folder = tmp_path_factory.mktemp("built")
    recipe = tiny_recipe(folder, SETTINGS)
    return recipe, run(recipe, folder / "run", until="shards", quiet=True)


@pytest.fixture
def published(built: tuple[Recipe, RunFolder], tmp_path: Path) -> Path:
    """The shards as somebody else would offer them."""
    folder = Path(shutil.copytree(built[1].shards, tmp_path / "published"))
    shutil.copytree(built[1].tokenizer, folder / "tokenizer")
    return folder


def alter(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_a_fetched_shard_that_is_altered_here_is_not_trained_on(published: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, [*SETTINGS, f'data.shards="{published}"'])
    folder = run(recipe, tmp_path / "run", until="shards", quiet=True)
    for name in recipe.sources:
        shutil.copytree(published / name, folder.shards / name)
    shard = folder.shards / "tales" / "train-00000.safetensors"
    alter(shard)
    told = r"tales/train-00000\.safetensors: the manifest says .*; delete it, and the same command fetches it again"
    with pytest.raises(KeylmError, match=told):
        run(recipe, folder.path, until="train", quiet=True)
    shard.unlink()
    run(recipe, folder.path, until="train", quiet=True)


def test_a_shard_of_a_growing_build_that_is_altered_is_not_trained_on(
    built: tuple[Recipe, RunFolder], tmp_path: Path
) -> None:
    folder = RunFolder(Path(shutil.copytree(built[1].path, tmp_path / "run")))
    (folder.shards / "manifest.json").unlink()  # as if the build were still at work
    alter(folder.shards / "tales" / "train-00000.safetensors")
    store = open_store(built[0], folder.shards, folder.tokenizer, reads_all=False)
    store.window("notes", 0, 0)
    with pytest.raises(KeylmError, match=r"train-00000\.safetensors: .*start the same command again"):
        store.window("tales", 0, 0)


def test_a_shard_is_hashed_once_though_it_is_opened_often(
    built: tuple[Recipe, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    monkeypatch.setattr("keylm.data.store.check_shard", lambda path, *_: hashed.append(path))
    monkeypatch.setattr("keylm.data.store.OPEN_SHARDS", 1)
    store = ShardStore(GrowingShards(built[1].shards, None), 32, verify=True)
    for _ in range(3):
        for name in ("tales", "notes"):
            store.window(name, 0, 0)
    assert len(hashed) == 2


PAGE = b"<!DOCTYPE html><title>Log in</title>"


@pytest.mark.parametrize("kind", ["a page", "cut", "altered", "format"])
def test_a_published_manifest_that_is_damaged_is_told_as_such_and_not_kept(
    kind: str, published: Path, tmp_path: Path
) -> None:
    file = published / "manifest.json"
    sound = file.read_bytes()
    changed = {"a page": PAGE, "cut": sound[:-9], "altered": sound.replace(b'"seed": 7', b'"seed": 8'), "format": b"{}"}
    file.write_bytes(changed[kind])
    recipe = tiny_recipe(tmp_path, [*SETTINGS, f'data.shards="{published}"'])
    with pytest.raises(KeylmError, match=r"data\.shards: .*published/manifest\.json: .*it is the published build"):
        run(recipe, tmp_path / "run", until="shards", quiet=True)
    file.write_bytes(sound)
    folder = run(recipe, tmp_path / "run", until="shards", quiet=True)
    assert (folder.shards / "manifest.json").read_bytes() == sound


def test_a_damaged_manifest_that_an_earlier_fetch_left_is_fetched_again(published: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, [*SETTINGS, f'data.shards="{published}"'])
    folder = RunFolder(tmp_path / "run")
    folder.shards.mkdir(parents=True)
    (folder.shards / "manifest.json").write_bytes(PAGE)
    run(recipe, folder.path, until="shards", quiet=True)
    assert read_manifest(folder.shards) == read_manifest(published)


def test_a_published_tokenizer_that_is_not_the_manifests_is_refused_and_not_kept(
    published: Path, tmp_path: Path
) -> None:
    file = published / "tokenizer" / "tokenizer.json"
    sound = file.read_bytes()
    file.write_bytes(PAGE)
    recipe = tiny_recipe(tmp_path, [*SETTINGS, f'data.shards="{published}"'])
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(KeylmError, match=r"tokenizer\.json: it is not the tokenizer .*; it is the published build"):
        run(recipe, folder.path, until="shards", quiet=True)
    assert not (folder.tokenizer / "tokenizer.json").exists()
    file.write_bytes(sound)
    run(recipe, folder.path, until="shards", quiet=True)


@pytest.mark.parametrize("writable", [True, False])
def test_whatever_ends_a_build_in_the_background_is_told_in_its_words(writable: bool, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir() if writable else folder.write_text("no file can be written here")
    hears, says = multiprocessing.Pipe(duplex=False)
    pending = PendingBuild(None, None, tmp_path, folder, 1)  # no recipe: nothing that a build expects
    given = (pending, os.getpid(), says)
    build = multiprocessing.get_context("spawn").Process(target=streaming._build, args=given)
    build.start()
    build.join()
    assert hears.poll(), "it ended without a word"
    told = hears.recv()
    assert build.exitcode == 2
    assert told.startswith("the build of the shards failed: AttributeError: 'NoneType' object has no attribute")
    assert not writable or (folder / streaming.FAILED).read_text() == told


def test_the_parent_hears_why_a_build_in_the_background_ended(tmp_path: Path, tokenizer: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    folder = tmp_path / "shards"
    shutil.copytree(tokenizer, tmp_path / "tokenizer")
    build = BackgroundBuild(PendingBuild(recipe, DataProvenance.of(recipe), tmp_path / "tokenizer", folder, 1))
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()  # long before the process has begun
    with pytest.raises(KeylmError, match=r"tokenizer\.json"):
        build.wait()


def test_words_of_an_unexpected_error_name_kind_and_place() -> None:
    try:
        {}["nothing"]
    except KeyError as error:
        told = streaming._words(error)
    assert told.startswith("the build of the shards failed: KeyError: 'nothing' (test_background_build_damage.py:")


def streamed_until_killed(folder: Path, *extra: str) -> tuple[Recipe, RunFolder]:
    """Return a streaming run as a kill leaves it: with checkpoints, shards, but no manifest yet."""
    recipe = tiny_recipe(folder, [*SETTINGS, "data.stream=true", *extra])
    run_folder = run(recipe, folder / "run", until="train", quiet=True)
    for path in checkpoint_paths(run_folder.checkpoints)[2:]:
        shutil.rmtree(path)
    (run_folder.shards / "manifest.json").unlink()
    stages = run_folder.done()
    write_json(run_folder.path / "stages.json", {"tokenizer": stages["tokenizer"].model_dump()})
    return recipe, run_folder


@pytest.mark.parametrize("given", [True, False])
def test_a_source_that_changed_since_training_began_is_refused_before_anything_is_replaced(
    given: bool, built: tuple[Recipe, RunFolder], tmp_path: Path
) -> None:
    extra = [f'tokenizer.path="{built[1].tokenizer}"'] if given else []
    recipe, folder = streamed_until_killed(tmp_path, *extra)
    kept = {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}
    sound = (tmp_path / "tales.jsonl").read_bytes()
    times = (tmp_path / "tales.jsonl").stat()
    with (tmp_path / "tales.jsonl").open("a") as file:
        file.write('{"text": "a new line"}\n')
    with pytest.raises(KeylmError, match=r"was trained with other data: changed since are sources\.tales; put that"):
        run(recipe, folder.path, until="train", quiet=True)
    assert {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()} == kept
    if not given:
        shutil.rmtree(folder.tokenizer)  # then what is known of its making tells
        with pytest.raises(KeylmError, match="changed since are what the tokenizer is made from"):
            run(recipe, folder.path, until="train", quiet=True)
    (tmp_path / "tales.jsonl").write_bytes(sound)
    os.utime(tmp_path / "tales.jsonl", ns=(times.st_atime_ns, times.st_mtime_ns))
    run(recipe, folder.path, until="train", quiet=True)
    assert (folder.shards / "manifest.json").is_file()
