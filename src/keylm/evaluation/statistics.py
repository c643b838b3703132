"""Figures with intervals: a ratio of sums over items, and how far it would wander with other items.

Words of one document or sentence are not independent, so items (documents, sentence pairs) are drawn, not words: the
percentile bootstrap over clusters (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13; Davison &
Hinkley, Bootstrap Methods and their Application, 1997, 3.8). With fewer than about 20 items it is a little too narrow.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

DRAWS = 2000
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
    """Return {"value", "low", "high"}: sum of numerators over sum of denominators, and its 95 % interval.

    One item has no interval: low and high are None. The denominators must not all be 0.
    """
    sums = np.array(parts, dtype=np.float64)
    up, down = sums.sum(axis=0)
    value = float(up / down)
    if len(sums) < 2:
        return {"value": value, "low": None, "high": None}
    generator = np.random.default_rng(seed)
    drawn = sums[generator.integers(0, len(sums), (DRAWS, len(sums)))].sum(axis=1)
    drawn = drawn[drawn[:, 1] > 0]
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], (2.5, 97.5))
    return {"value": value, "low": float(low), "high": float(high)}
