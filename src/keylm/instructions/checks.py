"""Whether an answer keeps a constraint: one function a type, regardless of how the answer was made.

A constraint is a JSON object `{"type": …, parameters}`. Each check is at least as strict as IFEval's for the same
constraint (Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models"), so that what passes here
passes there; code and wordings are our own. families.toml says which parameters a type needs, and whether training data
may have it.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keylm.base.errors import KeylmError
from keylm.instructions.right_answers import PICKS, RIGHT_ANSWERS, is_right, right_answer
from keylm.instructions.tables import phrase_tables
from keylm.instructions.word_lists import PROPERTIES, is_list
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
FAMILIES = phrase_tables().families
RELATIONS = ("at_least", "at_most", "exactly", "between")
BULLET = re.compile(r"^\s*(?:\*(?!\*)|-).*$", re.MULTILINE)
NUMBERED = re.compile(r"^\s*(\d+)[.)] \S.*$", re.MULTILINE)
LETTERED = re.compile(r"^\s*([a-z])[.)] \S.*$", re.MULTILINE)
ROMAN = re.compile(r"^\s*([IVX]+)\. \S.*$", re.MULTILINE)
HEADING = re.compile(r"^#{1,6} \S.*$", re.MULTILINE)
RULE = re.compile(r"\|(?:\s*:?-+:?\s*\|)+")
"""The line of a markdown table that follows its head."""
NUMBER = re.compile(r"(?<!\w)\d+(?:[.,:]\d+)*(?!\w)")
HIGHLIGHT = re.compile(r"(?<![*\w])\*\*?(?![\s*])[^*\n]*(?<!\s)\*\*?(?!\*)")
PLACEHOLDER = re.compile(r"\[[^\[\]\n]+\]")
TITLE = re.compile(r"<<[^<>\n]*[^<>\s][^<>\n]*>>")
DIVIDER = "***"
ANSWERS_APART = "******"
ROMAN_NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")


def violations(answer: str, constraints: Sequence[Constraint]) -> list[Constraint]:
    """Return those of `constraints` that `answer` breaks. Raises KeylmError as `check_constraint` does."""
    return [constraint for constraint in constraints if not keeps(answer, constraint)]


def keeps(answer: str, constraint: Constraint) -> bool:
    """Return whether `answer` keeps one constraint; an empty answer keeps none.

    Raises KeylmError as `check_constraint` does.
    """
    check_constraint(constraint)
    return bool(answer.strip()) and CHECKS[constraint["type"]](answer, constraint)


def check_constraint(constraint: Constraint) -> None:
    """Raise KeylmError where no answer can keep a constraint: its type is unknown, or a parameter is wrong."""
    kind = constraint.get("type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise KeylmError(f"constraint {constraint!a}: unknown type; accepted: {', '.join(FAMILIES)}")
    for need in FAMILIES[kind].needs:
        name, _, as_what = need.partition(":")
        accepted, fits = _PARAMETERS[as_what or ("pick" if kind == "pick" and name == "relation" else name)]
        if name not in constraint or not fits(constraint[name]):
            raise KeylmError(f"constraint {constraint!a}: {name}; accepted: {accepted}")
    if constraint.get("relation") == "between" and not _is_number(constraint.get("most")):
        raise KeylmError(f"constraint {constraint!a}: most; accepted: a whole number")
    if kind in RIGHT_ANSWERS:
        right_answer(constraint)
    for inner in (one for part in constraint["parts"] for one in part) if kind == "in_turn" else ():
        check_constraint(inner)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_text(one) for one in value)


def _are_parts(value: object) -> bool:
    parts = value if isinstance(value, list) else []
    return len(parts) == 2 and all(isinstance(part, list) and all(isinstance(c, dict) for c in part) for part in parts)


_A_NUMBER, _A_TEXT, _TEXTS = ("a whole number", _is_number), ("some text", _is_text), ("a list of texts", _are_texts)
_PARAMETERS: dict[str, tuple[str, Callable[[object], bool]]] = {
    **dict.fromkeys(("count", "sentences", "paragraph", "place", "letters", "columns", "number"), _A_NUMBER),
    **dict.fromkeys(("word", "letter", "text", "phrase", "marker", "mark", "new", "ending"), _A_TEXT),
    **dict.fromkeys(("opening", "closing", "yes", "no"), _A_TEXT),
    **dict.fromkeys(("words", "options"), _TEXTS),
    "relation": (", ".join(RELATIONS), lambda value: value in RELATIONS),
    "pick": (", ".join(PICKS), lambda value: value in PICKS),
    "parts": ("two lists of constraints", _are_parts),
}
"""What each parameter may be, in words and as a test."""


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


def _divided(answer: str, given: Mapping[str, Any]) -> bool:
    parts = re.split(r"\s*\*\*\*\s*", answer.strip())
    return len(parts) == given["count"] and all(parts) and ANSWERS_APART not in answer


def _paragraph_start(answer: str, given: Mapping[str, Any]) -> bool:
    parts = answer.strip().split("\n\n")
    if not all(part.strip() for part in parts) or len(parts) != given["count"]:
        return False
    first = re.split(r"[.,?!'\"]", parts[given["paragraph"] - 1].split()[0].lstrip("'\""))[0]
    return bool(first.lower() == given["word"].lower())


def _counts_up(numbers: Sequence[str], given: Mapping[str, Any]) -> bool:
    return [int(number) for number in numbers] == list(range(1, given["count"] + 1))


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


def _counted(count: Callable[[str], int]) -> _Check:
    """Return a check of how many there are of something."""
    return lambda answer, given: _within(count(answer), count(answer), given)


def _listed_by(marks: Sequence[str], pattern: re.Pattern[str]) -> _Check:
    return lambda answer, given: pattern.findall(answer) == list(marks[: given["count"]])


def _all_sentences(answer: str) -> list[str]:
    return [sentence for line in lines(answer) for sentence in sentences(line)]


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


def _nth_word(answer: str, given: Mapping[str, Any]) -> bool:
    words = answer.split()
    return 1 <= given["place"] <= len(words) and bare(words[given["place"] - 1]) == str(given["word"]).lower()


def _sentence_keyword(answer: str, given: Mapping[str, Any]) -> bool:
    found = _all_sentences(answer)
    return 1 <= given["place"] <= len(found) and occurrences(given["word"], found[given["place"] - 1]) > 0


def _sentence_letter(answer: str, given: Mapping[str, Any]) -> bool:
    starts = [bare(sentence)[:1] for sentence in _all_sentences(answer)]
    return len(starts) >= given["count"] and set(starts) == {given["letter"].lower()}


def _sentence_mark(answer: str, given: Mapping[str, Any]) -> bool:
    found = [sentence.rstrip("\"')*>") for sentence in _all_sentences(answer)]
    return len(found) >= given["count"] and all(sentence.endswith(given["mark"]) for sentence in found)


def _title_case(answer: str, _: Mapping[str, Any]) -> bool:
    starts = [match[0] for match in re.finditer(r"(?<![\w'’])[^\W\d_]", answer)]
    return bool(starts) and not any(letter.islower() for letter in starts)


def _request_last(answer: str, given: Mapping[str, Any]) -> bool:
    text, answer = given["text"].strip(), answer.strip()
    return answer.endswith(text) and bool(answer[: len(answer) - len(text)].strip())


def _in_turn(answer: str, given: Mapping[str, Any]) -> bool:
    first, _, second = answer.strip().partition("\n\n")
    first_part, second_part = given["parts"]
    return not violations(first, first_part) and not violations(second, second_part)


def _refrain(answer: str, _: Mapping[str, Any]) -> bool:
    found = [bare(sentence) for sentence in _all_sentences(answer)]
    return len(found) > 2 and found[0] == found[-1]


def _one_of(answer: str, given: Mapping[str, Any]) -> bool:
    return answer.strip().strip("().").lower() in [option.lower() for option in given["options"]]


CHECKS: dict[str, _Check] = {
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
    "line_letter": _line_letter,
    "alphabetical_bullets": _alphabetical,
    "question_marks": lambda answer, given: answer.count("?") == int(given["count"]),
    "short_sentences": _short_sentences,
    "ends_with_question": lambda answer, _: answer.strip().strip('"*').endswith("?"),
    "roman_list": _listed_by(ROMAN_NUMERALS, ROMAN),
    "short_words": _short_words,
    "distinct_starts": _distinct_starts,
    "lines": _counted(lambda answer: len(lines(answer))),
    "vowels": _counted(lambda answer: len(re.findall("[aeiou]", answer.lower()))),
    "characters": _counted(lambda answer: len(answer.strip())),
    "numbers": _counted(lambda answer: len(NUMBER.findall(answer))),
    "different_words": _counted(lambda answer: len(set(re.findall(r"\w+", answer.lower())))),
    "exclamation_marks": lambda answer, given: answer.count("!") == int(given["count"]),
    "lettered_list": _listed_by("abcdefghijklmnopqrstuvwxyz", LETTERED),
    "headings": lambda answer, given: len(HEADING.findall(answer)) == int(given["count"]),
    "table": _table,
    "wrapped": _wrapped,
    "separated": _separated,
    "several_answers": _separated,
    "line_prefix": lambda answer, given: all(
        line.startswith(given["mark"]) and line[len(given["mark"]) :].strip() for line in lines(answer)
    ),
    "sentence_lines": _sentence_lines,
    "nth_word": _nth_word,
    "sentence_keyword": _sentence_keyword,
    "sentence_letter": _sentence_letter,
    "sentence_mark": _sentence_mark,
    "title_case": _title_case,
    "absent_letter": lambda answer, given: (
        given["letter"].lower() not in answer.lower() and any(letter.isalpha() for letter in answer)
    ),
    "request_last": _request_last,
    "in_turn": _in_turn,
    "refrain": _refrain,
    "choice_letter": _one_of,
    "choice_number": _one_of,
    **dict.fromkeys(RIGHT_ANSWERS, is_right),
    **dict.fromkeys(PROPERTIES, is_list),
}
"""A check of each type in families.toml."""
TRAINED = [name for name, family in FAMILIES.items() if family.trained]
"""The types that training data may have."""
HELD_OUT = [name for name, family in FAMILIES.items() if not family.trained]
"""The types that only evaluation items have."""
