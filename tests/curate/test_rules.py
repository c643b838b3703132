"""Every constant that decides a curation is in its fingerprint."""

import re

import pytest

pytest.importorskip("datatrove")

from keylm.curate import decontamination, evaluation_items, filters, rules, steps
from keylm.curate.pipeline import curation_fingerprint
from keylm.curate.report import settings_of
from keylm.recipe.schema import Curation

ALTERED = [
    (filters, "GOPHER_WORDS", 51),
    (filters, "_SENTENCE_END", re.compile(r"[.!?]")),
    (filters, "SHORT_THRESHOLD", 0.06),
    (steps, "PHONE", "555-0199"),
    (steps, "_AMERICAN_PHONE", re.compile(r"\d{10}")),
    (decontamination, "FUZZY_SHARE", 0.9),
    (decontamination, "MAX_SHIFT", 3),
    (evaluation_items, "WIKIHOW_MARK", re.compile(r"\[\w+\]")),
    (rules, "ITEM_FIELDS", {}),
]


def fingerprint() -> str:
    curation = Curation()
    return curation_fingerprint(curation, settings_of(curation), {})


@pytest.mark.parametrize(("module", "name", "value"), ALTERED, ids=[name for _, name, _ in ALTERED])
def test_another_constant_is_another_fingerprint(monkeypatch, module, name, value):
    before = fingerprint()
    assert fingerprint() == before
    monkeypatch.setattr(module, name, value)
    assert fingerprint() != before


def test_limits_of_the_quality_filters_are_in_the_fingerprint(monkeypatch):
    before = fingerprint()
    monkeypatch.setitem(filters._QUALITY, "c4", lambda: filters.FineWebQualityFilter(language=filters.WORDS))
    assert fingerprint() != before


def test_the_size_of_a_batch_is_not(monkeypatch):
    before = fingerprint()
    monkeypatch.setattr(decontamination, "BATCH_CHARACTERS", 7)
    assert fingerprint() == before


def test_a_constant_of_no_plain_form_is_rejected_until_it_is_listed(monkeypatch):
    monkeypatch.setattr(steps, "JUDGE", print, raising=False)
    with pytest.raises(TypeError, match="accepted: numbers"):
        fingerprint()


def test_the_decontaminators_fingerprint_has_its_constants(monkeypatch, tmp_path):
    file = tmp_path / "quiz.jsonl"
    file.write_text('{"question": "which river is the longest of all rivers in the whole of Europe"}\n')
    before = decontamination.Decontaminator.from_paths([file]).fingerprint()
    monkeypatch.setattr(decontamination, "PROOF_BITS", 61)
    assert decontamination.Decontaminator.from_paths([file]).fingerprint() != before
