"""What an answer earns: the share of its constraints that it keeps, unless it keeps them by degenerating.

    reward = guard * (share kept + WHOLE where all are kept) - DEGENERATE * (1 - guard)

The guard is 0 for an answer that was cut off at the token limit, and falls to 0 with repetition and with answers of
hardly any words; it is 1 for 97 % of 400 of the generator's own answers, and 0.33 at least. So an answer never gains by
looping or by saying nothing, and one that does is below an honest answer that keeps no constraint.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from keylm.instructions.rewards import reward
from keylm.instructions.right_answers import RIGHT_ANSWERS
from keylm.instructions.word_lists import PROPERTIES
from keylm.text.sentences import fewest_words
from keylm.tuning.pairs import Constraint

WHOLE = 0.25
"""What is added where all constraints are kept: benchmarks count whole answers."""
DEGENERATE = 0.25
"""What a fully degenerate answer loses."""
RUN = 4
"""Tokens of a run that counts as repeated where it occurs again in the answer."""
REPEATED = (0.2, 0.5)
"""Shares of runs that are repeated at which the guard begins to fall, and at which it is 0. Of 400 answers of the
generator (preferences.jsonl) the median is 0, the 99th percentile 0.19, the most 0.40."""
WHOLE_ANSWERS = frozenset((*RIGHT_ANSWERS, *PROPERTIES, "choice", "choice_letter"))
"""Types that decide all of an answer: it may be one word, and one that is right is never degenerate."""


@dataclass(frozen=True)
class Judgement:
    """An answer's reward, and what it is made of."""

    reward: float
    kept: tuple[bool, ...]
    """whether each constraint is kept, in their order"""
    cut_off: bool
    guard: float
    """from 0 (degenerate) to 1"""


class Judge:
    """Rewards answers; without state."""

    def __init__(self, ends: Collection[int], least_words: int) -> None:
        """`ends`: tokens that end an answer; `least_words`: fewest words for full credit."""
        self._ends, self._least_words = ends, least_words

    def __call__(self, answer: str, ids: Sequence[int], constraints: Sequence[Constraint]) -> Judgement:
        """Return what `answer`, of tokens `ids` [T], earns. Raises KeylmError as `reward` does."""
        found = reward(answer, constraints)
        cut_off = not ids or ids[-1] not in self._ends
        low, high = REPEATED
        fresh = min(1.0, max(0.0, (high - repetition(ids)) / (high - low)))
        least = least_words(constraints, self._least_words)
        right = any(ok and one["type"] in WHOLE_ANSWERS for ok, one in zip(found.kept, constraints, strict=True))
        honest = 1.0 if right else fresh * min(1.0, fewest_words(answer) / max(1, least))
        guard = 0.0 if cut_off else honest
        earned = found.mean + WHOLE * all(found.kept)
        return Judgement(guard * earned - DEGENERATE * (1 - guard), found.kept, cut_off, guard)


def repetition(ids: Sequence[int]) -> float:
    """Return the share of an answer's runs of RUN tokens that occurred in it before; 0 for a shorter one."""
    runs = [tuple(ids[start : start + RUN]) for start in range(len(ids) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def least_words(constraints: Sequence[Constraint], usual: int) -> int:
    """Return how many words an answer needs for full credit: `usual`, or less where a constraint asks for few."""
    least = usual
    for constraint in constraints:
        if constraint.get("type") in WHOLE_ANSWERS:
            least = min(least, 1)
        elif constraint.get("type") == "words" and constraint.get("relation") != "at_least":
            least = min(least, int(constraint["count"]) // 2)
    return max(0, least)
