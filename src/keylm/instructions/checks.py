"""Whether an answer keeps a constraint: one function a type, regardless of how the answer was made.

A constraint is a JSON object `{"type": …, parameters}`. Each check is at least as strict as IFEval's for the same
constraint (Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models"), so that what passes here
passes there; code and wordings are our own. Types in HELD_OUT never occur in training data.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keylm.base.errors import KeylmError
from keylm.instructions.constraint_shapes import check_parameters
from keylm.text.sentences import (
    bare,
    fewest_sentences,
    fewest_words,
    lines,
    most_sentences,
    most_words,
    occurrences,
    paragraphs,
    sentences,
)

Constraint = dict[str, Any]
_Check = Callable[[str, Mapping[str, Any]], bool]
BULLET = re.compile(r"^\s*(?:\*(?!\*)|-).*$", re.MULTILINE)
NUMBERED = re.compile(r"^\s*(\d+)[.)] \S.*$", re.MULTILINE)
ROMAN = re.compile(r"^\s*([IVX]+)\. \S.*$", re.MULTILINE)
HIGHLIGHT = re.compile(r"(?<![*\w])\*\*?(?![\s*])[^*\n]*(?<!\s)\*\*?(?!\*)")
PLACEHOLDER = re.compile(r"\[[^\[\]\n]+\]")
TITLE = re.compile(r"<<[^<>\n]*[^<>\s][^<>\n]*>>")
DIVIDER = "***"
ANSWERS_APART = "******"
ROMAN_NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")


def violations(answer: str, constraints: Sequence[Constraint]) -> list[Constraint]:
    """Return those of `constraints` that `answer` breaks. Raises KeylmError for an unknown type or parameters."""
    return [constraint for constraint in constraints if not keeps(answer, constraint)]


def keeps(answer: str, constraint: Constraint) -> bool:
    """Return whether `answer` keeps one constraint; an empty answer keeps none."""
    check = check_constraint(constraint)
    return bool(answer.strip()) and check(answer, constraint)


def check_constraint(constraint: Constraint, place: str = "constraint") -> _Check:
    """Return the check of a constraint's type. Raises KeylmError, which names `place`, unless it is a sound one."""
    kind = constraint.get("type")
    check = CHECKS.get(kind) if isinstance(kind, str) else None
    if check is None:
        raise KeylmError(f"{place}: {constraint!a:.200}: unknown type; accepted: {', '.join(CHECKS)}")
    check_parameters(str(kind), constraint, place)
    return check


def _within(fewest: int, most: int, given: Mapping[str, Any]) -> bool:
    """Return whether any number from `fewest` to `most` satisfies the relation."""
    count = int(given["count"])
    match given["relation"]:
        case "at_least":
            return fewest >= count
        case "at_most":
            return most <= count
        case "exactly":
            return fewest == count == most
        case "between":
            return fewest >= count and most <= int(given["most"])
    raise AssertionError(f"{given['relation']!a} is none of the relations in constraint_shapes.py")


def _words(answer: str, given: Mapping[str, Any]) -> bool:
    few, many = fewest_words(answer), most_words(answer)
    return _within(min(few, many), max(few, many), given)


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
    counted = len(numbers) == given["count"] and all(len(number) < 10 for number in numbers)
    return counted and [int(number) for number in numbers] == list(range(1, len(numbers) + 1))


def _sections(answer: str, given: Mapping[str, Any]) -> bool:
    return _counts_up(re.findall(rf"^{re.escape(given['word'])} (\d+)", answer, re.MULTILINE), given)


def _json(answer: str, given: Mapping[str, Any]) -> bool:
    inner = re.sub(r"^```(?:json|JSON)?\n|\n?```$", "", answer.strip())
    try:
        value = json.loads(inner)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict | list) and (not given.get("keys") or list(value) == given["keys"])


def _two_answers(answer: str, given: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in answer.split(ANSWERS_APART)]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1] and not parts[1].startswith("*")


def _keyword_count(answer: str, given: Mapping[str, Any]) -> bool:
    inside = answer.lower().count(given["word"].lower())
    return _within(occurrences(given["word"], answer), inside, given)


def _letter_count(answer: str, given: Mapping[str, Any]) -> bool:
    count = answer.lower().count(given["letter"])
    return _within(count, count, given)


def _capital_words(answer: str, given: Mapping[str, Any]) -> bool:
    tokens = re.findall(r"[A-Za-z][A-Za-z.]*", answer)
    sure = sum(1 for token in tokens if token.isupper() and len(token.rstrip(".")) > 1)
    return _within(sure, sum(1 for token in re.findall(r"[\w.]+", answer) if token.isupper()), given)


def _postscript(answer: str, given: Mapping[str, Any]) -> bool:
    last = lines(answer)[-1].strip('"')
    return bool(last.lower().startswith(given["marker"].lower() + " "))


def _quotation(answer: str, _: Mapping[str, Any]) -> bool:
    text = answer.strip()
    return len(text) > 2 and text[0] == text[-1] == '"'


def _repeat(answer: str, given: Mapping[str, Any]) -> bool:
    text, answer = given["text"].strip(), answer.strip()
    return answer.startswith(text) and bool(answer[len(text) :].strip())


def _english(answer: str, _: Mapping[str, Any]) -> bool:
    letters = [letter for letter in answer if letter.isalpha()]
    return bool(letters) and sum(letter.isascii() for letter in letters) >= 0.97 * len(letters)


def _line_letter(answer: str, given: Mapping[str, Any]) -> bool:
    return all(line.lower().startswith(given["letter"]) for line in lines(answer)) and (
        len(lines(answer)) >= given["count"]
    )


def _alphabetical(answer: str, given: Mapping[str, Any]) -> bool:
    items = [re.sub(r"^\s*[*-]\s*", "", item).lower() for item in BULLET.findall(answer)]
    return len(items) == given["count"] and items == sorted(items)


def _short_sentences(answer: str, given: Mapping[str, Any]) -> bool:
    parts = [sentence for line in lines(answer) for sentence in sentences(line)]
    return len(parts) >= given["sentences"] and all(fewest_words(sentence) <= given["count"] for sentence in parts)


def _short_words(answer: str, given: Mapping[str, Any]) -> bool:
    return fewest_words(answer) >= given["words"] and all(
        len(word) <= given["count"] for word in re.findall(r"[^\W\d_]+", answer)
    )


def _distinct_starts(answer: str, given: Mapping[str, Any]) -> bool:
    starts = [bare(sentence.split()[0]) for line in lines(answer) for sentence in sentences(line)]
    return len(starts) >= given["count"] and len(set(starts)) == len(starts)


TRAINED: dict[str, _Check] = {
    "words": _words,
    "sentences": lambda answer, given: _within(fewest_sentences(answer), most_sentences(answer), given),
    "paragraphs": lambda answer, given: len(paragraphs(answer)) == given["count"] and DIVIDER not in answer,
    "divided_paragraphs": _divided,
    "paragraph_start": _paragraph_start,
    "bullets": lambda answer, given: len(BULLET.findall(answer)) == int(given["count"]),
    "numbered_list": lambda answer, given: _counts_up(NUMBERED.findall(answer), given),
    "sections": _sections,
    "json": _json,
    "choice": lambda answer, given: answer.strip() in given["options"],
    "two_answers": _two_answers,
    "keywords": lambda answer, given: all(occurrences(word, answer) for word in given["words"]),
    "forbidden": lambda answer, given: not any(occurrences(word, answer) for word in given["words"]),
    "keyword_count": _keyword_count,
    "letter_count": _letter_count,
    "capital_words": _capital_words,
    "lower_case": lambda answer, _: answer.islower(),
    "upper_case": lambda answer, _: answer.isupper(),
    "no_comma": lambda answer, _: "," not in answer and "，" not in answer,
    "title": lambda answer, _: len(TITLE.findall(answer)) == 1,
    "highlights": lambda answer, given: len(HIGHLIGHT.findall(answer)) >= int(given["count"]),
    "placeholders": lambda answer, given: len(PLACEHOLDER.findall(answer)) >= int(given["count"]),
    "postscript": _postscript,
    "quotation": _quotation,
    "end_phrase": lambda answer, given: answer.strip().strip('"').lower().endswith(given["phrase"].lower()),
    "start_phrase": lambda answer, given: answer.strip().strip('"').lower().startswith(given["phrase"].lower()),
    "first_word": lambda answer, given: bare(answer.split()[0]) == given["word"].lower(),
    "last_word": lambda answer, given: bare(answer.split()[-1]) == given["word"].lower(),
    "repeat_request": _repeat,
    "english": _english,
    "no_digits": lambda answer, _: not any(letter.isdigit() for letter in answer),
}
"""The types that training data may have."""
HELD_OUT: dict[str, _Check] = {
    "line_letter": _line_letter,
    "alphabetical_bullets": _alphabetical,
    "question_marks": lambda answer, given: answer.count("?") == int(given["count"]),
    "short_sentences": _short_sentences,
    "ends_with_question": lambda answer, _: answer.strip().strip('"*').endswith("?"),
    "roman_list": lambda answer, given: ROMAN.findall(answer) == list(ROMAN_NUMERALS[: given["count"]]),
    "short_words": _short_words,
    "distinct_starts": _distinct_starts,
}
"""The types that only evaluation items have."""
CHECKS: dict[str, _Check] = {**TRAINED, **HELD_OUT}
