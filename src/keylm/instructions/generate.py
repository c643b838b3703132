"""Pairs of an instruction with constraints and an answer that keeps them, each checked by program.

Invariant: what a Generator returns is a pure function of (settings, documents, stream, index); the last answer of every
pair passes `violations`, and no constraint in it is of a held-out type.

How a pair comes about: a task is drawn (from a document or a template), constraints are drawn, their makers shape a
draft of the answer, further constraints are read off the finished text, and the whole is checked; what fails is thrown
away and drawn anew.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

from keylm.instructions import everyday, sourced
from keylm.instructions.breaking import break_answer
from keylm.instructions.checks import Constraint, violations
from keylm.instructions.drafts import Draft, WritingTask
from keylm.instructions.everyday import Supplies
from keylm.instructions.grammar import write
from keylm.instructions.making import MAKERS
from keylm.instructions.measuring import MEASURES
from keylm.instructions.sourced import SourceText
from keylm.instructions.stories import GENRES
from keylm.instructions.wording import describe
from keylm.recipe.schema import Typos
from keylm.text.sentences import fewest_words
from keylm.typos.model import TypoModel

Message = dict[str, str]
LONGEST_PROMPT, LONGEST_ANSWER = 420, 700
"""Words; together they fit 2,048 tokens."""
WEIGHTS = {
    "words": 10, "sentences": 9, "no_comma": 10, "forbidden": 7, "keywords": 5, "added_keywords": 3, "keyword_count": 8,
    "highlights": 9, "quotation": 7, "lower_case": 7, "upper_case": 6, "title": 7, "letter_count": 6, "bullets": 8,
    "numbered_list": 2, "placeholders": 6, "paragraphs": 3, "divided_paragraphs": 6, "paragraph_start": 4,
    "end_phrase": 6, "start_phrase": 2, "postscript": 6, "capital_words": 4, "few_capital_words": 3, "two_answers": 6,
    "repeat_request": 9, "json": 6, "sections": 5, "english": 1, "no_digits": 1, "first_word": 1, "last_word": 1,
    "choice": 3,
}  # fmt: skip
"""How often each type of constraint is drawn."""
_SHAPES = {
    "paragraphs",
    "divided_paragraphs",
    "paragraph_start",
    "bullets",
    "numbered_list",
    "sections",
    "json",
    "two_answers",
}
_GROUPS: tuple[set[str], ...] = (
    _SHAPES,
    {"lower_case", "upper_case", "capital_words", "few_capital_words"},
    {"end_phrase", "postscript", "last_word", "two_answers"},
    {"start_phrase", "first_word", "repeat_request", "title", "two_answers"},
    {"keywords", "added_keywords", "json"},
    {"quotation", "repeat_request", "json", "first_word", "start_phrase", "placeholders"},
    {"repeat_request", "lower_case", "json"},
    {"repeat_request", "upper_case", "json"},
    {"json", "highlights", "no_comma"},
    {"json", "title", "placeholders", "first_word", "last_word"},
    {"json", "capital_words", "end_phrase"},
    {"json", "postscript", "sentences"},
    {"two_answers", "highlights"},
    {"two_answers", "capital_words"},
    {"two_answers", "placeholders"},
    {"two_answers", "sentences", "words", "added_keywords"},
    {"bullets", "highlights"},
    {"numbered_list", "no_digits", "sections"},
    {"letter_count", "keyword_count"},
    {"first_word", "start_phrase", "paragraph_start"},
    {"lower_case", "english"},
)
"""Of each set a request has one at most."""
_LENGTHS = (12, 20, 30, 45, 60, 90, 130)
_LONG_LENGTHS = (10, 25, 40, 60, 90, 130, 180, 250, 330, 420, 550)
_LONG_TEXTS = (200, 300, 400, 550)
_LONG_SHARE = 0.5
"""Of requests on the number of words, those that only documents with much to say are taken for."""
_FOLLOW_UPS = (
    "Now write that again. {c}", "Can you change your answer? {c}", "Once more, please. {c}", "{c}",
    "Good. One more thing: {c}", "Please do it again like this: {c}", "Not quite what I wanted. {c}",
    "Rewrite your answer. {c}",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What decides the output beside the documents."""

    seed: int = 0
    name: str = "KeyLM"
    """the assistant's, where it is asked who it is"""


@dataclass
class Pair:
    """A conversation whose last answer keeps `constraints`; `kind` says what was asked, `source` where from."""

    messages: list[Message]
    kind: str
    source: str
    constraints: list[Constraint] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Return the pair as a line of a file."""
        made = {"messages": self.messages, "source": "instructions", "constraints": self.constraints}
        return {**made, "kind": self.kind, "from": self.source}


class PairGenerator:
    """Makes pairs from documents (by file name, each with at least one document)."""

    def __init__(self, documents: Mapping[str, Sequence[SourceText]], settings: Settings) -> None:
        self.supplies = Supplies(settings.name, dict(documents), TypoModel(Typos()), settings.seed)
        self.settings = settings
        usable = [
            (maker, weight, {name: share for name, share in names.items() if documents.get(name)})
            for maker, weight, names in sourced.SOURCES
        ]
        self._sourced = [(maker, weight, names) for maker, weight, names in usable if names]

    def everyday(self, index: int, stream: str = "everyday") -> Pair:
        """Return conversation `index` without constraints."""
        random = self._random(stream, index)
        while True:
            made = everyday.conversation(self.supplies, random)
            if made is not None:
                return Pair(*made)

    def verifiable(self, index: int, stream: str = "verifiable") -> Pair:
        """Return pair `index` with one to three constraints; the first type is drawn by WEIGHTS and stays."""
        random = self._random(stream, index)
        while True:
            first = random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            long = first == "words" and random.random() < _LONG_SHARE
            for _ in range(60):
                task = self._task(random)
                if (
                    task is None
                    or (long and (task.whole or task.words < _LONG_TEXTS[0]))
                    or first in _UNFIT.get(task.family, ())
                    or bool(task.options) != (first == "choice")
                ):
                    continue
                pair = (self._follow_up if random.random() < 0.07 and not long else self._constrained)(
                    task, first, random
                )
                if pair is not None:
                    return pair

    def preference(self, index: int) -> dict[str, Any]:
        """Return prompt `index` with an answer that keeps its constraints and one that breaks one of them."""
        for attempt in count():
            pair = self.verifiable(index, f"preferences/{attempt}")
            answer = pair.messages[-1]["content"]
            broken = break_answer(answer, pair.constraints, self._random("breaking", index))
            if broken is not None:
                prompt = pair.messages[:-1]
                made = {"prompt": prompt, "chosen": answer, "rejected": broken[0], "constraints": pair.constraints}
                return {**made, "kind": pair.kind, "from": pair.source}
        raise AssertionError("count() has no end")

    def task(self, index: int, stream: str) -> WritingTask:
        """Return a task of its own, for items whose constraints come from elsewhere."""
        random = self._random(stream, index)
        while True:
            task = self._task(random)
            if task is not None and not task.context and not task.options:
                return task

    def _random(self, stream: str, index: int) -> Random:
        return Random(f"{self.settings.seed}/{stream}/{index}")

    def _task(self, random: Random) -> WritingTask | None:
        if not self._sourced or random.random() < 0.3:
            name = random.choice(list(GENRES))
            return write(name, GENRES[name], random)
        maker, _, names = random.choices(self._sourced, [weight for _, weight, _ in self._sourced])[0]
        for _ in range(6):  # so that makers come up as weighed, whatever share of documents suits them
            name = random.choices(list(names), list(names.values()))[0]
            task = maker(random.choice(self.supplies.documents[name]), random)
            if task is not None:
                return task
        return None

    def _constrained(self, task: WritingTask, first: str, random: Random) -> Pair | None:
        types = _drawn(task, first, random, random.choices((1, 2, 3), (50, 33, 17))[0])
        long = first == "words" and task.words >= _LONG_TEXTS[0] and not task.whole
        words = random.choice(_LONG_TEXTS) if long and random.random() < 0.7 else None
        answer, constraints = _answered(task, types, random, words)
        if answer is None or (not constraints and "repeat_request" not in types):
            return None
        request = self._spoilt(task.request, random)
        messages = _asked(task, request, [describe(constraint, random) for constraint in constraints], random, types)
        if "repeat_request" in types:
            text = messages[-1]["content"]
            constraint = {"type": "repeat_request", "text": text}
            constraints.append(constraint)
            messages[-1]["content"] = text + random.choice(("\n\n", "\n", " ")) + describe(constraint, random)
            answer = f"{text}\n\n{answer}"
        return _checked([*messages, {"role": "assistant", "content": answer}], constraints, task)

    def _follow_up(self, task: WritingTask, first: str, random: Random) -> Pair | None:
        """Return a plain answer that is asked for again in another form."""
        if task.options or task.family in ("points", "joke", "riddle") or first in _NOT_AFTERWARDS:
            return None
        types = _drawn(task, first, random, random.choice((1, 1, 2)))
        words = random.choice((25, 40, 60, 90))
        plain = Draft(task, words).render()
        answer, constraints = _answered(task, types, random, words)
        if answer is None or not constraints or answer == plain or _NOT_AFTERWARDS & set(types):
            return None
        wish = " ".join(describe(constraint, random) for constraint in constraints)
        messages = [
            {"role": "user", "content": everyday.asked(task, random)},
            {"role": "assistant", "content": plain},
            {"role": "user", "content": random.choice(_FOLLOW_UPS).format(c=wish)},
            {"role": "assistant", "content": answer},
        ]
        return _checked(messages, constraints, task)

    def _spoilt(self, request: str, random: Random) -> str:
        """Return a request as people type it: some in small letters, some with typos."""
        if random.random() < 0.06:
            request = request[0].lower() + request[1:].rstrip(".")
        if random.random() < 0.06:
            request = self.supplies.typos.corrupt(request, self.settings.seed, random.getrandbits(63), 0, 0.15).text
        return request


_NOT_AFTERWARDS = {"repeat_request", "two_answers", "first_word", "last_word", "english", "json"}


_SHORT = (
    "lower_case",
    "upper_case",
    "quotation",
    "words",
    "no_comma",
    "forbidden",
    "letter_count",
    "end_phrase",
    "no_digits",
)
"""What a headline or a summary can be asked to keep."""
_LISTS = ("bullets", "numbered_list", "json")
_UNFIT = {
    "headline": tuple(name for name in WEIGHTS if name not in _SHORT),
    "summary": tuple(name for name in WEIGHTS if name not in _SHORT),
    "tale": (*_LISTS, "added_keywords", "two_answers"),
    "story": (*_LISTS, "added_keywords"),
    "opening": ("repeat_request", *_LISTS, "title", "placeholders", "start_phrase", "sections"),
    "news": ("numbered_list",),
    "joke": (*(_SHAPES - {"two_answers"}), "placeholders", "keywords", "added_keywords", "highlights", "capital_words"),
    "riddle": (
        *(_SHAPES - {"two_answers"}),
        "placeholders",
        "keywords",
        "added_keywords",
        "highlights",
        "capital_words",
    ),
    "points": ("repeat_request", "highlights", "title", "two_answers"),
}
"""What does not suit a task."""


def _drawn(task: WritingTask, first: str, random: Random, wanted: int) -> list[str]:
    """Return `first` and other types of constraints for a task, no two of which exclude each other."""
    if task.options:
        return ["choice"]
    types = [first]
    if task.family == "points" and first not in ("bullets", "numbered_list"):
        types.append(random.choice(("bullets", "bullets", "numbered_list")))
    unfit = _UNFIT.get(task.family, ())
    names = [name for name in WEIGHTS if name not in unfit and name != "choice"]
    weights = [WEIGHTS[name] for name in names]
    for _ in range(12):
        if len(types) >= wanted:
            break
        name = random.choices(names, weights)[0]
        if name not in types and not any(name in group and group & set(types) for group in _GROUPS):
            types.append(name)
    return types


def _answered(
    task: WritingTask, types: Sequence[str], random: Random, words: int | None = None
) -> tuple[str | None, list[Constraint]]:
    """Return an answer made and measured for `types` (the request's repetition left aside), and its constraints."""
    long = {"words", "sentences", "letter_count", "keyword_count", "keywords"} & set(types)
    words = words or random.choice(_LONG_LENGTHS if long else _LENGTHS)
    draft = Draft(task, max(words, _SHORTEST) if _LONG_FORMS.search(task.request) else words)
    constraints: list[Constraint] = []
    for name in sorted((name for name in types if name in MAKERS), key=lambda name: MAKERS[name][0]):
        parameters = MAKERS[name][1](draft, random)
        if parameters is None:
            return None, []
        constraints.append({"type": _ALIASES.get(name, name), **parameters})
    text = draft.render()
    for name in types:
        if name in MEASURES:
            parameters = MEASURES[name](text, task, random)
            if parameters is None:
                return None, []
            constraints.append({"type": _ALIASES.get(name, name), **parameters})
    return text, constraints


_LONG_FORMS = re.compile(r"(?i)\b(blog|essay|article|story|report|biography|passage|guide|opening|tale)\b")
_SHORTEST = 55
"""Words that such a text has at least."""
_ALIASES = {"added_keywords": "keywords", "few_capital_words": "capital_words"}


def _asked(task: WritingTask, request: str, wishes: list[str], random: Random, types: Sequence[str]) -> list[Message]:
    """Return the turns that ask, up to the user's last: request, constraints and passage in one of several orders."""
    random.shuffle(wishes)
    style = random.random()
    system: list[Message] = []
    plain = request if request.endswith((".", "?", "!", '"')) or not wishes else request + "."
    if style < 0.07 and wishes and not task.options:
        system = [{"role": "system", "content": " ".join(wishes)}]
        text = request
    elif style < 0.17 and len(wishes) > 1 and not any("\n" in wish for wish in wishes):
        text = f"{plain}\n" + "\n".join(f"- {wish}" for wish in wishes)
    elif style < 0.3:
        text = plain + "\n\n" + random.choice((" ", "\n")).join(wishes)
    elif style < 0.38 and wishes and "repeat_request" not in types:
        text = " ".join(wishes) + random.choice((" ", "\n\n")) + request
    else:
        text = " ".join([plain, *wishes])
    if task.context:
        first = "below" in request or "following" in request or random.random() < 0.6
        text = f"{text}\n\n{task.context}" if first else f"{task.context}\n\n{text}"
    return [*system, {"role": "user", "content": text}]


def _checked(messages: list[Message], constraints: list[Constraint], task: WritingTask) -> Pair | None:
    """Return the pair if its answer keeps every constraint and both sides have a sound length."""
    answer = messages[-1]["content"]
    if violations(answer, constraints) or fewest_words(answer) > LONGEST_ANSWER:
        return None
    if sum(fewest_words(message["content"]) for message in messages[:-1]) > LONGEST_PROMPT:
        return None
    return Pair(messages, task.family, task.source, constraints)
