"""What typed text is, before any model reads it: prose or not, with which apostrophes, a contraction, a negation.

Invariant: the language's folder says all of it (contractions.toml, prose.toml), and the page's language.js computes the
same; one table of cases (tests/keyboard/cases.toml) is put to both.
"""

import re

from keylm.keyboard.lexicon import cased
from keylm.languages.language import ENGLISH, Language


class Reading:
    """A language's rules for typed text. Apostrophes are straight in all arguments but those of `straight`."""

    def __init__(self, language: Language = ENGLISH) -> None:
        words, table, self._prose = language.words, language.contractions, language.prose
        self._straight = words.apostrophe
        self._token = re.compile(self._prose.token)
        self._not_prose = [re.compile(pattern) for pattern in self._prose.not_prose]
        self._used = re.compile(f"(?<={words.letter})[{words.apostrophe}{table.apostrophes}]")
        self._inner = re.compile(rf"{self._used.pattern}(?={words.letter}|\Z)")
        self._negation = re.compile(table.negation)
        self._negation_mistyped = re.compile(table.negation_mistyped)
        self._certain = {self._bare(word): word for word in table.certain}
        self._also_words = {self._bare(word): word for word in table.also_words}
        self._by_ear = re.compile(f"(.*[^{words.vowels}])(?:{table.negation_by_ear})")
        self._heard = {
            stem: word
            for bare, word in self._certain.items()
            if self._negation.fullmatch(word.lower()) and (stem := self._stem(bare))
        }

    def straight(self, text: str) -> tuple[str, str]:
        """Return `text`, of the same length, with straight apostrophes in its words, and the one it used last."""
        used = self._used.findall(text)
        return self._inner.sub(self._straight, text), used[-1] if used else self._straight

    def is_prose(self, text: str) -> bool:
        """Return whether the word at the end of `text` is prose: no part of an address, a name or code."""
        line = text[text.rfind("\n") + 1 :]
        parts = line.split(self._prose.code_mark)
        if text.count(self._prose.fence) % 2 or len(parts) % 2 == 0:
            return False
        beside_code = "".join(parts[::2])
        token = re.split(r"\s", line)[-1]
        return bool(self._token.fullmatch(token)) and not any(found.search(beside_code) for found in self._not_prose)

    def contraction(self, typed: str) -> str | None:
        """Return the contraction that `typed`, which is no word, stands for; None where it is one, or another word."""
        bare = self._bare(typed)
        found = self._certain.get(bare) or self._heard.get(self._stem(bare))
        found = found or (self._also_words.get(bare) if self._straight in typed else None)
        return cased(found, typed) if found and found.lower() != typed.lower() else None

    def alternative(self, typed: str) -> str | None:
        """Return the contraction that `typed`, which is a word too, may stand for."""
        found = None if self._straight in typed else self._also_words.get(typed.lower())
        return found and cased(found, typed)

    def near(self, typed: str) -> list[tuple[str, str]]:
        """Return (without apostrophe, contraction), lower case, for those that `typed` is one slip away from."""
        bare = self._bare(typed)
        return [(form, word.lower()) for form, word in self._certain.items() if one_slip(bare, form)]

    def keeps(self, typed: str, word: str) -> bool:
        """Return whether `word` may take the place of `typed`: it drops no negation, and is no mere alternative."""
        if word == typed:
            return True
        kept = self._negation.fullmatch(word.lower()) or not self._may_negate(typed)
        return bool(kept) and word != self.alternative(typed)

    def _may_negate(self, typed: str) -> bool:
        """Return whether a word negates, its apostrophe missing or not, or is a slip away from one that does."""
        low, bare = typed.lower(), self._bare(typed)
        meant = [low, self._certain.get(bare, ""), self._also_words.get(bare, "")]
        if self._negation_mistyped.fullmatch(bare):
            meant += [word for _, word in self.near(typed)]
        return any(map(self._negation.fullmatch, meant))

    def _stem(self, bare: str) -> str:
        """Return a word without the ending of a negation by ear; "" where it has none after a consonant."""
        found = self._by_ear.fullmatch(bare)
        return found[1] if found else ""

    def _bare(self, word: str) -> str:
        return word.replace(self._straight, "").lower()


def one_slip(left: str, right: str) -> bool:
    """Return whether one letter too many, missing, wrong or swapped with its neighbour is between two words."""
    shorter = min(len(left), len(right))
    start = next((n for n in range(shorter) if left[n] != right[n]), shorter)
    ends = zip(reversed(left[start:]), reversed(right[start:]), strict=False)
    end = next((n for n, (a, b) in enumerate(ends) if a != b), shorter - start)
    left, right = left[start : len(left) - end], right[start : len(right) - end]
    return left != right and (max(len(left), len(right)) < 2 or (len(left) == 2 and left == right[::-1]))
