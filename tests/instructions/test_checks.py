"""Checks take what keeps a constraint and refuse what breaks it."""

import json

import pytest
from support.instruction_examples import GOOD_AND_BAD

from keylm.base.errors import KeylmError
from keylm.instructions.checks import CHECKS, HELD_OUT, TRAINED, keeps, violations
from keylm.text.sentences import fewest_sentences, most_sentences, occurrences


@pytest.mark.parametrize(("constraint", "good", "bad"), GOOD_AND_BAD)
def test_a_check_takes_what_keeps_and_refuses_what_breaks(constraint, good, bad):
    assert keeps(good, constraint)
    assert not keeps(bad, constraint)
    assert not keeps(" ", constraint)
    assert json.loads(json.dumps(constraint)) == constraint


def test_every_type_has_an_example():
    assert {constraint["type"] for constraint, _, _ in GOOD_AND_BAD} == set(CHECKS)
    assert not set(TRAINED) & set(HELD_OUT)
    assert len(HELD_OUT) >= 6


def test_an_unknown_type_is_refused():
    with pytest.raises(KeylmError, match="unknown type"):
        violations("text", [{"type": "rhyme"}])


def test_counting_frames_what_splitters_find():
    text = "Dr. Lee came at 5 p.m. on Monday. She left! Did he? No."
    assert fewest_sentences(text) <= 4 <= most_sentences(text)
    assert occurrences("art", "Art is part of art-work.") == 2
