"""Is one model better than another on the same items? Paired tests, and a correction for asking often.

Pairing by item takes out what items differ in, which is most of the variance of two separate figures
(Dror et al. 2018, "The Hitchhiker's Guide to Testing Statistical Significance in NLP", ACL).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

DRAWS = 4000
"""Bootstrap samples; the smallest p that they can give is about 2 / DRAWS."""
_CHUNK = 1 << 22

Values = npt.NDArray[np.float64]
Statistic = Callable[[Values], Values]
"""Sums over items [draws, columns] to the figure that is compared [draws]."""


def mcnemar(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p of McNemar's exact test for outcomes 0 and 1 of the same items (Edwards 1948; Fay 2010).

    Only items that one model has right and the other wrong count: under no difference they are tosses of a coin.
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

    `groups`: fp64 [items, columns], one a benchmark; items are drawn anew within each. `statistic` gets the sums over
    the drawn items of all groups' columns side by side (Efron and Tibshirani 1993, chapters 13 and 16).
    """
    generator = np.random.default_rng(seed)
    drawn = statistic(np.concatenate([_drawn_sums(group, generator) for group in groups], axis=1))
    low, high = (float(bound) for bound in np.percentile(drawn, [2.5, 97.5]))
    fewer = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return low, high, min(1.0, 2 * (fewer + 1) / (DRAWS + 1))


def _drawn_sums(items: Values, generator: np.random.Generator) -> Values:
    """Return the sums of DRAWS samples, fp64 [DRAWS, columns]; items that are alike are drawn together."""
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
