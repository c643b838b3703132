"""Checkpoints: everything that training needs to go on as if it had never stopped.

`checkpoints/step-00000123/` holds model.safetensors (fp32 master weights), optimizer.safetensors, and state.json
(step, how long the metrics files were, hashes of recipe, data, the two files and itself). The state at step K has
done K updates; the next batch is batch K.

Invariants: a checkpoint appears under its name complete; one that is truncated or altered is refused by name and
the one before it is used (the bad one is put aside, not deleted); the last ones and every stage's end stay, others go.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from keylm.errors import KeylmError
from keylm.files import atomic_folder, read_json, sha256_file, sha256_json, sweep, write_json

PREFIX, REFUSED = "step-", "refused-"
FILES = ("model.safetensors", "optimizer.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    folder: Path
    step: int
    state: dict[str, Any]

    def model(self) -> dict[str, Tensor]:
        """Return the fp32 master weights by parameter name."""
        return dict(load_file(self.folder / FILES[0]))

    def optimizer(self) -> dict[str, Tensor]:
        """Return the optimizer's state, as `Optimizers.state_tensors` named it."""
        return dict(load_file(self.folder / FILES[1]))


class DamagedCheckpoint(Exception):
    """What is wrong with a checkpoint folder."""


def save_checkpoint(
    folder: Path, step: int, model: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]
) -> Path:
    """Write a checkpoint into `folder`, whole or not at all, and return its path."""
    path = checkpoint_path(folder, step)
    with atomic_folder(path) as temporary:
        for name, tensors in zip(FILES, (model, optimizer), strict=True):
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary / name)
        hashes = {name: sha256_file(temporary / name) for name in FILES}
        whole = {"step": step, **state, "sha256": hashes}
        write_json(temporary / "state.json", {**whole, "hash": sha256_json(whole)})
    return path


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint of `step` lies."""
    return folder / f"{PREFIX}{step:08d}"


def checkpoint_paths(folder: Path) -> list[Path]:
    """Return the checkpoint folders in `folder`, oldest first, unverified."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.is_dir())


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`.

    Raises DamagedCheckpoint where anything in it is not as it was written; other trouble of the system's (OSError)
    may pass and is not taken for damage.
    """
    try:
        state = dict(read_json(path / "state.json"))
        if state.pop("hash", None) != sha256_json(state) or checkpoint_path(path.parent, state["step"]) != path:
            raise DamagedCheckpoint(f"{path / 'state.json'} was altered (its hash or its step does not fit)")
        for name in FILES:
            if sha256_file(path / name) != state["sha256"][name]:
                raise DamagedCheckpoint(f"{path / name} is truncated or altered (its SHA-256 is not the recorded one)")
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{error.filename} is missing") from None
    except (ValueError, TypeError) as error:
        raise DamagedCheckpoint(f"{path / 'state.json'} cannot be read: {error}") from None
    return Checkpoint(path, int(state["step"]), state)


def latest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest sound checkpoint, or None where there never was one.

    `warn` is told of each newer one that is not sound. Raises KeylmError where there were some and none is sound:
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
            warn(f"checkpoint refused and put aside as {aside.name}: {damage}; looking at the one before it")
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
    """Remove a checkpoint; its state goes first, so that half a removal can't be taken for a whole one."""
    (path / "state.json").unlink(missing_ok=True)
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
