"""A run folder's records are typed; one that is damaged counts as not there, so its stage is done again."""

from pathlib import Path

import pytest

from keylm.base.files import read_json, write_json
from keylm.recipe.run_folder import RunFolder
from keylm.recipe.run_records import DoneRecord, InitialModelRecord, read_record

ENTRY = {"inputs": "a", "outputs": {}, "seconds": 1.5}


def test_a_stage_is_recorded_with_its_outputs(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.samples.write_text("[]")
    folder.mark_done("samples", "inputs", [folder.samples], 1.234)
    assert read_json(folder.stages)["samples"] == folder.done()["samples"].model_dump()
    assert folder.done()["samples"].seconds == 1.23
    assert folder.is_done("samples", "inputs")
    assert not folder.is_done("samples", "others")
    folder.samples.write_text("[1]")
    assert not folder.is_done("samples", "inputs"), "its output was altered"


@pytest.mark.parametrize(
    "damage", [3, [], {}, {**ENTRY, "inputs": None}, {**ENTRY, "outputs": ["x"]}, {**ENTRY, "seconds": "1"}]
)
def test_a_damaged_stage_is_not_done_and_the_others_are(damage: object, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_json(folder.stages, {"shards": damage, "train": ENTRY})
    assert folder.done() == {"train": DoneRecord(inputs="a", outputs={}, seconds=1.5)}
    assert not folder.is_done("shards")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"path": "x"}', '{"path": "x", "sha256": 3}'])
def test_a_damaged_record_of_the_initial_model_is_none(content: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.initial_weights() is None
    folder.initial.write_text(content)
    assert read_record(InitialModelRecord, folder.initial) is None
    write_json(folder.initial, {"path": "x", "sha256": "ab"})
    assert folder.initial_weights() == "ab"
