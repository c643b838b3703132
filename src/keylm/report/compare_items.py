"""The difference of two models on a line of the benchmark table, item by item."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keylm.evaluation.results import Figure, Record, ResultLine
from keylm.evaluation.statistics import Values, bootstrap, entry_sums, is_binary, mcnemar, perplexity

MCNEMAR, BOOTSTRAP = "McNemar’s exact test", "paired bootstrap"


@dataclass(frozen=True)
class Difference:
    """The other's figure minus the first's with 95 % interval and two-sided p, `corrected` by Holm; or a `reason`."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float | None = None
    test: str = ""
    corrected: float | None = None
    reason: str = ""


def difference(
    line: ResultLine,
    first: Figure | None,
    other: Figure | None,
    firsts: Mapping[str, Record],
    others: Mapping[str, Record],
) -> Difference:
    """Return what the items say of two figures of a line; `firsts` and `others` are all records of either model."""
    if first is None or other is None:
        return Difference(reason="not measured in both")
    names = list(dict.fromkeys(name for name, _ in line.parts))
    faults = dict.fromkeys(fault for name in names for fault in unlike(firsts[name], others[name]))
    if faults:
        return Difference(reason=f"not comparable: {', '.join(faults)}")
    groups = [_columns(line, name, firsts[name], others[name]) for name in names]
    if any(group is None for group in groups):
        return Difference(reason="not comparable: items’ outcomes are not recorded")
    columns = [group for group in groups if group is not None]
    figures = _statistic(line, names)
    totals = np.concatenate([group.sum(axis=0, keepdims=True) for group in columns], axis=1)
    mine, theirs = (float(value[0]) for value in figures(totals))
    if not (math.isclose(mine, first.value, rel_tol=1e-6) and math.isclose(theirs, other.value, rel_tol=1e-6)):
        return Difference(reason="not comparable: the figure is not the mean over items")

    def apart(sums: Values) -> Values:
        before, after = figures(sums)
        return np.asarray(after - before, np.float64)

    low, high, p = bootstrap(columns, apart)
    name, metric = line.parts[0]
    outcomes = [records[name]["items"][metric] for records in (firsts, others)]
    if len(line.parts) == 1 and all(map(is_binary, outcomes)):
        return Difference(theirs - mine, low, high, mcnemar(*outcomes), MCNEMAR)
    return Difference(theirs - mine, low, high, p, BOOTSTRAP)


def unlike(first: Record, other: Record) -> list[str]:
    """Return how two records of a benchmark differ, other than in the model."""
    before, after = first.get("settings", {}), other.get("settings", {})
    faults = []
    if before.get("limit") != after.get("limit"):
        faults.append("another limit")
    hashes = first.get("task_hashes") or None
    if before.get("items") != after.get("items") and (hashes is None or hashes != other.get("task_hashes")):
        faults.append("other data")
    if first.get("n") != other.get("n") and not faults:
        faults.append("another number of items")
    if before.get("chat") != after.get("chat"):
        faults.append("with and without chat template")
    if first.get("versions") != other.get("versions"):
        faults.append("another version of the task")
    return faults


def _columns(line: ResultLine, name: str, first: Record, other: Record) -> Values | None:
    """Return fp64 [items, 4 · metrics]: of each metric the sum and number of an item's outcomes, of both models."""
    sides = []
    for metric in (metric for benchmark, metric in line.parts if benchmark == name):
        items = [record.get("items", {}).get(metric) for record in (first, other)]
        if not all(items) or len(items[0]) != len(items[1]):
            return None
        sides += [entry_sums(entries) for entries in items]
    return np.concatenate(sides, axis=1)


class _Figures:
    """Both models' figures from sums over items [draws, 4 · parts]."""

    def __init__(self, metrics: Sequence[str]) -> None:
        self._is_perplexity = np.array([metric == "perplexity" for metric in metrics])

    def __call__(self, sums: Values) -> tuple[Values, Values]:
        parts = sums.reshape(len(sums), -1, 2, 2)
        means = parts[..., 0] / parts[..., 1]
        means = np.where(self._is_perplexity[:, None], perplexity(means), means)
        first, other = means.mean(axis=1).T
        return first, other


def _statistic(line: ResultLine, names: Sequence[str]) -> _Figures:
    """Return the line's figures as a function of sums, its parts in the order of `_columns`."""
    return _Figures([metric for name in names for benchmark, metric in line.parts if benchmark == name])
