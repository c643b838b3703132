"""What TRL's trainers are given in common: one device, a record of what they log, checkpoints, and an end by signal.

Weights are fp32 and compute is bf16 on a GPU: at rates of 1e-6 a step is far below what a bf16 weight can show.
Invariant: metrics.jsonl is TRL's own history, which belongs to its checkpoints, so a resumed run has no row twice.
"""

import json
import math
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from transformers import TrainerCallback

import keylm
from keylm.base.console import Status
from keylm.base.errors import Interrupted, KeylmError, TrainingDiverged
from keylm.base.files import atomic_write, read_table
from keylm.base.machine import device_name
from keylm.model.opening import open_pair
from keylm.recipe.run_folder import RunFolder
from keylm.training.signals import StopSignals
from keylm.tuning.trl_runs import TuningRun

STATE = "trainer_state.json"
"""The last file that TRL writes of a checkpoint."""
Row = dict[str, Any]
LOGGED = 400
"""Rows of a whole run's metrics, about."""


@dataclass(frozen=True)
class Watch:
    """How a trainer's progress is recorded and shown."""

    folder: RunFolder
    label: str
    steps: int
    rows: Callable[[list[Row]], list[Row]]
    """the rows of metrics.jsonl in a history that TRL logged"""
    facts: Callable[[Row], str]
    """the last row in a few words"""
    quiet: bool = False


class _Listener(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Records and shows what TRL logs, and stops on a signal."""

    def __init__(self, watch: Watch, status: Status, signals: StopSignals) -> None:
        self._watch, self._status, self._signals = watch, status, signals

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Rewrite metrics.jsonl: TRL's history belongs to its checkpoints, so later rows are dropped."""
        rows = write_metrics(self._watch, state.log_history)
        if rows:
            self._status.update(state.global_step, self._watch.facts(rows[-1]))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop after this step if a stop was requested."""
        if self._signals.received:
            control.should_save = control.should_training_stop = True


def open_chat_model(folder: Path) -> tuple[Any, Any]:
    """Return a model (fp32) and its tokenizer. Raises KeylmError where it was not tuned to chat."""
    model, tokenizer = open_pair(folder, torch.float32)
    if not tokenizer.chat_template:
        raise KeylmError(f"{folder}: has no chat template; accepted: a model that was tuned to chat")
    return model, tokenizer


def trainer_settings(run: TuningRun[Any], steps: int, save_every: int) -> dict[str, Any]:
    """Return the arguments that every configuration of TRL gets."""
    return {
        "output_dir": str(run.folder.path / "trl"),
        "lr_scheduler_type": "linear",
        "gradient_checkpointing": False,
        "bf16": run.device.type == "cuda",
        "use_cpu": run.device.type == "cpu",
        "logging_steps": max(1, steps // LOGGED),
        "save_steps": max(1, min(save_every, steps // 4)),
        "save_total_limit": 2,
        "report_to": [],
        "disable_tqdm": True,
    }


def on_one_device(config: Any) -> Any:
    """Return a configuration that uses one GPU: TRL refuses to spread over several without a launcher."""
    _ = config.device  # sets how many GPUs it saw
    config._n_gpu = min(1, config.n_gpu)
    return config


def run_trainer(watch: Watch, build: Callable[[TrainerCallback], Any]) -> tuple[Any, float]:
    """Run the trainer that `build` makes with a callback, from its last checkpoint on; return it and the seconds.

    Raises Interrupted on SIGTERM or Ctrl-C (a checkpoint was written then), TrainingDiverged where the loss is no
    finite number.
    """
    begun_at = last_checkpoint(watch.folder.path / "trl")
    with (
        Status(watch.label, watch.steps, quiet=watch.quiet) as status,
        StopSignals() as signals,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about what TRL calls
        trainer = build(_Listener(watch, status, signals))
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.remove_callback(transformers.ProgressCallback)
        started = time.monotonic()
        trainer.train(resume_from_checkpoint=begun_at)
        if signals.received:
            done = trainer.state.global_step
            raise Interrupted(f"stopped after step {done} of {watch.steps}; the same command goes on from there")
    _check_finite(write_metrics(watch, trainer.state.log_history))
    return trainer, time.monotonic() - started


def write_metrics(watch: Watch, history: list[Row]) -> list[Row]:
    """Write TRL's log as metrics.jsonl and return its rows."""
    rows = watch.rows(history)
    atomic_write(watch.folder.metrics, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def last_checkpoint(folder: Path) -> str | None:
    """Return TRL's newest complete checkpoint, or None."""
    steps = {}
    for path in folder.glob("checkpoint-*"):
        step = read_table(path / STATE).get("global_step")
        if isinstance(step, int):
            steps[step] = path
    return str(steps[max(steps)]) if steps else None


def _check_finite(rows: list[Row]) -> None:
    for row in rows:
        if not math.isfinite(float(row.get("loss", math.nan))):
            raise TrainingDiverged(f"step {row['step']}: loss {row.get('loss')}: lower the learning rate or beta")


def run_summary(device: torch.device, counts: Row, seconds: float) -> Row:
    """Return what summary.json holds: counts, versions, device, command."""
    return {
        **counts,
        "keylm": keylm.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
        "python": platform.python_version(),
        "device": device.type,
        "device_name": device_name(device),
        "seconds": round(seconds, 1),
        "command": " ".join(["keylm", *sys.argv[1:]]),
    }
