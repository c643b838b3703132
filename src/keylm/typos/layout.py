"""A phone keyboard: where its keys are, which of them touch, and where a tap of a finger may land.

Invariant: everything follows from the measured centres below. They are from the layout `en-US` of FleksySDK/kebbie
(MIT licence), commit 27b60e0555, in its own points: x to the right, y down; a test compares them with that file.

Taps are Gaussian around the centre of the key that was meant, which is what is measured on touch screens (Azenkot &
Zhai, "Touch behavior with different postures on soft smartphone keyboards", MobileHCI 2012). The spreads below put
8.5 % of taps on a wrong key, between the 8 and 9 % letter error rate of raw taps that Gboard reports (Liu et al.,
"Proofread: Fixes All Errors with One Tap", arXiv 2406.04523).
"""

import math
from functools import lru_cache

KEY_WIDTH = 32
KEY_HEIGHT = 72

CENTRES: dict[str, tuple[int, int]] = {
    **dict(zip("qwertyuiop", [(x, 36) for x in range(16, 320, 32)], strict=True)),
    **dict(zip("asdfghjkl", [(x, 108) for x in range(32, 320, 32)], strict=True)),
    **dict(zip("zxcvbnm", [(x, 180) for x in range(64, 288, 32)], strict=True)),
    " ": (160, 252),
}
"""Key: centre (x, y). All letter keys are KEY_WIDTH by KEY_HEIGHT."""
SPACE_WIDTH = 160

SPREAD = (0.28, 0.20)
"""Standard deviation of a tap, in key widths and key heights."""
TAP_SLOTS = 1 << 12
"""Length of the tables that `taps` returns."""


@lru_cache(maxsize=64)
def neighbours(letter: str) -> str:
    """Return the letters whose keys touch the key of lower-case `letter`, corners included, in alphabetical order."""
    x, y = CENTRES[letter]
    touching = [
        other
        for other, (left, top) in CENTRES.items()
        if other not in (letter, " ") and abs(left - x) <= KEY_WIDTH and abs(top - y) <= KEY_HEIGHT
    ]
    return "".join(sorted(touching))


def tap_shares(letter: str) -> dict[str, float]:
    """Return how the taps meant for `letter` are shared among the keys (and " "); what lands outside all is missing."""
    return {
        key: share
        for key, centre in CENTRES.items()
        if (share := _share(CENTRES[letter], centre, SPACE_WIDTH if key == " " else KEY_WIDTH)) > 1e-6
    }


@lru_cache(maxsize=64)
def misses(letter: str) -> str:
    """Return TAP_SLOTS characters: what wrong taps at `letter` give, each as often as its share of them says."""
    shares = {key: share for key, share in tap_shares(letter).items() if key != letter}
    return "".join(fill(list(shares), list(shares.values()), TAP_SLOTS))


def miss_share(letter: str) -> float:
    """Return the share of taps meant for `letter` that land on another key."""
    return sum(share for key, share in tap_shares(letter).items() if key != letter)


def fill(values: list[str], weights: list[float], slots: int) -> list[str]:
    """Return `slots` values in proportion to their weights (largest remainders), the same on every platform."""
    total = sum(weights)
    exact = [round(weight / total * slots, 6) for weight in weights]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(values)), key=lambda n: (counts[n] - exact[n], n))
    for n in by_remainder[: slots - sum(counts)]:
        counts[n] += 1
    return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]


def _share(aim: tuple[int, int], centre: tuple[int, int], width: int) -> float:
    across = _between((centre[0] - aim[0]) / KEY_WIDTH, width / KEY_WIDTH, SPREAD[0])
    down = _between((centre[1] - aim[1]) / KEY_HEIGHT, 1.0, SPREAD[1])
    return across * down


def _between(centre: float, width: float, deviation: float) -> float:
    """Return the share of a normal distribution around 0 that lies within `width` around `centre`."""
    low, high = ((centre + side * width / 2) / (deviation * math.sqrt(2)) for side in (-1, 1))
    return (math.erf(high) - math.erf(low)) / 2
