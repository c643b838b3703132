"""Makers that lay an answer out: paragraphs, lists, headings, tables, and what stands before and after it.

Each changes a draft and returns the constraint's parameters, or None, as in makers.py.
"""

import json as json_format
import re
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from keylm.instructions.drafts import Draft, DraftBlock, capitalised, grouped, lowered
from keylm.instructions.layout_checks import DIVIDER
from keylm.instructions.tables import phrase_tables
from keylm.text.sentences import bare, fewest_sentences, most_sentences

Parameters = dict[str, Any]
_TEXTS = phrase_tables().answers


def paragraphs(draft: Draft, random: Random) -> Parameters | None:
    """Put blank lines between one to six paragraphs."""
    count = random.choices((1, 2, 3, 4, 5, 6), (1, 6, 7, 6, 4, 2))[0]
    if draft.task.head or draft.task.tail or draft.task.context:
        return None
    parts = grouped(draft.task, count, random)
    if parts is None:
        return None
    draft.blocks = [DraftBlock(list(part), "\n" if draft.task.verse else " ") for part in parts]
    return {"count": count}


def divided_paragraphs(draft: Draft, random: Random) -> Parameters | None:
    """Put a divider between paragraphs."""
    parameters = paragraphs(draft, random)
    if parameters is None or parameters["count"] == 1:
        return None
    draft.joiner = random.choice((f"\n\n{DIVIDER}\n\n", f"\n{DIVIDER}\n"))
    return parameters


def paragraph_start(draft: Draft, random: Random) -> Parameters | None:
    """Begin one of the paragraphs with a word: its own, or one that is put there."""
    parameters = paragraphs(draft, random)
    if parameters is None or draft.task.verse or parameters["count"] == 1:
        return None
    paragraph = random.randint(1, parameters["count"])
    lines = draft.blocks[paragraph - 1].lines
    if random.random() < 0.35:
        first = re.match(r"[A-Za-z]+(?=\s)", lines[0])
        if first is None:
            return None
        word = first[0]
    elif random.random() < 0.5:
        word = random.choice(_TEXTS.openers)
        lines[0] = f"{word}, {lowered(lines[0])}"
    else:
        word = random.choice(_TEXTS.nouns)
        lines.insert(0, random.choice(_TEXTS.noun_sentences).format(noun=capitalised(word)))
    return {**parameters, "paragraph": paragraph, "word": random.choice((word, word.lower()))}


def items_of(draft: Draft, random: Random, most: int = 8) -> list[str] | None:
    """Return two to `most` points for a list, in the order of the source."""
    points = [re.sub(r"^[*\-•]\s*", "", point) for point in draft.task.standing()]
    if len(points) < 2:
        return None
    count = random.choices(range(2, most + 1), [3, 6, 5, 5, 3, 2, 2, 1, 1][: most - 1])[0]
    count = min(count, len(points))
    return [points[place] for place in sorted(random.sample(range(min(len(points), 2 * count)), count))]


def listed(draft: Draft, random: Random, line: str) -> Parameters | None:
    """Make a list of points, each written as `line` says."""
    items = None if draft.task.verse or draft.task.head else items_of(draft, random)
    if items is None:
        return None
    rows = [
        line.format(number=number, letter="abcdefghijk"[number - 1], item=item) for number, item in enumerate(items, 1)
    ]
    list_block = DraftBlock(rows, "\n")
    opening = random.choice(_TEXTS.list_openings)
    draft.blocks = (
        [DraftBlock([opening]), list_block] if random.random() < 0.35 and not draft.task.points else [list_block]
    )
    return {"count": len(items)}


def sections(draft: Draft, random: Random) -> Parameters | None:
    """Head each paragraph with a word and its number."""
    parameters = paragraphs(draft, random)
    if parameters is None or not 2 <= parameters["count"] <= 5:
        return None
    word = random.choice(_TEXTS.section_words)
    for number, block in enumerate(draft.blocks, 1):
        block.lines = [f"{word} {number}\n{block.text()}"]
    return {"count": parameters["count"], "word": word}


def json(draft: Draft, random: Random) -> Parameters | None:
    """Write the title and the text or points as JSON."""
    task = draft.task
    if task.head or task.verse or not task.title or task.options:
        return None
    lines, items = draft.sentences(), items_of(draft, random, 5)
    text = " ".join(lines)
    title = random.choice(_TEXTS.json_title)
    value: dict[str, Any] = {title: task.title}
    shape = random.random()
    if shape < 0.4 or not items:
        value[random.choice(_TEXTS.json_text)] = text
    elif shape < 0.75:
        value[random.choice(_TEXTS.json_list)] = items
    else:
        value[random.choice(_TEXTS.json_first)] = lines[0]
        value[random.choice(_TEXTS.json_rest)] = items
    written = json_format.dumps(value, ensure_ascii=False, indent=random.choice((None, 2, 2)))
    if random.random() < 0.15:
        written = f"```json\n{written}\n```"
    draft.blocks = [DraftBlock([written])]
    return {"keys": list(value)} if random.random() < 0.4 else {}


def alphabetical_bullets(draft: Draft, random: Random) -> Parameters | None:
    """List points in the order of the alphabet."""
    parameters = listed(draft, random, line="* {item}")
    if parameters is not None:
        rows = draft.blocks[-1].lines
        rows.sort(key=str.lower)
    return parameters


def headings(draft: Draft, random: Random) -> Parameters | None:
    """Put a heading over each paragraph: one of its nouns, as far as articles tell."""
    parameters = paragraphs(draft, random)
    if parameters is None or draft.task.verse or parameters["count"] < 2:
        return None
    for block in draft.blocks:
        words = _NOUN.findall(block.text())
        if not words:
            return None
        block.lines = [f"# {capitalised(random.choice(words))}\n{block.text()}"]
    return parameters


_NOUN = re.compile(r"(?i)\b(?:the|an?|its|their|of) ([a-z]{4,})(?=[,.]| (?:of|is|are|was|in|and|with)\b)")


def table(draft: Draft, random: Random) -> Parameters | None:
    """Make a table of points: their number or first word, and what they say."""
    items = None if draft.task.verse or draft.task.head else items_of(draft, random, 5)
    if items is None or any("|" in item for item in items):
        return None
    columns = random.choice((2, 2, 3))
    first, second = random.choice(("No.", "Number")), random.choice(_TEXTS.table_heads)
    heads, rows = [first, second], [[str(number), item] for number, item in enumerate(items, 1)]
    if columns == 3:
        heads.append("Words")
        rows = [[*row, str(len(row[1].split()))] for row in rows]
    lines = [heads, ["---"] * columns, *rows]
    draft.blocks = [DraftBlock([f"| {' | '.join(line)} |" for line in lines], "\n")]
    return {"count": len(items), "columns": columns}


def separated(draft: Draft, random: Random) -> Parameters | None:
    """Put points in a row with a mark between them."""
    items = None if draft.task.verse or draft.task.head else items_of(draft, random, 6)
    mark = random.choice(_TEXTS.separators)
    if items is None or any(mark in item for item in items):
        return None
    between = f"{mark} " if mark == ";" else f" {mark} "
    draft.blocks = [DraftBlock([between.join(item.rstrip(".") if mark == ";" else item for item in items)])]
    return {"mark": mark, "count": len(items)}


def wrapped(draft: Draft, random: Random) -> Parameters | None:
    """Put marks before and after the whole answer."""
    opening, closing = random.choice(_TEXTS.wrappings)
    apart = random.choice(("\n", "\n", " ")) if opening.isalpha() or opening == "```" else random.choice(("", "\n"))
    draft.finish.append(lambda text: f"{opening}{apart}{text}{apart}{closing}")
    return {"opening": opening, "closing": closing}


def line_prefix(draft: Draft, random: Random) -> Parameters | None:
    """Put a mark at the start of each line."""
    mark = random.choice(_TEXTS.line_marks)
    draft.finish.append(lambda text: "\n".join(f"{mark} {line.strip()}" for line in text.split("\n") if line.strip()))
    return {"mark": mark}


def sentence_lines(draft: Draft, random: Random) -> Parameters | None:
    """Put each sentence on a line of its own."""
    rows = draft.sentences()
    if draft.task.head or draft.task.verse or len(rows) < 2:
        return None
    if any(fewest_sentences(row) != 1 or most_sentences(row) != 1 for row in rows):
        return None
    draft.blocks = [DraftBlock(rows, "\n")]
    return {}


def sentence_letter(draft: Draft, random: Random) -> Parameters | None:
    """Keep the sentences, of all that can stand alone, that begin with the letter most of them begin with."""
    if draft.task.head or draft.task.verse or draft.task.whole:
        return None
    found: dict[str, list[str]] = {}
    for sentence in draft.task.standing():
        if sentence.endswith((".", "!")) and (letter := bare(sentence)[:1]).isalpha():
            found.setdefault(letter, []).append(sentence)
    letter = max(found, key=lambda letter: len(found[letter]), default="")
    if len(found.get(letter, ())) < 2:
        return None
    kept = found[letter][: random.randint(2, 5)]
    draft.blocks = [DraftBlock(kept)]
    return {"letter": random.choice((letter, letter.upper())), "count": random.randint(2, len(kept))}


def in_turn(draft: Draft, random: Random) -> Parameters | None:
    """Make two parts with wishes of their own: a sentence or the title first, then a list or the rest."""
    task = draft.task
    rows = draft.sentences()
    if task.head or task.verse or task.context or task.options or len(rows) < 3:
        return None
    opening, wish = rows[0], random.choice(("one", "capitals", "title"))
    first: list[dict[str, Any]] = [{"type": "sentences", "relation": "exactly", "count": 1}]
    if wish == "capitals":
        opening, first = opening.upper(), [{"type": "upper_case"}]
    elif wish == "title" and task.title:
        opening, first = f"<<{capitalised(task.title)}>>", [{"type": "title"}]
    items = items_of(draft, random, 5) if random.random() < 0.6 else None
    if items:
        style = random.choice(("bullets", "numbered_list", "lettered_list"))
        body = DraftBlock([f"{mark} {item}" for mark, item in zip(_MARKS[style], items, strict=False)], "\n")
        second: list[dict[str, Any]] = [{"type": style, "count": len(items)}]
    elif random.random() < 0.4:
        body, second = DraftBlock([" ".join(rows[1:]).lower()]), [{"type": "lower_case"}]
    else:
        fewest = random.randint(2, len(rows) - 1)
        body, second = DraftBlock(rows[1:]), [{"type": "sentences", "relation": "at_least", "count": fewest}]
    draft.blocks = [DraftBlock([opening]), body]
    return {"parts": [first, second]}


_MARKS = {
    "bullets": ("*",) * 9,
    "numbered_list": tuple(f"{number}." for number in range(1, 10)),
    "lettered_list": tuple(f"{letter})" for letter in "abcdefghi"),
}
"""What stands before the items of a list."""

LAYOUTS: dict[str, Callable[[Draft, Random], Parameters | None]] = {
    "paragraphs": paragraphs,
    "divided_paragraphs": divided_paragraphs,
    "paragraph_start": paragraph_start,
    "bullets": partial(listed, line="* {item}"),
    "numbered_list": partial(listed, line="{number}. {item}"),
    "lettered_list": partial(listed, line="{letter}) {item}"),
    "alphabetical_bullets": alphabetical_bullets,
    "sections": sections,
    "headings": headings,
    "table": table,
    "json": json,
    "separated": separated,
    "sentence_letter": sentence_letter,
    "in_turn": in_turn,
}
"""Makers of what an answer's text is laid out as; the others change a text that has its layout."""
