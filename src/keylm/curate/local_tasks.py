# mypy: disable-error-code="import-untyped"
"""A stage's tasks in processes of this machine; a process that is killed or a task that fails stops the stage.

Invariants: no worker outlives the process that started it, however that one ends. After the first failure no further
task is handed out; those that are, a few, are finished, for what they leave is of use to the next run.

datatrove's own pool (multiprocess.Pool) replaces a worker that was killed and waits for its task forever.
"""

import errno
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from threading import Thread
from typing import Any

import dill

from keylm.base.errors import KeylmError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says where a disk or a person's share of it is full."""
KILLED = (
    "curation: a worker process was killed (out of memory?); fewer --workers need less; the same command goes on from "
    "here"
)


@dataclass(frozen=True)
class Failure:
    """How a task ended that did not leave its mark; plain, for not every exception can be sent between processes."""

    rank: int
    words: str
    """the exception's kind and first line"""
    told: bool = False
    """whether `words` are a KeylmError's, which say all there is to say"""
    full: int = 0
    """the errno where a disk is full"""


def run_ranks(executor: Any, ranks: list[int], workers: int) -> list[Failure]:
    """Run datatrove's `executor` for each of `ranks`, in this process where `workers` is 1; return what failed.

    Raises KeylmError where a worker process was killed or a task raised one, OSError where the disk is full.
    """
    packed: bytes = dill.dumps(executor)
    failures: list[Failure] = []
    if workers == 1:
        for rank in ranks:
            failures += _run_rank(packed, rank)
            if failures:
                break
    else:
        with _pool(workers) as pool:
            failures = _until_one_fails([pool.submit(_run_rank, packed, rank) for rank in ranks])
    for failure in failures:
        if failure.full:
            raise OSError(failure.full, os.strerror(failure.full))
    for failure in failures:
        if failure.told:
            raise KeylmError(failure.words)
    return sorted(failures, key=lambda failure: failure.rank)


def _until_one_fails(tasks: list["Future[list[Failure]]"]) -> list[Failure]:
    """Wait for `tasks`, and after the first failure for those alone that are under way. Raises KeylmError."""
    failures: list[Failure] = []
    try:
        for task in as_completed(tasks):
            failures += task.result() if not task.cancelled() else []
            for other in tasks if failures else ():
                other.cancel()  # does nothing to what has begun
    except BrokenProcessPool:
        raise KeylmError(KILLED) from None
    return failures


def _run_rank(packed: bytes, rank: int) -> list[Failure]:
    """Run one task with steps of its own, as steps keep what they have seen; return its failure, if any."""
    try:
        dill.loads(packed)._run_for_rank(rank)
    except KeylmError as error:
        return [Failure(rank, str(error), told=True)]
    except Exception as error:
        full = error.errno if isinstance(error, OSError) and error.errno in FULL else 0
        return [Failure(rank, words_of(error), full=full or 0)]
    return []


def words_of(error: BaseException) -> str:
    """Return an exception's kind and the first line of what it says."""
    said = str(error).strip().partition("\n")[0][:300]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Give worker processes that end with the `with` block, or at once with this process where it is killed."""
    context: ForkServerContext = multiprocessing.get_context("forkserver")
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _end_with, (theirs,))
    try:
        yield pool
    finally:
        # Before the pool is shut down: on Ctrl-C it would wait for the tasks under way, up to minutes.
        ours.close()
        pool.shutdown(cancel_futures=True)
        theirs.close()


def _end_with(pipe: "Connection[Any, Any]") -> None:
    """In a worker: end where the other end of `pipe` closes, whatever the task does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's affair, which ends the others

    def watch() -> None:
        pipe.poll(None)  # nothing is ever sent: there is something to read when the pipe is closed
        os._exit(1)

    Thread(target=watch, daemon=True).start()
