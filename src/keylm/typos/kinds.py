"""Which kind of error stands between a noisy and a clean word: one look at the pair, one answer.

Invariant: the answer depends on the two words alone, and the same function names real errors (fit_typos.py)
and generated ones (tests, docs/typos.md), so that their shares can be compared. Where two kinds would explain a pair,
the first in the order of `classify` counts; docs/typos.md has an example of each.
"""

import re
from typing import NamedTuple

from keylm.typos.confusions import CONFUSIONS, ENDINGS, PHONETIC_RULES
from keylm.typos.layout import CENTRES, neighbours

KINDS = (
    "transposition",
    "omission",
    "undoubling",
    "insertion",
    "doubling",
    "neighbour",
    "vowel",
    "substitution",
    "phonetic",
    "confusion",
    "inflection",
    "apostrophe",
    "case",
    "space_missing",
    "space_extra",
    "multiple",
)
"""All that `classify` answers but "other": a wrong word, which no slip of the hand or ear explains."""
VOWELS = "aeiouy"
APOSTROPHES = str.maketrans("", "", "'’")
POSITIONS = 6
"""Classes of places in a word: its first letter, four quarters of what is between, its last letter."""

_RULES = tuple((re.compile(f"(?<=.){clean}"), clean, noisy) for clean, noisy in PHONETIC_RULES)


class Finding(NamedTuple):
    """A kind; for errors at one letter also the place (index in the clean word) and the letters there."""

    kind: str
    place: int | None = None
    clean: str = ""
    noisy: str = ""


def classify(noisy: str, clean: str) -> Finding:
    """Return what is wrong with `noisy`, which was written for `clean`: different, and letters, ' and spaces only."""
    if " " in noisy or " " in clean:
        if noisy.replace(" ", "").lower() != clean.replace(" ", "").lower():
            return Finding("other")
        return Finding("space_extra" if noisy.count(" ") > clean.count(" ") else "space_missing")
    if noisy.lower() == clean.lower():
        return Finding("case")
    noisy, clean = noisy.lower().replace("’", "'"), clean.lower().replace("’", "'")
    if noisy in CONFUSIONS.get(clean, ()):
        return Finding("apostrophe" if "'" in noisy + clean else "confusion")
    if noisy.translate(APOSTROPHES) == clean.translate(APOSTROPHES):
        return Finding("apostrophe")
    if is_inflection(noisy, clean):
        return Finding("inflection")
    if is_phonetic(noisy, clean):
        return Finding("phonetic")
    return _letters(noisy, clean)


def is_inflection(noisy: str, clean: str) -> bool:
    """Return whether the two are one stem of three letters or more with different ones of ENDINGS."""
    stem = _common(noisy, clean)
    return any(
        length >= 3 and noisy[length:] in ENDINGS and clean[length:] in ENDINGS for length in range(stem, stem - 3, -1)
    )


def is_phonetic(noisy: str, clean: str) -> bool:
    """Return whether one of PHONETIC_RULES, used once, makes `noisy` of `clean`."""
    stem = _common(noisy, clean)
    shift = len(noisy) - len(clean)
    for rule, left, right in _RULES:
        if len(right) - len(left) == shift:
            for match in rule.finditer(clean, max(0, stem - 4)):
                if clean[: match.start()] + right + clean[match.end() :] == noisy:
                    return True
    return False


def position_class(place: int, length: int) -> int:
    """Return the class in 0 … POSITIONS-1 of a letter of a word of `length` letters."""
    if place == 0:
        return 0
    if place >= length - 1:
        return POSITIONS - 1
    return 1 + (place - 1) * (POSITIONS - 2) // (length - 2)


def _letters(noisy: str, clean: str) -> Finding:
    """Return which slip at one place, or how many, make `noisy` of `clean` (both lower case)."""
    at = _common(noisy, clean)
    rest_noisy, rest_clean = noisy[at:], clean[at:]
    if len(noisy) == len(clean):
        if rest_noisy[1:] == rest_clean[1:]:
            return _substitution(at, rest_clean[0], rest_noisy[0])
        if rest_noisy[:2] == rest_clean[1::-1] and rest_noisy[2:] == rest_clean[2:]:
            return Finding("transposition", at, rest_clean[:2], rest_noisy[:2])
    elif rest_noisy == rest_clean[1:]:
        doubled = at > 0 and clean[at] == clean[at - 1]
        return Finding("undoubling" if doubled else "omission", at, clean[at])
    elif rest_noisy[1:] == rest_clean:
        doubled = at > 0 and noisy[at] == noisy[at - 1]
        place = at - 1 if doubled else at
        return Finding("doubling" if doubled else "insertion", place, "", noisy[at])
    return Finding("multiple" if distance(noisy, clean) <= max(2, len(clean) // 3) < len(clean) else "other")


def _substitution(at: int, clean: str, noisy: str) -> Finding:
    if clean in VOWELS and noisy in VOWELS:
        kind = "vowel"
    elif clean in CENTRES and noisy in neighbours(clean):
        kind = "neighbour"
    else:
        kind = "substitution"
    return Finding(kind, at, clean, noisy)


def distance(left: str, right: str) -> int:
    """Return how many insertions, deletions, substitutions and swaps of adjacent letters part the two words.

    Optimal string alignment: Damerau, "A technique for computer detection and correction of spelling errors",
    CACM 7(3), 1964.
    """
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, last, row = row, before, [i]
        for j, b in enumerate(right, 1):
            best = min(row[j - 1] + 1, before[j] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                best = min(best, last[j - 2] + 1)
            row.append(best)
    return row[-1]


def _common(left: str, right: str) -> int:
    """Return the length of the longest common beginning."""
    shorter = min(len(left), len(right))
    return next((n for n in range(shorter) if left[n] != right[n]), shorter)
