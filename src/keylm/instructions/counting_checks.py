"""Checks of how many there are of something: words, sentences, letters, numbers and the like.

Where people may count differently, a check takes whichever count is harder to satisfy.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from keylm.text.sentences import (
    all_sentences,
    fewest_sentences,
    fewest_words,
    lines,
    most_sentences,
    most_words,
    occurrences,
)

Check = Callable[[str, Mapping[str, Any]], bool]
"""(answer, constraint) → whether it keeps it."""
RELATIONS = ("at_least", "at_most", "exactly", "between")
NUMBER = re.compile(r"(?<!\w)\d+(?:[.,:]\d+)*(?!\w)")


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
    raise ValueError(given["relation"])  # check_constraint refuses it


def _words(answer: str, given: Mapping[str, Any]) -> bool:
    few, many = fewest_words(answer), most_words(answer)
    return _within(min(few, many), max(few, many), given)


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


def _counted(count: Callable[[str], int]) -> Check:
    """Return a check of how many there are of something."""
    return lambda answer, given: _within(count(answer), count(answer), given)


def _short_sentences(answer: str, given: Mapping[str, Any]) -> bool:
    parts = all_sentences(answer)
    return len(parts) >= given["sentences"] and all(fewest_words(sentence) <= given["count"] for sentence in parts)


def _short_words(answer: str, given: Mapping[str, Any]) -> bool:
    return fewest_words(answer) >= given["words"] and all(
        len(word) <= given["count"] for word in re.findall(r"[^\W\d_]+", answer)
    )


COUNTING: dict[str, Check] = {
    "words": _words,
    "sentences": lambda answer, given: _within(fewest_sentences(answer), most_sentences(answer), given),
    "keyword_count": _keyword_count,
    "letter_count": _letter_count,
    "capital_words": _capital_words,
    "lines": _counted(lambda answer: len(lines(answer))),
    "vowels": _counted(lambda answer: len(re.findall("[aeiou]", answer.lower()))),
    "characters": _counted(lambda answer: len(answer.strip())),
    "numbers": _counted(lambda answer: len(NUMBER.findall(answer))),
    "different_words": _counted(lambda answer: len(set(re.findall(r"\w+", answer.lower())))),
    "exclamation_marks": lambda answer, given: answer.count("!") == int(given["count"]),
    "question_marks": lambda answer, given: answer.count("?") == int(given["count"]),
    "short_sentences": _short_sentences,
    "short_words": _short_words,
}
"""By type."""
