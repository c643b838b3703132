# mypy: disable-error-code="misc, import-untyped"
"""Where the tasks of curation run: worker processes of this machine, a Ray cluster, or Slurm.

Invariants: a stage is complete when each of its tasks has left its completion mark, whoever ran it; a completed task
is never run again. No two processes write the same files: tasks hold a lock that a new run waits for.
"""

import contextlib
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from datatrove.executor.base import PipelineExecutor
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from loguru import logger

from keylm.base.console import Status
from keylm.base.errors import KeylmError
from keylm.curate.local_tasks import FULL, Failure, run_ranks, words_of
from keylm.data.curated import Executor

try:
    import fcntl
except ImportError:  # Windows has no such locks: there nothing keeps a second run from the same folder
    fcntl = None  # type: ignore[assignment]

POLL_SECONDS = 0.5
TASK_GIGABYTES = 1.5
"""Memory requested for a task on a cluster."""
TASKS_LOCK = "tasks.lock"
SQUEUE_TRIES, SQUEUE_SECONDS = 5, 15.0
"""How often in a row, and how many seconds apart, squeue must report a job as unknown."""


@dataclass(frozen=True)
class CurationStage:
    """Some of datatrove's steps one after the other, run for each rank."""

    name: str
    steps: list[Any]
    tasks: int


def run_stage(stage: CurationStage, work: Path, kind: Executor, workers: int, *, quiet: bool) -> None:
    """Run a stage's tasks that have not been done yet. Raises KeylmError where one of them fails."""
    logs = work / "logs" / stage.name
    executor = _executor(stage, logs, kind, workers)
    left = len(executor.get_incomplete_ranks())
    if not left:
        return
    with _progress(executor, stage, quiet), silenced():
        failures = _run(executor, kind)
    undone = executor.get_incomplete_ranks()
    if failures or undone:
        rank, words = (failures[0].rank, failures[0].words) if failures else (undone[0], "")
        raise KeylmError(
            f"curation: {len(failures) or len(undone)} of {stage.tasks} tasks of the step {stage.name!r} failed"
            f" ({_last_words(logs, rank, words)}); see {logs}"
        )


def _run(executor: Any, kind: Executor) -> list[Failure]:
    """Run the tasks of a stage; return those of local ones that failed (others are known by their missing mark).

    Raises KeylmError where the executor itself fails, or a local task with one; OSError where the disk is full.
    """
    try:
        failures: list[Failure] | None = executor.run()
        if kind == "slurm":
            _await_slurm(executor)
    except KeylmError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise KeylmError(f"curation: the executor {kind} failed ({words_of(error)})") from error
    return (failures or []) if kind == "local" else []


def _executor(stage: CurationStage, logs: Path, kind: Executor, workers: int) -> PipelineExecutor:
    workers = min(workers, stage.tasks)
    common = {"pipeline": stage.steps, "tasks": stage.tasks, "workers": workers, "logging_dir": str(logs)}
    if kind == "local":
        return QuietLocal(**common)
    # Group light tasks, so as not to start hundreds of jobs of a second.
    light = max(1, stage.tasks // workers) if stage.name == "buckets" else 1
    if kind == "ray":
        _start_ray(workers)
        return QuietRay(**common, mem_per_cpu_gb=TASK_GIGABYTES, tasks_per_job=light)
    if not os.environ.get("SBATCH_PARTITION"):
        raise KeylmError("curation: executor slurm needs the environment variable SBATCH_PARTITION, a Slurm partition")
    return QuietSlurm(
        **common,
        partition=os.environ["SBATCH_PARTITION"],
        time=os.environ.get("SBATCH_TIMELIMIT", "04:00:00"),
        qos=os.environ.get("SBATCH_QOS", ""),
        mem_per_cpu_gb=2,
        tasks_per_job=light,
        job_name=f"keylm-{stage.name}",
        env_command=f'export PATH="{Path(sys.executable).parent}:$PATH"',
    )


class _Quiet:
    """Keeps datatrove's log in its files, and holds the tasks' lock while a task runs."""

    logging_dir: Any

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        with _shared_lock(Path(self.logging_dir.path).parents[1]), silenced():
            return super()._run_for_rank(rank, local_rank, node_rank)


class QuietLocal(_Quiet, LocalPipelineExecutor):
    """Worker processes of this machine."""

    def run(self) -> list[Failure]:
        """Run the incomplete tasks and return those that failed. Raises KeylmError, OSError."""
        return run_ranks(self, self.get_incomplete_ranks(), self.workers)


class QuietRay(_Quiet, RayPipelineExecutor):
    """Actors of a Ray cluster; the folder must be shared by its machines."""


class QuietSlurm(_Quiet, SlurmPipelineExecutor):
    """Arrays of Slurm jobs; the folder must be shared by the nodes."""

    def launch_merge_stats(self) -> None:
        """Start no further job: keylm merges the figures itself."""


def _start_ray(workers: int) -> None:
    """Join the Ray cluster that RAY_ADDRESS names, or start one here. Raises KeylmError where Ray is missing."""
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise KeylmError("curation: executor ray needs Ray; install it with: pip install ray") from None
    if not ray.is_initialized():
        here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="ERROR", **here)


def _await_slurm(executor: Any) -> None:
    """Wait until all tasks are complete, or Slurm has repeatedly reported the job as unknown.

    A single answer means little: the controller may be restarting, and marks reach a shared folder late.
    """
    unknown = 0
    while executor.get_incomplete_ranks():
        unknown = 0 if _slurm_knows(executor.job_id) else unknown + 1
        if unknown >= SQUEUE_TRIES:
            return
        time.sleep(SQUEUE_SECONDS if unknown else 10 * POLL_SECONDS)


def _slurm_knows(job: object) -> bool:
    command = ["squeue", "-h", "-j", str(job)]
    try:
        reply = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return reply.returncode == 0 and bool(reply.stdout.strip())


@contextlib.contextmanager
def _progress(executor: PipelineExecutor, stage: CurationStage, quiet: bool) -> Iterator[None]:
    """Show how many of a stage's tasks are done while they run."""
    over = Event()

    def watch(status: Status) -> None:
        while not over.wait(POLL_SECONDS):
            done = stage.tasks - len(executor.get_incomplete_ranks())
            status.update(done, f"{done} of {stage.tasks} tasks")

    done = stage.tasks - len(executor.get_incomplete_ranks())
    with Status(f"curate  {stage.name}", stage.tasks, start=done, quiet=quiet) as status:
        thread = Thread(target=watch, args=(status,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keep datatrove (loguru, tqdm) off the terminal; its log files are kept."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
        logger.remove()
        try:
            yield
        finally:
            logger.remove()  # datatrove puts its own back after every task


def _last_words(logs: Path, rank: int, known: str) -> str:
    """Return what is `known` of a task's failure, else the last line of its log that names an error."""
    try:
        lines = (logs / "logs" / f"task_{rank:05d}.log").read_text(encoding="utf-8").splitlines()
    except OSError:
        return known or "it left no log"
    named = [line.strip() for line in lines if "Error" in line.partition(":")[0] and not line.startswith((" ", "2"))]
    return known or (named[-1] if named else "its log names no error")


@contextlib.contextmanager
def sole_run(work: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Lock `work` for this process, after waiting for the last tasks of a killed run. Raises KeylmError."""
    work.mkdir(parents=True, exist_ok=True)
    # POSIX locks end with their process, and are not inherited by forked ones.
    with (work / "run.lock").open("w") as own, (work / TASKS_LOCK).open("w") as tasks:
        if not fcntl:
            yield
            return
        try:
            fcntl.lockf(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise KeylmError(f"{work.parent}: another process curates there; wait for it or end it") from None
        try:
            fcntl.lockf(tasks, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            report("curate  waiting for the last tasks of a run that was killed")
            fcntl.lockf(tasks, fcntl.LOCK_EX)
        fcntl.lockf(tasks, fcntl.LOCK_UN)
        yield


@contextlib.contextmanager
def _shared_lock(work: Path) -> Iterator[None]:
    with (work / TASKS_LOCK).open("r") as file:
        with contextlib.suppress(OSError):  # some shared file systems have no locks
            if fcntl:
                fcntl.lockf(file, fcntl.LOCK_SH)
        yield
