"""The part of a tuning by rewards that TRL does: its GRPOTrainer with keylm's sampler, rewards and replayed text.

A step samples `answers` answers to each of `batch_prompts` prompts with the weights as they are, and takes one
optimizer step on them, so the policy that is trained is the one that answered and no ratio is clipped. An answer's
advantage is its reward less the mean of its prompt's answers, unscaled (Dr. GRPO, arXiv 2503.20783: scaling by the
group's deviation favours prompts that are nearly always or nearly never kept); every token of a step weighs the same
(DAPO, arXiv 2503.14476), so long answers are not favoured.
"""

import json
import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import datasets
import torch
import trl
from transformers import TrainerCallback
from trl.trainer.utils import add_fused_lm_head

from keylm.base.console import say
from keylm.base.errors import KeylmError
from keylm.base.files import write_json
from keylm.model.opening import chat_ids, open_model
from keylm.runtimes.generation import Message
from keylm.tuning.replay import ROWS, Replay, perplexity, read_replay
from keylm.tuning.reward_prompts import RewardPrompt, prompt_order
from keylm.tuning.reward_settings import MICRO_BATCH, GrpoRun
from keylm.tuning.rewards import Judge
from keylm.tuning.rollouts import Roller, RollOuts
from keylm.tuning.trl_training import (
    Row,
    Watch,
    on_one_device,
    open_chat_model,
    run_summary,
    run_trainer,
    trainer_settings,
)

NAMES = {
    "loss": "loss",
    "reward": "reward",
    "reward_std": "reward_deviation",
    "frac_reward_zero_std": "equal_rewards",
    "kept": "kept",
    "whole": "whole",
    "guard": "guard",
    "cut_off": "cut_off",
    "completions/mean_length": "length",
    "kl": "kl",
    "entropy": "entropy",
    "sampling_gap": "sampling_gap",
    "replay_loss": "replay_loss",
    "grad_norm": "gradient_norm",
    "learning_rate": "learning_rate",
}
"""TRL's names for what is logged, or those that the trainer below gives, and ours in metrics.jsonl."""
FAMILY, SAMPLE = "family/", "sample"
SEEDS = 1_000_003
"""Seeds of the steps of a run, so that no two runs share them soon."""


def train(run: GrpoRun, prompts: list[RewardPrompt]) -> Any:
    """Return the tuned model (fp32); metrics.jsonl and summary.json are written on the way.

    Raises KeylmError where no prompt leaves room for an answer, and as `run_trainer` does.
    """
    settings, quiet = run.settings, run.tools.quiet
    datasets.disable_progress_bars()
    policy, tokenizer = open_chat_model(run.model)
    fitting = _fitting(run, prompts, tokenizer, int(policy.config.max_position_embeddings))
    steps = math.ceil(math.ceil(len(fitting) / settings.batch_prompts) * settings.epochs)
    counts = {"prompts": len(fitting), "too_long": len(prompts) - len(fitting), "steps": steps}
    say(
        f"grpo  {len(fitting):,} prompts in {steps:,} steps of {settings.batch_prompts} x {settings.answers} answers, "
        f"{counts['too_long']:,} too long for the context",
        quiet=quiet,
    )
    reference = open_model(run.model, torch.float32)
    replay = read_replay(run.replay, tokenizer, policy.config.max_position_embeddings, steps) if run.replay else None
    build = partial(_trainer, run, fitting, steps, (policy, reference, tokenizer), replay)
    rows = partial(metric_rows, batch=settings.batch_prompts)
    trainer, seconds = run_trainer(Watch(run.folder, "grpo", steps, rows, _facts, quiet), build)
    tuned = trainer.accelerator.unwrap_model(trainer.model)
    texts = {} if replay is None else {"replay": _cost(replay, trainer.ref_model, tuned)}
    write_json(run.folder.summary, run_summary(run.device, {**counts, **texts}, seconds))
    return tuned


def _fitting(run: GrpoRun, prompts: list[RewardPrompt], tokenizer: Any, context: int) -> list[RewardPrompt]:
    """Return the prompts that leave room for an answer. Raises KeylmError where none does."""
    room = context - run.settings.max_new_tokens
    fitting = [one for one in prompts if len(_prompt_ids(tokenizer, one.messages)) <= room]
    if not fitting:
        raise KeylmError(
            f"{len(prompts)} prompts, none with room for {run.settings.max_new_tokens} tokens of answer: the context "
            f"has {context}; accepted: shorter prompts, or fewer --max-new-tokens"
        )
    return fitting


def _prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    return chat_ids(tokenizer, messages, add_generation_prompt=True)


def _cost(replay: Replay, reference: Any, tuned: Any) -> Row:
    """Return what the tuning cost on replayed text that was held out: perplexities before and after."""
    before, after = perplexity(reference, replay), perplexity(tuned, replay)
    return {"documents": len(replay.held), "before": before, "after": after}


def _trainer(
    run: GrpoRun,
    prompts: list[RewardPrompt],
    steps: int,
    opened: tuple[Any, Any, Any],
    replay: Replay | None,
    listener: TrainerCallback,
) -> "RewardTrainer":
    settings, (policy, reference, tokenizer) = run.settings, opened
    order = prompt_order(len(prompts), steps * settings.batch_prompts, settings.seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rollout_func.*")  # that it is experimental
        return RewardTrainer(
            run,
            prompts,
            reference,
            replay,
            model=policy,
            args=_config(run, steps),
            train_dataset=datasets.Dataset.from_list([{"prompt": prompts[row].messages, "row": row} for row in order]),
            processing_class=tokenizer,
            callbacks=[listener],
        )


def _config(run: GrpoRun, steps: int) -> Any:
    settings = run.settings
    answers = settings.batch_prompts * settings.answers
    micro = run.micro_batch(answers, MICRO_BATCH)
    return on_one_device(
        trl.GRPOConfig(
            **trainer_settings(run, steps, save_every=25),
            num_train_epochs=1,
            shuffle_dataset=False,  # the order is the data set's, whatever step it resumes at
            learning_rate=settings.learning_rate,
            warmup_steps=round(settings.warmup * steps),
            beta=0.0,  # the trainer below hands in its own reference
            num_generations=settings.answers,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=answers // micro,
            max_completion_length=settings.max_new_tokens,
            temperature=settings.temperature,
            loss_type="dapo",
            scale_rewards="none",
            seed=settings.seed,
        )
    )


class RewardTrainer(trl.GRPOTrainer):  # type: ignore[misc]  # TRL is untyped
    """TRL's trainer with keylm's sampler and judge, a reference that keylm opened, and replayed text."""

    def __init__(
        self, run: GrpoRun, prompts: list[RewardPrompt], reference: Any, replay: Replay | None, **arguments: Any
    ) -> None:
        super().__init__(reward_funcs=self._rewards, rollout_func=self._roll_out, **arguments)
        self._settings, self._prompts, self._replay = run.settings, prompts, replay
        self._judge = Judge(frozenset(self.eos_token_ids), run.settings.least_words)
        self._sample: Row = {}
        how = RollOuts(run.settings.max_new_tokens, run.settings.temperature, frozenset(self.eos_token_ids))
        self._roller = Roller(run.model, how, self.accelerator.device)
        # As TRL does where beta is given, but that TRL would open the folder itself, by its own rules.
        self.beta = run.settings.beta
        add_fused_lm_head(reference, temperature=self.temperature)
        self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)

    def _roll_out(self, prompts: list[list[Message]], trainer: Any) -> dict[str, Any]:
        """Return an answer to each prompt (`answers` of each in a row), sampled from the weights as they are."""
        each = self._settings.answers
        ids = [_prompt_ids(self.processing_class, messages) for messages in prompts[::each]]
        seed = self._settings.seed * SEEDS + self.state.global_step
        found = self._roller(self.accelerator.unwrap_model(self.model), ids, seed, each)
        return {
            "prompt_ids": [prompt for prompt in ids for _ in range(each)],
            "completion_ids": [one.ids for one in found],
            "logprobs": [one.log_probs for one in found],
        }

    def _rewards(
        self,
        prompts: list[list[Message]],
        completions: list[list[Message]],
        completion_ids: list[list[int]],
        row: list[int],
        log_metric: Any,
        **_: Any,
    ) -> list[float]:
        """Return each answer's reward, and log what it is made of."""
        rewards = []
        for number, (messages, [answer], ids) in enumerate(zip(prompts, completions, completion_ids, strict=True)):
            constraints = self._prompts[row[number]].constraints
            judged = self._judge(answer["content"], ids, constraints)
            rewards.append(judged.reward)
            log_metric("kept", sum(judged.kept) / len(judged.kept))
            log_metric("whole", float(all(judged.kept)))
            log_metric("guard", judged.guard)
            log_metric("cut_off", float(judged.cut_off))
            for constraint, kept in zip(constraints, judged.kept, strict=True):
                log_metric(FAMILY + str(constraint.get("type")), float(kept))
            if number == 0:
                broken = [one for one, kept in zip(constraints, judged.kept, strict=True) if not kept]
                self._sample = {"prompt": messages, "answer": answer["content"], "reward": judged.reward}
                self._sample["broken"] = broken
        return rewards

    def _get_per_token_logps_and_entropies(self, model: Any, *arguments: Any, **more: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(model, *arguments, **more)
        self._log_probs = found[0].detach()
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Return TRL's loss, and the replayed text's with its weight; log how far sampler and trainer are apart."""
        loss: torch.Tensor = super()._compute_loss(model, inputs)
        apart = (self._log_probs - inputs["sampling_per_token_logps"]).abs() * inputs["completion_mask"]
        self._metrics["train"]["sampling_gap"].append(float(apart.sum() / inputs["completion_mask"].sum()))
        if self._replay is None:
            return loss
        parts = self.current_gradient_accumulation_steps
        number = self.state.global_step * parts + self._step % parts
        batch = self._replay.batch(number, max(1, ROWS // parts))
        text_loss = model(**{name: value.to(loss.device) for name, value in batch.items()}).loss
        self._metrics["train"]["replay_loss"].append(float(text_loss.detach()))
        loss += self._settings.replay_weight * text_loss / parts
        return loss

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Log as TRL does, with an answer of the step, which TRL's checkpoints then keep for the report."""
        super().log({**logs, SAMPLE: self._sample}, start_time)


def _facts(row: Row) -> str:
    return (
        f"reward {row['reward']:.3f}  kept {row['kept']:.0%}  KL {row['kl']:.4f}  "
        f"{row['length']:.0f} tokens  cut off {row['cut_off']:.0%}"
    )


def metric_rows(history: list[Row], batch: int) -> list[Row]:
    """Return the rows of metrics.jsonl in what TRL logged.

    {"kind": "reward", "step", "prompts", "loss", "reward", "kept", "whole", "guard", "cut_off", "length", "kl",
    "entropy", "sampling_gap", …, "families", "sample"}: means over the answers of the steps since the row before. kept
    is the share of constraints, whole that of answers that keep all, families the share kept of each type; length in
    tokens; kl and entropy in nats a token; sampling_gap the mean difference, in nats a token, between the sampler's
    log-probabilities and the trainer's of the same weights.
    """
    rows = []
    for entry in history:
        if "reward" in entry:
            values = {name: entry[key] for key, name in NAMES.items() if entry.get(key) is not None}
            families = {key.removeprefix(FAMILY): entry[key] for key in sorted(entry) if key.startswith(FAMILY)}
            row = {"kind": "reward", "step": entry["step"], "prompts": entry["step"] * batch, **values}
            sample = json.loads(json.dumps(entry.get(SAMPLE, {}), sort_keys=True))  # as a checkpoint gives it back
            rows.append({**row, "families": families, SAMPLE: sample})
    return rows
