"""Answers to the everyday prompts as pages show them: one model's, or several models' side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keylm.evaluation.everyday_prompts import COUNTED, GRAM, RUN, count_answers, repeated_share
from keylm.report.page import DASH


@dataclass(frozen=True)
class ShownAnswer:
    """A model's answer, and what is wrong with it in words."""

    text: str
    faults: str


@dataclass(frozen=True)
class EverydayAnswers:
    """Counts and answers of one model or more, a column each."""

    columns: tuple[str, ...]
    counts: tuple[tuple[str, tuple[str, ...]], ...]
    """(what is counted, how often in each column)"""
    rows: tuple[tuple[str, str, tuple[ShownAnswer, ...]], ...]
    """(group, prompt, an answer a column)"""


def everyday_answers(measured: Mapping[str, Mapping[str, Any]]) -> EverydayAnswers | None:
    """Return what is shown of everyday.json files by column; None where there are no answers.

    Raises KeyError, TypeError where a file lacks a key.
    """
    found = {name: table.get("answers") or [] for name, table in measured.items()}
    found = {name: answers for name, answers in found.items() if answers}
    if not found:
        return None
    counts = [count_answers(answers) for answers in found.values()]
    shown = [(words, tuple(f"{count[key]:.0f}" for count in counts)) for key, words in COUNTED.items()]
    share = tuple(f"{100 * count['repeated_share']:.1f}" for count in counts)
    shown.append((f"repeated runs of {GRAM} words, per cent, mean", share))
    shown.append(("words an answer, mean", tuple(f"{count['mean_words']:.1f}" for count in counts)))
    shown.append(("prompts", tuple(f"{count['answers']:.0f}" for count in counts)))
    answers = [{str(row["prompt"]): row for row in rows} for rows in found.values()]
    prompts = {str(row["prompt"]): str(row["group"]) for rows in found.values() for row in rows}
    rows = [(group, prompt, tuple(_shown(one.get(prompt)) for one in answers)) for prompt, group in prompts.items()]
    return EverydayAnswers(tuple(found), tuple(shown), tuple(rows))


def counts_table(found: EverydayAnswers) -> list[list[str]]:
    """Return the counts as rows of text, under the columns' names."""
    return [[words, *values] for words, values in found.counts]


def _shown(row: Mapping[str, Any] | None) -> ShownAnswer:
    if row is None:
        return ShownAnswer(DASH, "not asked")
    text = str(row["answer"])
    faults = {
        "empty": not text.strip(),
        "cut off": not row["ended"],
        f"says {RUN} words twice": repeated_share(text, RUN) > 0,
    }
    return ShownAnswer(text or DASH, ", ".join(words for words, there in faults.items() if there))
