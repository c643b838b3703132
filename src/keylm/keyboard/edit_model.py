"""How likely a person is to type one word for another: the channel of the noisy-channel corrector.

Church & Gale, "Probability scoring for spelling correction", Statistics and Computing 1, 1991; Brill & Moore, ACL 2000.
The rates are those of the typo engine (languages/en/typo_rates.json, fitted to half of git_fixes: how prone words of
each length are to each kind of error, where in the word, which letters), mixed with the probabilities of taps on a
phone's keyboard (layout.toml) by the assumptions in channel.toml. Nothing here was fitted to a test set.

The page computes the same for errors at one place (page/channel.js); a test compares the two.
"""

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise

from keylm.languages.language import ENGLISH, Language
from keylm.typos.keys import keys_of
from keylm.typos.kinds import Finding, classify, position_class
from keylm.typos.model import LENGTH_CLASSES

SMOOTHING = 0.5
"""Added to the count of every outcome that is possible, seen or not."""
HIGHEST_RATE = 0.5
"""Of errors, whatever the word's length."""


class EditModel:
    """log p(typed | meant) for words without context, in one language."""

    def __init__(self, language: Language = ENGLISH) -> None:
        self.language = language
        self._rates, self._keys, self._channel = language.typo_rates, keys_of(language.layout), language.channel
        self._layout = language.layout
        five = sum(shares[4] for shares in self._rates.hazards.values())
        self._scale: float = self._channel.mistyped / five
        self.log_probability = lru_cache(maxsize=1 << 16)(self._log_probability)

    def error_rate(self, meant: str) -> float:
        """Return the probability that a word is mistyped at all."""
        return min(HIGHEST_RATE, self._scale * sum(self._hazard(kind, meant) for kind in self._rates.hazards))

    def _log_probability(self, typed: str, meant: str) -> float:
        """Return log p(typed | meant) in nats; -inf where no known error turns the one into the other."""
        wrong = self.error_rate(meant)
        if typed == meant:
            return math.log1p(-wrong) + math.log1p(-self._channel.unheld) * (self._layout.bare(meant) != meant)
        finding = classify(typed, meant, self.language)
        fitted = self._scale * self._hazard(finding.kind, meant) * self._outcome(finding, typed, meant)
        taps = self._channel.taps
        found = (1 - taps) * fitted + taps * wrong * self._tapped(finding, meant) + self._unheld(typed, meant)
        return math.log(found) if found > 0 else -math.inf

    def _unheld(self, typed: str, meant: str) -> float:
        """Return the share of this way to tap keys that should be held, one at least, among all of the word."""
        held = self._layout.held
        if len(typed) != len(meant) or any(held.get(m) != t for t, m in zip(typed, meant, strict=True) if t != m):
            return 0.0
        return float(self._channel.unheld / (2 ** sum(letter in held for letter in meant) - 1))

    def _hazard(self, kind: str, meant: str) -> float:
        """Return the relative frequency of a kind among words as long as `meant`."""
        shares = self._rates.hazards.get(kind)
        return float(shares[min(len(meant), LENGTH_CLASSES) - 1]) if shares else 0.0

    def _tapped(self, finding: Finding, meant: str) -> float:
        """Return the share of this wrong tap among all wrong taps at a word of that length."""
        left, right = finding.clean, finding.noisy
        if finding.kind not in ("neighbour", "vowel", "substitution") or left not in self._layout.key_of:
            return 0.0
        return self._keys.tap_shares(left).get(right, 0.0) / self._keys.miss_share(left) / len(meant)

    def _outcome(self, finding: Finding, typed: str, meant: str) -> float:
        """Return p(typed | meant, kind of error)."""
        kind, length = finding.kind, len(meant)
        if finding.place is not None and kind != "undoubling":
            return self._place(kind, finding.place, length) * self._letter(finding, meant)
        if kind == "undoubling":
            return 1 / max(1, sum(a == b for a, b in pairwise(meant)))
        if kind == "multiple":
            return (self._channel.one_slip / length) ** 2
        if kind == "inflection":
            return self._ending(typed.lower(), meant.lower())
        if kind == "confusion":
            others = self.language.confusions[meant.lower()]
            return _share(self._rates.confusions, meant.lower(), typed.lower(), others)
        return self._channel.one_of_few

    def _place(self, kind: str, place: int, length: int) -> float:
        """Return the share of this place of a word among the errors of a kind."""
        weights = self._rates.positions[kind]
        classes = [position_class(at, length) for at in range(length)]
        total = sum(weights[c] / classes.count(c) for c in classes)
        own = position_class(min(place, length - 1), length)
        return float(weights[own] / classes.count(own) / total)

    def _letter(self, finding: Finding, meant: str) -> float:
        """Return the share of this letter among those that the kind of error writes at the place."""
        kind, place, left, right = finding
        letters, vowels = self.language.words.letters, self.language.words.vowels
        if kind == "insertion":
            counts = self._rates.inserted
            any_letter = (counts.get(right, 0) + 1) / (sum(counts.values()) + len(letters))
            assert place is not None
            near = meant.lower()[max(0, place - 2) : place + 1]
            copied = self._rates.inserted_nearby
            return float((1 - copied) * any_letter + (copied * near.count(right) / len(near) if near else 0.0))
        if kind == "neighbour":
            return _share(self._rates.neighbours, left, right, self._keys.neighbours(left))
        if kind == "vowel":
            return _share(self._rates.vowels, left, right, vowels.replace(left, ""))
        if kind == "substitution":
            return _share(self._rates.substitutions, left, right, letters.replace(left, ""))
        return 1.0

    def _ending(self, typed: str, meant: str) -> float:
        """Return the share of this wrong ending among those of a word with that ending."""
        stem = next(n for n in range(len(meant) + 1) if typed[n : n + 1] != meant[n : n + 1] or n == len(meant))
        counts, endings = self._rates.endings, self.language.endings
        for length in range(stem, stem - 3, -1):
            if f"{meant[length:]}>{typed[length:]}" in counts:
                return _share(counts, meant[length:], typed[length:], endings)
        return SMOOTHING / len(endings)


def _share(counts: Mapping[str, int], left: str, right: str, others: Iterable[str]) -> float:
    """Return the share of `left` → `right` among all `others`, each with SMOOTHING more than its count."""
    total = sum(counts.get(f"{left}>{other}", 0) + SMOOTHING for other in others)
    return (counts.get(f"{left}>{right}", 0) + SMOOTHING) / total
