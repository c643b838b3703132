# mypy: disable-error-code="import-untyped"
"""A stage's tasks in local processes; a killed process or a failed task stops the stage.

Invariants: no worker outlives the process that started it, however that ends. After the first failure no further task
is started; those already running are finished, as the next run can use their output.

datatrove's own pool (multiprocess.Pool) replaces a killed worker and waits for its task forever.
"""

import errno
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

import dill

from keylm.base.errors import KeylmError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""A full disk, or an exhausted quota."""
KILLED = (
    "curation: a worker process was killed (out of memory?); fewer --workers need less; the same command goes on from "
    "here"
)


@dataclass(frozen=True)
class Failure:
    """A failed task; plain values, as not every exception can be sent between processes."""

    rank: int
    words: str
    """the exception's kind and first line"""
    for_user: bool = False
    """whether `words` are a KeylmError's message"""
    full: int = 0
    """the errno of a full disk"""


def run_ranks(executor: Any, ranks: list[int], workers: int) -> list[Failure]:
    """Run datatrove's `executor` for each of `ranks`, in this process if `workers` is 1; return the failures.

    Raises KeylmError where a worker was killed or a task raised one, OSError where the disk is full.
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
        if failure.for_user:
            raise KeylmError(failure.words)
    return sorted(failures, key=lambda failure: failure.rank)


def _until_one_fails(tasks: list["Future[list[Failure]]"]) -> list[Failure]:
    """Wait for `tasks`, after the first failure only for those running. Raises KeylmError."""
    failures: list[Failure] = []
    try:
        for task in as_completed(tasks):
            failures += task.result() if not task.cancelled() else []
            for other in tasks if failures else ():
                other.cancel()  # no effect on running tasks
    except BrokenProcessPool:
        raise KeylmError(KILLED) from None
    return failures


def _run_rank(packed: bytes, rank: int) -> list[Failure]:
    """Run one task with its own copy of the steps, which keep state; return its failure, if any."""
    try:
        dill.loads(packed)._run_for_rank(rank)
    except KeylmError as error:
        return [Failure(rank, str(error), for_user=True)]
    except Exception as error:
        full = error.errno if isinstance(error, OSError) and error.errno in FULL else 0
        return [Failure(rank, words_of(error), full=full or 0)]
    return []


def words_of(error: BaseException) -> str:
    """Return an exception's type and the first line of its message."""
    said = str(error).strip().partition("\n")[0][:300]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield worker processes that end with the block, or immediately if this process is killed."""
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _end_with, (theirs,))
    try:
        yield pool
    finally:
        # Before the shutdown, which on Ctrl-C would wait for running tasks, up to minutes.
        ours.close()
        pool.shutdown(cancel_futures=True)
        theirs.close()


def _end_with(pipe: "Connection[Any, Any]") -> None:
    """In a worker: exit when the other end of `pipe` closes, whatever the task does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C and ends its workers

    def watch() -> None:
        with suppress(OSError):  # which is how Windows reports a closed pipe
            pipe.poll(None)  # nothing is ever sent, so this returns when the pipe is closed
        os._exit(1)

    Thread(target=watch, daemon=True).start()
