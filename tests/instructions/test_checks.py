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


@pytest.mark.parametrize(
    ("constraint", "says"),
    [
        ({"type": ["words"]}, "unknown type"),
        ({"type": "words", "relation": "at_most"}, "count: Field required"),
        ({"type": "words", "relation": "at_most", "count": "5"}, "count: Input should be a valid integer"),
        ({"type": "words", "relation": "between", "count": 5}, "most: is missing"),
        ({"type": "words", "relation": "about", "count": 5}, "relation: Input should be"),
        ({"type": "keywords", "words": "cat"}, "words: Input should be a valid list"),
        ({"type": "numbered_list", "count": 10**9}, "count: Input should be less"),
        ({"type": "sections", "word": "", "count": 1}, "word: String should have at least 1"),
    ],
)
def test_parameters_of_another_kind_are_refused_and_named(constraint, says):
    with pytest.raises(KeylmError, match=f"constraint: .*{says}"):
        keeps("One two.", constraint)


def test_no_answer_of_a_model_stops_a_check():
    assert not keeps(f"{'9' * 5000}. a", {"type": "numbered_list", "count": 1})
    assert not keeps("One.", {"type": "paragraph_start", "count": 1, "paragraph": 3, "word": "One"})


def test_counting_frames_what_splitters_find():
    text = "Dr. Lee came at 5 p.m. on Monday. She left! Did he? No."
    assert fewest_sentences(text) <= 4 <= most_sentences(text)
    assert occurrences("art", "Art is part of art-work.") == 2
