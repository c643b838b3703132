"""The layout of a run folder, and which stages are done with which inputs."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from keylm.base.console import say, seconds
from keylm.base.errors import KeylmError
from keylm.base.files import read_table, sha256_file, write_json
from keylm.recipe.load import Recipe, parse_recipe, read_toml
from keylm.recipe.run_records import DoneRecord, InitialModelRecord, read_record, record_of

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

PREFIX, REFUSED = "step-", "refused-"
"""What the names of checkpoints begin with, and of those that were put aside as damaged."""


class RunFolder:
    """The folder of one run; each stage reads only what the stages before it left here."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.toml"
        """The resolved recipe."""
        self.tokenizer = path / "tokenizer"
        """Folder: tokenizer.json, tokenizer_config.json."""
        self.curated = path / "curated"
        """Folder: report.json, and a folder of curated documents per source, where the recipe curates."""
        self.shards = path / "shards"
        """Folder: manifest.json, and a folder of shards per source."""
        self.checkpoints = path / "checkpoints"
        """Folder: one folder per checkpoint, step-00000123."""
        self.initial = path / "initial.json"
        """Which model training began with, where it began with one: its path and the hash of its weights."""
        self.metrics = path / "metrics.jsonl"
        """A pure function of recipe and data (on one kind of machine)."""
        self.timing = path / "timing.jsonl"
        """Wall-clock seconds and tokens per second of each step."""
        self.model = path / "model"
        """The finished model in stock Qwen3 layout."""
        self.samples = path / "samples.json"
        """What the model says to the recipe's prompts."""
        self.summary = path / "summary.json"
        """Versions, machine, command: RunSummary."""
        self.stages = path / "stages.json"
        """The record of each finished stage."""
        self.report = path / "report.html"
        """The page that shows all of it."""

    def stage_model(self, stage: str) -> Path:
        """The model at the end of a stage other than the last."""
        return self.path / f"model-{stage}"

    def saved_recipe(self) -> Recipe:
        """Return the recipe that the run was begun with. Raises KeylmError where this is no run folder."""
        if not self.recipe.is_file():
            raise KeylmError(f"{self.path}: no recipe.toml in it; accepted: a run folder such as runs/nano")
        return parse_recipe(read_toml(self.recipe), str(self.recipe))

    def initial_weights(self) -> str | None:
        """Return the recorded SHA-256 of the weights that training began with, None where none is recorded."""
        record = read_record(InitialModelRecord, self.initial)
        return record.sha256 if record else None

    def done(self) -> dict[str, DoneRecord]:
        """Return the record of each finished stage; one that is damaged counts as not finished."""
        found = {name: record_of(DoneRecord, value) for name, value in read_table(self.stages).items()}
        return {name: record for name, record in found.items() if record is not None}

    def is_done(self, stage: str, inputs: str | None = None) -> bool:
        """Return whether `stage` was finished, with exactly these inputs if given, and its outputs are intact."""
        record = self.done().get(stage)
        if record is None or inputs not in (None, record.inputs):
            return False
        return all(_hash(self.path / name) == digest for name, digest in record.outputs.items())

    def mark_done(self, stage: str, inputs: str, outputs: list[Path], seconds: float) -> None:
        """Record that `stage` is finished; `outputs` are files and folders of this run."""
        files = [file for output in outputs for file in ([output] if output.is_file() else sorted(output.iterdir()))]
        hashes = {file.relative_to(self.path).as_posix(): _hash(file) for file in files}
        record = DoneRecord(inputs=inputs, outputs=hashes, seconds=round(seconds, 2))
        write_json(self.stages, {name: done.model_dump() for name, done in {**self.done(), stage: record}.items()})

    def run_unless_done(
        self, name: str, inputs: str, outputs: list[Path], work: Callable[[], object], *, quiet: bool = False
    ) -> None:
        """Do `work` unless it was done with the same inputs and its outputs are still as it left them."""
        if self.is_done(name, inputs):
            return
        started = time.monotonic()
        work()
        spent = time.monotonic() - started
        self.mark_done(name, inputs, outputs, spent)
        say(f"{name}  done in {seconds(spent)}", quiet=quiet)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the run to this process, whatever the folder is called then. Raises KeylmError where another has it."""
        lock = self.path / ".lock"
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            if not fcntl:
                yield
                return
            try:
                file = lock.open("w")
            except FileNotFoundError:
                continue  # the folder was put aside at this moment
            with file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise KeylmError(
                        f"{self.path}: another keylm is at work in it; accepted: wait for it, or another --run-dir"
                    ) from None
                if _is_same(file.fileno(), lock):
                    yield
                    return


def _is_same(opened: int, file: Path) -> bool:
    """Return whether an open file still is the one that `file` names: its folder may have been put aside."""
    try:
        return os.path.samestat(os.fstat(opened), file.stat())
    except FileNotFoundError:
        return False


def _hash(file: Path) -> str:
    return sha256_file(file) if file.is_file() else ""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of `step` in the folder of checkpoints."""
    return folder / f"{PREFIX}{step:08d}"


def checkpoint_paths(folder: Path) -> list[Path]:
    """Return the checkpoint folders in `folder`, oldest first, unverified."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.is_dir())
