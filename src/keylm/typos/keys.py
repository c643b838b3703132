"""The geometry of a keyboard: where its keys are, which of them touch, and where a tap may land.

Everything follows from a layout (languages/en/layout.toml): x to the right, y down, in the layout's points. A letter
that is typed by holding a key is where that key is; the key's other letters are its neighbours.
"""

import math
from functools import lru_cache

from keylm.languages.layout import Layout

TAP_SLOTS = 1 << 12
"""Length of the tables that `misses` returns."""
LEAST_SHARE = 1e-6
"""Smaller shares of taps are neglected."""


class Keys:
    """The letter keys and the space bar of a layout."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.centres: dict[str, tuple[float, float]] = {}
        """Key (" " is the space bar): centre (x, y)."""
        for number, row in enumerate(layout.rows):
            for place, key in enumerate(row.keys):
                self.centres[key] = self._centre(row.offset + place + 0.5, number)
        self.centres[" "] = self._centre(layout.space.offset + layout.space.width / 2, len(layout.rows))
        self.tap_shares = lru_cache(maxsize=64)(self._tap_shares)
        self.misses = lru_cache(maxsize=64)(self._misses)
        self.neighbours = lru_cache(maxsize=64)(self._neighbours)

    def _tap_shares(self, letter: str) -> dict[str, float]:
        """Return how taps meant for `letter` are distributed over the keys; those that hit none are missing.

        A letter of a held key stands for that key.
        """
        own = self._key(letter)
        return {
            letter if key == own else key: share
            for key, centre in self.centres.items()
            if (share := self._share(self.centres[own], centre, self._width(key))) > LEAST_SHARE
        }

    def miss_share(self, letter: str) -> float:
        """Return the share of taps meant for `letter` that land on another key."""
        return sum(share for key, share in self.tap_shares(letter).items() if key != letter)

    def _neighbours(self, letter: str) -> str:
        """Return the letters whose keys touch that of lower-case `letter`, corners included, in alphabetical order.

        The other letters of its own key are among them.
        """
        own = self._key(letter)
        x, y = self.centres[own]
        width, height = self.layout.key_width, self.layout.key_height
        touching = [
            other
            for other, (left, top) in self.centres.items()
            if other not in (own, " ") and abs(left - x) <= width and abs(top - y) <= height
        ]
        same = [other for other, key in self.layout.key_of.items() if key == own and other != letter]
        return "".join(sorted(touching + same))

    def _key(self, letter: str) -> str:
        """Return the key that types a letter; the space bar for a space."""
        return self.layout.key_of.get(letter, letter)

    def _misses(self, letter: str) -> str:
        """Return TAP_SLOTS characters: the results of wrong taps at `letter`, each in proportion to its share."""
        shares = {key: share for key, share in self.tap_shares(letter).items() if key != letter}
        return "".join(fill(list(shares), list(shares.values()), TAP_SLOTS))

    def _centre(self, across: float, row: int) -> tuple[float, float]:
        return across * self.layout.key_width, (row + 0.5) * self.layout.key_height

    def _width(self, key: str) -> float:
        return self.layout.key_width * (self.layout.space.width if key == " " else 1)

    def _share(self, aim: tuple[float, float], centre: tuple[float, float], width: float) -> float:
        layout = self.layout
        across = _between((centre[0] - aim[0]) / layout.key_width, width / layout.key_width, layout.tap_spread[0])
        down = _between((centre[1] - aim[1]) / layout.key_height, 1.0, layout.tap_spread[1])
        return across * down


@lru_cache(maxsize=8)
def keys_of(layout: Layout) -> Keys:
    """Return the keys of a layout, computed once."""
    return Keys(layout)


def fill(values: list[str], weights: list[float], slots: int) -> list[str]:
    """Return `slots` values in proportion to their weights (largest remainders), the same on every platform."""
    total = sum(weights)
    exact = [round(weight / total * slots, 6) for weight in weights]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(values)), key=lambda n: (counts[n] - exact[n], n))
    for n in by_remainder[: slots - sum(counts)]:
        counts[n] += 1
    return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]


def _between(centre: float, width: float, deviation: float) -> float:
    """Return the share of a normal distribution around 0 that lies within `width` around `centre`."""
    low, high = ((centre + side * width / 2) / (deviation * math.sqrt(2)) for side in (-1, 1))
    return (math.erf(high) - math.erf(low)) / 2
