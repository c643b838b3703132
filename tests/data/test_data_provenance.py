"""Whatever decides tokenizer or shards changes their hashes; where and when they are built does not."""

import os
from pathlib import Path
from typing import Any

import pytest
from support.recipes import tiny_recipe, write_jsonl

from keylm.base.files import sha256_file, sha256_json
from keylm.data.manifest import CurationRecord
from keylm.data.provenance import (
    CurationFacts,
    DataProvenance,
    build_settings,
    curation_inputs,
    source_origin,
    source_settings,
    window_order,
)
from keylm.recipe.load import load_recipe
from keylm.recipe.schema import Source

NOISY = ['sources.noisy={typos_of=["tales", "notes"]}', "stages={all={tokens=512, weights={chat=1, noisy=1}}}"]


def hashes(tmp_path: Path, tokenizer: Path, *overrides: str, curation: CurationFacts | None = None) -> dict[str, str]:
    """Return the hashes of tokenizer and sources of the tiny recipe as it is in `tmp_path`."""
    recipe = load_recipe(tmp_path / "recipe.toml", [*NOISY, *overrides])
    found = DataProvenance.of(recipe, curation)
    settings = found.settings(recipe, tokenizer)
    of_sources = {name: found.fingerprint(name, settings) for name in found.sources}
    return {"tokenizer": found.tokenizer_inputs(recipe), **of_sources}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


DECIDES = {
    "seed=8": {"noisy"},
    "training.context=16": {"chat", "noisy"},
    "data.shard_tokens=999": {"chat", "noisy"},
    "evaluation.holdout=0.2": {"tokenizer", "chat", "noisy"},
    "tokenizer.sample_bytes=999": {"tokenizer"},
    "tokenizer.vocab_size=500": {"tokenizer"},
    "model.max_position_embeddings=64": {"tokenizer"},
    "typos.highest_rate=0.3": {"noisy"},
    "language=de": {"noisy"},
    "language=de/german": {"noisy"},
    "sources.chat.language=de": set(),
    "sources.noisy.passes=2": {"noisy"},
    "sources.noisy.forms={correction=1}": {"noisy"},
    "sources.chat.max_bytes=900": {"tokenizer", "chat"},
    "sources.chat.loss=all": {"chat"},
    "sources.tales.max_bytes=900": {"noisy"},
    "sources.tales.adapter=wikipedia": {"noisy"},
    "stages.all.weights.chat=2": {"tokenizer"},
    "data.repack=true": set(),
    "name=other": set(),
    "sources.chat.licence=MIT": set(),
    "training.micro_batch_windows=2": set(),
    "stages.all.peak=0.5": set(),
    "optimizer.muon_learning_rate=0.1": set(),
}


@pytest.mark.parametrize("override", DECIDES)
def test_each_field_changes_the_hashes_of_what_it_decides(override: str, tokenizer: Path, tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    assert changed(hashes(tmp_path, tokenizer), hashes(tmp_path, tokenizer, override)) == DECIDES[override]


def test_a_touched_file_changes_the_hashes_of_what_is_made_from_it(tokenizer: Path, tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    before = hashes(tmp_path, tokenizer)
    assert hashes(tmp_path, tokenizer) == before
    os.utime(tmp_path / "tales.jsonl", (1, 1))
    assert changed(before, hashes(tmp_path, tokenizer)) == {"noisy"}
    os.utime(tmp_path / "chat.jsonl", (1, 1))
    assert changed(before, hashes(tmp_path, tokenizer)) == {"tokenizer", "chat", "noisy"}


def test_another_tokenizer_or_curation_makes_other_shards(tokenizer: Path, tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    before = hashes(tmp_path, tokenizer)
    curation = CurationFacts(CurationRecord(hash="ab", settings={}), {})
    assert changed(before, hashes(tmp_path, tokenizer, curation=curation)) == {"chat", "noisy"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.json").write_text("{}")
    assert changed(before, hashes(tmp_path, tmp_path / "other")) == {"chat", "noisy"}
    given = f"tokenizer.path={tokenizer}"
    recipe = load_recipe(tmp_path / "recipe.toml", [*NOISY, given])
    assert DataProvenance.of(recipe).tokenizer_inputs(recipe) == sha256_json(
        [400, 32, sha256_file(tokenizer / "tokenizer.json")]
    )


def test_the_order_of_windows_is_that_of_the_recipe(tokenizer: Path, tmp_path: Path) -> None:
    order = window_order(tiny_recipe(tmp_path))
    assert (order.batch_windows, order.sources) == (8, ["tales", "notes", "chat"])
    assert [(stage.name, stage.steps, stage.weights) for stage in order.stages] == [
        ("pretrain", 6, {"tales": 3.0, "notes": 1.0}),
        ("chat", 4, {"chat": 0.8, "tales": 0.2}),
    ]
    assert build_settings(tiny_recipe(tmp_path), tokenizer, None).context == 32
    assert not order.repack
    assert window_order(tiny_recipe(tmp_path, ["data.repack=true"])) == order.model_copy(update={"repack": True})


def test_a_curation_is_decided_by_its_settings_its_sources_and_their_files(tmp_path: Path) -> None:
    sources = tiny_recipe(tmp_path).sources
    before = curation_inputs({"a": 1}, sources)
    assert curation_inputs({"a": 2}, sources) != before
    casual = {**sources, "tales": sources["tales"].model_copy(update={"text_register": "casual"})}
    assert curation_inputs({"a": 1}, casual) != before
    german = {**sources, "tales": sources["tales"].model_copy(update={"language": "de"})}
    assert curation_inputs({"a": 1}, german) == before
    os.utime(tmp_path / "notes.jsonl", (1, 1))
    assert curation_inputs({"a": 1}, sources) != before


def test_an_origin_is_the_same_on_every_machine(tmp_path: Path) -> None:
    for number, place in enumerate(("here", "there")):
        (tmp_path / place / "deep").mkdir(parents=True)
        for name in ("b.jsonl", "deep/a.jsonl"):
            file = write_jsonl(tmp_path / place / name, [{"text": name}])
            os.utime(file, (number, number))
    here, there = (source_origin("s", Source(path=str(tmp_path / place))) for place in ("here", "there"))
    assert here == there
    file = tmp_path / "here" / "b.jsonl"
    assert here["files"][0] == {"name": "b.jsonl", "bytes": file.stat().st_size, "sha256": sha256_file(file)}
    assert source_origin("s", Source(path=str(file)))["files"] == here["files"][:1]
    hub = Source(hub="our/web", config="late", revision="main")
    assert source_origin("s", hub) == {"hub": "our/web", "config": "late", "split": "train", "revision": "main"}
    assert source_origin("s", hub, "5ca1")["revision"] == "5ca1"
    assert source_origin("s", Source(typos_of=("a", "b"))) == {"typos_of": ["a", "b"]}


@pytest.mark.parametrize(
    "change",
    [{"max_bytes": 5}, {"loss": "assistant"}, {"adapter": "wikipedia"}, {"hub": "OpenAssistant/oasst2", "path": None}],
)
def test_the_settings_tell_what_decides_which_documents_come_out(change: dict[str, Any]) -> None:
    source = Source(path="a.jsonl")
    assert source_settings(source) == source_settings(source.model_copy(update={"licence": "MIT", "path": "b.jsonl"}))
    assert source_settings(source.model_copy(update=change)) != source_settings(source)


def test_the_settings_of_a_typo_source_are_its_forms_and_passes() -> None:
    settings = source_settings(Source(typos_of=("a",), passes=3))
    assert (settings["passes"], settings["forms"]) == (3, {"masked": 1.0})
