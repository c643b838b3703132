"""A manifest is read whole and unaltered, or refused with what it lacks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.recipes import tiny_recipe

from keylm.base.errors import KeylmError
from keylm.base.files import read_json, write_json
from keylm.data.build import build_shards
from keylm.data.manifest import BuildProgress, ShardRecord, SplitRecord, manifest_hash, read_manifest, read_progress
from keylm.data.provenance import DataProvenance


@pytest.fixture(scope="module")
def built(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a shards folder that was just built."""
    folder = tmp_path_factory.mktemp("built")
    recipe = tiny_recipe(folder)
    build_shards(recipe, DataProvenance.of(recipe), tokenizer, folder / "shards", quiet=True)
    return folder / "shards"


def test_a_manifest_is_written_as_it_is_read(built: Path, tmp_path: Path) -> None:
    manifest = read_manifest(built)
    manifest.write(tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == (built / "manifest.json").read_bytes()
    assert manifest.sealed() == manifest
    assert manifest.model_copy(update={"seed": 8}).sealed().hash != manifest.hash


def test_a_manifest_has_the_bytes_of_before_there_was_repacking_unless_it_repacks(built: Path, tmp_path: Path) -> None:
    manifest = read_manifest(built)
    content = read_json(built / "manifest.json")
    assert content["order"].keys() == {"batch_windows", "sources", "stages"}
    assert content.keys() == type(manifest).model_fields.keys()
    order = manifest.order.model_copy(update={"repack": True})
    repacking = manifest.model_copy(update={"order": order}).sealed()
    repacking.write(tmp_path)
    assert read_json(tmp_path / "manifest.json")["order"]["repack"] is True
    assert read_manifest(tmp_path) == repacking
    assert repacking.hash != manifest.hash


def test_a_split_has_the_totals_of_its_shards() -> None:
    records = [
        ShardRecord(file="f", sha256="", size=0, windows=n, tokens=2 * n, trained_tokens=n, documents=1, bytes=5 * n)
        for n in (1, 2)
    ]
    split = SplitRecord.of(records)
    assert (split.windows, split.tokens, split.trained_tokens, split.documents, split.bytes) == (3, 6, 3, 2, 15)
    assert SplitRecord.of([]).windows == 0


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"fingerprint": 3, "shards": {}}'])
def test_a_damaged_record_of_progress_counts_as_none(content: str, tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    (tmp_path / "source.json").write_text(content)
    assert read_progress(tmp_path) is None
    progress = BuildProgress(fingerprint="a", shards={"train": [], "validation": []})
    write_json(tmp_path / "source.json", progress.model_dump())
    assert read_progress(tmp_path) == progress


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        table = manifest
        for key in keys[:-1]:
            table = table[key]
        del table[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda manifest: manifest.update(format=2), r"is of format 2; accepted: format 3, .* build the data anew"),
        (without("format"), "is of format None; accepted: format 3"),
        (without("order"), "not a manifest of this keylm: order: is missing"),
        (without("sources"), "sources: is missing"),
        (without("sources", "notes", "train"), r"sources\.notes\.train: is missing"),
        (without("sources", "notes", "train", "tokens"), r"sources\.notes\.train\.tokens: is missing"),
        (
            lambda manifest: manifest["sources"]["notes"]["train"]["shards"][0].pop("windows"),
            "0.windows: is missing",
        ),
        (lambda manifest: manifest["sources"].update(notes=[]), r"sources\.notes: got \[\]; accepted: a valid dict"),
        (lambda manifest: manifest.update(seed="7"), 'seed: got "7"; accepted: a valid integer'),
    ],
)
def test_a_manifest_that_lacks_something_is_one_clear_error(
    change: Callable[[dict[str, Any]], None], told: str, built: Path, tmp_path: Path
) -> None:
    manifest = read_json(built / "manifest.json")
    change(manifest)
    write_json(tmp_path / "manifest.json", manifest | {"hash": manifest_hash(manifest)})
    with pytest.raises(KeylmError, match=rf"manifest\.json: .*{told}"):
        read_manifest(tmp_path)
