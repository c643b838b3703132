"""Every trained type can be broken by a small change."""

import random

import pytest
from support.instruction_examples import GOOD_AND_BAD

from keylm.instructions.checks import TRAINED, violations
from keylm.instructions.minimal_violations import break_answer


@pytest.mark.parametrize(("constraint", "good"), [row[:2] for row in GOOD_AND_BAD if row[0]["type"] in TRAINED])
def test_every_trained_type_can_be_broken(constraint, good):
    broken = break_answer(good, [constraint], random.Random(0))
    assert broken is not None
    assert violations(broken[0], [constraint]) == [constraint]


def test_where_one_answer_is_right_the_given_text_or_another_option_is_the_wrong_one():
    turned = {"type": "reverse_words", "text": "the sun is out"}
    assert break_answer("out is sun the", [turned], random.Random(0)) == ("the sun is out", turned)
    choice = {"type": "condition", "text": "A fox ran.", "word": "fox", "yes": "in", "no": "out"}
    assert break_answer("in", [choice], random.Random(0)) == ("out", choice)
