"""The slips themselves: for each kind of error, what it makes of one word.

Invariant: a slip is a pure function of a lower-case word and a number. It returns another word, or None where the word
offers no such error (no doubled letter to drop, nothing that sounds alike); it never returns the word itself. The
number's bits are the only chance there is, and all tables are of whole numbers of slots, so that the result is the
same on every platform.

Cost: about a microsecond each; what sounds alike is looked up once a word and kept for the 65,536 last words.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from keylm.data.confusions import CONFUSIONS, ENDINGS, PHONETIC_RULES
from keylm.data.keyboard import CENTRES, TAP_SLOTS, fill, miss_share, misses, neighbours
from keylm.data.typo_kinds import VOWELS, position_class

Slip = Callable[[str, int], str | None]
"""(lower-case word, 52 random bits) to the word with an error, or None."""

SLOTS = 256
LONGEST = 24
"""Longer words are left alone: few are words."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
_MASK = (1 << 64) - 1
_DOUBLED = re.compile(r"([a-z])\1")
_LETTER_SLIPS = ("transposition", "omission", "insertion", "doubling", "neighbour", "vowel", "substitution")
_LONGEST_RULE = max(len(clean) for clean, _ in PHONETIC_RULES)


class Slips:
    """The slips with fitted preferences: places in the word, letters, rules, endings."""

    def __init__(self, figures: Mapping[str, Any]) -> None:
        """Make the tables from the figures of typo_rates.json."""
        self._places = {kind: _place_tables(weights) for kind, weights in figures["positions"].items()}
        self._inserted = "".join(fill(list(LETTERS), [figures["inserted"].get(c, 0) + 1 for c in LETTERS], SLOTS))
        self._copied = round(figures["inserted_nearby"] * SLOTS)
        self._vowels = {c: _letter_table(c, _other_vowels(c), figures["vowels"]) for c in VOWELS}
        self._neighbours = {c: _letter_table(c, _near(c), figures["neighbours"]) for c in LETTERS}
        self._others = {c: _letter_table(c, _far(c), figures["substitutions"]) for c in LETTERS}
        self._confusions = _confusion_tables(figures["confusions"])
        self._sounds = lru_cache(maxsize=1 << 16)(_sound_table(figures["rules"]))
        self._forms = lru_cache(maxsize=1 << 14)(_form_table(figures["endings"]))
        self._apostrophes = {w: [o for o in others if "'" in o] for w, others in CONFUSIONS.items() if "'" not in w}
        self._miss = {c: round(miss_share(c) * TAP_SLOTS) for c in LETTERS}
        self.by_kind: dict[str, Slip] = {name: getattr(self, f"_{name}") for name in KINDS_OF_SLIPS}

    def _transposition(self, word: str, bits: int) -> str | None:
        if len(word) < 2:
            return None
        at = min(self._places["transposition"][len(word)][bits & 255], len(word) - 2)
        a, b = word[at], word[at + 1]
        return word[:at] + b + a + word[at + 2 :] if a != b else None

    def _omission(self, word: str, bits: int) -> str | None:
        if len(word) < 2:
            return None
        at = self._places["omission"][len(word)][bits & 255]
        if word[at] in (word[at - 1 : at], word[at + 1 : at + 2]):
            return None
        return word[:at] + word[at + 1 :]

    def _undoubling(self, word: str, bits: int) -> str | None:
        found = [match.start() for match in _DOUBLED.finditer(word)]
        if not found:
            return None
        at = found[bits % len(found)]
        return word[:at] + word[at + 1 :]

    def _insertion(self, word: str, bits: int) -> str | None:
        """Put in a letter that stands nearby (an early or a late finger), or any."""
        at = self._places["insertion"][len(word)][bits & 255]
        if (bits >> 16) & 255 < self._copied:
            letter = word[max(0, at - 2) : at + 3][(bits >> 8) % min(len(word), 3)]
        else:
            letter = self._inserted[(bits >> 8) & 255]
        before, after = word[at - 1 : at], word[at]
        return None if letter in (before, after) else word[:at] + letter + word[at:]

    def _doubling(self, word: str, bits: int) -> str | None:
        at = self._places["doubling"][len(word)][bits & 255]
        letter = word[at]
        return None if letter == word[at - 1 : at] or letter == "'" else word[:at] + letter + word[at:]

    def _neighbour(self, word: str, bits: int) -> str | None:
        return self._replaced(word, "neighbour", self._neighbours, bits)

    def _substitution(self, word: str, bits: int) -> str | None:
        return self._replaced(word, "substitution", self._others, bits)

    def _vowel(self, word: str, bits: int) -> str | None:
        return self._replaced(word, "vowel", self._vowels, bits)

    def _replaced(self, word: str, kind: str, tables: Mapping[str, str], bits: int) -> str | None:
        at = self._places[kind][len(word)][bits & 255]
        table = tables.get(word[at])
        return word[:at] + table[(bits >> 8) & 255] + word[at + 1 :] if table else None

    def _phonetic(self, word: str, bits: int) -> str | None:
        choices = self._sounds(word)
        return choices[bits % len(choices)] if choices else None

    def _confusion(self, word: str, bits: int) -> str | None:
        choices = self._confusions.get(word)
        return choices[bits % len(choices)] if choices else None

    def _inflection(self, word: str, bits: int) -> str | None:
        choices = self._forms(word[-3:], min(len(word), 6))
        if not choices or "'" in word:
            return None
        cut, ending = choices[bits % len(choices)]
        return word[: len(word) - cut] + ending

    def _apostrophe(self, word: str, bits: int) -> str | None:
        """Drop or move the apostrophe, or put one before a last s."""
        at = max(word.find("'"), word.find("’"))
        if at > 0:
            if bits & 7 or at < 2:
                return word[:at] + word[at + 1 :]
            return word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
        choices = self._apostrophes.get(word)
        if choices:
            return choices[bits % len(choices)]
        return f"{word[:-1]}'s" if len(word) > 3 and word[-1] == "s" != word[-2] else None

    def _space_extra(self, word: str, bits: int) -> str | None:
        if len(word) < 4:
            return None
        at = 1 + bits % (len(word) - 1)
        return f"{word[:at]} {word[at:]}"

    def _taps(self, word: str, bits: int) -> str | None:
        """Tap the whole word again: one letter misses its key for certain, each other one by chance."""
        missed = bits % len(word)
        letters = []
        for at, letter in enumerate(word):
            bits = (bits * 6364136223846793005 + 1442695040888963407) & _MASK  # Knuth's MMIX generator
            if letter in self._miss and (at == missed or bits >> 52 < self._miss[letter]):
                letter = misses(letter)[(bits >> 40) & (TAP_SLOTS - 1)]
            letters.append(letter)
        tapped = "".join(letters)
        return None if tapped == word or tapped != tapped.strip() else tapped

    def _multiple(self, word: str, bits: int) -> str | None:
        """Make two slips of the letters, one after the other."""
        if len(word) < 5:
            return None
        made = word
        for shift in (0, 24):
            kind = _LETTER_SLIPS[(bits >> shift + 20) % len(_LETTER_SLIPS)]
            slipped = self.by_kind[kind](made, bits >> shift)
            if slipped is None:
                return None
            made = slipped
        return None if made == word else made


KINDS_OF_SLIPS = (
    *_LETTER_SLIPS,
    *("undoubling", "phonetic", "confusion", "inflection", "apostrophe", "space_extra", "taps", "multiple"),
)
"""The kinds that change one word; case and missing spaces are in typos.py, which sees the text around it."""


def _place_tables(weights: list[float]) -> list[list[int]]:
    """Return for each word length SLOTS places, shared out by the weights of their position classes."""
    tables: list[list[int]] = [[], [0] * SLOTS]
    for length in range(2, LONGEST + 2):
        classes = [position_class(at, length) for at in range(length)]
        shares = [weights[c] / classes.count(c) for c in classes]
        tables.append([int(at) for at in fill([str(n) for n in range(length)], shares, SLOTS)])
    return tables


def _letter_table(clean: str, letters: str, counts: Mapping[str, float]) -> str:
    """Return SLOTS letters that are written for `clean`: the counted ones, and each of `letters` half a time more."""
    return "".join(fill(list(letters), [counts.get(f"{clean}>{c}", 0) + 0.5 for c in letters], SLOTS))


def _other_vowels(letter: str) -> str:
    return VOWELS.replace(letter, "")


def _near(letter: str) -> str:
    return "".join(c for c in neighbours(letter) if not (c in VOWELS and letter in VOWELS))


def _far(letter: str) -> str:
    near = neighbours(letter) + letter if letter in CENTRES else ""
    return "".join(c for c in LETTERS if c not in near and not (c in VOWELS and letter in VOWELS))


def _confusion_tables(counts: Mapping[str, float]) -> dict[str, list[str]]:
    """Return for each word the words that stand in its place, as slots; those with ' are another kind."""
    tables = {}
    for word, others in CONFUSIONS.items():
        plain = [other for other in others if "'" not in other + word]
        if plain:
            tables[word] = fill(plain, [counts.get(f"{word}>{other}", 0) + 0.5 for other in plain], SLOTS)
    return tables


def _sound_table(counts: Mapping[str, float]) -> Callable[[str], list[str]]:
    """Return the function from a word to what PHONETIC_RULES make of it, each as often as its rule was counted."""
    rules: dict[str, list[tuple[str, int]]] = {}
    for clean, noisy in PHONETIC_RULES:
        # A fifth of a count for each rule: those that were not seen are not impossible.
        rules.setdefault(clean, []).append((noisy, 1 + round(5 * counts.get(f"{clean}>{noisy}", 0))))

    def choices(word: str) -> list[str]:
        found: list[str] = []
        for start in range(1, len(word)):
            for end in range(start + 1, min(start + _LONGEST_RULE, len(word)) + 1):
                for noisy, count in rules.get(word[start:end], ()):
                    found += [word[:start] + noisy + word[end:]] * count
        return found

    return choices


def _form_table(counts: Mapping[str, float]) -> Callable[[str, int], list[tuple[int, str]]]:
    """Return the function from a word's last three letters and its length (up to 6) to exchanges of its ending.

    An exchange is how many letters go and what comes, as often as it was counted.
    """

    def choices(last: str, length: int) -> list[tuple[int, str]]:
        return [
            (len(ending), other)
            for ending in ENDINGS
            if last.endswith(ending) and length - len(ending) >= 3
            for other in ENDINGS
            if ending or other == "s" or not last.endswith(("ing", "ed", "ly"))  # "writings", not "writinged"
            for _ in range(round(counts.get(f"{ending}>{other}", 0)))
        ]

    return choices
