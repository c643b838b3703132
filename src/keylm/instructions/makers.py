"""Makers: each changes a draft so that its answer will keep a constraint, and returns the constraint's parameters.

A maker returns None where this draft cannot keep its constraint naturally; then another one is drawn. No maker is
trusted: generator.py checks every finished answer.
"""

import re
from collections.abc import Callable
from functools import partial
from random import Random

from keylm.instructions.drafts import LEANING, Draft, Paragraph, WritingTask, capitalised, fix_articles, lowered
from keylm.instructions.layout_checks import ANSWERS_APART
from keylm.instructions.layout_makers import LAYOUTS, Parameters, line_prefix, sentence_lines, wrapped
from keylm.instructions.tables import phrase_tables
from keylm.text.sentences import STOP_WORDS, content_words

Maker = Callable[[Draft, Random], Parameters | None]
_TEXTS = phrase_tables().answers


def _answers(draft: Draft, random: Random, count: int) -> list[str] | None:
    """Return `count` different answers: the draft, and other texts on the request or later paragraphs."""
    task = draft.task
    if task.options or task.context:
        return None
    first = draft.render()
    if task.again:
        found = [first, *(Draft(task.again(random), max(20, len(first) // 6)).render() for _ in range(count - 1))]
    elif not task.head and task.pool:
        rest = [part for part in task.pool[1:] if not LEANING.match(part[0])]
        found = [" ".join(part[:4]) for part in [task.pool[0], *rest[: count - 1]]]
    else:
        return None
    return found if len(set(found)) == count else None


def _two_answers(draft: Draft, random: Random) -> Parameters | None:
    found = _answers(draft, random, 2)
    if found is None:
        return None
    draft.finish.insert(0, lambda _: f"\n\n{ANSWERS_APART}\n\n".join(found))
    return {}


def _several_answers(draft: Draft, random: Random) -> Parameters | None:
    count, mark = random.choice((2, 3, 3, 4)), random.choice(_TEXTS.dividers)
    found = _answers(draft, random, count)
    if found is None:
        return None
    draft.finish.insert(0, lambda _: f"\n\n{mark}\n\n".join(found))
    return {"count": count, "mark": mark}


def _title(draft: Draft, random: Random) -> Parameters | None:
    if not draft.task.title or len(draft.task.title) > 70:
        return None
    draft.top.insert(0, f"<<{capitalised(draft.task.title)}>>")
    return {}


def _highlights(draft: Draft, random: Random) -> Parameters | None:
    places = [(line, match) for line in draft.sentences() for match in _PHRASE.finditer(line)]
    found = [m for _, m in places if m[0].split()[0].lower() not in STOP_WORDS and m[0].split()[-1] not in STOP_WORDS]
    texts = list(dict.fromkeys(match[0] for match in found))
    if not texts:
        return None
    count = min(len(texts), random.choices((1, 2, 3, 4, 5, 6), (2, 5, 6, 3, 2, 1))[0])
    chosen = random.sample(texts, count)
    marks = random.choice(("*", "*", "*", "**"))
    for text in chosen:
        for block in draft.blocks:
            done = False
            for place, line in enumerate(block.lines):
                changed = re.sub(rf"(?<![\w*]){re.escape(text)}(?![\w*])", f"{marks}{text}{marks}", line, count=1)
                if changed != line:
                    block.lines[place], done = changed, True
                    break
            if done:
                break
    return {"count": max(1, count - (random.random() < 0.2))}


_PHRASE = re.compile(r"(?<![\w*'’-])[A-Za-z]{5,}(?: [a-z]{4,}){0,2}(?![\w*'’-])")


def _placeholders(draft: Draft, random: Random) -> Parameters | None:
    task, count = draft.task, random.choices((1, 2, 3, 4, 5, 6, 8), (2, 5, 6, 4, 3, 2, 1))[0]
    if task.fill:
        fields = random.sample(task.fill, min(count, len(task.fill)))
        draft.top = ["\n".join(fields), *draft.top] if random.random() < 0.5 else draft.top
        draft.bottom += [] if draft.top else ["\n".join(fields)]
        return {"count": len(re.findall(r"\[[^\[\]]+\]", " ".join(fields)))}
    lines = random.sample(_TEXTS.placeholder_sentences, 3)
    text, total = "", 0
    for line in lines:
        if total >= count:
            break
        text, total = f"{text} {line}".strip(), total + line.count("[")
    if total < count:
        fields = random.sample(_TEXTS.form_fields, min(count - total, len(_TEXTS.form_fields)))
        text, total = text + "\n" + "\n".join(fields), total + len(fields)
    draft.bottom.append(text)
    return {"count": min(total, count)}


def _postscript(draft: Draft, random: Random) -> Parameters | None:
    marker = random.choice(("P.S.", "P.S.", "P.P.S"))
    draft.bottom.append(f"{marker} {random.choice(_TEXTS.postscripts).format(topic=_topic(draft.task))}")
    return {"marker": marker}


def _topic(task: WritingTask) -> str:
    """Return what a text is about, as a part of a sentence."""
    names = task.family in ("about", "subject") and len(task.title.split()) <= 3
    return lowered(task.title) if names and task.title.isascii() else "this"


def _end_phrase(draft: Draft, random: Random) -> Parameters | None:
    phrase = random.choice(_TEXTS.end_phrases)
    if draft.task.head or draft.task.verse or draft.task.tail or random.random() < 0.3:
        draft.bottom.append(phrase)
    else:
        draft.blocks[-1].lines.append(phrase)
    return {"phrase": phrase}


def _start_phrase(draft: Draft, random: Random) -> Parameters | None:
    phrase = random.choice(_TEXTS.start_phrases)
    draft.top.insert(0, phrase)
    return {"phrase": phrase}


def _added_keywords(draft: Draft, random: Random) -> Parameters | None:
    """Add nouns that the text does not have, in a sentence of their own."""
    if draft.task.verse:
        return None
    text = draft.render().lower()
    words = [word for word in random.sample(_TEXTS.nouns, 6) if word not in text]
    words = words[: random.choices((1, 2, 3), (4, 4, 2))[0]]
    if not words:
        return None
    sentence = fix_articles(random.choice(_TEXTS.joining_sentences[len(words) - 1]).format(*words))
    draft.blocks[random.randrange(len(draft.blocks))].lines.append(sentence)
    return {"words": words}


def _capital_words(draft: Draft, random: Random) -> Parameters | None:
    words = content_words(" ".join(draft.sentences()))
    if len(words) < 4:
        return None
    count = min(len(words) // 2, random.choices((1, 2, 3, 4, 5, 6), (2, 4, 4, 3, 3, 1))[0])
    for word in random.sample(words, count):
        draft.each_line(partial(re.compile(rf"(?<![\w'’-]){word}(?![\w'’-])").sub, word.upper()))
    return {"relation": "at_least", "count": count}


def _no_comma(draft: Draft, random: Random) -> Parameters | None:
    """Keep the sentences that have no comma; where they are few, remove commas that only mark a pause."""
    task = draft.task
    if task.head:
        task.head, task.tail = task.head.replace(",", ""), task.tail.replace(",", "")
    lines = draft.sentences()
    if sum("," not in line for line in lines) * 2 < len(lines) and not (task.verse or task.head or task.whole):
        pool = _comma_free(task.pool)
        if pool:
            task.pool = pool
            task.points = [point for point in task.points if "," not in point]
            draft.blocks = Draft(task, sum(len(line.split()) for line in lines)).blocks
    draft.each_line(without_commas)
    task.points = [without_commas(point) for point in task.points]
    return {} if not any("," in line for line in draft.sentences()) else None


def _comma_free(pool: list[Paragraph]) -> list[Paragraph]:
    """Return, in groups of three, the sentences that can lose their commas and do not refer to one that cannot."""
    kept: list[str] = []
    before = False
    for sentence in (without_commas(sentence) for part in pool for sentence in part):
        before = "," not in sentence and (before or not LEANING.match(sentence))
        if before:
            kept.append(sentence)
    return [kept[place : place + 3] for place in range(0, len(kept), 3)]


def without_commas(line: str) -> str:
    """Return a line without its commas; in an enumeration "and" replaces them.

    Lines with a comma in a number, or with more than two that only mark a pause, stay as they are.
    """
    if re.search(r"\d,\d", line):
        return line
    changed = _IN_A_ROW.sub(lambda match: f" {match[2] or 'and'} ", line)
    changed = _BEFORE_JOIN.sub(" ", changed)
    return changed.replace(",", "") if changed.count(",") <= 2 else line


_IN_A_ROW = re.compile(r"(?<=[a-z]),( (?=[a-z][\w-]*(?: [a-z][\w-]*)?, (?:and|or) )| (and|or) (?=[a-z]))")
_BEFORE_JOIN = re.compile(r", (?=(?:and|or|but|so|which|who|where|because|while|as|with|such|including|especially)\b)")


def _ends_with_question(draft: Draft, random: Random) -> Parameters | None:
    question = random.choice(_TEXTS.closing_questions)
    if draft.task.head or draft.task.verse or draft.task.tail or random.random() < 0.3:
        draft.bottom.append(question)
    else:
        draft.blocks[-1].lines.append(question)
    return {}


def _sentence_mark(draft: Draft, random: Random) -> Parameters | None:
    """Give all sentences, which end in full stops, the same other end."""
    rows, mark = draft.sentences(), random.choice(("!", "!", "!!", "..."))
    if draft.task.head or draft.task.verse or len(rows) < 2 or not all(re.search(r"[a-z)]\.$", row) for row in rows):
        return None
    draft.each_line(lambda line: line[:-1] + mark)
    return {"mark": mark, "count": random.randint(2, len(rows))}


def _title_case(text: str) -> str:
    return re.sub(r"(?<![\w'’])[^\W\d_]", lambda match: match[0].upper(), text)


def _finish(draft: Draft, random: Random, change: Callable[[str], str]) -> Parameters | None:
    draft.finish.append(change)
    return {}


MAKERS: dict[str, tuple[int, Maker]] = {
    "no_comma": (0, _no_comma),
    **{name: (3 if name == "json" else 1, maker) for name, maker in LAYOUTS.items()},
    "sentence_mark": (1, _sentence_mark),
    "sentence_lines": (1, sentence_lines),
    "choice": (1, lambda draft, _: {"options": draft.task.options} if draft.task.options else None),
    "added_keywords": (2, _added_keywords),
    "capital_words": (4, _capital_words),
    "highlights": (5, _highlights),
    "end_phrase": (6, _end_phrase),
    "placeholders": (6, _placeholders),
    "start_phrase": (6, _start_phrase),
    "ends_with_question": (7, _ends_with_question),
    "title": (7, _title),
    "postscript": (7, _postscript),
    "two_answers": (8, _two_answers),
    "several_answers": (8, _several_answers),
    "lower_case": (9, partial(_finish, change=str.lower)),
    "upper_case": (9, partial(_finish, change=str.upper)),
    "title_case": (9, partial(_finish, change=_title_case)),
    "english": (9, lambda draft, random: {}),
    "no_digits": (9, lambda draft, random: {}),
    "line_prefix": (10, line_prefix),
    "quotation": (11, partial(_finish, change=lambda text: '"' + text.replace('"', "'") + '"')),
    "wrapped": (11, wrapped),
}
"""The order in which makers are applied, and the makers; other types are measured on the finished text."""
