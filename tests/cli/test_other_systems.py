"""What Windows and macOS lack is missed by no part of keylm: support/other_system takes it away from its modules."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.other_system import sitecustomize
from support.recipes import tiny_recipe

import keylm

LACKS = Path(sitecustomize.__file__).parent
EVERY_MODULE = """
import importlib, pkgutil
import keylm
for module in pkgutil.walk_packages(keylm.__path__, "keylm."):
    kernels = ("keylm.model.fused_kernels", "keylm.runtimes.decoding_kernels")  # for GPUs with Triton
    if module.name not in ("keylm.__main__", *kernels):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            assert "on another system" not in str(error), (module.name, error)
"""
COMMANDS = """
import json, multiprocessing, sys
from keylm.cli.main import main
from keylm.data import build

build.SMALL_BYTES = 0  # so that worker processes encode

def run_commands():
    for command in json.loads(sys.argv[1]):
        sys.argv = ["keylm", *command]
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, (command, ended.code)

if __name__ == "__main__":
    assert multiprocessing.get_start_method() == "spawn"
    run_commands()
"""
"""As a file: a worker that is spawned imports it again."""


def on_another_system(arguments: list[str], folder: Path) -> str:
    """Run Python in `folder` without what other systems lack, and return what it said."""
    places = os.pathsep.join([str(LACKS), *map(os.path.abspath, sys.path)])
    environment = {**os.environ, sitecustomize.SWITCH: "1", "PYTHONPATH": places, "COLUMNS": "200"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


REGISTERS = ("formal", "casual", "conversational", "structured", "synthetic")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is nothing to take away")


def test_what_is_taken_away_is_missed_by_keylm_alone(tmp_path: Path) -> None:
    code = """
import fcntl, os, signal
from pathlib import Path
import keylm.base.files as files
import keylm.recipe.run_folder as run_folder
assert os.fork and signal.SIGKILL and run_folder.fcntl is None
assert not hasattr(files.os, "fork")
try:
    Path("/proc/meminfo").read_text()
except FileNotFoundError:
    print("taken away")
"""
    assert on_another_system(["-c", code], tmp_path) == "taken away\n"


def test_every_module_can_be_imported(tmp_path: Path) -> None:
    on_another_system(["-c", EVERY_MODULE], tmp_path)


def test_nothing_is_named_that_other_systems_lack() -> None:
    """In functions too, which no test may come by: os.fork, signal.SIGKILL and the like."""
    found = [
        f"{file.name}:{node.lineno}: {node.value.id}.{node.attr}"
        for file in Path(keylm.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.attr in sitecustomize.ATTRIBUTES.get(node.value.id, ())
    ]
    assert found == []


def test_the_stages_run_without_what_other_systems_lack(tmp_path: Path) -> None:
    """Curation and encoding in spawned workers, training while shards are built, export, checks, use."""
    pytest.importorskip("datatrove")
    tiny_recipe(tmp_path)
    no_filters = ", ".join(f"{register}=[]" for register in REGISTERS)
    curation = f"curation={{minimum_characters=1, language_threshold=0.0, filters={{{no_filters}}}}}"
    sizes = ["model.max_position_embeddings=256", "training.context=256", "training.batch_tokens=512"]
    sets = [part for one in (curation, *sizes) for part in ("--set", one)]
    run = ["run", "recipe.toml", "--run-dir", "run", "--workers", "2", *sets]
    commands = [
        [*run, "--until", "train"],
        [*run, "--until", "report"],
        ["data", "verify", "run"],
        ["data", "plan", "recipe.toml", "--run-dir", "run", *sets],
        ["eval", "run/model", "--tasks", "typing", "--limit", "1", "--workers", "2"],
        ["generate", "run/model", "the old", "--max-new-tokens", "4"],
    ]
    (tmp_path / "commands.py").write_text(COMMANDS)
    said = on_another_system([str(tmp_path / "commands.py"), json.dumps(commands)], tmp_path)
    assert "the old" in said
    assert (tmp_path / "run" / "evaluation" / "limit-1" / "typing.json").is_file()
