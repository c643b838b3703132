"""Whatever the console is, a command that has its result ends with it: other encodings, closed streams, no reader."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.recipes import tiny_recipe

from keylm.pipeline.run import run

ODD = "It’s ï 日"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe, and a finished run whose sample no 8-bit encoding has."""
    folder = tmp_path_factory.mktemp("streams")
    run(tiny_recipe(folder, [f"evaluation.prompts=['{ODD}']"]), folder / "run", quiet=True)
    return folder


def keylm(
    folder: Path, arguments: str, streams: str = "", encoding: str = "utf-8"
) -> "subprocess.CompletedProcess[bytes]":
    """Run keylm as a shell does, with its streams redirected; its own exit code is the result's."""
    program = f"{shlex.quote(sys.executable)} -m keylm {arguments}"
    env = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "100", "PYTHONWARNINGS": "ignore"}
    command = f"set -o pipefail; {program} {streams}"
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=env, capture_output=True, timeout=120, stdin=subprocess.DEVNULL
    )


FINISHED = f"run recipe.toml --run-dir run --set \"evaluation.prompts=['{ODD}']\""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1:strict", "utf-16"])
@pytest.mark.parametrize("arguments", [FINISHED, "data plan recipe.toml"])
def test_a_console_of_any_encoding_gets_what_it_can_show(folder: Path, arguments: str, encoding: str) -> None:
    done = keylm(folder, arguments, encoding=encoding)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    text = done.stdout.decode(encoding.partition(":")[0])
    if arguments == FINISHED:
        assert "model   run" in text
        shown = {"ascii": "It?s ? ?", "cp1252": "It’s ï ?", "utf-16": ODD}
        assert shown.get(encoding, "It?s ï ?") in text
    else:
        assert "tales" in text


@pytest.mark.parametrize(
    "streams", [">&-", "2>&-", "<&-", "<&- >&- 2>&-", "| true", "2>&1 | true", ">/dev/null 2> >(true)"]
)
@pytest.mark.parametrize("arguments", [FINISHED, "chat run/model", "--help"])
def test_closed_streams_and_readers_that_leave_end_nothing(folder: Path, arguments: str, streams: str) -> None:
    done = keylm(folder, arguments, streams)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_a_whole_run_without_any_stream_is_like_any_other(folder: Path) -> None:
    assert keylm(folder, FINISHED.replace("-dir run", "-dir other"), "<&- >&- 2>&-").returncode == 0
    same = [(folder / name / "model" / "model.safetensors").read_bytes() for name in ("run", "other")]
    assert same[0] == same[1]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_input_that_is_no_text_costs_its_turn_alone(folder: Path, encoding: str) -> None:
    done = keylm(
        folder, "chat run/model --max-new-tokens 3", r"< <(printf 'the \xff\xc3\xa9 cat?\nthe cat?\n')", encoding
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout.count(b"> ") == 3


def test_errors_of_the_user_keep_their_exit_code(folder: Path) -> None:
    assert keylm(folder, "run none.toml", "2>&-").returncode == 2
    assert keylm(folder, "generate nowhere x", "2>&1 | true").returncode == 2
