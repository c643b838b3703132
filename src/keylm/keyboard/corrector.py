"""Autocorrection: the word that a system puts in place of a typed one, given only the text before it.

The language model is one half of a noisy channel (Kernighan, Church & Gale, "A spelling correction program based on a
noisy channel model", COLING 1990): of the words near the typed one, the one with the highest log p(word | text before)
+ log p(typed | word) is chosen; the typed word is a candidate too. The other half is edit_model.py. Small models know
rare words badly, so a second system takes half of p(word | text before) from the model and half from the word's
frequency in a dictionary (Jelinek & Mercer's linear interpolation, 1980).

Rules come before the channel (reading.py): what is no prose stays, a word that only lacks its apostrophe gets it, and
no correction drops a negation: a small model is wrong about these too often, and the harm is greater than a typo's.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from keylm.keyboard.edit_model import EditModel
from keylm.keyboard.lexicon import Lexicon, cased
from keylm.keyboard.reading import Reading
from keylm.keyboard.search import Suggester, Suggestion

CANDIDATES = 24
"""Words that the model scores, at most: the likeliest by frequency and channel."""
MIXED = 0.5
SHARES = (1.0, MIXED)
"""The model's share in a word's probability: alone, and mixed with word frequencies, which know rare words better than
a small model does. Half and half was not chosen by any figure."""
Correct = Callable[[str, str], str]
"""Text before a word, and the word as typed, to the word that a system puts there."""


class Candidate(NamedTuple):
    """A word that may have been meant, and three log-probabilities in nats."""

    word: str
    channel: float
    """Of the typed word, given this one."""
    model: float
    """Of the word after the text, by the language model."""
    frequency: float
    """Of the word anywhere, by the lexicon."""

    def score(self, share: float) -> float:
        """Return the log-probability of word and typing, by a mixture that has `share` of the language model."""
        if share == 1:
            return self.model + self.channel
        return _log_sum(math.log(share) + self.model, math.log1p(-share) + self.frequency) + self.channel


class Candidates:
    """The words that a typed word may stand for; the typed word comes first."""

    def __init__(self, suggester: Suggester, lexicon: Lexicon, edits: EditModel) -> None:
        self._suggester, self._lexicon, self._edits = suggester, lexicon, edits
        self.words, self.reading = edits.language.words, Reading(edits.language)
        self._total = math.log(sum(lexicon.counts.values()))
        self.weighed = lru_cache(maxsize=8)(self._weighed)
        self._near = lru_cache(maxsize=1 << 14)(self._words_near)

    def _weighed(self, context: str, typed: str) -> list[Candidate]:
        """Return the typed word and those that could be likelier, for at least one of SHARES."""
        channel, low = self._edits.log_probability, typed.lower()
        [known] = self._suggester.log_probabilities(context, [typed])
        kept = Candidate(typed, channel(low, low), known, self._frequency_of(typed))
        # No probability exceeds 1, so mostly nothing is left to score.
        bars = [(share, kept.score(share)) for share in SHARES]
        found = (*self._with_capital(typed), *self._near(low))
        near = [each for each in found if any(each.score(share) > bar for share, bar in bars)][:CANDIDATES]
        words = [cased(self._lexicon.form(candidate.word), typed) for candidate in near]
        least = [self._least(candidate, kept) for candidate in near]
        scores = self._suggester.log_probabilities(context, words, least) if near else []
        weighed = zip(near, words, scores, strict=True)
        return [kept, *(candidate._replace(word=word, model=score) for candidate, word, score in weighed)]

    def _with_capital(self, typed: str) -> list[Candidate]:
        """Return the word that the language writes with a capital and that was typed without it."""
        if self._lexicon.form(typed) == typed:
            return []
        channel = self._edits.log_probability(typed, typed) + math.log(self.words.listed_capitals)
        return [Candidate(typed, channel, 0.0, self._frequency(typed))]

    def _words_near(self, typed: str) -> list[Candidate]:
        """Return the words that may have been meant, the likeliest first without any context."""
        channel = self._edits.log_probability
        words = {word: channel(typed, word) for word in self._lexicon.near(typed)}
        omitted = math.log(self._edits.language.contractions.omitted)
        for form, word in self.reading.near(typed):
            words[word] = max(words.get(word, -math.inf), channel(typed, form) + omitted)
        near = [Candidate(word, p, 0.0, self._frequency(word)) for word, p in words.items() if p > -math.inf]
        return sorted(near, key=lambda found: (-found.channel - found.frequency, found.word))

    def alternative(self, context: str, typed: str) -> Suggestion | None:
        """Return the contraction that `typed`, a word too, may stand for, where the model finds it likelier."""
        word = self.reading.alternative(typed)
        if word is None or not self.correctable(context, typed):
            return None
        kept, found = self._suggester.log_probabilities(context, [typed, word])
        return Suggestion(word, found) if found > kept else None

    def correctable(self, context: str, typed: str) -> bool:
        """Return whether `typed` is a word of prose, and none in capitals."""
        capitals = len(typed) > 1 and typed.isupper()
        return self.words.whole.fullmatch(typed) is not None and not capitals and self.reading.is_prose(context + typed)

    def _least(self, candidate: Candidate, kept: Candidate) -> float:
        """Return the least log-probability from the model for a candidate to matter; -inf where frequency may suffice.

        Where frequency gives less than half of what is needed, the model must give the other half.
        """
        half = math.log(2)
        if any(candidate._replace(model=-math.inf).score(s) + half > kept.score(s) for s in SHARES if s < 1):
            return -math.inf
        return min(kept.score(s) - candidate.channel - math.log(s) for s in SHARES) - half

    def _frequency_of(self, typed: str) -> float:
        """Return the same for a word as it is typed: one that lacks the capital of the language's list has none."""
        return self._frequency(typed.lower()) if self._lexicon.form(typed) == typed else -math.inf

    def _frequency(self, word: str) -> float:
        count = self._lexicon.counts.get(word, 0)
        return math.log(count) - self._total if count else -math.inf


class Corrector:
    """A language model and an edit model as a noisy channel."""

    def __init__(self, candidates: Candidates, share: float = MIXED) -> None:
        """Take the model's share in p(word), one of SHARES; the rest is the lexicon's frequencies."""
        assert share in SHARES
        self._candidates, self._share = candidates, share

    def __call__(self, context: str, typed: str) -> str:
        """Return the word for `typed` after `context`, which ends where the word begins."""
        if not self._candidates.correctable(context, typed):
            return typed
        reading = self._candidates.reading
        if found := reading.contraction(typed):
            return found
        kept = (found for found in self._candidates.weighed(context, typed) if reading.keeps(typed, found.word))
        # The first of the best: the typed word, where another is no likelier.
        return max(kept, key=lambda candidate: candidate.score(self._share)).word


def _log_sum(left: float, right: float) -> float:
    """Return log(exp(left) + exp(right))."""
    high, low = max(left, right), min(left, right)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
