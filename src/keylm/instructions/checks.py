"""Whether an answer keeps a constraint: one function a type, regardless of how the answer was made.

A constraint is a JSON object `{"type": …, parameters}`. Each check is at least as strict as IFEval's for the same
constraint (Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models"), so that what passes here
passes there; code and wordings are our own. families.toml says which parameters a type needs, and whether training data
may have it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keylm.base.errors import KeylmError
from keylm.instructions.counting_checks import COUNTING, RELATIONS, Check
from keylm.instructions.layout_checks import LAYOUT
from keylm.instructions.right_answers import PICKS, RIGHT_ANSWERS, is_right, right_answer
from keylm.instructions.tables import phrase_tables
from keylm.instructions.word_lists import PROPERTIES, is_list
from keylm.text.sentences import all_sentences, bare, lines, occurrences

Constraint = dict[str, Any]
FAMILIES = phrase_tables().families
MOST = 1_000_000
"""Of what a constraint counts, more than any answer has."""


def violations(answer: str, constraints: Sequence[Constraint]) -> list[Constraint]:
    """Return those of `constraints` that `answer` breaks. Raises KeylmError as `check_constraint` does."""
    return [constraint for constraint in constraints if not keeps(answer, constraint)]


def keeps(answer: str, constraint: Constraint) -> bool:
    """Return whether `answer` keeps one constraint; an empty answer keeps none.

    Raises KeylmError as `check_constraint` does.
    """
    check_constraint(constraint)
    return bool(answer.strip()) and CHECKS[constraint["type"]](answer, constraint)


def check_constraint(constraint: Constraint, place: str = "constraint") -> None:
    """Raise KeylmError, which names `place`, for a constraint of an unknown type or with wrong parameters."""
    kind = constraint.get("type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise KeylmError(f"{place}: {constraint!a:.200}: unknown type; accepted: {', '.join(FAMILIES)}")
    for need in FAMILIES[kind].needs:
        name, _, as_what = need.partition(":")
        accepted, fits = _PARAMETERS[as_what or ("pick" if kind == "pick" and name == "relation" else name)]
        if name not in constraint or not fits(constraint[name]):
            raise KeylmError(f"{place}: {constraint!a:.200}: {name}; accepted: {accepted}")
    if constraint.get("relation") == "between" and not _is_number(constraint.get("most")):
        raise KeylmError(f"{place}: {constraint!a:.200}: most; accepted: {_A_NUMBER[0]}")
    if kind in RIGHT_ANSWERS:
        right_answer(constraint)
    for inner in (one for part in constraint["parts"] for one in part) if kind == "in_turn" else ():
        check_constraint(inner, place)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_text(one) for one in value)


def _are_parts(value: object) -> bool:
    parts = value if isinstance(value, list) else []
    return len(parts) == 2 and all(isinstance(part, list) and all(isinstance(c, dict) for c in part) for part in parts)


_A_NUMBER, _A_TEXT, _TEXTS = (
    (f"a whole number from 0 to {MOST:,}", _is_number),
    ("some text", _is_text),
    ("a list of texts", _are_texts),
)
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


def _postscript(answer: str, given: Mapping[str, Any]) -> bool:
    last = lines(answer)[-1].strip('"')
    return bool(last.lower().startswith(given["marker"].lower() + " "))


def _repeat(answer: str, given: Mapping[str, Any]) -> bool:
    text, answer = given["text"].strip(), answer.strip()
    return answer.startswith(text) and bool(answer[len(text) :].strip())


def _english(answer: str, _: Mapping[str, Any]) -> bool:
    letters = [letter for letter in answer if letter.isalpha()]
    return bool(letters) and sum(letter.isascii() for letter in letters) >= 0.97 * len(letters)


def _distinct_starts(answer: str, given: Mapping[str, Any]) -> bool:
    starts = [bare(sentence.split()[0]) for sentence in all_sentences(answer)]
    return len(starts) >= given["count"] and len(set(starts)) == len(starts)


def _nth_word(answer: str, given: Mapping[str, Any]) -> bool:
    words = answer.split()
    return 1 <= given["place"] <= len(words) and bare(words[given["place"] - 1]) == str(given["word"]).lower()


def _sentence_keyword(answer: str, given: Mapping[str, Any]) -> bool:
    found = all_sentences(answer)
    return 1 <= given["place"] <= len(found) and occurrences(given["word"], found[given["place"] - 1]) > 0


def _sentence_letter(answer: str, given: Mapping[str, Any]) -> bool:
    starts = [bare(sentence)[:1] for sentence in all_sentences(answer)]
    return len(starts) >= given["count"] and set(starts) == {given["letter"].lower()}


def _sentence_mark(answer: str, given: Mapping[str, Any]) -> bool:
    found = [sentence.rstrip("\"')*>") for sentence in all_sentences(answer)]
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
    found = [bare(sentence) for sentence in all_sentences(answer)]
    return len(found) > 2 and found[0] == found[-1]


def _one_of(answer: str, given: Mapping[str, Any]) -> bool:
    return answer.strip().strip("().").lower() in [option.lower() for option in given["options"]]


CHECKS: dict[str, Check] = {
    **COUNTING,
    **LAYOUT,
    "choice": lambda answer, given: answer.strip() in given["options"],
    "keywords": lambda answer, given: all(occurrences(word, answer) for word in given["words"]),
    "forbidden": lambda answer, given: not any(occurrences(word, answer) for word in given["words"]),
    "lower_case": lambda answer, _: answer.islower(),
    "upper_case": lambda answer, _: answer.isupper(),
    "no_comma": lambda answer, _: "," not in answer and "，" not in answer,
    "postscript": _postscript,
    "end_phrase": lambda answer, given: answer.strip().strip('"').lower().endswith(given["phrase"].lower()),
    "start_phrase": lambda answer, given: answer.strip().strip('"').lower().startswith(given["phrase"].lower()),
    "first_word": lambda answer, given: bare(answer.split()[0]) == given["word"].lower(),
    "last_word": lambda answer, given: bare(answer.split()[-1]) == given["word"].lower(),
    "repeat_request": _repeat,
    "english": _english,
    "no_digits": lambda answer, _: not any(letter.isdigit() for letter in answer),
    "ends_with_question": lambda answer, _: answer.strip().strip('"*').endswith("?"),
    "distinct_starts": _distinct_starts,
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
