"""The classifier: which kind of error separates a noisy word from a clean one.

Invariant: the answer depends on the two words and the language alone, and the same function names real errors
(tools/corpus/fit_typos.py) and generated ones (tests, docs/typos.md), so that their shares can be compared. Where two
kinds would explain a pair, the first in the order of `classify` counts. The page's classifier (page/channel.js) gives
the same answers; a test compares them.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from keylm.languages.language import ENGLISH, Language
from keylm.typos.keys import keys_of

KINDS = (
    *("transposition", "omission", "undoubling", "insertion", "doubling", "neighbour", "vowel", "substitution"),
    *("phonetic", "confusion", "inflection", "apostrophe", "case", "space_missing", "space_extra", "multiple"),
)
"""All answers of `classify` but "other": a wrong word that no slip of hand or ear explains."""
POSITIONS = 6
"""Classes of places in a word: its first letter, four quarters of what lies between, its last letter."""
STEM = 3
"""Letters that two forms of one word have in common, at least."""


class Finding(NamedTuple):
    """A kind; for errors at one letter also the place (index in the clean word) and the letters there."""

    kind: str
    place: int | None = None
    clean: str = ""
    noisy: str = ""


def classify(noisy: str, clean: str, language: Language = ENGLISH) -> Finding:
    """Return what is wrong with `noisy`, written for `clean`: different words of letters, apostrophes and spaces."""
    if " " in noisy or " " in clean:
        if noisy.replace(" ", "").lower() != clean.replace(" ", "").lower():
            return Finding("other")
        return Finding("space_extra" if noisy.count(" ") > clean.count(" ") else "space_missing")
    if noisy.lower() == clean.lower():
        return Finding("case")
    apostrophe = language.words.apostrophe
    for other in language.words.other_apostrophes:
        noisy, clean = noisy.replace(other, apostrophe), clean.replace(other, apostrophe)
    noisy, clean = noisy.lower(), clean.lower()
    if noisy in language.confusions.get(clean, ()):
        return Finding("apostrophe" if apostrophe in noisy + clean else "confusion")
    if noisy.replace(apostrophe, "") == clean.replace(apostrophe, ""):
        return Finding("apostrophe")
    if is_inflection(noisy, clean, language):
        return Finding("inflection")
    if is_phonetic(noisy, clean, language):
        return Finding("phonetic")
    return _letters(noisy, clean, language)


def is_inflection(noisy: str, clean: str, language: Language = ENGLISH) -> bool:
    """Return whether the two are one stem of at least STEM letters with different endings of the language's list."""
    stem, endings = _common(noisy, clean), language.endings
    return any(
        length >= STEM and noisy[length:] in endings and clean[length:] in endings
        for length in range(stem, stem - 3, -1)
    )


def is_phonetic(noisy: str, clean: str, language: Language = ENGLISH) -> bool:
    """Return whether one of the language's spellings of a sound, used once, turns `clean` into `noisy`."""
    stem = _common(noisy, clean)
    shift = len(noisy) - len(clean)
    for rule, left, right in _rules(language):
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


@lru_cache(maxsize=8)
def _rules(language: Language) -> list[tuple[re.Pattern[str], str, str]]:
    return [(re.compile(f"(?<=.){clean}"), clean, noisy) for clean, noisy in language.spellings]


def _letters(noisy: str, clean: str, language: Language) -> Finding:
    """Return the slip at one place that turns `clean` into `noisy` (both lower case), or that there are several."""
    at = _common(noisy, clean)
    rest_noisy, rest_clean = noisy[at:], clean[at:]
    if len(noisy) == len(clean):
        if rest_noisy[1:] == rest_clean[1:]:
            return _substitution(at, rest_clean[0], rest_noisy[0], language)
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


def _substitution(at: int, clean: str, noisy: str, language: Language) -> Finding:
    keys = keys_of(language.layout)
    if clean in language.words.vowels and noisy in language.words.vowels:
        kind = "vowel"
    elif clean in language.layout.key_of and noisy in keys.neighbours(clean):
        kind = "neighbour"
    else:
        kind = "substitution"
    return Finding(kind, at, clean, noisy)


def distance(left: str, right: str) -> int:
    """Return the least number of insertions, deletions, substitutions and swaps of adjacent letters between two words.

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
    """Return the length of the longest common prefix."""
    shorter = min(len(left), len(right))
    return next((n for n in range(shorter) if left[n] != right[n]), shorter)
