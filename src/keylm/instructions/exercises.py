"""Exercises: requests that are a constraint themselves, on a given text, on given options, or for a list of words.

Each maker draws what is given from the documents or the tables and returns the constraint's parameters with the answer
that keeps it; None where what it drew does not lend itself to it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from keylm.instructions.checks import Constraint
from keylm.instructions.drafts import WritingTask, capitalised
from keylm.instructions.everyday import GeneratorInputs, document_sentence
from keylm.instructions.right_answers import MONTHS, PICKS, right_answer
from keylm.instructions.tables import phrase_tables
from keylm.instructions.templates import GENRES, write_genre
from keylm.instructions.word_lists import PROPERTIES, draw_list, vocabulary
from keylm.instructions.wordings import describe
from keylm.text.sentences import content_words, fewest_words, most_sentences, sentences

_FACTS, _TEXTS = phrase_tables().facts, phrase_tables().answers
REARRANGED, COPIED, LISTED = "rearranged", "copied", "word_list"
"""Families of exercises: case is free, case is the text's, and lists of words."""
_SHOWN = ("{}", "{}", "{}", '"{}"', "Text: {}")
"""How a request shows what is given."""


@dataclass
class _Given:
    """What an exercise is about."""

    parameters: dict[str, Any]
    answer: str = ""
    """where the constraint has no right answer of its own"""
    shown: str = ""
    """what the request refers to, if its wording does not have it"""
    source: str = ""
    extra: list[Constraint] = field(default_factory=list)
    """how the answer is laid out"""


_Maker = Callable[[GeneratorInputs, Random], _Given | None]


def make_exercise(kind: str, inputs: GeneratorInputs, random: Random) -> WritingTask | None:
    """Return an exercise of a type in EXERCISES."""
    family, make = EXERCISES[kind]
    given = make(inputs, random)
    if given is None:
        return None
    constraint: Constraint = {"type": kind, **given.parameters}
    answer = given.answer or right_answer(constraint)
    return WritingTask(
        family,
        capitalised(describe(constraint, random)),
        [[answer]],
        context=given.shown and random.choice(_SHOWN).format(given.shown),
        whole=True,
        constraints=[constraint, *given.extra],
        source=given.source,
    )


def _sentence(inputs: GeneratorInputs, random: Random, fewest: int, most: int) -> tuple[str, str] | None:
    """Return a sentence of a document, or in one of four cases of a template, and its source."""
    if any(inputs.documents.values()) and random.random() < 0.75:
        return document_sentence(inputs, random, fewest, most)
    pool = write_genre(random.choice(list(GENRES)), random).pool
    found = [sentence for part in pool for sentence in part if fewest <= fewest_words(sentence) <= most]
    return (random.choice(found).replace("\n", " "), "") if found else None


def _plain_words(inputs: GeneratorInputs, random: Random, fewest: int, most: int) -> tuple[list[str], str] | None:
    """Return words that follow each other in a text, without punctuation."""
    found = _sentence(inputs, random, fewest, 40)
    words = re.findall(r"[A-Za-z]+(?:'[a-z]+)?", found[0]) if found else []
    if found is None or len(words) < fewest:
        return None
    size = random.randint(fewest, min(most, len(words)))
    start = random.choice((0, random.randint(0, len(words) - size)))
    return words[start : start + size], found[1]


def _on_words(inputs: GeneratorInputs, random: Random, most: int = 8) -> _Given | None:
    found = _plain_words(inputs, random, 3, most)
    return _Given({"text": " ".join(found[0])}, shown=" ".join(found[0]), source=found[1]) if found else None


def _on_sentence(inputs: GeneratorInputs, random: Random, most: int = 20) -> _Given | None:
    found = _sentence(inputs, random, 4, most)
    return _Given({"text": found[0]}, shown=found[0], source=found[1]) if found else None


def _passage(inputs: GeneratorInputs, random: Random) -> tuple[list[str], str] | None:
    """Return three to six sentences that follow each other in a document, or in a template's text."""
    names = [name for name in inputs.documents if inputs.documents[name]]
    if names and random.random() < 0.75:
        text = random.choice(inputs.documents[random.choice(names)])
        parts, source = [part for section in text.sections for part in section.paragraphs], text.source
    else:
        task = write_genre(random.choice(list(GENRES)), random)
        parts, source = [] if task.verse else task.pool, ""
    whole = [part for part in parts if len(part) > 2 and sentences(" ".join(part[:6])) == part[:6]]
    if not whole:
        return None
    part = random.choice(whole)
    kept = part[: random.randint(3, 6)]
    passage = " ".join(kept)
    return (kept, source) if fewest_words(passage) < 110 and most_sentences(passage) == len(kept) else None


def _replaced(inputs: GeneratorInputs, random: Random) -> _Given | None:
    given = _on_sentence(inputs, random)
    words = content_words(given.shown) if given else []
    if given is None or not words:
        return None
    word = random.choice(words)
    given.parameters |= {"word": word, "new": random.choice([noun for noun in _TEXTS.nouns if noun != word])}
    return given


def _first_words(inputs: GeneratorInputs, random: Random) -> _Given | None:
    given = _on_sentence(inputs, random, 30)
    if given is not None:
        given.parameters["count"] = random.randint(2, min(8, len(given.shown.split()) - 1))
    return given


def _one_sentence(inputs: GeneratorInputs, random: Random) -> _Given | None:
    found = _passage(inputs, random)
    if found is None:
        return None
    text = " ".join(found[0])
    return _Given({"text": text, "place": random.randint(1, len(found[0]))}, shown=text, source=found[1])


def _conditional(inputs: GeneratorInputs, random: Random) -> _Given | None:
    found = _passage(inputs, random) if random.random() < 0.4 else None
    sentence = None if found else _sentence(inputs, random, 6, 25)
    if found is None and sentence is None:
        return None
    text, source = (" ".join(found[0]), found[1]) if found else sentence or ("", "")
    inside = content_words(text)
    word = random.choice(inside) if inside and random.random() < 0.5 else random.choice(_TEXTS.nouns)
    yes, no = random.choice(_TEXTS.conditions)
    if random.random() < 0.3:
        yes, no = no, yes
    return _Given({"text": text, "word": word, "yes": yes, "no": no}, shown=text, source=source)


def _words(inputs: GeneratorInputs, random: Random) -> _Given:
    text = ", ".join(random.sample(vocabulary(), random.randint(3, 8)))
    return _Given({"text": text}, shown=text)


def _numbers(inputs: GeneratorInputs, random: Random) -> _Given:
    text = ", ".join(map(str, random.sample(range(1, random.choice((20, 100, 1000))), random.randint(3, 7))))
    return _Given({"text": text}, shown=text)


def _word(inputs: GeneratorInputs, random: Random) -> _Given:
    return _Given({"text": random.choice(vocabulary())})


def _date(inputs: GeneratorInputs, random: Random) -> _Given:
    return _Given({"text": f"{random.randint(1, 28)} {random.choice(MONTHS)} {random.randint(1700, 2040)}"})


def _repeated(inputs: GeneratorInputs, random: Random) -> _Given:
    return _Given({"word": random.choice(vocabulary()), "count": random.randint(2, 9)})


def _picked(inputs: GeneratorInputs, random: Random) -> _Given | None:
    words, relation = random.sample(vocabulary(), random.randint(3, 6)), random.choice(list(PICKS))
    lengths = sorted(map(len, words))
    if (relation == "longest" and lengths[-1] == lengths[-2]) or (relation == "shortest" and lengths[0] == lengths[1]):
        return None
    return _Given({"words": words, "relation": relation})


def _options(inputs: GeneratorInputs, random: Random, marks: Sequence[str], style: str) -> _Given | None:
    """Return a question on common knowledge with two to four answers, each after its mark."""
    table = _FACTS.tables[random.choice(list(_FACTS.tables))]
    a, b = random.choice(table.pairs)
    others = sorted({other for asked, other in table.pairs if other != b and asked != a})
    size = random.randint(2, 4)
    if len(others) < size - 1 or any(asked == a and other != b for asked, other in table.pairs):
        return None
    options = [b, *random.sample(others, size - 1)]
    random.shuffle(options)
    rows = [style.format(mark=mark, option=option) for mark, option in zip(marks, options, strict=False)]
    question = random.choice(table.asks).format(a=a, b=b)
    shown = "\n".join([question[:1].upper() + question[1:], *rows])
    return _Given({"options": list(marks[:size])}, answer=marks[options.index(b)], shown=shown)


def _listed(inputs: GeneratorInputs, random: Random, kind: str) -> _Given | None:
    """Return a list of words with a property: in a row, or laid out by a further constraint."""
    found = draw_list(kind, random)
    if found is None:
        return None
    parameters, words = found
    given = _Given(parameters, ", ".join(words))
    layout, count = random.random(), len(words)
    if layout < 0.2:
        given.answer, given.extra = "\n".join(f"* {word}" for word in words), [{"type": "bullets", "count": count}]
    elif layout < 0.3:
        rows = (f"{number}. {word}" for number, word in enumerate(words, 1))
        given.answer, given.extra = "\n".join(rows), [{"type": "numbered_list", "count": count}]
    elif layout < 0.45:
        mark = random.choice(_TEXTS.separators)
        given.answer = f" {mark} ".join(words) if mark != ";" else "; ".join(words)
        given.extra = [{"type": "separated", "mark": mark, "count": count}]
    elif layout < 0.6:
        given.answer = "\n".join(words)
        given.extra = [{"type": "lines", "relation": "exactly", "count": count}]
    return given


EXERCISES: dict[str, tuple[str, _Maker]] = {
    "reverse_words": (REARRANGED, _on_words),
    "first_letters": (REARRANGED, _on_words),
    "no_vowels": (REARRANGED, _on_words),
    "reverse_letters": (REARRANGED, _word),
    "spell_out": (REARRANGED, _word),
    "sort_words": (REARRANGED, _words),
    "sort_numbers": (REARRANGED, _numbers),
    "iso_date": (REARRANGED, _date),
    "repeat_word": (REARRANGED, _repeated),
    "pick": (REARRANGED, _picked),
    "condition": (REARRANGED, _conditional),
    "replace_word": (REARRANGED, _replaced),
    "alternate_capitals": (COPIED, partial(_on_words, most=12)),
    "copy_text": (COPIED, partial(_on_sentence, most=40)),
    "copy_words": (COPIED, _first_words),
    "quote_sentence": (COPIED, _one_sentence),
    "choice_letter": (COPIED, partial(_options, marks="ABCD", style="{mark}) {option}")),
    "choice_number": (COPIED, partial(_options, marks="1234", style="{mark}) {option}")),
    **{kind: (LISTED, partial(_listed, kind=kind)) for kind in PROPERTIES},
}
"""By type: its family, for constraints.toml, and its maker."""
