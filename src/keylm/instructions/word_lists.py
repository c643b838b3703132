"""Lists of words with a property: each type's test, and words that pass it.

The words of this package's own tables are the vocabulary, so every list is of real words.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from random import Random
from typing import Any

from keylm.instructions.tables import phrase_tables

Given = Mapping[str, Any]
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_ENDINGS = (2, 3)
"""Lengths of the endings that words share."""

PROPERTIES: dict[str, Callable[[Sequence[str], Given], bool]] = {
    "alliteration": lambda words, given: all(word.startswith(given["letter"]) for word in words),
    "letter_in_words": lambda words, given: all(given["letter"] in word for word in words),
    "suffix": lambda words, given: all(word.endswith(given["ending"].lower()) for word in words),
    "long_words": lambda words, given: all(len(word) >= given["letters"] for word in words),
    "same_length": lambda words, given: all(len(word) == given["letters"] for word in words),
    "growing_words": lambda words, _: all(len(a) < len(b) for a, b in pairwise(words)),
    "palindromes": lambda words, _: all(len(word) > 2 and word == word[::-1] for word in words),
}
"""By type: whether lower-case words have its property."""


def is_list(answer: str, constraint: Given) -> bool:
    """Return whether an answer is `count` different words, all with the property of the constraint's type."""
    words = [word.lower() for word in _WORD.findall(answer)]
    right_number = len(words) == constraint["count"] == len(set(words))
    return right_number and PROPERTIES[constraint["type"]](words, constraint)


@cache
def vocabulary() -> tuple[str, ...]:
    """Return the plain words of the tables, sorted."""
    tables = phrase_tables()
    facts = [text for table in tables.facts.tables.values() for pair in table.pairs for text in pair]
    listed = [text for texts in (*tables.facts.lists.values(), *tables.slots.values()) for text in texts]
    texts = (*facts, *listed, *tables.answers.nouns, *tables.answers.palindromes)
    return tuple(sorted({text for text in texts if re.fullmatch(r"[a-z]{3,12}", text)}))


def draw_list(kind: str, random: Random) -> tuple[dict[str, Any], list[str]] | None:
    """Return the parameters of a constraint on a list of words, and words that keep it; None where they are too few."""
    count, word = random.randint(2, 6), random.choice(vocabulary())
    drawn: dict[str, dict[str, Any]] = {
        "alliteration": {"letter": word[0]},
        "letter_in_words": {"letter": random.choice(word)},
        "suffix": {"ending": word[-random.choice(_ENDINGS) :]},
        "long_words": {"letters": random.randint(5, 9)},
        "same_length": {"letters": len(word)},
    }
    parameters = drawn.get(kind, {})
    given = {"type": kind, **parameters, "count": count}
    if kind == "growing_words":
        by_length = {len(word): word for word in random.sample(vocabulary(), 60)}
        words = [by_length[size] for size in sorted(random.sample(sorted(by_length), min(count, len(by_length))))]
    else:
        found = [word for word in vocabulary() if PROPERTIES[kind]([word], given)]
        words = random.sample(found, count) if len(found) >= count else []
    return ({**parameters, "count": count}, words) if len(words) == count else None
