"""Where a benchmark's items come from: the harness's own data sets on the hub, or files on this machine.

Prompts, choices, metrics and versions are always those of the installed lm_eval: for items on disk each of its task
files is included by one that changes nothing but the place of the data. A folder of items has `data/` with JSON lines
in the data sets' own columns (`data/hellaswag/validation.jsonl`, …) and may have `nltk_data/`, which IFEval needs.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from keylm.base.errors import KeylmError
from keylm.base.files import sha256_file, sha256_json
from keylm.evaluation.robustness import BENCHMARKS, TASKS, noises, write_tasks

SPLITS: dict[str, dict[str, str]] = {
    "arc_easy": {"test": "arc_easy/test.jsonl", "validation": "arc_easy/validation.jsonl"},
    "arc_challenge": {"test": "arc_challenge/test.jsonl", "validation": "arc_challenge/validation.jsonl"},
    "hellaswag": {"validation": "hellaswag/validation.jsonl"},
    "piqa": {"validation": "piqa/validation.jsonl"},
    "winogrande": {"validation": "winogrande/validation.jsonl"},
    "openbookqa": {"test": "openbookqa/test.jsonl", "validation": "openbookqa/validation.jsonl"},
    "ifeval": {"train": "ifeval/train.jsonl"},
    "lambada_openai": {"test": "lambada_openai/test.jsonl"},
    "boolq": {"validation": "boolq/validation.jsonl"},
    "commonsense_qa": {"validation": "commonsense_qa/validation.jsonl"},
    "sciq": {"test": "sciq/test.jsonl"},
    "sciq_validation": {"validation": "sciq/validation.jsonl"},
}
"""Files of each split that is read without examples; what is missing there costs its benchmark."""
HARNESS_FILES = {
    **{name: benchmark.file for name, benchmark in BENCHMARKS.items()},
    "arc_challenge": "arc/arc_challenge.yaml",
    "winogrande": "winogrande/default.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "ifeval": "ifeval/ifeval.yaml",
    "lambada_openai": "lambada/lambada_openai.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "commonsense_qa": "commonsense_qa/default.yaml",
    "sciq": "sciq/sciq.yaml",
    "sciq_validation": "sciq/sciq.yaml",
}
GROUPS = {"mmlu": "mmlu/default", "blimp": "blimp"}
"""Benchmarks of many parts, and the harness's folder that has a file for each and for the groups."""
NO_EXAMPLES = {"training_split": None}
"""Splits that only few-shot prompts are drawn from need not be there."""


class _TaskText(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML is untyped
    """Reads a task file without running the functions that it names."""


_TaskText.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


@dataclass(frozen=True)
class TaskFiles:
    """A folder of task files for lm_eval, and what its items are known by."""

    folders: tuple[Path, ...]
    alone: bool
    """Whether the harness's own tasks are left out, whose names these have."""
    hashes: dict[str, str]
    """SHA-256 of each benchmark's items, where they lie on this machine."""


def prepare(tasks_path: Path | None, scratch: Path) -> TaskFiles:
    """Return the task files to use: the harness's (None), a user's, or ones for items on disk, written to `scratch`.

    The tasks with mistyped prompts (robustness.py) are always among them. Raises KeylmError where `tasks_path` holds
    neither task files nor items.
    """
    if tasks_path is None:
        return TaskFiles((TASKS,), alone=False, hashes={})
    if (tasks_path / "data").is_dir():
        for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            os.environ[variable] = "1"
        if (tasks_path / "nltk_data").is_dir():
            os.environ["NLTK_DATA"] = str((tasks_path / "nltk_data").absolute())
        return TaskFiles((scratch,), alone=True, hashes=write_task_files(tasks_path / "data", scratch))
    if tasks_path.is_dir() and next(tasks_path.rglob("*.yaml"), None):
        return TaskFiles((TASKS, tasks_path), alone=False, hashes={})
    raise KeylmError(
        f"--tasks-path {tasks_path}: neither task files nor items in it; accepted: a folder with lm_eval's *.yaml, or "
        "with data/hellaswag/validation.jsonl and the like"
    )


def write_task_files(data: Path, out: Path) -> dict[str, str]:
    """Write a task file for every benchmark whose items are in `data`; return their hashes by name."""
    hashes, clean = {}, {}
    out.mkdir(parents=True, exist_ok=True)
    for name, configs in [*_single(data), *_parted(data)]:
        clean[name] = configs.get(name, {})
        for task, config in configs.items():
            (out / f"{task}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        used = sorted({file for config in configs.values() for file in config["dataset_kwargs"]["data_files"].values()})
        hashes[name] = sha256_json([sha256_file(Path(file)) for file in used])
        for file in sorted(_harness(GROUPS[name]).glob("_*.yaml")) if name in GROUPS else ():
            shutil.copy(file, out / file.name)
    mistyped = {name: config for name, config in clean.items() if name in BENCHMARKS}
    if mistyped:
        write_tasks(out, mistyped)
    for name, noise in noises().items():
        if noise.benchmark in hashes:
            hashes[name] = sha256_json([hashes[noise.benchmark], noise.facts()])
    return hashes


def _single(data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, splits in SPLITS.items():
        files = {split: str(data / file) for split, file in splits.items() if (data / file).is_file()}
        if set(files) == set(splits):
            left_out = {"test_split": None} if name == "sciq_validation" else {}
            extra = {} if name in ("ifeval", "lambada_openai") else NO_EXAMPLES
            yield name, {name: _config(name, HARNESS_FILES[name], files) | extra | left_out}


def _parted(data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, folder in GROUPS.items():
        configs = {}
        for file in sorted(_harness(folder).glob("[!_]*.yaml")):
            official = yaml.load(file.read_text(encoding="utf-8"), Loader=_TaskText)  # a safe loader
            part = official.get("dataset_name")
            found = _part_files(data, name, part) if part else None
            if found:
                configs[official["task"]] = _config(official["task"], f"{folder}/{file.name}", found)
        if configs:
            yield name, configs


def _part_files(data: Path, name: str, part: str) -> dict[str, str] | None:
    """Return the files of one part of a benchmark by split; None where one is missing."""
    if name == "mmlu":
        files = {"test": data / f"mmlu/test/{part}.jsonl", "dev": data / f"mmlu/dev/{part}.jsonl"}
    else:
        packed = data / f"{name}/{part}.jsonl.gz"
        files = {"train": packed if packed.exists() else packed.with_suffix("")}
    return {split: str(file) for split, file in files.items()} if all(map(Path.is_file, files.values())) else None


def _config(task: str, harness_file: str, files: dict[str, str]) -> dict[str, Any]:
    return {
        "include": str(_harness(harness_file)),
        "task": task,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
    }


def harness_folders(names: Iterable[str]) -> list[Path] | None:
    """Return the folders of the harness that have these tasks; None where one is not known to be in any.

    To read all of its folders takes it over ten seconds.
    """
    folders = []
    for name in names:
        if name in HARNESS_FILES or name in GROUPS:
            folders.append(_harness(HARNESS_FILES[name]).parent if name in HARNESS_FILES else _harness(GROUPS[name]))
        elif name not in noises():
            return None
    return folders


def _harness(path: str) -> Path:
    import lm_eval

    return Path(lm_eval.__file__).parent / "tasks" / path
