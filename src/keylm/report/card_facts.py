"""All that a model card is made of, as files of the run or of the model say it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keylm.evaluation.results import Figure
from keylm.report.run_record import Run


@dataclass(frozen=True)
class CardFacts:
    """All that a card is made of; what is not there is None or empty."""

    name: str
    config: Mapping[str, Any]
    has_chat: bool
    parameters: int | None
    run: Run | None
    part: str
    """limit-N where only the first N items were asked."""
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
