"""Small texts from templates: letters, poems, adverts and the like, in many versions.

A template holds `$slots`, drawn once a text (the same name throughout), and `{this|that}` choices, drawn each time.
A line that begins with `?` is left out in two of five texts. All of it is our own.
"""

import re
from dataclasses import dataclass
from random import Random

from keylm.instructions.drafts import Paragraph, WritingTask, capitalised, fix_articles
from keylm.instructions.slots import SLOTS

_CHOICE = re.compile(r"\{([^{}]*)\}")
_SLOT = re.compile(r"\$([a-z]+\d?)")


@dataclass(frozen=True)
class Genre:
    """A kind of text: how it is asked for and how it is written."""

    requests: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    """paragraphs of sentence templates"""
    title: str = ""
    head: str = ""
    tail: str = ""
    verse: bool = False
    fill: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    whole: bool = True
    """the answer is all of the body; else as much of it as is wanted"""
    pick: int = 0
    """with verse: so many of the body's stanzas, in any order"""


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


def write(
    name: str, genre: Genre, random: Random, slots: dict[str, str] | None = None, request: str = ""
) -> WritingTask:
    """Return a task of this genre; with `slots` and `request` another answer to the same."""
    slots = {} if slots is None else dict(slots)
    request = request or expand(random.choice(genre.requests), slots, random)
    asked = dict(slots)
    body = list(genre.body)
    if genre.pick:
        body = random.sample(body, min(genre.pick, len(body)))
        body.sort(key=lambda part: "$" not in "".join(part))  # so that even two lines are on the subject
        body = [body[0], *random.sample(body[1:], len(body) - 1)]
    pool: list[Paragraph] = []
    for part in body:
        kept = [line.lstrip("?") for line in part if not line.startswith("?") or random.random() < 0.6]
        pool.append([expand(line, slots, random) for line in kept])
    task = WritingTask(
        family=name,
        request=request,
        pool=[part for part in pool if part],
        title=expand(genre.title, slots, random) if genre.title else "",
        head=expand(genre.head, slots, random),
        tail=expand(genre.tail, slots, random),
        verse=genre.verse,
        fill=list(genre.fill),
        points=[expand(point, slots, random) for point in random.sample(genre.points, len(genre.points))],
        whole=genre.whole,
    )
    task.again = lambda again: write(name, genre, again, asked, request)
    return task
