"""Drafts: an answer in its parts, before constraints shape it and it becomes one text.

A draft holds more text than an answer needs (`pool`: paragraphs of sentences, in order), so that one request can have
answers of many lengths. An answer takes sentences from the beginning of paragraphs: no sentence is cut, and each
follows the one it followed in its source.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from keylm.instructions.tables import phrase_tables
from keylm.text.sentences import fewest_words

Paragraph = list[str]
LEANING = re.compile(rf"(?i)({'|'.join(phrase_tables().passages.leaning)})\b")
"""Beginnings of sentences that refer to the one before, and so cannot stand alone."""

_PLAIN_STARTS = frozenset(phrase_tables().passages.plain_starts)


@dataclass
class DraftBlock:
    """Lines of one block: sentences of a paragraph (`inner` is a space), or lines (a line break)."""

    lines: list[str]
    inner: str = " "

    def text(self) -> str:
        """Return the block's text."""
        return self.inner.join(self.lines)


@dataclass
class WritingTask:
    """A request, and what it can be answered from."""

    family: str
    request: str
    pool: list[Paragraph]
    title: str = ""
    """of the answer, or what it is about"""
    head: str = ""
    """a line before the answer, such as “Dear Ann,”; it is never cut"""
    tail: str = ""
    """lines after it"""
    verse: bool = False
    """sentences are lines"""
    points: list[str] = field(default_factory=list)
    """what a list may have; by default the sentences that can stand alone"""
    options: list[str] = field(default_factory=list)
    """the answers to choose from; the right one is `pool[0][0]`"""
    context: str = ""
    """a passage that the request refers to"""
    whole: bool = False
    """the answer is the pool, all of it"""
    fill: list[str] = field(default_factory=list)
    """lines with placeholders, for a request for those"""
    again: Callable[[Random], "WritingTask"] | None = None
    """returns another answer to the same request"""
    source: str = ""
    """name of its file; "" where the text is our own"""
    constraints: list[dict[str, Any]] = field(default_factory=list)
    """what the answer keeps by itself: of an exercise, first the one that its request words"""

    @property
    def words(self) -> int:
        """Return how many words the pool has."""
        return sum(fewest_words(sentence) for paragraph in self.pool for sentence in paragraph)

    def standing(self) -> list[str]:
        """Return points for a list, each of which can stand alone."""
        if self.points:
            return self.points
        return [
            sentence
            for paragraph in self.pool
            for sentence in paragraph
            if not LEANING.match(sentence) and not sentence.endswith("?") and 4 <= fewest_words(sentence) <= 28
        ]


class Draft:
    """An answer in progress: makers change its blocks and what surrounds them; `render` joins the text."""

    def __init__(self, task: WritingTask, words: int) -> None:
        """Take about `words` words of the task's pool."""
        self.task = task
        self.blocks = [DraftBlock(list(part), "\n" if task.verse else " ") for part in take(task, words)]
        self.joiner = "\n\n"
        self.top: list[str] = []
        self.bottom: list[str] = []
        self.finish: list[Callable[[str], str]] = []
        """changes of the whole text, in order"""

    def render(self) -> str:
        """Return the answer's text."""
        body = self.joiner.join(block.text() for block in self.blocks)
        parts = [*self.top, self.task.head, body, self.task.tail, *self.bottom]
        text = "\n\n".join(part for part in parts if part)
        for change in self.finish:
            text = change(text)
        return text

    def each_line(self, change: Callable[[str], str]) -> None:
        """Change every line of the body."""
        for block in self.blocks:
            block.lines = [change(line) for line in block.lines]

    def sentences(self) -> list[str]:
        """Return the lines of the body."""
        return [line for block in self.blocks for line in block.lines]


def take(task: WritingTask, words: int) -> list[Paragraph]:
    """Return whole sentences of the pool, at least one, of about `words` words in all."""
    if task.whole:
        return task.pool
    taken: list[Paragraph] = []
    count = 0
    for paragraph in task.pool:
        kept: Paragraph = []
        for sentence in paragraph:
            size = fewest_words(sentence)
            if count and count + size / 2 > words and not (task.verse and kept):
                break
            kept.append(sentence)
            count += size
        if kept:
            taken.append(kept)
        if len(kept) < len(paragraph) or count >= words:
            break
    return taken


def grouped(task: WritingTask, count: int, random: Random) -> list[Paragraph] | None:
    """Return `count` paragraphs of one to four sentences: the pool's, or its sentences regrouped; None if too few."""
    lines = [sentence for paragraph in task.pool for sentence in paragraph]
    if task.whole and len(lines) >= count:
        cuts = [round(part * len(lines) / count) for part in range(count + 1)]
        return [lines[cuts[part] : cuts[part + 1]] for part in range(count)]
    if len(task.pool) >= count:
        return [paragraph[: random.randint(1, 4) if not task.verse else 4] for paragraph in task.pool[:count]]
    if len(lines) < count:
        return None
    size = min(len(lines) // count, random.randint(1, 3))
    return [lines[size * part : size * (part + 1)] for part in range(count)]


def lowered(sentence: str) -> str:
    """Return a sentence with a small first letter, unless its first word may be a name."""
    first = re.match(r"[A-Za-z']+", sentence)
    plain = first is not None and first[0].lower() in _PLAIN_STARTS
    return sentence[0].lower() + sentence[1:] if plain else sentence


def capitalised(text: str) -> str:
    """Return a text with a capital first letter."""
    return text[:1].upper() + text[1:]


def fix_articles(text: str) -> str:
    """Return a text with “an” before vowels where stock sentences say “a”."""
    return re.sub(r"\b([Aa]) (?=[aeiou](?!ni|ne|u))", r"\1n ", text)
