"""Constraints as rewards: how many of its request's constraints an answer keeps, for tuning with verifiable rewards."""

from collections.abc import Sequence
from dataclasses import dataclass

from keylm.instructions.checks import Constraint, keeps


@dataclass(frozen=True)
class Reward:
    """What an answer earns."""

    kept: tuple[bool, ...]
    """whether it keeps each constraint, in their order"""
    mean: float
    """share of the constraints kept, in [0, 1]; 0 for an empty answer"""


def reward(answer: str, constraints: Sequence[Constraint]) -> Reward:
    """Return what `answer` earns under the constraints of its request.

    A pure function of both. An answer without constraints earns 1 unless it is empty. Raises KeylmError for an unknown
    type, or a parameter that is missing or of the wrong kind; `check_constraint` finds these ahead of time.
    """
    kept = tuple(keeps(answer, constraint) for constraint in constraints)
    if not kept:
        return Reward((), float(bool(answer.strip())))
    return Reward(kept, sum(kept) / len(kept))
