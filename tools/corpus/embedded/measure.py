"""Measures that say how simple a text is, and the filters that turn a text away."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

COMMON_WORDS = 3000
SENTENCE_WEIGHT = 0.004
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+")
_ODD = re.compile(r"[|{}<>=\\@~^+]|https?:|www\.")


def words(text: str) -> list[str]:
    """Return the lower-case words of a text."""
    return _WORD.findall(text.lower())


def common_words(texts: Iterable[str], size: int = COMMON_WORDS) -> frozenset[str]:
    """Return the most frequent words of a pool of texts."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(words(text))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return frozenset(word for word, _ in ranked[:size])


def mean_sentence_length(text: str) -> float:
    """Return the mean number of words in a sentence."""
    sentences = [part for part in _SENTENCE_END.split(text) if part.strip()]
    return len(words(text)) / max(1, len(sentences))


def simplicity(text: str, common: frozenset[str]) -> float:
    """Return the share of common words less a small price for long sentences."""
    found = words(text)
    share = sum(word in common for word in found) / max(1, len(found))
    return share - SENTENCE_WEIGHT * max(8.0, mean_sentence_length(text))


@dataclass(frozen=True)
class Filters:
    """The limits a text must keep to."""

    blocked: frozenset[str]
    dialect: frozenset[str]
    phrases: tuple[str, ...]
    shortest: int
    longest: int
    dialect_share: float = 0.004

    def reason(self, text: str) -> str:
        """Return why the text is turned away, or "" when it passes."""
        if not self.shortest <= len(text) <= self.longest:
            return "length"
        if not text.isascii():
            return "not ascii"
        if len(_ODD.findall(text)) > 0:
            return "odd characters"
        found = words(text)
        if any(word in self.blocked for word in found) or any(part in text.lower() for part in self.phrases):
            return "blocked word"
        if sum(word in self.dialect for word in found) > self.dialect_share * len(found):
            return "dialect"
        return "verse" if looks_like_verse(text) else ""


def looks_like_verse(text: str) -> bool:
    """Return whether many paragraphs are short lines without an end mark."""
    lines = text.split("\n\n")
    loose = sum(len(line) < 60 and line[-1] not in ".!?\"':;)" for line in lines)
    return loose > max(2, 0.04 * len(lines))


def shingles(text: str, size: int = 8) -> set[str]:
    """Return the word runs of a text, to find near-duplicates."""
    found = words(text)
    return {" ".join(found[i : i + size]) for i in range(0, len(found) - size)}


def is_duplicate(text: str, seen: set[str], limit: float = 0.2) -> bool:
    """Return whether a large share of the text was seen; if not, remember the text."""
    runs = shingles(text)
    if runs and len(runs & seen) > limit * len(runs):
        return True
    seen |= runs
    return False
