"""Intervals, standard errors and paired tests of figures over items, mostly by bootstrap.

Words of one document are not independent, so items (documents, pairs) are resampled: the percentile bootstrap over
clusters (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13; Davison & Hinkley, Bootstrap Methods and
their Application, 1997, 3.8), a little too narrow below about 20 items. Two models are compared on the same items,
which removes most of the variance (Dror et al. 2018, "The Hitchhiker's Guide to Testing Statistical Significance in
NLP", ACL).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

DRAWS = 2000
"""Bootstrap samples; the smallest p that they can give is about 2 / DRAWS."""
_CHUNK = 1 << 22
Values = npt.NDArray[np.float64]
Statistic = Callable[[Values], Values]
"""Sums over items [draws, columns] to the figure that is compared [draws]."""
Parts = list[tuple[float, float]]
"""Numerator and denominator of each item, such as (words hit, words)."""


class Tallies:
    """Collects numerators and denominators by measure and system, an item at a time."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str, str], dict[int, list[float]]] = {}

    def add(self, measure: str, system: str, item: int, numerator: float, denominator: float, unit: str = "") -> None:
        """Add to an item's sums; `item` is the number of its document or pair."""
        sums = self._sums.setdefault((measure, system, unit), {}).setdefault(item, [0.0, 0.0])
        sums[0] += numerator
        sums[1] += denominator

    def sums(self) -> list[list[Any]]:
        """Return all that was added, ready for JSON: [measure, system, unit, item, numerator, denominator]."""
        return [[*key, item, *sums] for key, items in self._sums.items() for item, sums in items.items()]

    def take(self, sums: Sequence[Sequence[Any]]) -> None:
        """Add what another collection's `sums` gave."""
        for measure, system, unit, item, numerator, denominator in sums:
            self.add(measure, system, item, numerator, denominator, unit)

    def rows(self, name: str, seed: int) -> list[dict[str, Any]]:
        """Return a row a measure and system, in the order of their first item; `name` is the set's."""
        return [
            {
                "measure": measure,
                "set": name,
                "system": system,
                **ratio([(up, down) for up, down in items.values()], seed),
                "n": len(items),
                "unit": unit,
            }
            for (measure, system, unit), items in self._sums.items()
            if any(down for _, down in items.values())
        ]


def ratio(parts: Sequence[tuple[float, float]], seed: int) -> Mapping[str, float | None]:
    """Return {"value", "low", "high", "stderr"}: a ratio of sums, its 95 % interval and its standard error.

    One item alone has neither of the last two.
    """
    sums = np.array(parts, dtype=np.float64)
    up, down = sums.sum(axis=0)
    value = float(up / down)
    if len(sums) < 2:
        return {"value": value, "low": None, "high": None, "stderr": None}
    generator = np.random.default_rng(seed)
    drawn = sums[generator.integers(0, len(sums), (DRAWS, len(sums)))].sum(axis=1)
    drawn = drawn[drawn[:, 1] > 0]
    ratios = drawn[:, 0] / drawn[:, 1]
    low, high = middle_95(ratios)
    return {"value": value, "low": low, "high": high, "stderr": float(np.std(ratios, ddof=1))}


def middle_95(drawn: Values) -> tuple[float, float]:
    """Return the bounds of the middle 95 % of a figure's draws [draws]; draws of NaN are left out."""
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def bootstrap_error(items: Sequence[Sequence[float | Sequence[float]]], seed: int = 0) -> float:
    """Return the standard error of the mean of several metrics' means, which share resampled items.

    Each metric has one entry an item: a number, or a list of numbers that all count (instructions of a prompt).
    """
    sums = np.array([[float(np.sum(entry)) for entry in metric] for metric in items])
    sizes = np.array([[np.size(entry) for entry in metric] for metric in items], dtype=np.float64)
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(DRAWS):
        drawn = generator.integers(0, sums.shape[1], sums.shape[1])
        means.append(float((sums[:, drawn].sum(1) / sizes[:, drawn].sum(1)).mean()))
    return float(np.std(means, ddof=1))


def mcnemar(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p of McNemar's exact test for outcomes 0 and 1 of the same items (Edwards 1948; Fay 2010).

    Only items on which the models disagree count: under the null hypothesis they are coin tosses.
    """
    better = sum(1 for a, b in zip(first, second, strict=True) if b > a)
    worse = sum(1 for a, b in zip(first, second, strict=True) if a > b)
    tosses = better + worse
    term = total = 1  # C(tosses, 0), as whole numbers: exact for any number of items
    for k in range(min(better, worse)):
        term = term * (tosses - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / (1 << tosses))


def bootstrap(groups: Sequence[Values], statistic: Statistic, seed: int = 0) -> tuple[float, float, float]:
    """Return (low, high, p): the middle 95 % of a statistic, and the two-sided p that it is 0, by bootstrap over items.

    `groups`: fp64 [items, columns], one a benchmark; items are drawn within each. `statistic` gets the sums over
    the drawn items of all groups' columns side by side (Efron and Tibshirani 1993, chapters 13 and 16).
    """
    generator = np.random.default_rng(seed)
    drawn = statistic(np.concatenate([_drawn_sums(group, generator) for group in groups], axis=1))
    low, high = middle_95(drawn)
    fewer = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return low, high, min(1.0, 2 * (fewer + 1) / (DRAWS + 1))


def _drawn_sums(items: Values, generator: np.random.Generator) -> Values:
    """Return the sums of DRAWS samples, fp64 [DRAWS, columns]; identical items are sampled together."""
    kinds, counts = np.unique(items, axis=0, return_counts=True)
    rows = max(1, _CHUNK // len(kinds))
    sizes = [min(rows, DRAWS - start) for start in range(0, DRAWS, rows)]
    share = counts / counts.sum()
    return np.concatenate([generator.multinomial(len(items), share, size) @ kinds for size in sizes])


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, so that all of them hold together (Holm 1979)."""
    corrected, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = highest
    return corrected


def is_binary(values: Sequence[float | Sequence[float]]) -> bool:
    """Return whether all outcomes are 0 or 1."""
    return all(isinstance(value, int | float) and value in (0, 1) for value in values)


def perplexity(mean: Values) -> Values:
    """Return the perplexity of a mean log-likelihood in nats."""
    return np.exp(-mean)


def entry_sums(items: Sequence[float | Sequence[float]]) -> Values:
    """Return [items, 2]: the sum and the number of each item's outcomes (an item may have several)."""
    if all(isinstance(entry, int | float) for entry in items):
        return np.stack([np.array(items, dtype=np.float64), np.ones(len(items))], axis=1)
    return np.array([[math.fsum(np.atleast_1d(entry)), np.size(entry)] for entry in items], dtype=np.float64)
