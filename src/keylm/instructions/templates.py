"""Short texts from templates: letters, poems, adverts and the like, in many versions.

A template holds `$slots`, drawn once a text (the same name throughout), and `{this|that}` choices, drawn each time.
A line that begins with `?` is left out of two texts in five. All of it is our own.
"""

import re
from random import Random

from keylm.instructions.drafts import Paragraph, WritingTask, capitalised, fix_articles
from keylm.instructions.table_schema import Genre
from keylm.instructions.tables import phrase_tables

_CHOICE = re.compile(r"\{([^{}]*)\}")
_SLOT = re.compile(r"\$([a-z]+\d?)")
_FIELDS = phrase_tables().answers.fields
SLOTS = phrase_tables().slots
GENRES = phrase_tables().genres


def expand(template: str, slots: dict[str, str], random: Random) -> str:
    """Return a template's text; new slots are drawn into `slots`."""

    def slot(match: re.Match[str]) -> str:
        name = match[1]
        if name not in slots:
            values = SLOTS[name.rstrip("0123456789")]
            taken = {value for key, value in slots.items() if key.rstrip("0123456789") == name.rstrip("0123456789")}
            slots[name] = random.choice([value for value in values if value not in taken])
        return slots[name]

    while _CHOICE.search(template):
        template = _CHOICE.sub(lambda match: random.choice(match[1].split("|")), template)
    text = (
        re.sub(r"\s+", " ", _SLOT.sub(slot, template).replace("\\n", "\x00"))
        .replace(" \x00 ", "\n")
        .replace("\x00", "\n")
    )
    return fix_articles(capitalised(text.strip()))


def write_genre(name: str, random: Random, slots: dict[str, str] | None = None, request: str = "") -> WritingTask:
    """Return a task of a genre of GENRES; with `slots` and `request`, another answer to the same request."""
    genre = GENRES[name]
    slots = {} if slots is None else dict(slots)
    request = request or expand(random.choice(genre.requests), slots, random)
    drawn_by_request = dict(slots)
    pool: list[Paragraph] = []
    for part in _stanzas(genre, random) if genre.pick else genre.body:
        kept = [line.lstrip("?") for line in part if not line.startswith("?") or random.random() < 0.6]
        pool.append([expand(line, slots, random) for line in kept])
    points = genre.points or ()
    task = WritingTask(
        family=name,
        request=request,
        pool=[part for part in pool if part],
        title=expand(genre.title, slots, random) if genre.title else "",
        head=expand(genre.head, slots, random) if genre.head else "",
        tail=expand(genre.tail, slots, random) if genre.tail else "",
        verse=genre.verse,
        fill=list(_FIELDS[genre.fields]) if genre.fields else [],
        points=[expand(point, slots, random) for point in random.sample(points, len(points))],
        whole=genre.whole,
    )
    task.again = lambda again: write_genre(name, again, drawn_by_request, request)
    return task


def _stanzas(genre: Genre, random: Random) -> list[tuple[str, ...]]:
    """Return as many stanzas as the genre picks, first one with a slot, so that even two lines are on the subject."""
    stanzas = random.sample(genre.body, min(genre.pick, len(genre.body)))
    stanzas.sort(key=lambda part: "$" not in "".join(part))
    return [stanzas[0], *random.sample(stanzas[1:], len(stanzas) - 1)]
