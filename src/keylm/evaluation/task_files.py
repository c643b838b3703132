"""Where a benchmark's items come from: the harness's own data sets on the hub, or files on this machine.

Prompts, choices, metrics and versions are always those of the installed lm_eval: for items on disk each of its task
files is included by one that changes only the path of the data. A folder of items has `data/` with JSON lines in the
data sets' own columns (the files that recipe/benchmarks.toml names) and may have `nltk_data/`, which IFEval needs.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from keylm.base.errors import KeylmError
from keylm.base.files import sha256_file, sha256_json
from keylm.evaluation.prompt_noise import noises, write_tasks
from keylm.recipe.benchmark_table import BENCHMARKS, MISTYPED, PARTS, BenchmarkSpec


class _TaskText(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML is untyped
    """Reads a task file without running the functions that it names."""


_TaskText.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


@dataclass(frozen=True)
class TaskFiles:
    """Folders of task files for lm_eval, and the hashes of their items."""

    folders: tuple[Path, ...]
    alone: bool
    """whether the harness's own tasks, which have the same names, are left out"""
    hashes: dict[str, str]
    """SHA-256 of each benchmark's items, where they are on this machine"""


def prepare(tasks_path: Path | None, scratch: Path) -> TaskFiles:
    """Return the task files to use: the harness's (None), a user's, or ones for items on disk.

    What is generated is written to `scratch`, always with the tasks whose prompts are mistyped (prompt_noise.py).
    Raises KeylmError where `tasks_path` has neither task files nor items.
    """
    if tasks_path and (tasks_path / "data").is_dir():
        for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            os.environ[variable] = "1"
        if (tasks_path / "nltk_data").is_dir():
            os.environ["NLTK_DATA"] = str((tasks_path / "nltk_data").absolute())
        return TaskFiles((scratch,), alone=True, hashes=write_task_files(tasks_path / "data", scratch))
    if tasks_path and not (tasks_path.is_dir() and next(tasks_path.rglob("*.yaml"), None)):
        raise KeylmError(
            f"--tasks-path {tasks_path}: neither task files nor items in it; accepted: a folder with lm_eval's *.yaml, "
            "or with data/hellaswag/validation.jsonl and the like"
        )
    write_tasks(scratch)
    return TaskFiles((scratch, tasks_path) if tasks_path else (scratch,), alone=False, hashes={})


def write_task_files(data: Path, out: Path) -> dict[str, str]:
    """Write a task file for every benchmark whose items are in `data`; return the hashes of the items by name."""
    hashes, clean = {}, {}
    out.mkdir(parents=True, exist_ok=True)
    for name, row in BENCHMARKS.items():
        configs = _configs(name, row, data)
        if not configs:
            continue
        clean[name] = configs.get(name, {})
        for task, config in configs.items():
            (out / f"{task}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        used = sorted({file for config in configs.values() for file in config["dataset_kwargs"]["data_files"].values()})
        hashes[name] = sha256_json([sha256_file(Path(file)) for file in used])
        for file in sorted(_harness(row.harness).glob("_*.yaml")) if row.has_parts else ():
            shutil.copy(file, out / file.name)
    mistyped = {name: config for name, config in clean.items() if name in MISTYPED}
    if mistyped:
        write_tasks(out, mistyped)
    for name, noise in noises().items():
        if noise.benchmark in hashes:
            hashes[name] = sha256_json([hashes[noise.benchmark], noise.facts()])
    return hashes


def _configs(name: str, row: BenchmarkSpec, data: Path) -> dict[str, dict[str, Any]]:
    """Return the configs of a benchmark's tasks by name: none where its items are not all in `data`."""
    if not row.has_parts:
        files = _files(row, data)
        return {name: _config(name, row.harness, files) | dict.fromkeys(row.without)} if files else {}
    configs = {}
    for file in sorted(_harness(row.harness).glob("[!_]*.yaml")):
        official = yaml.load(file.read_text(encoding="utf-8"), Loader=_TaskText)  # a safe loader
        part = official.get("dataset_name")
        files = _files(row, data, part) if part else {}
        if files:
            configs[official["task"]] = _config(official["task"], f"{row.harness}/{file.name}", files)
    return configs


def _files(row: BenchmarkSpec, data: Path, part: str = "") -> dict[str, str]:
    """Return the files of a benchmark, or of one of its parts, by split; none where one is missing."""
    found = {}
    for split, file in row.files.items():
        plain = data / file.replace(PARTS, part)
        packed = plain.with_name(f"{plain.name}.gz")
        found[split] = packed if packed.is_file() else plain
    return {split: str(file) for split, file in found.items()} if all(map(Path.is_file, found.values())) else {}


def _config(task: str, harness_file: str, files: dict[str, str]) -> dict[str, Any]:
    return {
        "include": str(_harness(harness_file)),
        "task": task,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
    }


def harness_folders(names: Iterable[str]) -> list[Path] | None:
    """Return the harness's folders of these tasks (all take 10 s to read); None where one is not known to be in any."""
    folders = []
    for name in names:
        if name in BENCHMARKS:
            place = _harness(BENCHMARKS[name].harness)
            folders.append(place if BENCHMARKS[name].has_parts else place.parent)
        elif name not in noises():
            return None
    return folders


def _harness(path: str) -> Path:
    import lm_eval

    return Path(lm_eval.__file__).parent / "tasks" / path
