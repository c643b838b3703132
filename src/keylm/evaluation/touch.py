"""Typos of thumbs on a phone, for test sets only: training never uses this model.

Every letter is a tap that falls around its key (Gaussian; Azenkot & Zhai, MobileHCI 2012, see data/keyboard.py) with a
bias that each typist keeps; besides, taps are lost, come twice, or come before the tap of the other thumb. Training's
noise (data/typos.py) draws words and kinds instead, with shares fitted to documentation written on keyboards.
"""

import random

from keylm.keyboard.tokens import WORD
from keylm.typos.layout import CENTRES, KEY_HEIGHT, KEY_WIDTH, SPREAD

NOISE = 1.0
"""How unsteady the hand is: scales the spread and the chances below. 1 spoils about a tenth of the words."""
TAPS = 0.72
"""Spread of a tap over that of raw taps in data/keyboard.py: people slow down until fewer go wrong."""
BIAS = 0.06
"""Standard deviation, in key widths and heights, of the place around which a typist's taps fall."""
LOST, TWICE, EARLY = 0.004, 0.003, 0.006
"""Chances for each letter that its tap is lost, comes twice, or comes before the one of the other thumb before it."""
_LEFT = frozenset("qwertasdfgzxcvb")
_KEYS = {key: centre for key, centre in CENTRES.items() if key != " "}


class Typist:
    """Someone who types, the same way for the same seed."""

    def __init__(self, seed: int, noise: float = NOISE) -> None:
        self._random = random.Random(seed)
        self._noise = noise
        self._bias = (self._random.gauss(0, BIAS), self._random.gauss(0, BIAS))

    def type(self, text: str) -> str:
        """Return `text` as it comes out: words of ASCII letters mistyped, all else, and the number of words, kept."""
        return WORD.sub(lambda match: self._word(match[0]), text)

    def _word(self, word: str) -> str:
        letters = list(word)
        for place in range(1, len(letters)):
            left, right = letters[place - 1 : place + 1]
            if (left.lower() in _LEFT) != (right.lower() in _LEFT) and self._happens(EARLY):
                letters[place - 1 : place + 1] = [right, left]
        typed = "".join(self._tapped(letter) if letter.lower() in _KEYS else letter for letter in letters)
        return typed if WORD.fullmatch(typed) else word

    def _tapped(self, letter: str) -> str:
        """Return what a tap at a letter's key gives: a letter in the same case, two, or none."""
        if self._happens(LOST):
            return ""
        key_x, key_y = _KEYS[letter.lower()]
        x = key_x + (self._random.gauss(0, TAPS * SPREAD[0] * self._noise) + self._bias[0]) * KEY_WIDTH
        y = key_y + (self._random.gauss(0, TAPS * SPREAD[1] * self._noise) + self._bias[1]) * KEY_HEIGHT
        hit = min(_KEYS, key=lambda key: max(abs(x - _KEYS[key][0]) / KEY_WIDTH, abs(y - _KEYS[key][1]) / KEY_HEIGHT))
        hit = hit.upper() if letter.isupper() else hit
        return hit * 2 if self._happens(TWICE) else hit

    def _happens(self, chance: float) -> bool:
        return self._random.random() < chance * self._noise
