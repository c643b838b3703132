"""Autocorrection: what a system puts in the place of a typed word, knowing only what stands before it.

The model is one half of a noisy channel (Kernighan, Church & Gale, "A spelling correction program based on a noisy
channel model", COLING 1990): of the words near the typed one, that is chosen for which log p(word | text before) +
log p(typed | word) is highest; the typed word is one of them. The other half is typing_edits.py.

Invariant of the measures: only plain words are tested (ASCII letters, apostrophes inside, not all capitals), the same
ones for every system, each behind the text as it was typed, mistakes included.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from keylm.evaluation.typing_baselines import Lexicon, cased
from keylm.evaluation.typing_edits import EditModel
from keylm.evaluation.typing_items import Item
from keylm.evaluation.typing_search import Suggester
from keylm.evaluation.typing_statistics import Tallies
from keylm.evaluation.typing_tokens import WORD

CANDIDATES = 24
"""Words that the model weighs, at most: the likeliest by frequency and channel."""
Correct = Callable[[str, str], str]
"""Text before a word and the word as typed to the word that a system puts there."""
_PLAIN = re.compile(r"[^\w']*([A-Za-z']*[A-Za-z])[^\w]*")


class Corrector:
    """A language model and an edit model as a noisy channel."""

    def __init__(self, suggester: Suggester, lexicon: Lexicon, edits: EditModel) -> None:
        self._suggester, self._lexicon, self._edits = suggester, lexicon, edits

    def __call__(self, context: str, typed: str) -> str:
        """Return the word for `typed` behind `context`, which ends where the word begins."""
        if not WORD.fullmatch(typed) or (len(typed) > 1 and typed.isupper()):
            return typed
        channel = self._edits.log_probability
        [known] = self._suggester.log_probabilities(context, [typed])
        bar = known + channel(typed.lower(), typed.lower())
        # No word is likelier than certain, so a channel below the bar cannot win; mostly nothing is left to weigh.
        possible = [(channel(typed.lower(), word), word) for word in self._lexicon.near(typed.lower())]
        near = sorted(((p + self._frequency(word), p, word) for p, word in possible if p > bar), reverse=True)
        del near[CANDIDATES:]
        if not near:
            return typed
        words = [cased(word, typed) for _, _, word in near]
        scores = self._suggester.log_probabilities(context, words, [bar - p for _, p, _ in near])
        best, word = max((score + p, word) for score, (_, p, _), word in zip(scores, near, words, strict=True))
        return word if best > bar else typed

    def _frequency(self, word: str) -> float:
        return math.log(self._lexicon.counts.get(word, 0) + 1)


class TypedWord(NamedTuple):
    """A word as it was typed and as it was meant, and the typed text before it."""

    context: str
    typed: str
    meant: str


def typed_words(item: Item) -> Iterator[TypedWord]:
    """Yield the plain words of an item; where words are missing or too many, those in that place are left out."""
    left, right = list(re.finditer(r"\S+", item.typed)), item.clean.split()
    matcher = difflib.SequenceMatcher(None, [token[0] for token in left], right, autojunk=False)
    for _, i, i_end, j, j_end in matcher.get_opcodes():
        if i_end - i != j_end - j:
            continue
        for token, clean in zip(left[i:i_end], right[j:j_end], strict=True):
            typed, meant = _PLAIN.fullmatch(token[0]), _PLAIN.fullmatch(clean)
            if typed and meant and _tested(typed[1]) and _tested(meant[1]):
                yield TypedWord(item.typed[: token.start() + typed.start(1)], typed[1], meant[1])


def measure_correction(
    systems: dict[str, Correct], items: Iterable[Item], known: Callable[[str], bool], tallies: Tallies
) -> Iterator[int]:
    """Add error reduction, repaired typos and false corrections of each system; yield the number of items done.

    `known` says whether a typed word is a word, so that typos are told from wrong words. "error reduction": typos
    repaired less correct words spoilt, over typos; at most 1, below 0 where a system does harm.
    """
    for number, item in enumerate(items, 1):
        for word in typed_words(item):
            wrong = word.typed != word.meant
            kind = "typos repaired: wrong words" if known(word.typed.lower()) else "typos repaired: non-words"
            for name, correct in systems.items():
                given = correct(word.context, word.typed)
                good = given == word.meant
                if wrong:
                    tallies.add("error reduction", name, item.document, good, 1)
                    tallies.add(kind, name, item.document, good, 1)
                else:
                    tallies.add("error reduction", name, item.document, good - 1, 0)
                    tallies.add("false corrections", name, item.document, not good, 1)
        yield number


def _tested(word: str) -> bool:
    return WORD.fullmatch(word) is not None and (len(word) == 1 or not word.isupper())
