"""Checks of how an answer is laid out: paragraphs, lists, tables, headings, and what stands around it."""

import json as json_format
import re
from collections.abc import Mapping, Sequence
from typing import Any

from keylm.instructions.counting_checks import Check
from keylm.text.sentences import fewest_sentences, lines, most_sentences, paragraphs

BULLET = re.compile(r"^\s*(?:\*(?!\*)|-).*$", re.MULTILINE)
NUMBERED = re.compile(r"^\s*(\d+)[.)] \S.*$", re.MULTILINE)
LETTERED = re.compile(r"^\s*([a-z])[.)] \S.*$", re.MULTILINE)
ROMAN = re.compile(r"^\s*([IVX]+)\. \S.*$", re.MULTILINE)
HEADING = re.compile(r"^#{1,6} \S.*$", re.MULTILINE)
RULE = re.compile(r"\|(?:\s*:?-+:?\s*\|)+")
"""The line of a markdown table that follows its head."""
HIGHLIGHT = re.compile(r"(?<![*\w])\*\*?(?![\s*])[^*\n]*(?<!\s)\*\*?(?!\*)")
PLACEHOLDER = re.compile(r"\[[^\[\]\n]+\]")
TITLE = re.compile(r"<<[^<>\n]*[^<>\s][^<>\n]*>>")
DIVIDER = "***"
ANSWERS_APART = "******"
ROMAN_NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")


def _divided(answer: str, given: Mapping[str, Any]) -> bool:
    parts = re.split(r"\s*\*\*\*\s*", answer.strip())
    return len(parts) == given["count"] and all(parts) and ANSWERS_APART not in answer


def _paragraph_start(answer: str, given: Mapping[str, Any]) -> bool:
    parts = answer.strip().split("\n\n")
    if not all(part.strip() for part in parts) or len(parts) != given["count"]:
        return False
    if not 0 < given["paragraph"] <= len(parts):
        return False
    first = re.split(r"[.,?!'\"]", parts[given["paragraph"] - 1].split()[0].lstrip("'\""))[0]
    return bool(first.lower() == given["word"].lower())


def _counts_up(numbers: Sequence[str], given: Mapping[str, Any]) -> bool:
    # An answer may have numbers of any length, which int() refuses beyond some thousand digits.
    counted = len(numbers) == given["count"] and all(len(number) < 10 for number in numbers)
    return counted and [int(number) for number in numbers] == list(range(1, len(numbers) + 1))


def _listed_by(marks: Sequence[str], pattern: re.Pattern[str]) -> Check:
    return lambda answer, given: pattern.findall(answer) == list(marks[: given["count"]])


def _sections(answer: str, given: Mapping[str, Any]) -> bool:
    return _counts_up(re.findall(rf"^{re.escape(given['word'])} (\d+)", answer, re.MULTILINE), given)


def _json(answer: str, given: Mapping[str, Any]) -> bool:
    inner = re.sub(r"^```(?:json|JSON)?\n|\n?```$", "", answer.strip())
    try:
        value = json_format.loads(inner)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict | list) and (not given.get("keys") or list(value) == given["keys"])


def _two_answers(answer: str, given: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in answer.split(ANSWERS_APART)]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1] and not parts[1].startswith("*")


def _table(answer: str, given: Mapping[str, Any]) -> bool:
    rows = [line for line in lines(answer) if line.startswith("|") and line.endswith("|")]
    if len(rows) < 3 or not RULE.fullmatch(rows[1]):
        return False
    even = all(row.count("|") == given["columns"] + 1 for row in rows)
    return even and len(rows) - 2 == given["count"] and not any(RULE.fullmatch(row) for row in rows[2:])


def _wrapped(answer: str, given: Mapping[str, Any]) -> bool:
    text, opening, closing = answer.strip(), given["opening"], given["closing"]
    inside = text[len(opening) : len(text) - len(closing)]
    return text.startswith(opening) and text.endswith(closing) and bool(inside.strip())


def _separated(answer: str, given: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in answer.split(given["mark"])]
    return len(parts) == given["count"] and all(parts) and len(set(parts)) == len(parts)


def _sentence_lines(answer: str, _: Mapping[str, Any]) -> bool:
    found = lines(answer)
    return len(found) > 1 and all(fewest_sentences(line) == 1 == most_sentences(line) for line in found)


def _quotation(answer: str, _: Mapping[str, Any]) -> bool:
    text = answer.strip()
    return len(text) > 2 and text[0] == text[-1] == '"'


def _alphabetical(answer: str, given: Mapping[str, Any]) -> bool:
    items = [re.sub(r"^\s*[*-]\s*", "", item).lower() for item in BULLET.findall(answer)]
    return len(items) == given["count"] and items == sorted(items)


def _line_letter(answer: str, given: Mapping[str, Any]) -> bool:
    return all(line.lower().startswith(given["letter"]) for line in lines(answer)) and (
        len(lines(answer)) >= given["count"]
    )


LAYOUT: dict[str, Check] = {
    "paragraphs": lambda answer, given: len(paragraphs(answer)) == given["count"] and DIVIDER not in answer,
    "divided_paragraphs": _divided,
    "paragraph_start": _paragraph_start,
    "bullets": lambda answer, given: len(BULLET.findall(answer)) == int(given["count"]),
    "numbered_list": lambda answer, given: _counts_up(NUMBERED.findall(answer), given),
    "lettered_list": _listed_by("abcdefghijklmnopqrstuvwxyz", LETTERED),
    "alphabetical_bullets": _alphabetical,
    "roman_list": _listed_by(ROMAN_NUMERALS, ROMAN),
    "sections": _sections,
    "headings": lambda answer, given: len(HEADING.findall(answer)) == int(given["count"]),
    "table": _table,
    "json": _json,
    "title": lambda answer, _: len(TITLE.findall(answer)) == 1,
    "highlights": lambda answer, given: len(HIGHLIGHT.findall(answer)) >= int(given["count"]),
    "placeholders": lambda answer, given: len(PLACEHOLDER.findall(answer)) >= int(given["count"]),
    "quotation": _quotation,
    "wrapped": _wrapped,
    "separated": _separated,
    "two_answers": _two_answers,
    "several_answers": _separated,
    "line_prefix": lambda answer, given: all(
        line.startswith(given["mark"]) and line[len(given["mark"]) :].strip() for line in lines(answer)
    ),
    "sentence_lines": _sentence_lines,
    "line_letter": _line_letter,
}
"""By type."""
