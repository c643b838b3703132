"""Evaluation items: requests whose answers a program scores, from documents that no training pair comes from.

Three sets. `trained`: pairs as in training, from held-out documents. `held_out`: requests with a constraint of a type
that training never has. `typos`: mistyped held-out sentences with what they should be.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from keylm.instructions.checks import HELD_OUT, Constraint
from keylm.instructions.everyday import FIX_REQUESTS, mistyped
from keylm.instructions.exercises import EXERCISES
from keylm.instructions.generator import PairGenerator
from keylm.instructions.wordings import describe
from keylm.text.sentences import fewest_words

SETS = ("trained", "held_out", "typos")
_TOKENS_PER_WORD = 2
_ROOM = 60
_HELD_OUT_TOKENS = 300

DRAWS: dict[str, Callable[[Random], Constraint]] = {
    "question_marks": lambda random: {"count": random.randint(1, 4)},
    "roman_list": lambda random: {"count": random.randint(3, 5)},
    "line_letter": lambda random: {"letter": random.choice("abcdhmpstw"), "count": random.randint(2, 4)},
    "refrain": lambda random: {},
    "short_words": lambda random: {"count": random.randint(6, 8), "words": random.randint(10, 20)},
}
"""Parameters of the held-out types that are no exercises."""


def item(generator: PairGenerator, kind: str, index: int) -> dict[str, Any]:
    """Return item `index` of a set: {"set", "messages", "constraints", "reference", "max_new_tokens"}.

    The messages end with the user's turn. `reference` is an answer that keeps the constraints, or the clean sentence;
    None for a type of DRAWS, which no maker knows.
    """
    if kind == "trained":
        pair = generator.verifiable(index, "evaluation")
        reference = pair.messages[-1]["content"]
        tokens = _TOKENS_PER_WORD * fewest_words(reference) + _ROOM
        return _item(kind, pair.messages[:-1], pair.constraints, reference, min(1024, tokens))
    random = Random(f"{generator.settings.seed}/{kind}/{index}")
    if kind == "typos":
        while (found := mistyped(generator.inputs, random)) is None:
            pass
        noisy, clean, _ = found
        request = random.choice(FIX_REQUESTS).format(text=noisy)
        tokens = _TOKENS_PER_WORD * fewest_words(clean) + _ROOM
        record = _item(kind, [{"role": "user", "content": request}], [], clean, tokens)
        return {**record, "noisy": noisy}
    name = HELD_OUT[index % len(HELD_OUT)]
    if name in EXERCISES:
        pair = generator.exercise(name, index, kind)
        return _item(kind, pair.messages[:-1], pair.constraints, pair.messages[-1]["content"], _HELD_OUT_TOKENS)
    constraint = {"type": name, **DRAWS[name](random)}
    task = generator.task(index, kind)
    request = task.request if task.request.endswith((".", "?", "!", '"')) else task.request + "."
    messages = [{"role": "user", "content": f"{request} {describe(constraint, random)}"}]
    return _item(kind, messages, [constraint], None, _HELD_OUT_TOKENS)


def _item(
    kind: str, messages: list[dict[str, str]], constraints: list[Constraint], reference: str | None, tokens: int
) -> dict[str, Any]:
    return {
        "set": kind,
        "messages": messages,
        "constraints": constraints,
        "reference": reference,
        "max_new_tokens": tokens,
    }
