"""A stage of training in a recipe: how long, on which mixture of sources, at which learning rate."""

import math
from typing import Self

from pydantic import model_validator

from keylm.recipe.fields import PositiveInt, Rate, Section, Share, Weight

PATTERN_WINDOWS = 1000
"""The mixture is exact in every run of this many consecutive windows (see data/curriculum.py)."""


class Stage(Section):
    """A stretch of training with its own mixture and learning-rate course.

    The rate climbs over the first `warmup` share of the stage's steps to `peak` times the optimizer's rates,
    stays, and decays linearly to `final` times `peak` over the last `decay` share.
    """

    tokens: PositiveInt
    """how long it is; rounded up to whole steps"""
    weights: dict[str, Weight]
    """share of each source; they need not sum to 1, and each is 0 or at least a thousandth of the sum"""
    peak: Rate = 1.0
    """factor on the optimizer's learning rates"""
    final: Share = 0.0
    """share of the peak that is left at the end"""
    warmup: Share = 0.0
    """share of the steps in which the rate rises"""
    decay: Share = 0.0
    """share of the steps over which it decays"""
    average: Share = 0.0
    """time constant of an exponential moving average of the weights, as a share of the decaying steps; at its end the
    stage's weights become that average; 0: they stay the last ones"""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        total = math.fsum(self.weights.values())
        if total <= 0:
            raise ValueError("weights sum to 0; at least one source needs a positive weight")
        for name, weight in self.weights.items():
            if 0 < weight < total / PATTERN_WINDOWS * (1 - 1e-9):  # the sum is rounded
                raise ValueError(
                    f"weights.{name} = {weight} is under 1/{PATTERN_WINDOWS} of the stage; "
                    f"give it at least {total / PATTERN_WINDOWS:g} or 0"
                )
        if self.average and not self.decay:
            raise ValueError(f"average = {self.average:g} without a decay; accepted: a decay over 0, or average = 0")
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup + decay = {self.warmup + self.decay:g}; together at most 1")
        return self
