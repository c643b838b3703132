"""Checkpoints: everything that training needs to resume as if it had never stopped.

`checkpoints/step-00000123/` holds model.safetensors (fp32 master weights), optimizer.safetensors, and state.json
(step, how long the metrics files were, hashes of recipe, data, the other files and itself). Fully sharded training has
folders model/ and optimizer/ instead, with a file from each rank; both kinds are read by any number of processes. The
state at step K has done K updates; the next batch is batch K.

Invariants: a checkpoint appears under its name complete; one that is truncated or altered is refused by name and
the previous one is used (the bad one is set aside, not deleted); the last ones and those at stage ends are kept.
"""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.base.files import atomic_folder, read_json, sha256_file, sha256_json, sweep, write_json
from keylm.recipe.run_folder import REFUSED, checkpoint_path, checkpoint_paths
from keylm.recipe.run_records import RunRecord
from keylm.training.distributed import Ranks
from keylm.training.sharded_checkpoint import names_in, read_into, read_whole, write_shards
from keylm.training.writer import on_host

PARTS = ("model", "optimizer")


class CheckpointState(RunRecord):
    """What state.json says beside its own hash."""

    step: int
    recipe: str
    """hash of the recipe's identity"""
    shards: str
    """hash of the shards that training has read"""
    initial: str | None = None
    """SHA-256 of the weights that it began with, if it did"""
    metrics_bytes: int = 0
    metrics_sha256: str | None = None
    """of so much of metrics.jsonl; None in checkpoints of earlier versions"""
    timing_bytes: int = 0
    sha256: dict[str, str] = Field(default_factory=dict)
    """of each file of tensors"""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    folder: Path
    state: CheckpointState

    @property
    def step(self) -> int:
        """The updates that were done."""
        return self.state.step

    def model(self) -> dict[str, Tensor]:
        """Return the fp32 master weights by parameter name, whole, on the CPU."""
        return self._whole("model")

    def optimizer(self) -> dict[str, Tensor]:
        """Return the optimizer's state, as `Optimizers.state_tensors` named it, whole, on the CPU."""
        return self._whole("optimizer")

    def optimizer_names(self) -> list[str]:
        """Return what `optimizer` has, without reading it."""
        folder, file = self._place("optimizer")
        return names_in(sorted(folder.glob("*.safetensors")) if folder.is_dir() else [file])

    def read_into(self, part: str, tensors: dict[str, Tensor]) -> None:
        """Fill `tensors` of a part ("model", "optimizer") by name; sharded ones with this rank's rows alone."""
        folder, file = self._place(part)
        read_into(folder if folder.is_dir() else file.parent, tensors)

    def _whole(self, part: str) -> dict[str, Tensor]:
        folder, file = self._place(part)
        return read_whole(folder) if folder.is_dir() else dict(load_file(file))

    def _place(self, part: str) -> tuple[Path, Path]:
        """Return the folder of shards of a part, and the file that holds it otherwise."""
        return self.folder / part, self.folder / f"{part}.safetensors"


class DamagedCheckpoint(Exception):
    """What is wrong with a checkpoint folder."""


def save_checkpoint(
    folder: Path, state: CheckpointState, model: dict[str, Tensor], optimizer: dict[str, Tensor]
) -> Path:
    """Write a checkpoint into `folder`, whole or not at all, and return its path."""
    path = checkpoint_path(folder, state.step)
    with atomic_folder(path) as temporary:
        for part, tensors in zip(PARTS, (model, optimizer), strict=True):
            save_file(on_host(tensors), temporary / f"{part}.safetensors")
        _seal(temporary, state)
    return path


def save_sharded_checkpoint(
    folder: Path, state: CheckpointState, model: dict[str, Tensor], optimizer: dict[str, Tensor], ranks: Ranks
) -> Path:
    """Write a checkpoint of sharded tensors into `folder`, each rank its rows, whole or not at all; return its path.

    Called by every rank of `ranks`; rank 0 makes the folder, and seals and names it (with its own `state`) when all
    have written. An error on any rank is raised on all.
    """
    path = checkpoint_path(folder, state.step)
    with contextlib.ExitStack() as held:
        temporary = ranks.lead(lambda: held.enter_context(atomic_folder(path)))
        for part, tensors in zip(PARTS, (model, optimizer), strict=True):
            write_shards(temporary / part, tensors, ranks)
        ranks.lead(lambda: _seal(temporary, state))
        ranks.lead(held.close)
    return path


def _seal(folder: Path, state: CheckpointState) -> None:
    """Write state.json with the hash of every other file in the folder."""
    hashes = {name: sha256_file(folder / name) for name in _tensor_files(folder)}
    whole = state.model_copy(update={"sha256": hashes}).model_dump(exclude_none=True)
    write_json(folder / "state.json", {**whole, "hash": sha256_json(whole)})


def _tensor_files(folder: Path) -> list[str]:
    """Return the tensor files below a checkpoint's folder, relative to it."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.safetensors"))


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`. Raises DamagedCheckpoint where anything differs from what was written."""
    try:
        plain = dict(read_json(path / "state.json"))
        intact, state = plain.pop("hash", None) == sha256_json(plain), CheckpointState.model_validate(plain)
        if not intact or checkpoint_path(path.parent, state.step) != path:
            raise DamagedCheckpoint(f"{path / 'state.json'} was altered (its hash or its step does not fit)")
        for name, recorded in state.sha256.items():
            if sha256_file(path / name) != recorded:
                raise DamagedCheckpoint(f"{path / name} is truncated or altered (its SHA-256 is not the recorded one)")
        for name in _tensor_files(path):
            if name not in state.sha256:
                raise DamagedCheckpoint(f"{path / name} was not written with it")
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{error.filename} is missing") from None
    except (ValueError, TypeError) as error:
        raise DamagedCheckpoint(f"{path / 'state.json'} cannot be read: {error}") from None
    return Checkpoint(path, state)


def latest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest intact checkpoint, or None if there never was one.

    `warn` is called for each newer one that is damaged. Raises KeylmError if there were some and all are damaged:
    starting over would be a choice, and it is the user's.
    """
    sweep(folder)
    for path in reversed(checkpoint_paths(folder)):
        try:
            return read_checkpoint(path)
        except DamagedCheckpoint as damage:
            aside = folder / f"{REFUSED}{path.name}"
            shutil.rmtree(aside, ignore_errors=True)
            path.replace(aside)
            warn(f"checkpoint refused and put aside as {aside.name}: {damage}; trying the one before it")
    refused = sorted(aside.name for aside in folder.glob(f"{REFUSED}*"))
    if refused:
        raise KeylmError(
            f"{folder}: no sound checkpoint is left ({', '.join(refused)} put aside); accepted: a sound one put back, "
            "--fresh, or deleting them to train from the start"
        )
    return None


def prune(folder: Path, keep_last: int, keep_steps: set[int]) -> None:
    """Remove all but the newest `keep_last` checkpoints and those of `keep_steps`."""
    kept = {checkpoint_path(folder, step) for step in keep_steps}
    for path in checkpoint_paths(folder)[:-keep_last]:
        if path not in kept:
            remove(path)


def remove(path: Path) -> None:
    """Remove a checkpoint, its state first, so that a half-removed one can't pass for intact."""
    (path / "state.json").unlink(missing_ok=True)
    shutil.rmtree(path)
