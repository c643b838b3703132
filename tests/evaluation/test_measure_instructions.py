"""Scores of checkable instructions, and the evaluation of a small model."""

import json

import pytest
import zstandard
from support.recipes import write_jsonl
from support.shapes import random_qwen3
from transformers import AutoTokenizer

from keylm.base.errors import KeylmError
from keylm.evaluation.instructions import evaluate_instructions, measure_instructions, read_items, score
from keylm.runtimes import batch_generation, generation

USER = [{"role": "user", "content": "the old man"}]
ITEMS = [
    {"set": "trained", "messages": USER, "constraints": [{"type": "no_comma"}, {"type": "lower_case"}]},
    {"set": "trained", "messages": USER, "constraints": [{"type": "no_comma"}]},
    {"set": "held_out", "messages": USER, "constraints": [{"type": "question_marks", "count": 1}]},
    {"set": "typos", "messages": USER, "constraints": [], "reference": "The red fox ran.", "noisy": "Teh red fxo ran."},
    {"set": "typos", "messages": USER, "constraints": [], "reference": "It is night.", "noisy": "It is nigth."},
]
ITEMS = [{"max_new_tokens": 5, "reference": None, **item} for item in ITEMS]


def test_scores_are_shares_of_items_constraints_and_words():
    answers = ["no capitals, but a comma", "None", "Why?", "The red fxo ran.", "It is night."]
    rows = {(row["set"], row["measure"], row["system"]): row for row in score(ITEMS, answers)}
    value = {key: row["value"] for key, row in rows.items()}
    assert value["trained", "all constraints", "model"] == 0.5
    assert value["trained", "constraints", "model"] == pytest.approx(2 / 3)
    assert value["trained", "no_comma", "model"] == 0.5
    assert value["trained", "lower_case", "model"] == 1
    assert value["held_out", "all constraints", "model"] == 1
    assert value["trained", "each kind: wording", "model"] == pytest.approx(2 / 3)
    assert value["held_out", "each kind: counting", "model"] == 1
    assert rows["trained", "all constraints", "model"]["stderr"] == pytest.approx(0.35, abs=0.02)
    assert rows["held_out", "all constraints", "model"]["stderr"] is None
    assert value["typos", "exact", "model"] == 0.5
    assert value["typos", "exact", "doing nothing"] == 0
    assert value["typos", "error reduction", "model"] == pytest.approx(2 / 3)
    assert rows["trained", "no_comma", "model"]["low"] <= 0.5 <= rows["trained", "no_comma", "model"]["high"]


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("instructed") / "model"
    opened = AutoTokenizer.from_pretrained(tokenizer)
    random_qwen3(0, len(opened), max_position_embeddings=64).save_pretrained(path)
    opened.save_pretrained(path)
    return path


def test_a_model_is_measured_the_same_in_any_batch_and_once(folder, tmp_path, monkeypatch):
    all_at_once = evaluate_instructions(folder, ITEMS, quiet=True)
    monkeypatch.setitem(batch_generation.MOST_ROWS, "cpu", 1)
    one = evaluate_instructions(folder, ITEMS, quiet=True)
    assert one == all_at_once
    monkeypatch.setattr(generation, "writer_of", lambda *_: None)
    assert evaluate_instructions(folder, ITEMS, quiet=True) == one  # by transformers
    assert any(each["answer"] for each in one["answers"])
    assert len(one["answers"]) == len(ITEMS)
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    out = tmp_path / "instructions.json"
    found = measure_instructions(folder, file, out, limit=1, device=None, quiet=True)
    assert {row["n"] for row in found["rows"]} == {1}
    out.write_text(json.dumps({**found, "rows": []}))
    assert measure_instructions(folder, file, out, limit=1, device=None, quiet=True)["rows"] == []


def test_a_prompt_that_fills_the_context_has_no_answer(folder):
    long = [{**ITEMS[1], "messages": [{"role": "user", "content": "the old man " * 60}]}]
    assert evaluate_instructions(folder, long, quiet=True)["answers"][0]["answer"] == ""


RULE = {"type": "words", "relation": "at_most", "count": 4}
SOUND = {"set": "trained", "messages": [{"role": "user", "content": "x"}], "constraints": [RULE], "max_new_tokens": 4}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"set": None}, r"line 1: set: got null"),
        ({"messages": []}, r"line 1: messages: got \[\]"),
        ({"max_new_tokens": 0}, r"line 1: max_new_tokens: got 0"),
        ({"constraints": [{**RULE, "count": "4"}]}, r"line 1: .*count; accepted: a whole number"),
        ({"set": "typos"}, r"line 1: .*accepted: the texts noisy and reference"),
    ],
)
def test_bad_items_are_one_clear_error(tmp_path, change, says):
    file = write_jsonl(tmp_path / "items.jsonl", [{**SOUND, **change}])
    with pytest.raises(KeylmError, match=says):
        read_items(file)


def test_no_items_and_half_an_archive_are_one_clear_error(tmp_path):
    assert read_items(write_jsonl(tmp_path / "items.jsonl", [SOUND])) == [SOUND]
    (tmp_path / "cut.jsonl.zst").write_bytes(zstandard.compress((tmp_path / "items.jsonl").read_bytes())[:-3])
    (tmp_path / "empty.jsonl").touch()
    for name in ("missing.jsonl.zst", "cut.jsonl.zst", "empty.jsonl"):
        with pytest.raises(KeylmError, match=r"accepted: evaluation\.jsonl\.zst of"):
            read_items(tmp_path / name)
