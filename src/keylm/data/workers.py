"""Worker processes that encode batches of records.

Invariants: results come back in the order of the batches, so any number of workers gives the same shards; no worker
outlives the process that started it, however that one ends.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Self

from keylm.base.errors import KeylmError
from keylm.data.documents import Record
from keylm.data.encode import Encoded, Encoder
from keylm.recipe.load import Recipe

_encoders: "Encoders | None" = None
"""What a worker process encodes with."""


class Encoders:
    """The encoders of a recipe's sources, each created when it is first needed."""

    def __init__(self, recipe: Recipe, tokenizer_folder: Path) -> None:
        self._recipe, self._tokenizer_folder = recipe, tokenizer_folder
        self._made: dict[str, Encoder] = {}

    def encode(self, name: str, records: Sequence[Record]) -> Encoded:
        """Return what records of the source `name` become."""
        if name not in self._made:
            self._made[name] = Encoder(self._recipe, name, self._tokenizer_folder)
        return self._made[name].encode(records)


class Workers:
    """Encodes batches in `count` processes, or in this one where `count` is 1."""

    def __init__(self, recipe: Recipe, tokenizer_folder: Path, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None
        self._here: Encoders | None = None
        if count == 1:
            self._here = Encoders(recipe, tokenizer_folder)
            return
        # spawn: a fork would copy the threads' locks of torch and rich in whatever state they are.
        context = multiprocessing.get_context("spawn")
        arguments = (recipe, tokenizer_folder, os.getpid())
        self._pool = ProcessPoolExecutor(count, context, initializer=_begin, initargs=arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def submit(self, name: str, records: Sequence[Record]) -> "Future[Encoded]":
        """Begin to encode a batch of the source `name`; collect it with `result`."""
        if self._pool is not None:
            return self._pool.submit(_encode, name, records)
        assert self._here is not None
        future: Future[Encoded] = Future()
        future.set_result(self._here.encode(name, records))
        return future

    def result(self, future: "Future[Encoded]") -> Encoded:
        """Return a batch's encoding when it is there. Raises KeylmError where a worker was killed."""
        try:
            return future.result()
        except BrokenProcessPool:
            raise KeylmError(
                "a worker process of the build was killed, perhaps for lack of memory; finished shards stay: start "
                "the same command again, with fewer --workers"
            ) from None


def _begin(recipe: Recipe, tokenizer_folder: Path, parent: int) -> None:
    """Prepare a worker process."""
    global _encoders
    prepare_worker(parent)
    _encoders = Encoders(recipe, tokenizer_folder)


def prepare_worker(parent: int) -> None:
    """Make this process a worker of its parent's: that handles Ctrl-C, and its end is the worker's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    exit_with(parent)


def exit_with(parent: int) -> None:
    """Make this process end within a second of its parent's end, even by kill -9."""
    process = multiprocessing.parent_process()

    def watch() -> None:
        if process and process.pid == parent:
            process.join()
        else:  # on Windows that would never end: a process keeps its parent's number
            while os.getppid() == parent:
                time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _encode(name: str, records: Sequence[Record]) -> Encoded:
    assert _encoders is not None
    return _encoders.encode(name, records)
