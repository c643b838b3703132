"""What a run cost: tokens by source and licence, device hours, and an estimate of its arithmetic."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from keylm.report.run_record import Run, column, number, table


@dataclass(frozen=True)
class Licence:
    """Tokens under one licence: in the training data, and seen in training (with repeats)."""

    name: str
    sources: tuple[str, ...]
    tokens: float
    seen: float


@dataclass(frozen=True)
class Cost:
    """Data and compute of a run; what is not known is empty."""

    seen: Mapping[str, float]
    """Tokens seen of each source: each stage's tokens by its weights."""
    licences: tuple[Licence, ...]
    hours: str
    flops: Markup


def cost_of(run: Run) -> Cost:
    """Return the data and compute of a run as far as it has come."""
    seen = tokens_seen(run)
    grouped: dict[str, list[str]] = {}
    for source in run.sources:
        entry = table(table(run.recipe, "sources"), source)
        grouped.setdefault(str(entry.get("licence") or "unstated"), []).append(source)
    made = table(run.manifest, "sources")
    licences = []
    for name, sources in grouped.items():
        there = math.fsum(number(table(table(made, source), "train").get("tokens", 0)) for source in sources)
        licences.append(Licence(name, tuple(sources), there, math.fsum(seen.get(source, 0.0) for source in sources)))
    licences.sort(key=lambda licence: -licence.seen)
    return Cost(seen, tuple(licences), _hours(run), _flops(run))


def tokens_seen(run: Run) -> dict[str, float]:
    """Return the tokens seen of each source so far, by the weights of the stages."""
    seen: dict[str, float] = {}
    before = 0.0
    for index, row in enumerate(run.train):
        ends = index + 1 == len(run.train) or run.train[index + 1].get("stage") != row.get("stage")
        tokens = number(row.get("tokens"))
        if ends and math.isfinite(tokens):
            for source, share in run.shares.get(str(row.get("stage")), {}).items():
                seen[source] = seen.get(source, 0.0) + share * (tokens - before)
            before = tokens
    return seen


def _processes(run: Run) -> float:
    return max(1.0, float(np.nan_to_num(run.summary.world_size, nan=1.0)))


def device_hours(run: Run) -> float:
    """Return the hours of the valid training steps, times the processes (one to a GPU)."""
    return float(np.nansum(column(run.timing, "seconds"))) * _processes(run) / 3600


def _hours(run: Run) -> str:
    """Return the device hours in words, with the device."""
    hours = device_hours(run)
    if not hours > 0:
        return ""
    device, name = run.summary.device, run.summary.device_name
    kind = "GPU hours" if device.startswith("cuda") else "hours of CPU" if device else "hours"
    amount = f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"
    many = f"{_processes(run):.0f} × " if math.isfinite(run.summary.world_size) else ""
    return f"{amount} {kind}" + (f" on {many}{name}" if name else "")


def _flops(run: Run) -> Markup:
    """Return 6·N·D (Kaplan et al. 2020, section 2.1), without attention over the context."""
    flops = 6 * run.summary.parameters * run.tokens_seen
    if not flops > 0:
        return Markup()
    power = math.floor(math.log10(flops))
    return Markup("{:.1f} × 10<sup>{}</sup>").format(flops / 10**power, power)
