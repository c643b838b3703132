"""Learning-rate multipliers (warm-up, stable, decay) and averaging in each stage, as pure functions of the step."""

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


def averaging_rate(stage: Stage, step: int, steps: int) -> float | None:
    """Return how far the mean of the weights moves towards them after `step` (from 0) of a stage's `steps`.

    None where there is no mean: before the rate decays, and in stages without `average`.
    """
    decay = round(stage.decay * steps)
    if not stage.average or step < steps - decay:
        return None
    return min(1.0, 1 / (stage.average * decay))
