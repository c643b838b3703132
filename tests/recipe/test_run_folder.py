"""A run folder belongs to one process at a time, also while it is put aside."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.recipes import tiny_recipe

from keylm.base.errors import KeylmError
from keylm.pipeline.run import put_aside, run
from keylm.recipe.run_folder import RunFolder


def test_fresh_does_not_touch_a_folder_that_another_is_using(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    with RunFolder(tmp_path / "run").locked():
        (tmp_path / "run" / "recipe.toml").write_text("kept")
        with pytest.raises(KeylmError, match="another keylm is at work in it"):
            run(recipe, tmp_path / "run", until="tokenizer", fresh=True, quiet=True)
        assert (tmp_path / "run" / "recipe.toml").read_text() == "kept"
    assert not list(tmp_path.glob("run.old-*"))
    run(recipe, tmp_path / "run", until="tokenizer", fresh=True, quiet=True)
    [aside] = tmp_path.glob("run.old-*")
    assert (aside / "recipe.toml").read_text() == "kept"


def test_fresh_is_an_ordinary_run_where_there_was_none(tmp_path: Path) -> None:
    folder = run(tiny_recipe(tmp_path), tmp_path / "run", until="tokenizer", fresh=True, quiet=True)
    assert (folder.tokenizer / "tokenizer.json").is_file()
    assert not list(tmp_path.glob("run.old-*"))


def test_a_lock_on_a_folder_that_was_put_aside_is_no_lock_on_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has opened the lock file before the folder was renamed must begin with the new folder's."""
    fcntl = pytest.importorskip("fcntl")
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        pass
    flock, calls = fcntl.flock, []

    def slow(file: object, kind: int) -> None:
        calls.append(file)
        if len(calls) == 1:
            put_aside(folder, quiet=True)  # between the opening and the locking
        flock(file, kind)

    monkeypatch.setattr(fcntl, "flock", slow)
    with folder.locked():
        assert len(calls) == 3
        with pytest.raises(KeylmError, match="another keylm is at work"), folder.locked():
            pass


HOLD = """
import sys
from pathlib import Path
from keylm.recipe.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_kept_out_and_let_in_afterwards(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(KeylmError, match="another keylm is at work in it"):
            put_aside(RunFolder(tmp_path / "run"), quiet=True)
        other.communicate()
    put_aside(RunFolder(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()
