"""What decides a tuning by rewards."""

from dataclasses import dataclass

from keylm.tuning.trl_runs import TuningRun

MICRO_BATCH = {"cuda": 64, "cpu": 16, "mps": 16}
"""Answers that are computed at once, by kind of device; memory grows with it."""


@dataclass(frozen=True)
class Reinforcement:
    """What the tuned weights depend on; docs/instruct.md says why the defaults are what they are."""

    epochs: float = 1.0
    learning_rate: float = 3e-6
    beta: float = 0.04
    """weight of the KL divergence from the initial model, per token"""
    batch_prompts: int = 32
    answers: int = 8
    """sampled for each prompt of a step; each is compared with their mean"""
    warmup: float = 0.1
    """share of the steps; the rate decays linearly to 0 afterwards"""
    temperature: float = 1.0
    max_new_tokens: int = 256
    """of an answer; one that does not end by then earns nothing"""
    least_words: int = 8
    """of an answer, for full credit"""
    replay_weight: float = 0.1
    """of the loss on replayed text, where there is some"""
    limit: int | None = None
    """lines of the prompts that are read, the first ones"""
    seed: int = 0


GrpoRun = TuningRun[Reinforcement]
