"""Conversations whose last answer keeps constraints, each checked by program.

Invariant: what PairGenerator returns is a pure function of (settings, documents, stream, index); the last answer of
every pair passes `violations`, and none of its constraints is of a held-out type.

A task is drawn (from a document or a template) and constraints with it; their makers shape a draft of the answer,
further constraints are measured on the finished text, and the whole is checked. What fails is discarded and redrawn.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

from keylm.instructions import everyday
from keylm.instructions.checks import Constraint, violations
from keylm.instructions.document_tasks import TASK_MAKERS, SourceText
from keylm.instructions.drafts import Draft, WritingTask
from keylm.instructions.everyday import GeneratorInputs
from keylm.instructions.exercises import EXERCISES, make_exercise
from keylm.instructions.makers import MAKERS
from keylm.instructions.measures import MEASURES
from keylm.instructions.minimal_violations import break_answer
from keylm.instructions.tables import phrase_tables
from keylm.instructions.templates import GENRES, write_genre
from keylm.instructions.wordings import describe
from keylm.recipe.schema import Typos
from keylm.text.sentences import fewest_words
from keylm.typos.model import TypoModel

Message = dict[str, str]
_SOURCES, _DRAWS = phrase_tables().sources, phrase_tables().constraints
_LENGTHS = _DRAWS.lengths
_LONG_FORMS = re.compile(rf"(?i)\b({'|'.join(_LENGTHS.long_forms)})\b")
_EXCLUSIVE = [frozenset(types) for types in _DRAWS.exclusive]
_FIRST_ONLY = frozenset(_DRAWS.first_only)
_REPEATS = {"repeat_request": "{text}\n\n{answer}", "request_last": "{answer}\n\n{text}"}
"""Types that repeat the request, which is whole only at the end, and where its copy stands."""
_MOST_REWARDED = 3
"""Constraints that a prompt for reinforcement learning has at most."""


@dataclass(frozen=True)
class GeneratorSettings:
    """What decides the output besides the documents."""

    seed: int = 0
    name: str = "KeyLM"
    """the assistant's"""


@dataclass
class InstructionPair:
    """A conversation whose last answer keeps `constraints`; `kind` names the request, `source` the file it is from."""

    messages: list[Message]
    kind: str
    source: str
    constraints: list[Constraint] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Return the pair as a line of a file."""
        record = {"messages": self.messages, "source": "instructions", "constraints": self.constraints}
        return {**record, "kind": self.kind, "from": self.source}


class PairGenerator:
    """Generates pairs from documents, which are given by file name."""

    def __init__(self, documents: Mapping[str, Sequence[SourceText]], settings: GeneratorSettings) -> None:
        self.inputs = GeneratorInputs(settings.name, dict(documents), TypoModel(Typos()), settings.seed)
        self.settings = settings
        files = {
            task: {name: weight for name, weight in source.files.items() if documents.get(name)}
            for task, source in _SOURCES.tasks.items()
        }
        self._files = {task: weights for task, weights in files.items() if weights}

    def everyday(self, index: int, stream: str = "everyday") -> InstructionPair:
        """Return conversation `index` without constraints."""
        random = self._random(stream, index)
        while True:
            found = everyday.conversation(self.inputs, random)
            if found is not None:
                return InstructionPair(*found)

    def verifiable(self, index: int, stream: str = "verifiable") -> InstructionPair:
        """Return pair `index` with one to three constraints; the first type is drawn by its weight and kept."""
        random = self._random(stream, index)
        while True:
            first = random.choices(list(_DRAWS.weights), list(_DRAWS.weights.values()))[0]
            long = first == "words" and random.random() < _LENGTHS.long_share
            for _ in range(60):
                task = make_exercise(first, self.inputs, random) if first in EXERCISES else self._task(random)
                if (
                    task is None
                    or (long and (task.whole or task.words < _LENGTHS.long[0]))
                    or not (first in EXERCISES or _suits(first, task.family))
                    or bool(task.options) != (first == "choice")
                ):
                    continue
                again = random.random() < 0.07 and not long and first not in EXERCISES
                pair = (self._follow_up if again else self._constrained)(task, first, random)
                if pair is not None:
                    return pair

    def prompt(self, index: int) -> dict[str, Any]:
        """Return prompt `index` without its answer: {"prompt", "constraints", "kind", "from"}."""
        for attempt in count():
            pair = self.verifiable(index, f"prompts/{attempt}")
            if len(pair.constraints) <= _MOST_REWARDED:
                record = {"prompt": pair.messages[:-1], "constraints": pair.constraints}
                return {**record, "kind": pair.kind, "from": pair.source}
        raise AssertionError("count() has no end")

    def exercise(self, kind: str, index: int, stream: str) -> InstructionPair:
        """Return exercise `index` of a type of EXERCISES, which need not be trained, with its constraint alone."""
        random = self._random(stream, index)
        while True:
            task = make_exercise(kind, self.inputs, random)
            pair = self._constrained(task, kind, random, 1) if task is not None else None
            if pair is not None and len(pair.constraints) == 1:
                return pair

    def preference(self, index: int) -> dict[str, Any]:
        """Return prompt `index` with an answer that keeps its constraints and one that breaks one of them."""
        for attempt in count():
            pair = self.verifiable(index, f"preferences/{attempt}")
            answer = pair.messages[-1]["content"]
            broken = break_answer(answer, pair.constraints, self._random("breaking", index))
            if broken is not None:
                prompt = pair.messages[:-1]
                record = {"prompt": prompt, "chosen": answer, "rejected": broken[0], "constraints": pair.constraints}
                return {**record, "kind": pair.kind, "from": pair.source}
        raise AssertionError("count() has no end")

    def task(self, index: int, stream: str) -> WritingTask:
        """Return a task alone, for items whose constraints come from elsewhere."""
        random = self._random(stream, index)
        while True:
            task = self._task(random)
            if task is not None and not task.context and not task.options:
                return task

    def _random(self, stream: str, index: int) -> Random:
        return Random(f"{self.settings.seed}/{stream}/{index}")

    def _task(self, random: Random) -> WritingTask | None:
        if not self._files or random.random() < 0.3:
            return write_genre(random.choice(list(GENRES)), random)
        kind = random.choices(list(self._files), [_SOURCES.tasks[kind].weight for kind in self._files])[0]
        names = self._files[kind]
        for _ in range(6):  # so that tasks keep their weights, whatever share of documents suits them
            name = random.choices(list(names), list(names.values()))[0]
            task = TASK_MAKERS[kind](random.choice(self.inputs.documents[name]), random)
            if task is not None:
                return task
        return None

    def _constrained(
        self, task: WritingTask, first: str, random: Random, wanted: int | None = None
    ) -> InstructionPair | None:
        """Return a request under `wanted` constraints, by default one to three, and its answer."""
        types = _draw_types(task, first, random, wanted or random.choices((1, 2, 3), (50, 33, 17))[0])
        long = first == "words" and task.words >= _LENGTHS.long[0] and not task.whole
        words = random.choice(_LENGTHS.long) if long and random.random() < 0.7 else None
        answer, constraints = _answer(task, types, random, words)
        repeats = [name for name in types if name in _REPEATS]
        if answer is None or not (constraints or repeats):
            return None
        exercise = first in EXERCISES  # its request is the wording of its first constraint, and no typo may alter it
        request = task.request if exercise else self._as_typed(task.request, random)
        wishes = [describe(constraint, random) for constraint in constraints[exercise:]]
        messages = _user_turns(task, request, wishes, random, types)
        for name in repeats:
            text = messages[-1]["content"]
            constraint = {"type": name, "text": text}
            constraints.append(constraint)
            messages[-1]["content"] = text + random.choice(("\n\n", "\n", " ")) + describe(constraint, random)
            answer = _REPEATS[name].format(text=text, answer=answer)
        return _checked_pair([*messages, {"role": "assistant", "content": answer}], constraints, task)

    def _follow_up(self, task: WritingTask, first: str, random: Random) -> InstructionPair | None:
        """Return a conversation with a plain answer and a request for it in another form."""
        if task.options or task.family in ("points", "joke", "riddle") or first in _FIRST_ONLY:
            return None
        types = _draw_types(task, first, random, random.choice((1, 1, 2)))
        words = random.choice(_LENGTHS.follow_ups)
        plain = Draft(task, words).render()
        answer, constraints = _answer(task, types, random, words)
        if answer is None or not constraints or answer == plain or _FIRST_ONLY & set(types):
            return None
        wish = " ".join(describe(constraint, random) for constraint in constraints)
        messages = [
            {"role": "user", "content": everyday.with_passage(task, random)},
            {"role": "assistant", "content": plain},
            {"role": "user", "content": random.choice(_DRAWS.follow_ups).format(wish=wish)},
            {"role": "assistant", "content": answer},
        ]
        return _checked_pair(messages, constraints, task)

    def _as_typed(self, request: str, random: Random) -> str:
        """Return a request as people type it: some in lower case, some with typos."""
        if random.random() < 0.06:
            request = request[0].lower() + request[1:].rstrip(".")
        if random.random() < 0.06:
            request = self.inputs.typos.corrupt(request, self.settings.seed, random.getrandbits(63), 0, 0.15).text
        return request


def _suits(name: str, family: str) -> bool:
    """Return whether a type of constraint suits a kind of task."""
    if family in _DRAWS.fit:
        return name in _DRAWS.fit[family]
    return name not in _DRAWS.unfit.get(family, ())


def _draw_types(task: WritingTask, first: str, random: Random, wanted: int) -> list[str]:
    """Return `first` and other types of constraints for a task, none of which exclude each other."""
    if task.options:
        return ["choice"]
    types = [] if first in EXERCISES else [first]
    wanted -= len(task.constraints)
    if task.family == "points" and first not in ("bullets", "numbered_list"):
        types.append(random.choice(("bullets", "bullets", "numbered_list")))
    names = [
        name for name in _DRAWS.weights if name != "choice" and name not in EXERCISES and _suits(name, task.family)
    ]
    weights = [_DRAWS.weights[name] for name in names]
    for _ in range(12):
        if len(types) >= wanted:
            break
        name = random.choices(names, weights)[0]
        if name not in types and not any(name in group and group & set(types) for group in _EXCLUSIVE):
            types.append(name)
    return types


def _answer(
    task: WritingTask, types: Sequence[str], random: Random, words: int | None = None
) -> tuple[str | None, list[Constraint]]:
    """Return an answer shaped and measured for `types` (but those that repeat the request), and its constraints."""
    words = words or random.choice(_LENGTHS.counted if set(_LENGTHS.counting) & set(types) else _LENGTHS.usual)
    draft = Draft(task, max(words, _LENGTHS.shortest_long_form) if _LONG_FORMS.search(task.request) else words)
    constraints: list[Constraint] = list(task.constraints)
    for name in sorted((name for name in types if name in MAKERS), key=lambda name: MAKERS[name][0]):
        parameters = MAKERS[name][1](draft, random)
        if parameters is None:
            return None, []
        constraints.append({"type": _DRAWS.aliases.get(name, name), **parameters})
    text = draft.render()
    for name in types:
        if name in MEASURES:
            parameters = MEASURES[name](text, task, random)
            if parameters is None:
                return None, []
            constraints.append({"type": _DRAWS.aliases.get(name, name), **parameters})
    return text, constraints


def _user_turns(
    task: WritingTask, request: str, wishes: list[str], random: Random, types: Sequence[str]
) -> list[Message]:
    """Return the turns up to the user's last: request, constraints and passage in one of several orders."""
    random.shuffle(wishes)
    style = random.random()
    system: list[Message] = []
    plain = request if request.endswith((".", "?", "!", '"')) or not wishes else request + "."
    if style < 0.07 and wishes and not task.options:
        system = [{"role": "system", "content": " ".join(wishes)}]
        text = request
    elif style < 0.17 and len(wishes) > 1 and not any("\n" in wish for wish in wishes):
        text = f"{plain}\n" + "\n".join(f"- {wish}" for wish in wishes)
    elif style < 0.3 and wishes:
        text = plain + "\n\n" + random.choice((" ", "\n")).join(wishes)
    elif style < 0.38 and wishes and not _REPEATS.keys() & set(types):
        text = " ".join(wishes) + random.choice((" ", "\n\n")) + request
    else:
        text = " ".join([plain, *wishes])
    if task.context:
        first = "below" in request or "following" in request or random.random() < 0.6
        text = f"{text}\n\n{task.context}" if first else f"{task.context}\n\n{text}"
    return [*system, {"role": "user", "content": text}]


def _checked_pair(messages: list[Message], constraints: list[Constraint], task: WritingTask) -> InstructionPair | None:
    """Return the pair if its answer keeps every constraint and neither side is too long, else None."""
    answer = messages[-1]["content"]
    if violations(answer, constraints) or fewest_words(answer) > _LENGTHS.longest_answer:
        return None
    if sum(fewest_words(message["content"]) for message in messages[:-1]) > _LENGTHS.longest_prompt:
        return None
    return InstructionPair(messages, task.family, task.source, constraints)
