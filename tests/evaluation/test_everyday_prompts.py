"""Everyday prompts: sixty, counted as documented, and answered the same by a model with and without a chat template."""

import json

import pytest
import torch
from support.shapes import random_qwen3
from transformers import AutoTokenizer

from keylm.evaluation import everyday_prompts as module
from keylm.evaluation.everyday_prompts import count_answers, everyday_prompts, measure_everyday, repeated_share
from keylm.runtimes.generation import Generator


def test_there_are_sixty_different_prompts_of_ten_kinds():
    prompts, most_tokens = everyday_prompts()
    assert len({prompt.text for prompt in prompts}) == 60 == len(prompts)
    assert len({prompt.group for prompt in prompts}) == 10
    assert most_tokens == 200
    assert all("  " not in prompt.text and "\n" not in prompt.text for prompt in prompts)


def test_repeated_runs_are_counted_as_a_share():
    assert repeated_share("one two three") == 0
    assert repeated_share("one two three four five six") == 0
    assert repeated_share("a b c d A B C D") == pytest.approx(1 / 5)
    assert repeated_share("go go go go go go", 4) == pytest.approx(2 / 3)


def test_answers_that_are_empty_cut_off_and_repetitive_are_counted():
    sentence = "the sun is out and the sea is calm "
    rows = [
        {"answer": "Hello.", "ended": True},
        {"answer": " ", "ended": True},
        {"answer": "It goes on and", "ended": False},
        {"answer": 2 * sentence, "ended": False},
    ]
    found = count_answers(rows)
    assert (found["answers"], found["empty"], found["cut_off"], found["repetitive"]) == (4, 1, 2, 1)
    assert found["mean_words"] == pytest.approx((1 + 0 + 4 + 18) / 4)
    assert found["repeated_share"] == pytest.approx(6 / 15 / 4)
    assert count_answers([])["repeated_share"] == 0


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("everyday") / "model"
    opened = AutoTokenizer.from_pretrained(tokenizer)
    random_qwen3(0, len(opened), max_position_embeddings=96).save_pretrained(path)
    opened.save_pretrained(path)
    return path


def test_an_answer_has_ended_if_the_model_wrote_its_end(folder):
    generator = Generator(folder, torch.device("cpu"))
    [long] = generator.greedy(["the old man"], 8)
    assert long.text
    assert not long.ended
    ids = generator.tokenizer(long.text, add_special_tokens=False)["input_ids"]
    generator.model.generation_config.eos_token_id = [ids[0]]
    texts = generator.greedy(["the old man", "the old man " * 60], 8)
    assert texts[0].ended
    assert texts[1] == ("", False), "no room is no end"


def test_a_model_is_asked_once_and_without_a_chat_template_it_continues(folder, tmp_path, monkeypatch):
    few = everyday_prompts()[0][:3]
    monkeypatch.setattr(module, "everyday_prompts", lambda: (few, 6))
    out = tmp_path / "everyday.json"
    found = measure_everyday(folder, out, device=torch.device("cpu"), quiet=True)
    assert found["chat"]
    assert [row["prompt"] for row in found["answers"]] == [prompt.text for prompt in few]
    assert found["counts"]["cut_off"] == sum(not row["ended"] for row in found["answers"])
    out.write_text(json.dumps({**found, "answers": []}))
    assert measure_everyday(folder, out, quiet=True)["answers"] == [], "what is there is kept"
    monkeypatch.setattr(Generator, "_chat_ids", lambda *_: pytest.fail("a base model has no chat template"))
    generator = Generator(folder, torch.device("cpu"))
    generator.tokenizer.chat_template = None
    assert generator.greedy(["the old man"], 4)[0].text
