"""The facts of a model card, from the files of the run or the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keylm.evaluation.results import Figure
from keylm.report.run_record import Run


@dataclass(frozen=True)
class CardFacts:
    """The facts of a card; what is missing is None or empty."""

    name: str
    config: Mapping[str, Any]
    has_chat: bool
    parameters: int | None
    run: Run | None
    part: str
    """limit-N if only the first N items were measured."""
    figures: tuple[Figure, ...]
    harness: str
    commands: tuple[str, ...]
    robustness: Mapping[str, Any]
    typing: Mapping[str, Any]
    instructions: Mapping[str, Any]
    contamination: Mapping[str, Any]
    parity: Mapping[str, Any]
    licence: str | None
    repo: str | None
    watts: float | None
