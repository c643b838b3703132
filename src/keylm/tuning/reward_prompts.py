"""Prompts whose answers earn a reward: read from files, each with the constraints that a program checks.

A line is {"prompt", "constraints"}, as `keylm data instructions` writes them; a file of preference pairs with
constraints is read alike, its answers unused. Invariant: a line that is no prompt is counted with its reason; a
constraint that cannot be checked, or that is held out of all training, is an error before anything is trained.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from keylm.base.errors import KeylmError
from keylm.data.documents import Fault, value_types
from keylm.data.turns import TurnError
from keylm.instructions.checks import HELD_OUT, TRAINED, check_constraint
from keylm.runtimes.generation import Message
from keylm.tuning.pairs import Constraint, asked_constraints, asked_turns, read_mappings, whole_prompt


@dataclass(frozen=True)
class RewardPrompt:
    """A conversation that ends with the user's turn, and what an answer to it must keep."""

    messages: list[Message]
    constraints: list[Constraint]


def read_prompts(files: Sequence[Path]) -> Iterator[RewardPrompt | Fault]:
    """Yield each line of JSON-lines or parquet files and folders. Raises KeylmError for a constraint of no use."""
    for row, file, line in read_mappings(files):
        if isinstance(row, Fault):
            yield row
            continue
        try:
            prompt, notices = _prompt(row)
        except TurnError as error:
            yield Fault(file, line, error.kind, error.detail)
            continue
        for constraint in prompt.constraints:
            _check(constraint, f"{file}, line {line}")
        yield from (Fault(file, line, notice.kind, notice.detail) for notice in notices)
        yield prompt


def _prompt(row: Mapping[str, Any]) -> tuple[RewardPrompt, list[TurnError]]:
    """Return a line's prompt, and what of it is left out. Raises TurnError where there is none."""
    asked, notices = whole_prompt(asked_turns(row), row)
    constraints = asked_constraints(row)
    if not constraints:
        raise TurnError("no_constraints", f"accepted: a list of objects with a type; {value_types(row)}")
    return RewardPrompt(asked, constraints), notices


def _check(constraint: Constraint, place: str) -> None:
    """Raise KeylmError where a constraint is not one to train on."""
    if constraint.get("type") in HELD_OUT:
        raise KeylmError(
            f"{place}: constraint type {constraint['type']} is held out of all training, so that evaluation shows what "
            f"transfers; accepted: {', '.join(TRAINED)}"
        )
    check_constraint(constraint, place)


def prompt_order(prompts: int, wanted: int, seed: int) -> list[int]:
    """Return `wanted` indices of `prompts` prompts: pass after pass over all of them, each in an order of its own."""
    order: list[int] = []
    for epoch in count():
        one = list(range(prompts))
        Random(f"{seed}/{epoch}").shuffle(one)
        order += one
        if len(order) >= wanted:
            return order[:wanted]
    raise AssertionError("count() has no end")
