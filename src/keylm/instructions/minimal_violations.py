"""Minimal violations: a good answer with one change that breaks one of its constraints.

They are cheap rejected answers for preference tuning: chosen and rejected differ in little but the constraint. A
model's own violating answers are better, but take its time.
"""

import re
from collections.abc import Callable, Sequence
from random import Random

from keylm.instructions.checks import Constraint, keeps, violations
from keylm.instructions.layout_checks import (
    ANSWERS_APART,
    BULLET,
    DIVIDER,
    HEADING,
    HIGHLIGHT,
    LETTERED,
    NUMBERED,
    PLACEHOLDER,
    TITLE,
)
from keylm.instructions.right_answers import RIGHT_ANSWERS
from keylm.instructions.tables import phrase_tables
from keylm.text.sentences import paragraphs, sentences

_TEXTS = phrase_tables().answers.broken
_FILLERS = _TEXTS.fillers


def break_answer(answer: str, constraints: Sequence[Constraint], random: Random) -> tuple[str, Constraint] | None:
    """Return `answer` with one change that breaks a random one of `constraints`, and that one; None where none does."""
    best = None
    for constraint in random.sample(list(constraints), len(constraints)):
        change = _CHANGES.get(constraint["type"], _any_edit)
        for _ in range(3):
            changed = change(answer, constraint, random)
            broken = violations(changed, constraints)
            if constraint in broken and changed.strip():
                if len(broken) == 1:
                    return changed, constraint
                best = best or (changed, constraint)
    return best


def _longer(answer: str, constraint: Constraint, random: Random) -> str:
    extra = random.sample(_FILLERS, len(_FILLERS))
    return answer + " " + " ".join(extra[: random.randint(1, len(extra))])


def _shorter(answer: str, constraint: Constraint, random: Random) -> str:
    parts = sentences(answer)
    if len(parts) < 2:
        words = answer.split()
        return " ".join(words[: random.randint(1, max(1, len(words) // 2))])
    return " ".join(parts[: max(1, len(parts) - random.randint(1, max(1, len(parts) - 1)))])


def _length(answer: str, constraint: Constraint, random: Random) -> str:
    if constraint["relation"] == "at_most":
        need = int(constraint["count"]) - len(answer.split())
        return answer + " " + " ".join(random.choice(_FILLERS) for _ in range(max(1, need // 4 + 1)))
    return _shorter(answer, constraint, random)


def _merged(answer: str, constraint: Constraint, random: Random) -> str:
    parts = paragraphs(answer)
    if len(parts) < 2:
        return answer + "\n\n" + random.choice(_FILLERS)
    place = random.randrange(len(parts) - 1)
    return "\n\n".join([*parts[:place], f"{parts[place]} {parts[place + 1]}", *parts[place + 2 :]])


def _without_line(pattern: re.Pattern[str]) -> Callable[[str, Constraint, Random], str]:
    def change(answer: str, constraint: Constraint, random: Random) -> str:
        found = [match.group() for match in pattern.finditer(answer)]
        return answer.replace("\n" + found[-1], "", 1) if len(found) > 1 else pattern.sub("", answer)

    return change


def _unmarked(pattern: re.Pattern[str], marks: str) -> Callable[[str, Constraint, Random], str]:
    return lambda a, c, r: pattern.sub(lambda match: match.group().strip(marks), a)


def _without_words(answer: str, constraint: Constraint, random: Random) -> str:
    word = random.choice(constraint["words"]) if "words" in constraint else constraint["word"]
    if constraint["type"] == "keyword_count" and constraint["relation"] == "at_most":
        return answer + f" {word.capitalize()}, {word} and {word}." * (int(constraint["count"]) // 3 + 1)
    return re.sub(rf"(?i)(?<!\w){re.escape(word)}(?!\w)", "it", answer)


def _letters(answer: str, constraint: Constraint, random: Random) -> str:
    if constraint["relation"] == "at_least":
        return _shorter(answer, constraint, random)
    return answer + f" {constraint['letter'] * 3}" * (int(constraint["count"]) // 3 + 1)


def _one_case(answer: str, constraint: Constraint, random: Random) -> str:
    words = re.findall(r"[A-Za-z]{3,}", answer)
    if not words:
        return answer
    word = random.choice(words)
    return answer.replace(word, word.capitalize() if word.islower() else word.lower(), 1)


def _capitals(answer: str, constraint: Constraint, random: Random) -> str:
    if constraint["relation"] == "at_least":
        return re.sub(r"\b[A-Z]{2,}\b", lambda match: match.group().lower(), answer)
    return re.sub(r"\b[a-z]{3,}\b", lambda match: match.group().upper(), answer, count=int(constraint["count"]) + 2)


def _comma(answer: str, constraint: Constraint, random: Random) -> str:
    places = [
        match.start() for match in re.finditer(r"(?<=[a-z]) (?=(?:and|but|or|that|with|in|of|to|for|it)\b)", answer)
    ]
    place = random.choice(places) if places else answer.find(" ")
    return answer[:place] + "," + answer[place:] if place > 0 else answer + ","


def _without_end(answer: str, constraint: Constraint, random: Random) -> str:
    kept = "\n".join(answer.rstrip().split("\n")[:-1]).rstrip()
    return kept if constraint["type"] == "postscript" and kept else answer.rstrip() + " " + random.choice(_FILLERS)


def _json(answer: str, constraint: Constraint, random: Random) -> str:
    return random.choice((answer.rstrip("}`\n "), _TEXTS.before_json + answer, answer.replace('":', '"', 1)))


def _unrepeated(answer: str, constraint: Constraint, random: Random) -> str:
    rest = answer[len(constraint["text"]) :].strip()
    return random.choice(
        (rest, f"{constraint['text'][: len(constraint['text']) // 2]}\n\n{rest}", _TEXTS.before_repetition + answer)
    )


def _swapped(answer: str, constraint: Constraint, random: Random) -> str:
    words = answer.split(" ")
    place = random.randrange(len(words) - 1) if len(words) > 1 else 0
    return " ".join([*words[:place], *reversed(words[place : place + 2]), *words[place + 2 :]])


def _miscopied(answer: str, constraint: Constraint, random: Random) -> str:
    """Replace a letter or digit by another."""
    places = [place for place, letter in enumerate(answer) if letter.isalnum()]
    place = random.choice(places) if places else 0
    return answer[:place] + random.choice("aeinost" if answer[place].isalpha() else "0123456789") + answer[place + 1 :]


def _with_mark(answer: str, constraint: Constraint, random: Random) -> str:
    """Add what the answer may not have, or has a number of: a mark, a letter, a number."""
    extra = {"exclamation_marks": "!", "absent_letter": f" {constraint.get('letter')}", "numbers": " 7 8 9 10"}
    return answer + extra[constraint["type"]] * (1 + int(constraint.get("count", 0)) // 4)


_EDITS: tuple[Callable[[str, Constraint, Random], str], ...] = (
    lambda a, c, r: a.rsplit(None, 1)[0],
    lambda a, c, r: a.split(None, 1)[-1],
    lambda a, c, r: a[: len(a) // 2],
    lambda a, c, r: f"{a} {r.choice(_FILLERS)}",
    lambda a, c, r: f"{a} {sentences(a)[-1]}",
    lambda a, c, r: " ".join(a.split()),
    lambda a, c, r: f"{a}\n{r.choice(_FILLERS)}",
    lambda a, c, r: a.lower(),
    _longer,
    _swapped,
    _miscopied,
)
"""Small changes that break one type or another."""


def _any_edit(answer: str, constraint: Constraint, random: Random) -> str:
    """Return the answer after the first of all edits, in random order, that breaks the constraint."""
    for edit in random.sample(_EDITS, len(_EDITS)):
        changed = edit(answer, constraint, random)
        if changed.strip() and not keeps(changed, constraint):
            return changed
    return answer


def _wrong_answer(answer: str, constraint: Constraint, random: Random) -> str:
    """Return what a model may well say instead of the one right answer: the given text as it is, another option."""
    given = (constraint.get(key) for key in ("text", "yes", "no") if constraint["type"] != "condition" or key != "text")
    wrong = [text for text in (*given, *constraint.get("words", ())) if text and not keeps(text, constraint)]
    return random.choice(wrong) if wrong else _any_edit(answer, constraint, random)


_CHANGES: dict[str, Callable[[str, Constraint, Random], str]] = {
    "words": _length,
    "sentences": lambda a, c, r: (_longer if c["relation"] in ("at_most", "exactly") else _shorter)(a, c, r),
    "paragraphs": _merged,
    "divided_paragraphs": lambda a, c, r: a.replace(DIVIDER, ""),
    "paragraph_start": _merged,
    "bullets": _without_line(BULLET),
    "numbered_list": _without_line(NUMBERED),
    "sections": lambda a, c, r: re.sub(rf"^{re.escape(c['word'])} {c['count']}\n", "", a, flags=re.MULTILINE),
    "json": _json,
    "choice": lambda a, c, r: r.choice(_TEXTS.choices).format(answer=a),
    "two_answers": lambda a, c, r: a.replace(ANSWERS_APART, ""),
    "keywords": _without_words,
    "forbidden": lambda a, c, r: f"{a} {_TEXTS.forbidden_word.format(word=r.choice(c['words']))}",
    "keyword_count": _without_words,
    "letter_count": _letters,
    "capital_words": _capitals,
    "lower_case": _one_case,
    "upper_case": _one_case,
    "no_comma": _comma,
    "title": _unmarked(TITLE, "<>"),
    "highlights": _unmarked(HIGHLIGHT, "*"),
    "placeholders": _unmarked(PLACEHOLDER, "[]"),
    "postscript": _without_end,
    "quotation": lambda a, c, r: a.strip().strip('"'),
    "end_phrase": _without_end,
    "start_phrase": lambda a, c, r: _TEXTS.start + a,
    "first_word": lambda a, c, r: _TEXTS.start + a,
    "last_word": _without_end,
    "repeat_request": _unrepeated,
    "english": lambda a, c, r: _TEXTS.language * (len(a) // 600 + 1) + a,
    "no_digits": lambda a, c, r: f"{a} ({r.randint(1, 9)})",
    "lettered_list": _without_line(LETTERED),
    "alphabetical_bullets": _without_line(BULLET),
    "headings": _without_line(HEADING),
    "line_prefix": lambda a, c, r: a.replace(c["mark"], "", 1).lstrip(),
    "wrapped": lambda a, c, r: r.choice((a.removeprefix(c["opening"]), a.removesuffix(c["closing"]))).strip(),
    "separated": lambda a, c, r: a.replace(c["mark"], ",", r.randint(1, 2)),
    "several_answers": lambda a, c, r: a.replace(c["mark"], "", 1),
    "absent_letter": _with_mark,
    "exclamation_marks": _with_mark,
    "numbers": lambda a, c, r: (_any_edit if c["relation"] == "at_least" else _with_mark)(a, c, r),
    "choice_letter": lambda a, c, r: r.choice(_TEXTS.choices).format(answer=a),
    "ends_with_question": _without_end,
    **dict.fromkeys(RIGHT_ANSWERS, _wrong_answer),
}
"""By type; others are broken by whichever of _EDITS does it."""
