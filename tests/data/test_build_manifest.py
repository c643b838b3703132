"""The manifest says what the shards were made from, and is written only where every source gives what it promises."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.recipes import tiny_recipe, write_jsonl

from keylm.base.errors import KeylmError
from keylm.base.files import sha256_file
from keylm.data import source_builder
from keylm.data.build import build_shards
from keylm.data.documents import Document, content_hash, is_held_out
from keylm.data.manifest import FORMAT, ShardManifest, read_manifest
from keylm.data.provenance import DataProvenance, build_settings, source_origin
from keylm.data.store import finished_store
from keylm.recipe.load import Recipe, load_recipe

SMALL = ["data.shard_tokens=2048"]
NOISY = ['sources.noisy={typos_of=["tales", "notes"]}', "stages={all={tokens=512, weights={chat=1, noisy=1}}}"]


def make(recipe: Recipe, tokenizer: Path, folder: Path) -> ShardManifest:
    everything = dict.fromkeys(recipe.used_sources, 10**9)
    return build_shards(
        recipe, DataProvenance.of(recipe), tokenizer, folder / "shards", workers=1, windows=everything, quiet=True
    )


def test_a_refused_source_is_refused_again(tokenizer: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    (tmp_path / "notes.jsonl").write_text("")
    for _ in range(2):
        with pytest.raises(KeylmError, match=r"sources\.notes: gives no document to train on"):
            make(recipe, tokenizer, tmp_path)
        assert not (tmp_path / "shards" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["sources.notes.max_bytes=5"], r"sources\.notes: .*: sources\.notes\.max_bytes = 5 ends it before its first"),
        (
            ["sources.notes.max_bytes=5", 'sources.noisy={typos_of=["notes"]}', "stages.pretrain.weights={noisy=1}"],
            r"sources\.noisy: .*: sources\.notes\.max_bytes = 5 ends it before its first",
        ),
    ],
)
def test_max_bytes_is_named_where_it_leaves_nothing(
    sets: list[str], told: str, tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeylmError, match=told):
        make(tiny_recipe(tmp_path, sets), tokenizer, tmp_path)


def test_the_holdout_is_named_where_it_leaves_nothing(tokenizer: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, ["evaluation.holdout=0.4"])
    texts = [f"Tale {number} of the sea." for number in range(64)]
    held_out = next(t for t in texts if is_held_out(content_hash(Document("", 0, text=t)), 0.4))
    write_jsonl(tmp_path / "notes.jsonl", [{"text": held_out}])
    with pytest.raises(KeylmError, match=r"notes: .*evaluation\.holdout keeps all of its 1 documents for validation"):
        make(recipe, tokenizer, tmp_path)


def shortened(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def turned(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("alter", [shortened, turned])
@pytest.mark.parametrize("name", ["train-00001.safetensors", "validation-00000.safetensors"])
def test_an_altered_shard_is_built_again(
    alter: Callable[[Path], None], name: str, tokenizer: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(tmp_path, SMALL)
    first = make(recipe, tokenizer, tmp_path)
    untouched = (tmp_path / "shards" / "chat" / "train-00000.safetensors").stat().st_mtime_ns
    alter(tmp_path / "shards" / "tales" / name)
    assert make(recipe, tokenizer, tmp_path) == first
    finished_store(tmp_path / "shards")
    assert (tmp_path / "shards" / "chat" / "train-00000.safetensors").stat().st_mtime_ns == untouched


def test_a_source_that_changes_while_it_is_built_is_refused_and_built_anew_then(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(tmp_path)
    finish = source_builder.SourceBuilder.finish

    def growing(self: source_builder.SourceBuilder) -> None:
        finish(self)
        with (tmp_path / "tales.jsonl").open("a") as file:
            file.write('{"text": "added while the build went on"}\n')

    with monkeypatch.context() as patch:
        patch.setattr(source_builder.SourceBuilder, "finish", growing)
        with pytest.raises(KeylmError, match=r"sources\.tales: changed while it was read; build again"):
            make(recipe, tokenizer, tmp_path)
    assert not (tmp_path / "shards" / "manifest.json").exists()
    manifest = make(recipe, tokenizer, tmp_path)
    [file] = manifest.origins["tales"]["files"]
    assert file["sha256"] == sha256_file(tmp_path / "tales.jsonl")
    anew = tmp_path / "anew"
    assert make(recipe, tokenizer, anew) == manifest


def test_every_source_that_is_read_stands_in_the_manifest_also_if_only_its_typos_are_used(
    tokenizer: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(tmp_path, NOISY)
    manifest = make(recipe, tokenizer, tmp_path)
    assert manifest.format == FORMAT == 3
    assert list(manifest.sources) == ["chat", "noisy"]
    assert manifest.origins == {name: source_origin(name, recipe.sources[name]) for name in ("tales", "notes", "chat")}
    assert list(manifest.sources["noisy"].settings["typos_of"]) == ["tales", "notes"]
    assert manifest.curation is None


def test_an_origins_settings_are_part_of_its_typos(tokenizer: Path, tmp_path: Path) -> None:
    first = make(tiny_recipe(tmp_path, NOISY), tokenizer, tmp_path)
    recipe = load_recipe(tmp_path / "recipe.toml", [*NOISY, "sources.notes.max_bytes=900"])
    second = make(recipe, tokenizer, tmp_path)
    assert second.sources["noisy"].train.tokens < first.sources["noisy"].train.tokens
    assert second.sources["chat"] == first.sources["chat"]
    assert second == make(recipe, tokenizer, tmp_path / "anew")
    other = recipe.sources["notes"].model_copy(update={"adapter": "oasst2"})
    adapted = recipe.model_copy(update={"sources": {**recipe.sources, "notes": other}})
    settings = build_settings(recipe, tokenizer, None)
    before, after = (DataProvenance.of(one) for one in (recipe, adapted))
    assert after.fingerprint("noisy", settings) != before.fingerprint("noisy", settings)
    assert after.fingerprint("chat", settings) == before.fingerprint("chat", settings)


def test_another_set_of_origins_is_another_source(tokenizer: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_recipe(tmp_path, NOISY).sources["tales"].path or "", tmp_path / "same.jsonl")
    shutil.copystat(tmp_path / "tales.jsonl", tmp_path / "same.jsonl")
    first = make(load_recipe(tmp_path / "recipe.toml", NOISY), tokenizer, tmp_path)
    renamed = [f'sources.other={{path="{tmp_path / "same.jsonl"}"}}', NOISY[0].replace("tales", "other"), NOISY[1]]
    second = make(load_recipe(tmp_path / "recipe.toml", renamed), tokenizer, tmp_path)
    assert second.sources["noisy"].files != first.sources["noisy"].files


def test_the_manifest_is_small(tokenizer: Path, tmp_path: Path) -> None:
    make(tiny_recipe(tmp_path, NOISY), tokenizer, tmp_path)
    assert len(json.dumps(read_manifest(tmp_path / "shards").model_dump())) < 8000
