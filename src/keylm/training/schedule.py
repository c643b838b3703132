"""Learning-rate multipliers: warm-up, stable, decay within each stage, as a pure function of the step."""

from keylm.recipe.stage import Stage


def multiplier(stage: Stage, step: int, steps: int) -> float:
    """Return what the optimizer's learning rates are multiplied by at `step` (from 0) of a stage's `steps`.

    Linear warm-up to `stage.peak`, flat, linear decay to `stage.final * stage.peak` ("WSD": arXiv 2404.06395).
    """
    warmup, decay = round(stage.warmup * steps), round(stage.decay * steps)
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    left = (steps - step) / (decay + 1) if decay else 1.0
    fall = stage.final + (1 - stage.final) * min(1.0, left)
    return stage.peak * rise * fall
