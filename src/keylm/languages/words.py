"""What a word is in a language: its letters, with apostrophes inside, as patterns for Python and for JavaScript.

A language lists the letters that its keyboard types (`letters`: the typo engine and the channel know these), and others
that its words may have (`also`: "Café" in German). Both are put into one character class, since Python's `re` has no
Unicode properties and the page must read words by the same pattern. Text is expected in NFC.
"""

import re
from functools import cached_property
from itertools import pairwise

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, eq=False, config=ConfigDict(extra="forbid"))
class Words:
    """What a word is: letters, with apostrophes inside. The patterns are valid in Python and in JavaScript."""

    letters: str
    """Lower case; those that the keyboard types."""
    vowels: str
    apostrophe: str
    other_apostrophes: str
    also: str = ""
    """Other letters of words, of both cases, as the inside of a character class ("À-ÖØ-öø-ɏ")."""
    clitics: tuple[str, ...] = ()
    """Lower case, with their apostrophe ("l'"): after one of these another word begins."""
    listed_capitals: float = 0.0
    """Share of the words with a capital in the word list (German nouns) that are typed without it; 0: none is offered
    for a word in lower case. An assumption."""

    @property
    def capitals(self) -> str:
        """The capitals of the letters that have one ("ß" has not, that of "ΐ" is several characters)."""
        return "".join(upper for letter in self.letters if len(upper := letter.upper()) == 1)

    @property
    def letter(self) -> str:
        """The pattern of one letter of either case."""
        return f"[{self.capitals}{self.letters}{self.also}]"

    @property
    def word(self) -> str:
        """The pattern of a whole word."""
        return f"{self.letter}+(?:{self.apostrophe}{self.letter}+)*"

    @property
    def unfinished(self) -> str:
        """The pattern of what can be typed of a word before its end."""
        return f"{self.word}{self.apostrophe}?"

    @property
    def part(self) -> str:
        """The pattern of one character of a word: a letter or an apostrophe."""
        return f"{self.letter[:-1]}{self.apostrophe}]"

    @property
    def inner(self) -> str:
        """The pattern of the beginning of a token that continues a word."""
        return f"{self.apostrophe}?{self.letter}"

    @property
    def clitic(self) -> tuple[str, ...]:
        """The patterns of the clitics, of either case, where one begins; each of a fixed length."""
        return tuple("".join(_either_case(character) for character in clitic) for clitic in self.clitics)

    @cached_property
    def whole(self) -> re.Pattern[str]:
        """A word, to match in full."""
        return re.compile(self.word)

    @cached_property
    def standing(self) -> re.Pattern[str]:
        """A word in running text, next to no digit, other letter or apostrophe."""
        return re.compile(rf"{self._beginning}{self.word}(?![\w{self.apostrophe}])")

    @cached_property
    def typed(self) -> re.Pattern[str]:
        """The word that is being typed at the end of a text."""
        return re.compile(rf"{self._beginning}{self.unfinished}\Z")

    @cached_property
    def within(self) -> re.Pattern[str]:
        """The end of a text that stops within a word, where no other can begin."""
        no_clitic = "".join(f"(?<!{self._apart}{clitic})" for clitic in self.clitic)
        return re.compile(rf"{self.letter}{self.part}*{no_clitic}\Z")

    @cached_property
    def letter_bytes(self) -> tuple[frozenset[bytes], frozenset[bytes]]:
        """The beginnings and the ends, not whole, of the UTF-8 of letters: a token may stop within a letter."""
        letter = re.compile(self.letter)
        beyond = [chr(code).encode() for code in range(128, 0xD800) if letter.match(chr(code))]
        beginnings = {encoded[:n] for encoded in beyond for n in range(1, len(encoded))}
        return frozenset(beginnings), frozenset(encoded[n:] for encoded in beyond for n in range(1, len(encoded)))

    @property
    def _apart(self) -> str:
        return rf"(?<![\w{self.apostrophe}])"

    @property
    def _beginning(self) -> str:
        """Where a word begins: next to no letter or apostrophe but those of a clitic; the clitic itself is no word."""
        if not self.clitics:
            return self._apart
        after = "".join(f"|(?<={self._apart}{clitic})" for clitic in self.clitic)
        return f"(?:{self._apart}{after})(?!(?:{'|'.join(self.clitic)}){self.letter})"


def ranges(characters: str) -> str:
    """Return the inside of a character class of these characters, in order, neighbours as ranges ("a-z")."""
    codes = sorted({ord(character) for character in characters})
    starts = [codes[0], *(right for left, right in pairwise(codes) if right != left + 1)] if codes else []
    ends = [*(left for left, right in pairwise(codes) if right != left + 1), codes[-1]] if codes else []
    return "".join(
        chr(first) + ("-" * (last > first + 1) + chr(last)) * (last > first)
        for first, last in zip(starts, ends, strict=True)
    )


def _either_case(character: str) -> str:
    other = character.upper()
    return f"[{character}{other}]" if other != character and len(other) == 1 else re.escape(character)
