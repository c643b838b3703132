"""How likely a person is to type one word for another: the channel of the noisy-channel corrector.

Church & Gale, "Probability scoring for spelling correction", Statistics and Computing 1, 1991; Brill & Moore, ACL 2000.
The figures are those of the typo generator (data/typo_rates.json, fitted to half of git_fixes: how prone words of each
length are to each kind of error, where in the word, which letters), mixed with where taps land on a phone's keyboard
(data/keyboard.py). Nothing here was fitted to a test set.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

from keylm.typos.confusions import CONFUSIONS, ENDINGS
from keylm.typos.kinds import VOWELS, Finding, classify, position_class
from keylm.typos.layout import CENTRES, miss_share, neighbours, tap_shares
from keylm.typos.letters import LETTERS
from keylm.typos.model import LENGTH_CLASSES, packaged_figures

RATE = 0.05
"""Chance that a word of five letters is mistyped; longer words more often, shorter ones less."""
TOUCH = 0.3
"""Share of errors that are taps on a neighbouring key; of the others the fitted figures tell."""
FIRST_OF_FEW = 1 / 3
"""Share that one way of an error by sound, or one way of misplacing an apostrophe or capital, has of its kind."""
SLIP = 1 / 5
"""Share that one letter has of the slips at one place, where a word has two."""


class EditModel:
    """log p(typed | meant), words by themselves."""

    def __init__(self, rate: float = RATE, figures: Mapping[str, Any] | None = None) -> None:
        """Take the chance of an error and the figures of typo_rates.json (by default the packaged ones)."""
        self._figures = packaged_figures() if figures is None else figures
        five = sum(shares[4] for shares in self._figures["hazards"].values())
        self._scale: float = rate / five
        self.log_probability = lru_cache(maxsize=1 << 16)(self._log_probability)

    def error_rate(self, meant: str) -> float:
        """Return the chance that a word is mistyped at all."""
        return min(0.5, self._scale * sum(self._hazard(kind, meant) for kind in self._figures["hazards"]))

    def _log_probability(self, typed: str, meant: str) -> float:
        """Return log p(typed | meant) in nats; -inf where no error that is known makes the one of the other."""
        wrong = self.error_rate(meant)
        if typed == meant:
            return math.log1p(-wrong)
        finding = classify(typed, meant)
        fitted = self._scale * self._hazard(finding.kind, meant) * self._outcome(finding, typed, meant)
        found = (1 - TOUCH) * fitted + TOUCH * wrong * self._tapped(finding, meant)
        return math.log(found) if found > 0 else -math.inf

    def _hazard(self, kind: str, meant: str) -> float:
        """Return the relative frequency of a kind among words as long as `meant`."""
        shares = self._figures["hazards"].get(kind)
        return float(shares[min(len(meant), LENGTH_CLASSES) - 1]) if shares else 0.0

    def _tapped(self, finding: Finding, meant: str) -> float:
        """Return the share that this wrong tap has of all wrong taps at a word of that length."""
        left, right = finding.clean, finding.noisy
        if finding.kind not in ("neighbour", "vowel", "substitution") or left not in CENTRES:
            return 0.0
        return tap_shares(left).get(right, 0.0) / miss_share(left) / len(meant)

    def _outcome(self, finding: Finding, typed: str, meant: str) -> float:
        """Return p(typed | meant, kind of error)."""
        kind, length = finding.kind, len(meant)
        if finding.place is not None and kind != "undoubling":
            return self._place(kind, finding.place, length) * self._letter(finding, meant)
        if kind == "undoubling":
            return 1 / max(1, sum(a == b for a, b in pairwise(meant)))
        if kind == "multiple":
            return (SLIP / length) ** 2
        if kind == "inflection":
            return self._ending(typed.lower(), meant.lower())
        if kind == "confusion":
            counts, others = self._figures["confusions"], CONFUSIONS[meant.lower()]
            return _share(counts, meant.lower(), typed.lower(), others)
        return FIRST_OF_FEW

    def _place(self, kind: str, place: int, length: int) -> float:
        """Return the share of the errors of a kind that fall on this place of a word."""
        weights = self._figures["positions"][kind]
        classes = [position_class(at, length) for at in range(length)]
        total = sum(weights[c] / classes.count(c) for c in classes)
        own = position_class(min(place, length - 1), length)
        return float(weights[own] / classes.count(own) / total)

    def _letter(self, finding: Finding, meant: str) -> float:
        """Return the share of this letter among those that the kind of error writes at the place."""
        kind, place, left, right = finding
        if kind == "insertion":
            counts = self._figures["inserted"]
            any_letter = (counts.get(right, 0) + 1) / (sum(counts.values()) + len(LETTERS))
            assert place is not None
            near = meant.lower()[max(0, place - 2) : place + 1]
            copied = self._figures["inserted_nearby"]
            return float((1 - copied) * any_letter + (copied * near.count(right) / len(near) if near else 0.0))
        if kind == "neighbour":
            return _share(self._figures["neighbours"], left, right, neighbours(left))
        if kind == "vowel":
            return _share(self._figures["vowels"], left, right, VOWELS.replace(left, ""))
        if kind == "substitution":
            return _share(self._figures["substitutions"], left, right, LETTERS.replace(left, ""))
        return 1.0

    def _ending(self, typed: str, meant: str) -> float:
        """Return the share of this wrong ending among those of a word with that ending."""
        stem = next(n for n in range(len(meant) + 1) if typed[n : n + 1] != meant[n : n + 1] or n == len(meant))
        counts = self._figures["endings"]
        for length in range(stem, stem - 3, -1):
            if f"{meant[length:]}>{typed[length:]}" in counts:
                return _share(counts, meant[length:], typed[length:], ENDINGS)
        return 0.5 / len(ENDINGS)


def _share(counts: Mapping[str, float], left: str, right: str, others: Any) -> float:
    """Return the share of `left` → `right` among all `others`, half a time more each."""
    return (counts.get(f"{left}>{right}", 0) + 0.5) / sum(counts.get(f"{left}>{other}", 0) + 0.5 for other in others)
