"""Benchmarks of any causal language model through lm_eval (EleutherAI's lm-evaluation-harness), zero-shot.

Prompts and scoring are the harness's own; `scoring.SharedContextLM` only computes its log-likelihoods and texts
faster. Each finished benchmark has a file (see results.py), so an interrupted evaluation resumes.
"""

import contextlib
import functools
import logging
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from keylm.base.console import errors, say, seconds
from keylm.base.errors import KeylmError
from keylm.base.files import read_table, write_json
from keylm.evaluation.prompt_noise import RATES, noises
from keylm.evaluation.results import EvaluationFolder, Record
from keylm.evaluation.task_files import TaskFiles, harness_folders, prepare
from keylm.model.folder import check_model_folder, model_fingerprint, silence_transformers
from keylm.model.opening import open_pair
from keylm.recipe.benchmark_table import BENCHMARKS, MISTYPED
from keylm.runtimes.generation import rows_at_once, writer_of


def _suite(suite: str) -> tuple[str, ...]:
    """Return a suite's benchmarks, slow ones last."""
    rows = {name: row for name, row in BENCHMARKS.items() if row.suite == suite and not row.stands_in_for}
    return tuple(sorted(rows, key=lambda name: rows[name].slow))


SUITES = {
    "card": _suite("card"),
    "extras": _suite("extras"),
    "robustness": (*MISTYPED, *noises()),
    **{f"robustness_{rate}": tuple(name for name, noise in noises().items() if noise.rate == rate) for rate in RATES},
}
"""The rows of a model card; further benchmarks; prompts with typing errors, also by error rate (to split the work)."""
STAND_INS = {row.stands_in_for: name for name, row in BENCHMARKS.items() if row.stands_in_for}
"""By benchmark, another split to measure where its items are not on this machine; it has its own name."""
HUB = "from the hub"
Chat = Literal["ifeval", "all", "none"]
Scoring = Literal["fast", "harness"]


@dataclass(frozen=True)
class BenchmarkOptions:
    """What the figures depend on, apart from the model."""

    limit: int | None = None
    """Items of each task, the first ones; all by default."""
    chat: Chat = "ifeval"
    """Which benchmarks get the tokenizer's chat template, where it has one."""
    scoring: Scoring = "fast"
    device: str = "auto"
    tasks_path: Path | None = None

    def chats(self, name: str) -> bool:
        """Return whether a benchmark gets the chat template."""
        return self.chat == "all" or (self.chat == "ifeval" and name == "ifeval")


def evaluate(
    model: str,
    requested: Sequence[str],
    folder: EvaluationFolder,
    options: BenchmarkOptions,
    *,
    command: str = "",
    quiet: bool = False,
) -> None:
    """Measure a model (a folder, or a name on the hub) and write a file for each benchmark into `folder`.

    `requested`: suites and benchmarks. A suite skips what cannot be measured here and says so; a benchmark requested by
    name must be possible. Results with the same options, weights and items are kept, with the `command` that measured
    them. Raises KeylmError where the model cannot be opened, a benchmark is unknown or its items are unavailable.
    """
    with tempfile.TemporaryDirectory(prefix="keylm-tasks-") as scratch:
        files = prepare(options.tasks_path, Path(scratch))
        names = _available(requested, files, quiet=quiet)
        known = fingerprint(model)
        settings = {name: _settings(known, name, files, options) for name in names}
        left = [name for name in names if read_table(folder.benchmark(name)).get("settings") != settings[name]]
        for name in names:
            if name not in left:
                say(f"{name}  measured already", quiet=quiet)
        if not left:
            return
        harness = Harness(model, left, files, options)
        for name in harness.possible(left, requested, quiet=quiet):
            say(f"{name}  is being measured", quiet=quiet or errors.is_terminal)
            record = harness.run(name)
            write_json(folder.benchmark(name), {**record, "command": command, "settings": settings[name]})
            say(f"{name}  {summary(record)}  {seconds(record['seconds'])}", quiet=quiet)


def _available(requested: Sequence[str], files: TaskFiles, *, quiet: bool) -> list[str]:
    """Return the requested benchmarks, without those of a suite whose items are not here."""
    names = list(dict.fromkeys(name for item in requested for name in SUITES.get(item, (item,))))
    if not files.alone:
        return names
    found = []
    for name in names:
        instead = name if name in files.hashes or name in requested else STAND_INS.get(name)
        if instead in files.hashes or name in requested:
            found.append(instead or name)
        if instead != name:
            say(f"{name}  not here" + (f", {instead} instead" if instead in files.hashes else ""), quiet=quiet)
    return found


def _settings(known: str, name: str, files: TaskFiles, options: BenchmarkOptions) -> dict[str, Any]:
    """Return a benchmark's settings; it is measured again when any of them changes."""
    import lm_eval

    return {
        "model": known,
        "items": files.hashes.get(name, HUB),
        "limit": options.limit,
        "chat": options.chats(name),
        "scoring": options.scoring,
        "dtype": "bfloat16" if chosen_device(options.device).startswith("cuda") else "float32",
        "harness": lm_eval.__version__,
    }


def fingerprint(model: str) -> str:
    """Return a model's identity: the hash of its weights, configuration and tokenizer, or its name on the hub."""
    folder = Path(model)
    return model_fingerprint(folder) if folder.is_dir() else f"hub:{model}"


def chosen_device(device: str) -> str:
    """Return the device to measure on; "auto" takes a GPU if there is one."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def summary(record: Record) -> str:
    """Return a benchmark's metrics as text."""
    parts = []
    for metric, figure in record["metrics"].items():
        scale = 1 if metric == "perplexity" else 100
        error = "" if figure["stderr"] is None else f" ± {scale * figure['stderr']:.1f}"
        parts.append(f"{metric} {scale * figure['value']:.1f}{error}")
    return ", ".join(parts)


class Harness:
    """lm_eval with one model and one set of task files."""

    def __init__(self, model: str, names: Sequence[str], files: TaskFiles, options: BenchmarkOptions) -> None:
        """Open the model to measure `names`. Raises KeylmError where that fails."""
        from lm_eval.tasks import TaskManager

        _hush()
        self._options = options
        self._lm = open_model(model, options)
        folders = [] if files.alone else harness_folders(names)
        paths = [*map(str, folders or ()), *map(str, files.folders)]
        self._tasks = TaskManager(include_path=paths, include_defaults=folders is None)
        self._available = files.hashes

    def possible(self, names: Sequence[str], requested: Sequence[str], *, quiet: bool) -> list[str]:
        """Return the benchmarks that this model's context allows. Raises KeylmError for one requested by name."""
        unknown = [name for name in names if name not in self._tasks.all_tasks]
        if unknown:
            known = ", ".join(self._available or dict.fromkeys(chain(*SUITES.values())))
            more = "" if self._available else ", and any other task of lm_eval (`lm_eval ls tasks`)"
            raise KeylmError(f"--tasks: no task {', '.join(unknown)}; accepted: {', '.join(SUITES)}, {known}{more}")
        context = self._lm.max_length
        if "ifeval" not in names or context > IFEVAL_TOKENS:
            return list(names)
        reason = f"answers have up to {IFEVAL_TOKENS:,} tokens, the model's context holds {context:,}"
        if "ifeval" in requested:
            raise KeylmError(f"ifeval: {reason}; accepted: a model with a longer context, or --tasks without ifeval")
        say(f"ifeval  left out: {reason}", quiet=quiet)
        return [name for name in names if name != "ifeval"]

    def run(self, name: str) -> Record:
        """Return a benchmark's record without its settings. Raises KeylmError where its items are unavailable."""
        import lm_eval

        chat = self._options.chats(name)
        started = time.monotonic()
        with _reachable(name), _templates_compiled_once(), _machine_left_out():
            results = lm_eval.simple_evaluate(
                model=self._lm,
                tasks=[name],
                task_manager=self._tasks,
                limit=self._options.limit,
                bootstrap_iters=1000,
                apply_chat_template=chat and bool(getattr(self._lm.tokenizer, "chat_template", None)),
                log_samples=True,
            )
        return {
            **record_of(name, results),
            "harness": lm_eval.__version__,
            "seconds": round(time.monotonic() - started, 1),
            "machine": f"{self._lm.device} ({platform.machine()})",
        }


@contextlib.contextmanager
def _templates_compiled_once() -> Iterator[None]:
    """Cache the harness's compiled prompt templates, which it otherwise compiles twice for every item.

    Over MMLU's 14,042 items that takes half a minute, longer than a small model on a GPU; prompts stay the same.
    """
    from lm_eval.utils import env

    env.from_string = functools.lru_cache(maxsize=4096)(env.from_string)
    try:
        yield
    finally:
        del env.from_string


@contextlib.contextmanager
def _machine_left_out() -> Iterator[None]:
    """Spare the harness what it looks up about folder and machine, which no record takes over.

    It asks git, which complains on standard error outside a repository, and starts pip for a list of packages.
    """
    from lm_eval import evaluator

    names = ("get_git_commit_hash", "add_env_info")  # another version may not have both
    kept = {name: getattr(evaluator, name) for name in names if hasattr(evaluator, name)}
    for name in kept:
        setattr(evaluator, name, lambda *_: None)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(evaluator, name, function)


IFEVAL_TOKENS = 1280
"""Tokens that the harness lets a model generate for an IFEval prompt."""


def record_of(name: str, results: dict[str, Any]) -> Record:
    """Return a benchmark's metrics, hashes and per-item outcomes from the harness's results."""
    found = {**results["results"].get(name, {}), **results.get("groups", {}).get(name, {})}
    metrics = {}
    for key, value in found.items():
        metric, _, kept = key.partition(",")
        if kept and not metric.endswith("_stderr") and isinstance(value, int | float):
            error = found.get(f"{metric}_stderr,{kept}")
            metrics[metric] = {"value": value, "stderr": error if isinstance(error, int | float) else None}
    samples = results["samples"]
    items = {metric: [_plain(one[metric]) for task in samples.values() for one in task] for metric in metrics}
    return {
        "benchmark": name,
        "metrics": metrics,
        "n": sum(len(task) for task in samples.values()),
        "items": items,
        "versions": {task: results["versions"].get(task) for task in samples},
        "task_hashes": {task: _task_hash(rows) for task, rows in samples.items()},
    }


def _plain(outcome: Any) -> Any:
    """Return an item's outcome as a number, or as a list where it has several parts."""
    if isinstance(outcome, list | tuple):
        return [_plain(part) for part in outcome]
    return int(outcome) if float(outcome).is_integer() else float(outcome)


def _task_hash(samples: Sequence[dict[str, Any]]) -> str:
    """Return a task's hash as in the harness's own logs."""
    from lm_eval.utils import hash_string

    return str(hash_string("".join(one["doc_hash"] + one["prompt_hash"] + one["target_hash"] for one in samples)))


def open_model(model: str, options: BenchmarkOptions) -> Any:
    """Return the harness's wrapper of a model. Raises KeylmError where it cannot be opened."""
    if Path(model).exists() or model.count("/") != 1:
        check_model_folder(Path(model))
    import torch

    device = chosen_device(options.device)
    on_gpu = device.startswith("cuda")
    folder = Path(model)
    opened, tokenizer = open_pair(folder if folder.exists() else model, torch.bfloat16 if on_gpu else torch.float32)
    try:
        settings = {"pretrained": opened.to(device), "tokenizer": tokenizer, "batch_size": 8}
        if options.scoring == "fast":
            from keylm.evaluation.scoring import SharedContextLM

            lm = SharedContextLM(**settings)
            if folder.exists():
                lm.writer = writer_of(folder, opened, lm.device)
        else:
            from lm_eval.models.huggingface import HFLM

            lm = HFLM(**settings)
    except (ValueError, RuntimeError) as error:
        raise KeylmError(f"{model}: lm_eval cannot take it: {str(error).splitlines()[0]}") from None
    if on_gpu:
        lm.batch_size_per_gpu = rows_at_once(lm.model.config, lm.device, lm.max_length)
    return lm


@contextlib.contextmanager
def _reachable(name: str) -> Iterator[None]:
    """Turn the ways in which a benchmark's items can be unavailable into one KeylmError."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except (ConnectionError, DatasetsError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = str(error).splitlines()[0]
        raise KeylmError(
            f"{name}: its items cannot be had from the hub ({reason}); accepted: a network, or --tasks-path with a "
            "folder of items"
        ) from None


def _hush() -> None:
    """Keep libraries' output out of the progress bars."""
    import datasets

    silence_transformers()
    datasets.disable_progress_bars()
    for library in ("lm_eval", "datasets", "httpx"):
        logging.getLogger(library).setLevel(logging.ERROR)
