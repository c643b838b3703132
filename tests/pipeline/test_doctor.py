"""The doctor looks at everything that a build will read, and takes no longer over it than it has to."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_hub import SHA, FakeHub, one_split
from support.recipes import tiny_recipe

from keylm.base.errors import KeylmError
from keylm.pipeline.doctor import _data
from keylm.recipe.load import load_recipe

NOISY = ['sources.noisy={typos_of=["notes"]}', "stages.pretrain.weights={tales=3, noisy=1}"]


def test_a_source_that_is_read_only_for_its_typos_is_looked_at_too(tmp_path: Path) -> None:
    found = _data(tiny_recipe(tmp_path, NOISY))
    assert "noisy: typos in notes" in found
    assert "notes: 1 file" in found
    (tmp_path / "notes.jsonl").unlink()
    with pytest.raises(KeylmError, match=r"sources\.notes\.path: .* does not exist"):
        _data(load_recipe(tmp_path / "recipe.toml", NOISY))


def test_a_list_of_words_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(KeylmError, match=r"typos\.word_lists: .*nothing\.txt does not exist"):
        _data(tiny_recipe(tmp_path, ['typos.word_lists=["nothing.txt"]']))


LOOK_UP = """
import json, sys, time
from keylm.data import hub_check
from keylm.base.errors import KeylmError
from keylm.recipe.schema import Source

hub_check.load_libraries()
what, patience, *sources = sys.argv[1:]
hub_check.ANSWER_SECONDS = hub_check.SIZE_SECONDS = float(patience)
begun = time.monotonic()
try:
    found = getattr(hub_check, what)({name: Source(hub=f"our/{name}", revision="5ca1ab1e" * 5) for name in sources})
except KeylmError as error:
    found = str(error).splitlines()
print(json.dumps([found, time.monotonic() - begun]))
"""
TWELVE = [f"web{number}" for number in range(12)]


def on_hub(arguments: list[str], url: str, home: Path) -> "subprocess.CompletedProcess[str]":
    """Run Python in `home` for a hub at `url`, which the libraries take from the environment as they are imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**kept, "HF_ENDPOINT": url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "COLUMNS": "200"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False, timeout=300)


def look_up(url: str, home: Path, what: str, sources: list[str], patience: float = 60.0) -> tuple[Any, float]:
    """Ask the hub at `url` about sources in a process of its own; return the answers or errors, and the seconds."""
    pytest.importorskip("datasets")
    done = on_hub(["-c", LOOK_UP, what, str(patience), *sources], url, home)
    assert done.returncode == 0, done.stderr
    found, seconds = json.loads(done.stdout)
    return found, seconds


@pytest.fixture
def silent() -> Iterator[str]:
    """Return the address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_hub_that_refuses_or_hangs_is_told_once_and_soon(silent: str, tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:9", silent):
        [line], seconds = look_up(url, tmp_path, "look_up", TWELVE, 1.0)
        assert line.startswith(f"sources {', '.join(TWELVE)}: the hub, {url}, cannot be reached (")
        assert "or give the data as files with `path`" in line
        assert seconds < 10, "twelve answers are waited for at the same time, and nothing is asked twice"
        sizes, seconds = look_up(url, tmp_path, "hub_sizes", TWELVE, 1.0)
        assert sizes == dict.fromkeys(TWELVE)
        assert seconds < 10


def test_a_hub_that_answers_is_asked_about_each(tmp_path: Path) -> None:
    with FakeHub() as hub:
        hub.repos["our/web"] = one_split({"data/train-0.parquet": b""})
        assert look_up(hub.url, tmp_path, "look_up", ["web"])[0] == {"web": SHA}
        [line], _ = look_up(hub.url, tmp_path, "look_up", ["web", "nothing"])
        assert "source nothing: our/nothing/train: the hub has no such data set" in line


def test_the_doctor_says_what_is_missing_once(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    tiny_recipe(tmp_path)
    hub = {f"sources.{name}": f'{{hub="our/{name}"}}' for name in ("web", "forum")}
    sets = [f"{key}={value}" for key, value in hub.items()]
    sets.append("stages.pretrain.weights={tales=3, web=1, forum=1}")
    arguments = ["-m", "keylm", "doctor", "recipe.toml", *(part for one in sets for part in ("--set", one))]
    done = on_hub(arguments, "http://127.0.0.1:9", tmp_path)
    assert done.returncode == 2, done.stderr
    shown = " ".join(re.sub("[│┃]", " ", done.stdout).split())
    assert shown.count("cannot be reached") == 1
    assert "FAILED: sources web, forum: the hub, http://127.0.0.1:9, cannot be reached" in shown
    assert shown.count("not tried without the data") == 2
