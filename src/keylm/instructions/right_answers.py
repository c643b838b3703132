"""Constraints with one right answer: what a transformation of the given text, a copy or a choice comes to.

The answer is computed from the constraint alone, so the same functions make training answers and check a model's.
Punctuation around the answer and runs of white space do not count; case counts where the case is the point.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from keylm.base.errors import KeylmError
from keylm.instructions.tables import phrase_tables
from keylm.text.sentences import occurrences, sentences

Given = Mapping[str, Any]
_EDGES = "\"“”‘’'()[]{}<>*.`"
_TOKEN = re.compile(r"\w+(?:['’-]\w+)*")
_DATE = re.compile(r"(\d{1,2}) ([A-Z][a-z]+) (\d{4})")
MONTHS = [month.capitalize() for month in phrase_tables().facts.lists["months"]]
PICKS: dict[str, Callable[[list[str]], str]] = {
    "longest": lambda words: max(words, key=len),
    "shortest": lambda words: min(words, key=len),
    "first": min,
    "last": max,
}
"""Relations of the type pick; first and last are by the alphabet."""


def _iso_date(given: Given) -> str:
    found = _DATE.fullmatch(given["text"])
    if found is None or found[2] not in MONTHS:
        raise KeylmError(f"iso_date: text {given['text']!a}; accepted: a date such as 3 March 1998")
    return f"{found[3]}-{MONTHS.index(found[2]) + 1:02d}-{int(found[1]):02d}"


def _pick(given: Given) -> str:
    return PICKS[given["relation"]]([word.lower() for word in given["words"]])


def _quoted(given: Given) -> str:
    found = sentences(given["text"])
    if not 1 <= given["place"] <= len(found):
        raise KeylmError(f"quote_sentence: place {given['place']}; accepted: 1 to {len(found)}, the text's sentences")
    return found[int(given["place"]) - 1]


def _alternating(given: Given) -> str:
    words = given["text"].split()
    return " ".join(word.upper() if place % 2 else word for place, word in enumerate(words))


def _replaced(given: Given) -> str:
    word, new, text = (str(given[key]) for key in ("word", "new", "text"))
    return re.sub(rf"(?i)(?<!\w){re.escape(word)}(?!\w)", lambda _: new, text)


RIGHT_ANSWERS: dict[str, Callable[[Given], str]] = {
    "repeat_word": lambda given: " ".join([given["word"]] * given["count"]),
    "copy_text": lambda given: str(given["text"]),
    "copy_words": lambda given: " ".join(given["text"].split()[: given["count"]]),
    "quote_sentence": _quoted,
    "reverse_words": lambda given: " ".join(reversed(given["text"].split())),
    "reverse_letters": lambda given: str(given["text"][::-1]),
    "sort_words": lambda given: ", ".join(sorted(_TOKEN.findall(given["text"]), key=str.lower)),
    "sort_numbers": lambda given: ", ".join(sorted(re.findall(r"\d+", given["text"]), key=int)),
    "alternate_capitals": _alternating,
    "replace_word": _replaced,
    "spell_out": lambda given: "-".join(given["text"]),
    "first_letters": lambda given: "".join(word[0] for word in _TOKEN.findall(given["text"])),
    "iso_date": _iso_date,
    "no_vowels": lambda given: re.sub("(?i)[aeiou]", "", given["text"]),
    "pick": _pick,
    "condition": lambda given: str(given["yes" if occurrences(given["word"], given["text"]) else "no"]),
}
"""By type: constraint → the answer that keeps it."""
_BY_WORDS = frozenset(("repeat_word", "reverse_words", "sort_words", "sort_numbers", "pick"))
"""Types whose answer is a sequence of words, whatever stands between them."""
_CASED = frozenset(("copy_text", "copy_words", "quote_sentence", "alternate_capitals"))


def right_answer(constraint: Given) -> str:
    """Return the answer to a constraint of a type in RIGHT_ANSWERS. Raises KeylmError where it has none."""
    return RIGHT_ANSWERS[constraint["type"]](constraint)


def is_right(answer: str, constraint: Given) -> bool:
    """Return whether an answer is the right one, up to what surrounds it."""
    kind, wanted = constraint["type"], right_answer(constraint)
    if kind in _BY_WORDS:
        return [token.lower() for token in _TOKEN.findall(answer)] == [t.lower() for t in _TOKEN.findall(wanted)]
    return _plain(answer, kind) == _plain(wanted, kind)


def _plain(text: str, kind: str) -> str:
    joined = " ".join(text.split()).strip(_EDGES)
    return joined if kind in _CASED else joined.casefold()
