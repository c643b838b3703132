"""The reward of an answer is the share of its request's constraints that it keeps."""

import pytest
from support.instruction_examples import GOOD_AND_BAD

from keylm.base.errors import KeylmError
from keylm.instructions import Reward, reward


def test_the_reward_is_the_share_of_constraints_kept():
    constraints = [{"type": "no_comma"}, {"type": "lower_case"}, {"type": "words", "relation": "at_most", "count": 3}]
    assert reward("it rains", constraints) == Reward((True, True, True), 1.0)
    assert reward("It rains, it pours.", constraints) == Reward((False, False, False), 0.0)
    assert reward("It rains.", constraints) == Reward((True, False, True), pytest.approx(2 / 3))


def test_an_empty_answer_earns_nothing():
    assert reward(" \n", [{"type": "no_comma"}]) == Reward((False,), 0.0)
    assert reward("", []).mean == 0.0
    assert reward("Hello.", []) == Reward((), 1.0)


@pytest.mark.parametrize(("constraint", "good", "bad"), GOOD_AND_BAD)
def test_each_type_earns_all_or_nothing(constraint, good, bad):
    assert reward(good, [constraint]).mean == 1.0
    assert reward(bad, [constraint]).mean == 0.0


def test_an_unknown_type_is_refused():
    with pytest.raises(KeylmError, match="unknown type"):
        reward("text", [{"type": "rhyme"}])
