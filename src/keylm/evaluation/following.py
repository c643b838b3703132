"""What carries over: IFEval, the types of constraint that training had, and those that it never had, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IFEVAL = ("prompt_level_strict_acc", "inst_level_strict_acc")
SETS = {"trained": "types that training had", "held_out": "types that training never had"}
"""Sets of instructions.json in the table."""
EACH_KIND = "each kind"
"""What measures of a kind of types begin with in instructions.json."""
HEADS = ("constraints kept, per cent", "requests with all of theirs", "constraints", "items")


@dataclass(frozen=True)
class KeptShare:
    """A share of requests or constraints, and its standard error where that is known."""

    value: float
    stderr: float | None

    def __str__(self) -> str:
        """Return the share in per cent with its standard error."""
        return f"{100 * self.value:.1f}" + ("" if self.stderr is None else f" ± {100 * self.stderr:.1f}")


@dataclass(frozen=True)
class FollowingRow:
    """A line of the table: a share of requests of which all constraints are kept, and one of constraints."""

    title: str
    requests: KeptShare
    constraints: KeptShare
    items: int

    def cells(self) -> list[str]:
        """Return the line as text, under HEADS."""
        return [self.title, str(self.requests), str(self.constraints), f"{self.items:,}"]


def following(records: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[FollowingRow]:
    """Return the lines of what was measured: of benchmarks' records by name, and the rows of instructions.json.

    Raises KeyError, TypeError where a row lacks a key.
    """
    found = []
    ifeval = records.get("ifeval", {})
    whole, each = (ifeval.get("metrics", {}).get(name) for name in IFEVAL)
    if whole and each:
        found.append(FollowingRow("IFEval, strict", _share(whole), _share(each), ifeval["n"]))
    measured = {(row["set"], row["measure"]): row for row in rows if row["system"] == "model"}
    for name, title in SETS.items():
        whole, each = (measured.get((name, measure)) for measure in ("all constraints", "constraints"))
        if whole and whole["value"] is not None:
            found.append(FollowingRow(title, _share(whole), _share(each or whole), whole["n"]))
    return found


def _share(row: Mapping[str, Any]) -> KeptShare:
    return KeptShare(row["value"], row.get("stderr"))
