"""Checks take what keeps a constraint and refuse what breaks it."""

import json

import pytest
from support.instruction_examples import GOOD_AND_BAD

from keylm.base.errors import KeylmError
from keylm.instructions.checks import CHECKS, FAMILIES, HELD_OUT, TRAINED, check_constraint, keeps, violations
from keylm.text.sentences import fewest_sentences, most_sentences, occurrences


@pytest.mark.parametrize(("constraint", "good", "bad"), GOOD_AND_BAD)
def test_a_check_takes_what_keeps_and_refuses_what_breaks(constraint, good, bad):
    assert keeps(good, constraint)
    assert not keeps(bad, constraint)
    assert not keeps(" ", constraint)
    assert json.loads(json.dumps(constraint)) == constraint


def test_every_type_has_an_example():
    assert {constraint["type"] for constraint, _, _ in GOOD_AND_BAD} == set(CHECKS)
    assert set(FAMILIES) == set(CHECKS)
    assert not set(TRAINED) & set(HELD_OUT)


def test_one_type_of_each_kind_is_held_out():
    assert sorted(FAMILIES[name].kind for name in HELD_OUT) == sorted({row.kind for row in FAMILIES.values()})


def test_an_unknown_type_is_refused():
    with pytest.raises(KeylmError, match="unknown type"):
        violations("text", [{"type": "rhyme"}])


@pytest.mark.parametrize("constraint", [row for row, _, _ in GOOD_AND_BAD], ids=lambda row: row["type"])
def test_a_parameter_that_is_missing_or_of_another_kind_is_refused(constraint):
    check_constraint(constraint)
    for need in FAMILIES[constraint["type"]].needs:
        name = need.partition(":")[0]
        for damaged in ({key: value for key, value in constraint.items() if key != name}, {**constraint, name: None}):
            with pytest.raises(KeylmError, match=f"{name}; accepted: "):
                keeps("It rains.", damaged)


@pytest.mark.parametrize(
    "constraint",
    [
        {"type": "words", "relation": "between", "count": 3},
        {"type": "iso_date", "text": "March the third"},
        {"type": "quote_sentence", "text": "It rains.", "place": 2},
        {"type": "in_turn", "parts": [[{"type": "rhyme"}], []]},
        {"type": ["words"]},
    ],
)
def test_what_no_answer_can_keep_is_refused(constraint):
    with pytest.raises(KeylmError, match="accepted"):
        keeps("It rains.", constraint)


def test_counting_frames_what_splitters_find():
    text = "Dr. Lee came at 5 p.m. on Monday. She left! Did he? No."
    assert fewest_sentences(text) <= 4 <= most_sentences(text)
    assert occurrences("art", "Art is part of art-work.") == 2


def test_no_answer_of_a_model_stops_a_check():
    assert not keeps(f"{'9' * 5000}. a", {"type": "numbered_list", "count": 1})
    assert not keeps("One.", {"type": "paragraph_start", "count": 1, "paragraph": 3, "word": "One"})


@pytest.mark.parametrize("count", [10**9, -1, True, "5"])
def test_a_number_that_no_answer_reaches_is_refused_and_named(count):
    with pytest.raises(KeylmError, match=r"constraint: .*count; accepted: a whole number from 0 to 1,000,000"):
        keeps("One two.", {"type": "numbered_list", "count": count})
