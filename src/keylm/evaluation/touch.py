"""Thumb-typing errors on a phone, for test sets only: training never uses this model.

Every letter is a tap around its key (Gaussian; Azenkot & Zhai, MobileHCI 2012; spreads in the layout) with a bias that
each typist keeps; taps are also dropped, doubled, or overtaken by the other thumb. The noise of training
(typos/model.py) instead draws words and kinds of error, at rates fitted to documentation typed on keyboards.
"""

import random

from keylm.languages.language import ENGLISH, Language
from keylm.typos.keys import keys_of

NOISE = 1.0
"""How unsteady the hand is: scales the spread and the probabilities below; 1 mistypes about a tenth of the words."""
TAPS = 0.72
"""Spread of a tap relative to the layout's raw taps: people slow down until fewer miss."""
BIAS = 0.06
"""Standard deviation, in key widths and heights, of a typist's mean offset."""
LOST, TWICE, EARLY = 0.004, 0.003, 0.006
"""Probabilities for each letter that its tap is lost, doubled, or overtakes the other thumb's tap before it."""


class Typist:
    """A simulated typist; the same seed gives the same typing."""

    def __init__(self, seed: int, noise: float = NOISE, language: Language = ENGLISH) -> None:
        self._word_pattern, self._layout = language.words.whole, language.layout
        self._keys = {key: centre for key, centre in keys_of(language.layout).centres.items() if key != " "}
        left = "".join(row.keys[: row.left_thumb] for row in language.layout.rows)
        self._key_of = language.layout.key_of
        self._left = frozenset(letter for letter, key in self._key_of.items() if key in left)
        self._random = random.Random(seed)
        self._noise = noise
        self._bias = (self._random.gauss(0, BIAS), self._random.gauss(0, BIAS))

    def type(self, text: str) -> str:
        """Return `text` as typed: words mistyped; everything else, and the number of words, is kept."""
        return self._word_pattern.sub(lambda match: self._word(match[0]), text)

    def _word(self, word: str) -> str:
        letters = list(word)
        for place in range(1, len(letters)):
            left, right = letters[place - 1 : place + 1]
            if (left.lower() in self._left) != (right.lower() in self._left) and self._happens(EARLY):
                letters[place - 1 : place + 1] = [right, left]
        typed = "".join(self._tapped(letter) if letter.lower() in self._key_of else letter for letter in letters)
        return typed if self._word_pattern.fullmatch(typed) else word

    def _tapped(self, letter: str) -> str:
        """Return the result of a tap at a letter's key: a letter in the same case, two, or none."""
        if self._happens(LOST):
            return ""
        size = (self._layout.key_width, self._layout.key_height)
        own = self._key_of[letter.lower()]
        spread, aim = self._layout.tap_spread, self._keys[own]
        tap = [
            aim[n] + (self._random.gauss(0, TAPS * spread[n] * self._noise) + self._bias[n]) * size[n] for n in (0, 1)
        ]
        hit = min(self._keys, key=lambda key: max(abs(tap[n] - self._keys[key][n]) / size[n] for n in (0, 1)))
        hit = letter if hit == own else hit.upper() if letter.isupper() else hit
        return hit * 2 if self._happens(TWICE) else hit

    def _happens(self, chance: float) -> bool:
        return self._random.random() < chance * self._noise
