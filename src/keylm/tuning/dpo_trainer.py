"""The part of preference tuning that TRL does: its DPOTrainer with keylm's settings and callbacks.

Weights are fp32 and compute is bf16 on a GPU: at rates of 1e-6 a step is far below what a bf16 weight can show.
"""

import hashlib
import json
import math
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl
from transformers import TrainerCallback

import keylm
from keylm.base.console import Status, say
from keylm.base.errors import Interrupted, KeylmError, TrainingDiverged
from keylm.base.files import atomic_write, read_table, write_json
from keylm.base.machine import device_name
from keylm.model.opening import chat_ids, open_model, open_pair, spells_special
from keylm.recipe.run_folder import RunFolder
from keylm.runtimes.generation import Message
from keylm.training.signals import StopSignals
from keylm.tuning.pairs import PreferencePair
from keylm.tuning.preference_settings import MICRO_BATCH, DpoRun, Preference

NAMES = {
    "loss": "loss",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "grad_norm": "gradient_norm",
    "learning_rate": "learning_rate",
}
"""TRL's names for what is logged, and ours in metrics.jsonl."""
STATE = "trainer_state.json"
"""The last file that TRL writes of a checkpoint."""


def train(run: DpoRun, pairs: list[PreferencePair]) -> Any:
    """Return the tuned model (fp32); metrics.jsonl and summary.json are written on the way.

    Raises KeylmError where no pair fits into the context, Interrupted on SIGTERM or Ctrl-C (a checkpoint was
    written then), TrainingDiverged where the loss is no finite number.
    """
    folder, settings, tools = run.folder, run.settings, run.tools
    datasets.disable_progress_bars()
    policy, tokenizer = open_pair(run.model, torch.float32)
    if not tokenizer.chat_template:
        raise KeylmError(f"{run.model}: has no chat template; accepted: a model that was tuned to chat")
    context = int(policy.config.max_position_embeddings)
    fitting, left_out = _usable(tokenizer, pairs, context)
    told = f"{left_out['too_long']:,} too long for the context, {left_out['special']:,} that spell out a special token"
    held = [pair for pair in fitting if _held_out(pair, settings.holdout)]
    learnt = [pair for pair in fitting if not _held_out(pair, settings.holdout)]
    if not learnt:
        raise KeylmError(f"{len(pairs)} pairs, none of them to tune on: {told}")
    steps = math.ceil(math.ceil(len(learnt) / settings.batch_pairs) * settings.epochs)
    say(f"dpo  {len(learnt):,} pairs in {steps:,} steps, {len(held):,} held out, {told}", quiet=tools.quiet)
    begun_at = last_checkpoint(folder.path / "trl")
    with Status("dpo", steps, quiet=tools.quiet) as status, StopSignals() as signals, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about what TRL calls
        trainer = trl.DPOTrainer(
            model=policy,
            ref_model=open_model(run.model, torch.float32),  # else TRL opens it, by its own rules
            args=_config(run, steps, context, evaluates=bool(held), begins=not begun_at),
            train_dataset=_dataset(learnt),
            eval_dataset=_dataset(held) if held else None,
            processing_class=tokenizer,
            callbacks=[_Listener(folder, settings, status, signals)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.remove_callback(transformers.ProgressCallback)
        started = time.monotonic()
        trainer.train(resume_from_checkpoint=begun_at)
        if signals.received:
            done = trainer.state.global_step
            raise Interrupted(f"stopped after step {done} of {steps}; the same command goes on from there")
    rows = write_metrics(folder, trainer.state.log_history, settings.batch_pairs)
    _check_finite(rows)
    counts = {"pairs": len(learnt), "held_out": len(held), **left_out, "steps": steps}
    write_json(folder.summary, _summary(run.device, counts, time.monotonic() - started))
    return trainer.accelerator.unwrap_model(trainer.model)


def _config(run: DpoRun, steps: int, context: int, *, evaluates: bool, begins: bool) -> Any:
    settings, device = run.settings, run.device
    most = min(run.tools.micro_batch_pairs or MICRO_BATCH[device.type], settings.batch_pairs)
    micro = next(size for size in range(most, 0, -1) if settings.batch_pairs % size == 0)
    config = trl.DPOConfig(
        output_dir=str(run.folder.path / "trl"),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        beta=settings.beta,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=settings.batch_pairs // micro,
        lr_scheduler_type="linear",
        warmup_steps=round(settings.warmup * steps),
        max_length=context,
        gradient_checkpointing=False,
        bf16=device.type == "cuda",
        use_cpu=device.type == "cpu",
        logging_steps=max(1, steps // 400),
        eval_strategy="epoch" if evaluates else "no",
        eval_on_start=evaluates and begins,
        save_steps=max(1, min(100, steps // 4)),
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        seed=settings.seed,
    )
    _ = config.device  # sets how many GPUs it saw; TRL refuses to spread over several without a launcher
    config._n_gpu = min(1, config.n_gpu)
    return config


class _Listener(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Records and shows what TRL logs, and stops on a signal."""

    def __init__(self, folder: RunFolder, settings: Preference, status: Status, signals: StopSignals) -> None:
        self._folder, self._settings, self._status, self._signals = folder, settings, status, signals

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Rewrite metrics.jsonl: TRL's history belongs to its checkpoints, so later rows are dropped."""
        rows = write_metrics(self._folder, state.log_history, self._settings.batch_pairs)
        if rows and rows[-1]["kind"] == "preference":
            row = rows[-1]
            facts = f"loss {row['loss']:.4f}  accuracy {row['accuracy']:.2f}  margin {row['margin']:.3f}"
            self._status.update(state.global_step, facts)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop after this step if a stop was requested."""
        if self._signals.received:
            control.should_save = control.should_training_stop = True


def write_metrics(folder: RunFolder, history: list[dict[str, Any]], batch: int) -> list[dict[str, Any]]:
    """Write TRL's log as metrics.jsonl and return its rows.

    {"kind": "preference" or "held_out", "step", "pairs", "loss", "accuracy", "margin", "chosen_reward", …}: accuracy is
    the share of pairs whose chosen answer has the higher reward, margin the mean difference of rewards.
    """
    rows = []
    for entry in history:
        for kind, prefix in (("preference", ""), ("held_out", "eval_")):
            if f"{prefix}rewards/accuracies" in entry:
                values = {name: entry.get(prefix + key) for key, name in NAMES.items() if prefix + key in entry}
                rows.append({"kind": kind, "step": entry["step"], "pairs": entry["step"] * batch, **values})
    atomic_write(folder.metrics, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def last_checkpoint(folder: Path) -> str | None:
    """Return TRL's newest complete checkpoint, or None."""
    steps = {}
    for path in folder.glob("checkpoint-*"):
        step = read_table(path / STATE).get("global_step")
        if isinstance(step, int):
            steps[step] = path
    return str(steps[max(steps)]) if steps else None


def _check_finite(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if not math.isfinite(float(row.get("loss", math.nan))):
            raise TrainingDiverged(f"step {row['step']}: loss {row.get('loss')}: lower the learning rate or beta")


def _dataset(pairs: list[PreferencePair]) -> datasets.Dataset:
    def rows() -> Iterator[dict[str, Any]]:
        for pair in pairs:
            answers = {key: [{"role": "assistant", "content": pair[key]}] for key in ("chosen", "rejected")}
            yield {"prompt": pair["prompt"], **answers}

    return datasets.Dataset.from_list(list(rows()))


def _usable(tokenizer: Any, pairs: list[PreferencePair], context: int) -> tuple[list[PreferencePair], dict[str, int]]:
    """Return the pairs to tune on, and how many are left out: those that spell out a special token, or do not fit.

    TRL renders a conversation to text, in which a special token that somebody typed is one.
    """
    plain = [pair for pair in pairs if not any(spells_special(tokenizer, turns) for turns in _conversations(pair))]
    fitting = [pair for pair in plain if _tokens(tokenizer, pair) <= context]
    return fitting, {"too_long": len(plain) - len(fitting), "special": len(pairs) - len(plain)}


def _conversations(pair: PreferencePair) -> list[list[Message]]:
    """Return a pair's two conversations."""
    answers = (pair["chosen"], pair["rejected"])
    return [[*pair["prompt"], {"role": "assistant", "content": answer}] for answer in answers]


def _tokens(tokenizer: Any, pair: PreferencePair) -> int:
    """Return how many tokens the longer of a pair's conversations has."""
    return max(len(chat_ids(tokenizer, messages)) for messages in _conversations(pair))


def _held_out(pair: PreferencePair, share: float) -> bool:
    """Return whether a pair is held out: by its question, so that none is on both sides."""
    digest = hashlib.sha256(json.dumps(pair["prompt"], sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def _summary(device: torch.device, counts: dict[str, int], seconds: float) -> dict[str, Any]:
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
