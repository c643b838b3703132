"""Whole files or none."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from keylm.base.files import atomic_folder, atomic_path, atomic_write, sha256_json, sweep, sweep_ended


def write_half_and_fail(file: Path) -> None:
    file.write_text("half")
    file.parent.write_text("a folder is no file")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    target = tmp_path / "a.txt"
    atomic_write(target, "old")
    with pytest.raises(IsADirectoryError), atomic_path(target) as temporary:
        write_half_and_fail(temporary)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_folder_leaves_the_old_one_and_a_finished_one_replaces_it(tmp_path: Path):
    target = tmp_path / "folder"
    for content in ("one", "two"):
        with atomic_folder(target) as temporary:
            (temporary / "a").write_text(content)
    with pytest.raises(IsADirectoryError), atomic_folder(target) as temporary:
        write_half_and_fail(temporary / "b")
    assert [(file.name, file.read_text()) for file in target.iterdir()] == [("a", "two")]
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_written_can_be_read_by_others(tmp_path: Path):
    with atomic_folder(tmp_path / "model") as temporary:
        save_file({"w": torch.ones(2)}, temporary / "model.safetensors")
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode & 0o444 == 0o444


def test_sweep_removes_leftovers_and_nothing_else(tmp_path: Path):
    (tmp_path / ".tmp-1-folder").mkdir()
    (tmp_path / ".tmp-1-file").touch()
    (tmp_path / "kept").touch()
    sweep(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]


def test_the_hash_of_a_value_ignores_the_order_of_keys_and_nothing_else():
    assert sha256_json({"a": 1, "b": [1, 2]}) == sha256_json({"b": [1, 2], "a": 1})
    assert sha256_json({"a": [1, 2]}) != sha256_json({"a": [2, 1]})


def test_what_an_ended_writer_left_is_removed_and_anothers_work_is_not(tmp_path: Path):
    ended = 2**23  # above any number that Linux gives
    for name in (f".tmp-{ended}-a", f"below/.tmp-{ended}-b", f"below/.tmp-{os.getpid()}-b", "below/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    sweep_ended(tmp_path, "b")
    assert (tmp_path / f".tmp-{ended}-a").exists()
    sweep_ended(tmp_path)
    left = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert left == {f"below/.tmp-{os.getpid()}-b", "below/b"}
