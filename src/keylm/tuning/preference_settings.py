"""What decides a preference tuning, and how it is done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from keylm.recipe.run_folder import RunFolder
from keylm.tuning.pairs import Checker, default_checker

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


@dataclass(frozen=True)
class Tools:
    """How it is done; of no consequence for the result but rounding."""

    device: str = "auto"
    micro_batch_pairs: int | None = None
    """pairs that are computed at once; None: MICRO_BATCH"""
    checker: Callable[[], Checker] = default_checker
    quiet: bool = False


@dataclass(frozen=True)
class DpoRun:
    """One preference tuning: what is tuned, on what, where and how."""

    model: Path
    """a model folder"""
    data: Sequence[Path]
    """files of pairs, or of prompts with constraints"""
    folder: RunFolder
    settings: Preference
    tools: Tools
    device: torch.device
