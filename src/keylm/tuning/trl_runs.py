"""What a tuning through TRL is before TRL is loaded: its model, data, folder and device, and the model it leaves.

Invariants: one command at a time works in a folder; another model, other data or settings are refused there; nothing
of the model's folder is executed, and of its files only those that make a model folder are handed on.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from keylm.base.errors import KeylmError, how_to_install
from keylm.base.files import atomic_folder, read_table, sha256_file, sweep, write_json
from keylm.data.readers import source_files
from keylm.model.config_files import read_config_file
from keylm.model.folder import SHARD_SIZE, check_model_folder, weights_hash
from keylm.model.opening import TOKENIZER_FILES
from keylm.pipeline.run import put_aside
from keylm.recipe.run_folder import RunFolder
from keylm.training.distributed import choose_device
from keylm.tuning.pairs import Checker, default_checker

Settings = TypeVar("Settings")
"""A dataclass of what the tuned weights depend on."""
RECORDS = {"dpo": "dpo.json", "grpo": "grpo.json"}
"""By verb: the file of a run folder that says what the run is."""


@dataclass(frozen=True)
class Tools:
    """How it is done; of no consequence for the result but rounding."""

    device: str = "auto"
    micro_batch: int | None = None
    """pairs or answers that are computed at once; None: what suits the device"""
    checker: Callable[[], Checker] = default_checker
    quiet: bool = False


@dataclass(frozen=True)
class TuningRun(Generic[Settings]):
    """One tuning: what is tuned, on what, where and how."""

    verb: str
    model: Path
    """a model folder"""
    data: Sequence[Path]
    """files or folders of pairs or prompts"""
    folder: RunFolder
    settings: Settings
    tools: Tools
    device: torch.device
    replay: Sequence[Path] = ()
    """files or folders of text that is not to be forgotten"""

    def micro_batch(self, batch: int, most: dict[str, int]) -> int:
        """Return how many of a batch to compute at once: a divisor of it, at most what is asked or suits the device."""
        limit = min(self.tools.micro_batch or most[self.device.type], batch)
        return next(size for size in range(limit, 0, -1) if batch % size == 0)


def new_run(
    verb: str,
    model: Path,
    data: Sequence[Path],
    path: Path,
    settings: Settings,
    tools: Tools,
    replay: Sequence[Path] = (),
) -> TuningRun[Settings]:
    """Return a run that can begin. Raises KeylmError for a folder without a model, without TRL, under torchrun."""
    check_model_folder(model)
    needs_trl()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise KeylmError(f"keylm {verb}: runs on one GPU or CPU; accepted: without torchrun")
    return TuningRun(verb, model, data, RunFolder(path), settings, tools, choose_device(tools.device), replay)


def needs_trl() -> None:
    """Raise KeylmError where TRL is not installed."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import trl  # noqa: F401
    except ImportError:
        raise KeylmError(f"tuning by preferences or rewards needs TRL: {how_to_install('post')}") from None


@contextlib.contextmanager
def claimed(run: TuningRun[Any], *, fresh: bool = False) -> Iterator[dict[str, Any]]:
    """Keep the run's folder to this process; yield what the run is, as recorded there.

    `fresh` sets aside what is in the folder. Raises KeylmError where it holds another run or another process works.
    """
    if fresh:
        put_aside(run.folder, quiet=run.tools.quiet)
    with run.folder.locked():
        sweep(run.folder.path)
        yield _claim(run)


def _claim(run: TuningRun[Any]) -> dict[str, Any]:
    """Record what the run is, and return it. Raises KeylmError if the folder holds another run."""
    folder, settings = run.folder, asdict(run.settings)
    identity = {"settings": settings, "model": weights_hash(run.model), "data": _hashes(run.data)}
    if run.replay:
        identity["replay"] = _hashes(run.replay)
    file = folder.path / RECORDS[run.verb]
    known = read_table(file)
    others = [folder.recipe, *(folder.path / name for name in RECORDS.values() if name != file.name)]
    if not known and any(other.is_file() for other in others):
        raise KeylmError(f"{folder.path}: holds another kind of run; accepted: another --out, or --fresh")
    for key in known and (*identity, "replay"):
        was = known.get(key)
        if was != identity.get(key):
            change = key if key != "settings" or not isinstance(was, dict) else _changed(was, settings)
            raise KeylmError(
                f"{folder.path}: was begun with another {change}; accepted: the same command, another --out, or --fresh"
            )
    paths = {"model": str(run.model), "data": list(map(str, run.data)), "replay": list(map(str, run.replay))}
    write_json(file, {**identity, "paths": paths})
    return identity


def _hashes(paths: Sequence[Path]) -> list[list[str]]:
    return [[file.name, sha256_file(file)] for path in paths for file in source_files(path)]


def _changed(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} ({was.get(key)!r}, now {now[key]!r})" for key in now if was.get(key) != now[key])


def export_tuned(model: Any, source: Path, folder: Path) -> None:
    """Write a tuned fp32 model as a bf16 model folder, with `source`'s tokenizer and generation defaults; whole or not.

    Weights are rounded by chance (see `round_by_chance`), always the same one. Changes `model`.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(round_by_chance(parameter.cpu(), generator))
    with atomic_folder(folder) as temporary:
        model.to(torch.bfloat16).save_pretrained(temporary, max_shard_size=SHARD_SIZE)
        config = read_config_file(source / "config.json")
        for name in (*TOKENIZER_FILES, "generation_config.json"):  # nothing else is the tuned model's
            if (source / name).is_file():
                shutil.copyfile(source / name, temporary / name)
        write_json(temporary / "config.json", {**config, "dtype": "bfloat16", "torch_dtype": "bfloat16"})


def round_by_chance(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return fp32 `values` as bf16: one of the two neighbours, at random, so that the mean is right.

    What tuning changes is mostly less than half the distance between two bf16 numbers, and the weights it begins
    with are such numbers: rounded to the nearest, most of it would be gone (LOG.md). bf16 is the upper half of fp32's
    bits, so a random lower half is added and what is below is cut off; bf16 numbers stay as they are.
    """
    bits = values.float().contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << 16, values.shape, dtype=torch.int32, generator=generator)
    return ((bits + noise) & -(1 << 16)).view(torch.float32).bfloat16()
