"""The part of preference tuning that TRL does: its DPOTrainer with keylm's settings."""

import hashlib
import json
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import datasets
import torch
import trl
from transformers import TrainerCallback

from keylm.base.console import say
from keylm.base.errors import KeylmError
from keylm.base.files import write_json
from keylm.model.opening import chat_ids, open_model, spells_special
from keylm.runtimes.generation import Message
from keylm.tuning.pairs import PreferencePair
from keylm.tuning.preference_settings import MICRO_BATCH, DpoRun
from keylm.tuning.trl_training import (
    Row,
    Watch,
    last_checkpoint,
    on_one_device,
    open_chat_model,
    run_summary,
    run_trainer,
    trainer_settings,
)

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


def train(run: DpoRun, pairs: list[PreferencePair]) -> Any:
    """Return the tuned model (fp32); metrics.jsonl and summary.json are written on the way.

    Raises KeylmError where no pair fits into the context, and as `run_trainer` does.
    """
    folder, settings, tools = run.folder, run.settings, run.tools
    datasets.disable_progress_bars()
    policy, tokenizer = open_chat_model(run.model)
    context = int(policy.config.max_position_embeddings)
    fitting, left_out = _usable(tokenizer, pairs, context)
    told = f"{left_out['too_long']:,} too long for the context, {left_out['special']:,} that spell out a special token"
    held = [pair for pair in fitting if _held_out(pair, settings.holdout)]
    learnt = [pair for pair in fitting if not _held_out(pair, settings.holdout)]
    if not learnt:
        raise KeylmError(f"{len(pairs)} pairs, none of them to tune on: {told}")
    steps = math.ceil(math.ceil(len(learnt) / settings.batch_pairs) * settings.epochs)
    say(f"dpo  {len(learnt):,} pairs in {steps:,} steps, {len(held):,} held out, {told}", quiet=tools.quiet)

    def build(listener: TrainerCallback) -> Any:
        return trl.DPOTrainer(
            model=policy,
            ref_model=open_model(run.model, torch.float32),  # else TRL opens it, by its own rules
            args=_config(run, steps, context, evaluates=bool(held)),
            train_dataset=_dataset(learnt),
            eval_dataset=_dataset(held) if held else None,
            processing_class=tokenizer,
            callbacks=[listener],
        )

    rows = partial(metric_rows, batch=settings.batch_pairs)
    trainer, seconds = run_trainer(Watch(folder, "dpo", steps, rows, _facts, tools.quiet), build)
    counts = {"pairs": len(learnt), "held_out": len(held), **left_out, "steps": steps}
    write_json(folder.summary, run_summary(run.device, counts, seconds))
    return trainer.accelerator.unwrap_model(trainer.model)


def _config(run: DpoRun, steps: int, context: int, *, evaluates: bool) -> Any:
    settings = run.settings
    micro = run.micro_batch(settings.batch_pairs, MICRO_BATCH)
    begins = last_checkpoint(run.folder.path / "trl") is None
    return on_one_device(
        trl.DPOConfig(
            **trainer_settings(run, steps, save_every=100),
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            beta=settings.beta,
            per_device_train_batch_size=micro,
            per_device_eval_batch_size=micro,
            gradient_accumulation_steps=settings.batch_pairs // micro,
            warmup_steps=round(settings.warmup * steps),
            max_length=context,
            eval_strategy="epoch" if evaluates else "no",
            eval_on_start=evaluates and begins,
            seed=settings.seed,
        )
    )


def _facts(row: Row) -> str:
    return f"loss {row['loss']:.4f}  accuracy {row['accuracy']:.2f}  margin {row['margin']:.3f}"


def metric_rows(history: list[Row], batch: int) -> list[Row]:
    """Return the rows of metrics.jsonl in what TRL logged.

    {"kind": "preference" or "held_out", "step", "pairs", "loss", "accuracy", "margin", "chosen_reward", …}: accuracy is
    the share of pairs whose chosen answer has the higher reward, margin the mean difference of rewards.
    """
    rows = []
    for entry in history:
        for kind, prefix in (("preference", ""), ("held_out", "eval_")):
            if f"{prefix}rewards/accuracies" in entry:
                values = {name: entry.get(prefix + key) for key, name in NAMES.items() if prefix + key in entry}
                rows.append({"kind": kind, "step": entry["step"], "pairs": entry["step"] * batch, **values})
    return rows


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
