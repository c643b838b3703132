"""Accuracy under typing errors: retention by error rate, and the area under its curve (docs/robustness.md)."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from keylm.base.errors import KeylmError
from keylm.evaluation.statistics import DRAWS, Values, middle_95
from keylm.recipe.benchmark_table import MISTYPED

HIGHEST_RATE = 20
"""Per cent of words at which the area under the curve ends."""
CLEAR_ERRORS = 3
"""Standard errors by which clean accuracy must exceed chance; below, retention is mostly noise."""
Point = Mapping[str, Any]


def curves(points: Iterable[Point]) -> dict[str, Any]:
    """Return accuracy and retention by rate, and the area under the retention curve.

    `points` are {"benchmark", "metric", "rate", "seed", "value", "stderr", "n"}: `rate` in per cent (0 is clean),
    `value` a share. Retention at a rate is (accuracy - chance) / (clean accuracy - chance), not clipped. The area is
    its integral over rates 0 to 20 by the trapezium rule, divided by 20: 1 where nothing is lost.

    Returns {"curves": rows, "area", "interval", "benchmarks", "reason"}; a row, of one benchmark and metric, is
    {"benchmark", "metric", "chance", "rates", "area", "interval", "reason"}, each of its `rates` {"rate", "accuracy"
    (mean over seeds), "spread" (deviation over seeds), "seeds", "stderr", "retention"}. The overall `area` is the mean
    over `benchmarks`, each with its main metric. What is undefined is None, and `reason` says why. Intervals hold 95 %,
    by bootstrap from standard errors. Raises KeylmError for invalid points.
    """
    grouped: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        _check(point)
        grouped.setdefault((point["benchmark"], point["metric"]), []).append(point)
    rows, areas = [], {}
    for key in sorted(grouped, key=lambda key: (list(MISTYPED).index(key[0]), key[1])):
        row = _row(*key, grouped[key])
        if row["area"] is not None:
            areas[key] = _resampled(row, grouped[key])
            row["interval"] = _interval(areas[key])
        rows.append(row)
    main = [row for row in rows if row["metric"] == main_metric(row["benchmark"])]
    return {"curves": rows, **_mean_area(main, areas)}


def main_metric(benchmark: str) -> str:
    """Return the metric that counts for the mean over benchmarks."""
    return MISTYPED[benchmark].metrics[0]


def _check(point: Point) -> None:
    benchmark, rate, value, stderr = (point.get(key) for key in ("benchmark", "rate", "value", "stderr"))
    if benchmark not in MISTYPED or not isinstance(point.get("metric"), str):
        known = ", ".join(MISTYPED)
        raise KeylmError(f"robustness: no curve for {dict(point)}; accepted: a metric of one of {known}")
    for name, number, highest in (("rate", rate, 100), ("value", value, 1), ("stderr", stderr, 1)):
        absent = number is None and name == "stderr"
        if not absent and not (isinstance(number, int | float) and 0 <= number <= highest):
            raise KeylmError(f"robustness: {benchmark}: {name} = {number!r} is not accepted; accepted: 0 … {highest}")


def _row(benchmark: str, metric: str, points: Sequence[Point]) -> dict[str, Any]:
    chance = float(MISTYPED[benchmark].chance or 0)
    rates = [_at_rate(rate, points) for rate in sorted({point["rate"] for point in points})]
    reason = _undefined(rates, chance)
    for at in rates:
        at["retention"] = None if reason else (at["accuracy"] - chance) / (rates[0]["accuracy"] - chance)
    row = {"benchmark": benchmark, "metric": metric, "chance": chance, "rates": rates}
    if not reason and HIGHEST_RATE not in [at["rate"] for at in rates]:
        reason = f"no accuracy at {HIGHEST_RATE} %, where the area ends"
    found = None if reason else float(_area([(at["rate"], np.array(at["retention"])) for at in rates]))
    return {**row, "area": found, "interval": None, "reason": reason}


def _at_rate(rate: float, points: Sequence[Point]) -> dict[str, Any]:
    there = [point for point in points if point["rate"] == rate]
    values = [point["value"] for point in there]
    errors = [point["stderr"] for point in there if point.get("stderr") is not None]
    return {
        "rate": rate,
        "accuracy": math.fsum(values) / len(values),
        "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "seeds": len(values),
        # The seeds share their items, so the sampling error of the items does not shrink with their number.
        "stderr": math.fsum(errors) / len(errors) if len(errors) == len(there) else None,
    }


def _undefined(rates: Sequence[Mapping[str, Any]], chance: float) -> str | None:
    """Return why retention is undefined, or None."""
    clean = rates[0]
    if clean["rate"] != 0:
        return "no clean accuracy (rate 0)"
    if clean["accuracy"] - chance <= CLEAR_ERRORS * (clean["stderr"] or 0.0):
        error = "" if clean["stderr"] is None else f" ± {clean['stderr']:.3f}"
        return f"clean accuracy {clean['accuracy']:.3f}{error} is not clearly above chance, {chance:g}"
    return None


def _area(retentions: Sequence[tuple[float, Values]]) -> Values:
    """Return the mean height over rates 0 … HIGHEST_RATE of straight lines between (rate, retention) pairs."""
    inside = [pair for pair in retentions if pair[0] <= HIGHEST_RATE]
    parts = [(high - low) * (first + second) / 2 for (low, first), (high, second) in pairwise(inside)]
    return np.asarray(sum(parts) / HIGHEST_RATE, np.float64)


def _resampled(row: Mapping[str, Any], points: Sequence[Point]) -> Values | None:
    """Return areas [DRAWS] of resampled accuracies; None where a standard error is missing.

    At each rate seeds are resampled with replacement, and one normal error of the rate's standard error is added, as
    seeds share their items. Rates share them too, but the points do not give their covariance: they are sampled
    independently, which widens the interval. Draws at chance when clean are left out.
    """
    if any(at["stderr"] is None for at in row["rates"]):
        return None
    key = hashlib.blake2b(f"{row['benchmark']} {row['metric']}".encode(), digest_size=8).digest()
    generator = np.random.default_rng(int.from_bytes(key, "little"))
    accuracies = []
    for at in row["rates"]:
        values = np.array([point["value"] for point in points if point["rate"] == at["rate"]])
        means = values[generator.integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)
        accuracies.append(means + at["stderr"] * generator.standard_normal(DRAWS) - row["chance"])
    clean = np.where(accuracies[0] > 0, accuracies[0], np.nan)
    return _area([(at["rate"], accuracy / clean) for at, accuracy in zip(row["rates"], accuracies, strict=True)])


def _interval(areas: Values | None) -> list[float] | None:
    return None if areas is None else list(middle_95(areas))


def _mean_area(rows: Sequence[Mapping[str, Any]], areas: Mapping[tuple[str, str], Values | None]) -> dict[str, Any]:
    """Return the mean of the rows that have an area; different benchmarks are independent."""
    counted = [row for row in rows if row["area"] is not None]
    missing = [name for name in MISTYPED if name not in [row["benchmark"] for row in rows]]
    reasons = [f"{row['benchmark']}: {row['reason']}" for row in rows if row["reason"]]
    reasons += [f"{name}: no accuracies" for name in missing]
    draws = [found for row in counted if (found := areas[row["benchmark"], row["metric"]]) is not None]
    whole = len(draws) == len(counted) > 0
    return {
        "area": math.fsum(row["area"] for row in counted) / len(counted) if counted else None,
        "interval": _interval(np.mean(draws, axis=0)) if whole else None,
        "benchmarks": [row["benchmark"] for row in counted],
        "reason": "; ".join(reasons) or None,
    }
