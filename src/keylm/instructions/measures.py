"""Constraints measured on a finished answer: what it happens to keep becomes the request.

Lengths and words of real text vary by themselves, so every answer gets a constraint that it keeps without being
changed; thresholds are rounded and drawn at many distances from the measured value.
"""

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from keylm.instructions.counting_checks import NUMBER
from keylm.instructions.drafts import LEANING, WritingTask
from keylm.instructions.tables import phrase_tables
from keylm.text.sentences import (
    all_sentences,
    bare,
    content_words,
    fewest_sentences,
    fewest_words,
    lines,
    most_sentences,
    most_words,
    occurrences,
)

Parameters = dict[str, Any]
Measure = Callable[[str, WritingTask, Random], Parameters | None]
_NOUNS = phrase_tables().answers.nouns
_UNCOUNTED = frozenset(phrase_tables().passages.uncounted)


def _words(text: str, task: WritingTask, random: Random) -> Parameters | None:
    few, many = sorted((fewest_words(text), most_words(text)))
    shape = random.random()
    if shape < (0.8 if few > 150 else 0.5):
        count = _rounded(few * random.uniform(0.6, 1.0), random, up=False)
        return {"relation": "at_least", "count": count} if 3 <= count <= few else None
    if shape < 0.9:
        return {"relation": "at_most", "count": _rounded(many * random.uniform(1.0, 1.7) + 1, random, up=True)}
    low, high = _rounded(few * 0.8, random, up=False), _rounded(many * 1.2 + 1, random, up=True)
    return {"relation": "between", "count": low, "most": high} if 3 <= low < high else None


def _rounded(number: float, random: Random, *, up: bool) -> int:
    """Return a number as people state it: the next multiple of 5, 10, 25 or 50."""
    step = 1 if number < 15 else random.choice((1, 5, 10)) if number < 60 else random.choice((5, 10, 25, 50))
    return int(-(-number // step) * step if up else number // step * step)


def _sentences(text: str, task: WritingTask, random: Random) -> Parameters | None:
    few, many = fewest_sentences(text), most_sentences(text)
    shape = random.random()
    if shape < 0.35:
        count = max(1, few - random.choice((0, 0, 1, 1, 2, 3)))
        return {"relation": "at_least", "count": count} if count > 1 else None
    if shape < 0.7:
        return {"relation": "at_most", "count": many + random.choice((0, 0, 1, 1, 2, 3))}
    return {"relation": "exactly", "count": few} if few == many and few < 13 else None


def _keywords(text: str, task: WritingTask, random: Random) -> Parameters | None:
    words = content_words(text)
    if random.random() < 0.15:
        words += list(dict.fromkeys(re.findall(r"(?<=[a-z] )[A-Z][a-z]{3,12}\b", text)))
    count = random.choices((1, 2, 3, 4), (4, 5, 3, 1))[0]
    return {"words": random.sample(words, count)} if len(words) >= 2 * count else None


def _forbidden(text: str, task: WritingTask, random: Random) -> Parameters | None:
    """Forbid words that are likely on the subject: from the unused part of the pool, else common nouns."""
    rest = " ".join(sentence for part in task.pool for sentence in part)
    near = [word for word in content_words(rest) if not occurrences(word, text)]
    pool = near if len(near) > 6 and random.random() < 0.7 else _NOUNS
    words = [word for word in random.sample(list(pool), min(8, len(pool))) if not occurrences(word, text)]
    count = random.choices((1, 2, 3, 4), (4, 4, 3, 1))[0]
    return {"words": words[:count]} if words else None


def _keyword_count(text: str, task: WritingTask, random: Random) -> Parameters | None:
    counts = Counter(word for word in re.findall(r"\b[a-z]{3,12}\b", text.lower()) if word not in _UNCOUNTED)
    if random.random() < 0.65:
        frequent = [word for word, count in counts.items() if count > 1]
        word = random.choice(frequent or list(counts) or [""])
        found = occurrences(word, text)
        count = random.randint(max(1, found - 2), found) if found else 0
        return {"word": word, "relation": "at_least", "count": count} if found and word else None
    if random.random() < 0.3 and counts:
        word = random.choice(list(counts))
        count = occurrences(word, text)
        same = count == text.lower().count(word) and count < 6
        return {"word": word, "relation": "exactly", "count": count} if same else None
    word = random.choice(list(counts) or ["word"])
    count = text.lower().count(word) + random.choice((0, 1, 1, 2, 3))
    return {"word": word, "relation": "at_most", "count": count} if count else None


def _letter_count(text: str, task: WritingTask, random: Random) -> Parameters | None:
    letter = random.choice("aabcdeeefghiijklmnooppqrsttuuvwxyz")
    found = text.lower().count(letter)
    if random.random() < 0.6:
        count = int(found * random.uniform(0.5, 1.0))
        return {"letter": letter, "relation": "at_least", "count": count} if count else None
    return {"letter": letter, "relation": "at_most", "count": max(1, found + random.choice((0, 1, 2, 3, 5)))}


def _few_capital_words(text: str, task: WritingTask, random: Random) -> Parameters | None:
    found = sum(token.isupper() for token in re.findall(r"[\w.]+", text))
    return {"relation": "at_most", "count": max(1, found + random.choice((0, 1, 2, 3, 5, 9)))}


def _first_word(text: str, task: WritingTask, random: Random) -> Parameters | None:
    word = bare(text.split()[0])
    return (
        {"word": random.choice((word, word.capitalize()))}
        if re.fullmatch(r"[a-z]{2,}", word) and not LEANING.match(word)
        else None
    )


def _last_word(text: str, task: WritingTask, random: Random) -> Parameters | None:
    word = bare(text.split()[-1])
    return {"word": word} if re.fullmatch(r"[a-z]{3,}", word) else None


def _count_of(
    text: str, task: WritingTask, random: Random, count: Callable[[str], int], fewest: int = 1, *, exact: bool = False
) -> Parameters | None:
    """Return a bound near how many there are of something, or where `exact` may be drawn the number itself."""
    found, shape = count(text), random.random()
    if found < fewest:
        return None
    if exact and shape < 0.4:
        return {"relation": "exactly", "count": found} if found < 20 else None
    if shape < 0.7:
        return {
            "relation": "at_least",
            "count": max(fewest, _rounded(found * random.uniform(0.6, 1.0), random, up=False)),
        }
    return {"relation": "at_most", "count": _rounded(found * random.uniform(1.0, 1.5), random, up=True)}


def _numbers(text: str, task: WritingTask, random: Random) -> Parameters | None:
    if re.search(r"\d", NUMBER.sub("", text)):  # as in 1990s, of which people may think otherwise
        return None
    return _count_of(text, task, random, lambda text: len(NUMBER.findall(text)), exact=True)


def _exclamation_marks(text: str, task: WritingTask, random: Random) -> Parameters | None:
    count = text.count("!")
    return {"count": count} if 0 < count < 10 else None


def _short_sentences(text: str, task: WritingTask, random: Random) -> Parameters | None:
    sizes = [most_words(sentence) for sentence in all_sentences(text)]
    if max(sizes) > 22 or len(sizes) < 2:
        return None
    return {"count": max(sizes) + random.randint(0, 3), "sentences": random.randint(2, len(sizes))}


def _distinct_starts(text: str, task: WritingTask, random: Random) -> Parameters | None:
    count = len(all_sentences(text))
    return {"count": random.randint(2, count)} if count > 2 else None


def _nth_word(text: str, task: WritingTask, random: Random) -> Parameters | None:
    words = text.split()
    place = random.randint(2, min(10, max(2, len(words))))
    word = bare(words[place - 1]) if place <= len(words) else ""
    return {"word": word, "place": place} if re.fullmatch(r"[a-z]{2,}", word) else None


def _sentence_keyword(text: str, task: WritingTask, random: Random) -> Parameters | None:
    found = all_sentences(text)
    place = random.randint(1, min(6, len(found)))
    words = content_words(found[place - 1])
    return {"word": random.choice(words), "place": place} if words and len(found) > 1 else None


def _absent_letter(text: str, task: WritingTask, random: Random) -> Parameters | None:
    letters = [letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter not in text.lower()]
    return {"letter": random.choice(letters)} if letters else None


MEASURES: dict[str, Measure] = {
    "words": _words,
    "sentences": _sentences,
    "keywords": _keywords,
    "forbidden": _forbidden,
    "keyword_count": _keyword_count,
    "letter_count": _letter_count,
    "few_capital_words": _few_capital_words,
    "first_word": _first_word,
    "last_word": _last_word,
    "lines": partial(_count_of, count=lambda text: len(lines(text)), fewest=2, exact=True),
    "vowels": partial(_count_of, count=lambda text: len(re.findall("[aeiou]", text.lower()))),
    "characters": partial(_count_of, count=lambda text: len(text.strip()), fewest=20),
    "numbers": _numbers,
    "different_words": partial(_count_of, count=lambda text: len(set(re.findall(r"\w+", text.lower())))),
    "exclamation_marks": _exclamation_marks,
    "short_sentences": _short_sentences,
    "distinct_starts": _distinct_starts,
    "nth_word": _nth_word,
    "sentence_keyword": _sentence_keyword,
    "absent_letter": _absent_letter,
}
