"""What decides a preference tuning."""

from dataclasses import dataclass

from keylm.tuning.trl_runs import TuningRun

MICRO_BATCH = {"cuda": 16, "cpu": 8, "mps": 8}
"""Pairs that are computed at once, two answers each, by kind of device; memory grows with it."""


@dataclass(frozen=True)
class Preference:
    """What the tuned weights depend on."""

    epochs: float = 1.0
    """a second epoch harms at this size (Falcon-H1-Tiny; docs/instruct.md)"""
    learning_rate: float = 2e-6
    beta: float = 0.1
    batch_pairs: int = 32
    warmup: float = 0.1
    """share of the steps; the rate decays linearly to 0 afterwards"""
    holdout: float = 0.02
    """share of the pairs that are kept to measure on"""
    temperature: float = 1.0
    """at which rejected answers are sampled"""
    max_new_tokens: int = 256
    """of a sampled answer"""
    tries: int = 4
    """answers that are sampled for a question at most"""
    limit: int | None = None
    """lines of the data that are read, the first ones"""
    seed: int = 0


DpoRun = TuningRun[Preference]
