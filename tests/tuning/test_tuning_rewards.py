"""What answers earn, which prompts are answered in which order, what is sampled, what is replayed."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recipes import write_jsonl

from keylm.model.opening import open_pair
from keylm.tuning.replay import IGNORED, ROW_TOKENS, perplexity, read_replay
from keylm.tuning.reward_prompts import RewardPrompt, prompt_order, read_prompts
from keylm.tuning.rewards import DEGENERATE, WHOLE, Judge, least_words, repetition
from keylm.tuning.rollouts import Roller, RollOuts

END = 0
JUDGE = Judge({END}, 8)
NO_COMMA, LOWER = {"type": "no_comma"}, {"type": "lower_case"}
HONEST = "the old man walked down to the sea and sat there for a while."
FRESH = [*range(1, 30), END]


def test_an_honest_answer_earns_its_share_and_more_for_all_of_it():
    assert JUDGE(HONEST, FRESH, [NO_COMMA, LOWER]).reward == 1 + WHOLE
    half = JUDGE(HONEST.capitalize(), FRESH, [NO_COMMA, LOWER])
    assert (half.reward, half.kept, half.cut_off, half.guard) == (0.5, (True, False), False, 1.0)
    assert JUDGE(HONEST.upper() + ",", FRESH, [NO_COMMA, LOWER]).reward == 0


@pytest.mark.parametrize(
    ("answer", "ids"),
    [
        (HONEST, FRESH[:-1]),
        ("the sea " * 20, [1, 2] * 20 + [END]),
        ("ok", [1, END]),
        ("", [END]),
        ("", []),
    ],
    ids=["cut off", "loops", "a word", "nothing", "no token"],
)
def test_a_degenerate_answer_never_beats_an_honest_one(answer: str, ids: list[int]):
    honest = JUDGE(HONEST.capitalize(), FRESH, [NO_COMMA, LOWER]).reward
    assert JUDGE(answer, ids, [NO_COMMA, LOWER]).reward < 0.25 < honest


def test_what_is_wholly_degenerate_is_below_an_honest_answer_that_keeps_nothing():
    for answer, ids in ((HONEST, FRESH[:-1]), ("the sea " * 20, [1, 2] * 20 + [END]), ("", [END])):
        assert JUDGE(answer, ids, [LOWER]).reward == -DEGENERATE


def test_some_repetition_is_free_and_more_costs_gradually():
    def guard(repeats: int) -> float:
        ids = [*range(1, 41), *range(1, 1 + repeats), END]
        return JUDGE(HONEST, ids, [LOWER]).guard

    assert guard(0) == guard(8) == 1
    assert 1 > guard(20) > guard(30) > 0
    assert repetition([1, 2, 3, 4, 5, 1, 2, 3, 4]) == pytest.approx(1 / 6)


def test_few_words_are_enough_where_few_are_asked_for():
    assert least_words([{"type": "choice", "options": ["yes"]}], 8) == 1
    assert least_words([{"type": "words", "relation": "at_most", "count": 10}], 8) == 5
    assert least_words([{"type": "words", "relation": "at_least", "count": 3}, LOWER], 8) == 8
    assert JUDGE("yes", [5, END], [{"type": "choice", "options": ["yes", "no"]}]).reward == 1 + WHOLE


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(0, 40), st.integers(0, 99))
def test_prompts_come_in_passes_and_the_order_does_not_depend_on_how_many_are_wanted(prompts, wanted, seed):
    order = prompt_order(prompts, wanted, seed)
    assert len(order) == wanted
    assert order == prompt_order(prompts, wanted + 7, seed)[:wanted]
    for start in range(0, wanted - prompts + 1, prompts):
        assert sorted(order[start : start + prompts]) == list(range(prompts))


def test_pairs_and_prompts_with_earlier_turns_are_read_alike(tmp_path: Path):
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    rows = [
        {"prompt": turns, "constraints": [LOWER], "kind": "about", "from": "wikipedia"},
        {"prompt": "q", "chosen": "good", "constraints": [LOWER]},
        {"system": "s", "question": "q", "constraints": [LOWER]},
    ]
    found = list(read_prompts([write_jsonl(tmp_path / "p.jsonl", rows)]))
    assert found == [RewardPrompt(turns, [LOWER]), RewardPrompt(turns[1:], [LOWER]), RewardPrompt(turns, [LOWER])]


def test_log_probabilities_are_those_of_what_was_sampled_from(base: Path):
    model, tokenizer = open_pair(base, torch.float32)
    prompts = [tokenizer(text)["input_ids"] for text in ("the old man", "a", "the red cat ran to the sea")]
    how = RollOuts(6, 0.7, frozenset(range(0, 400, 5)))
    roller = Roller(base, how, torch.device("cpu"))
    found = roller(model, prompts, 3)
    assert found == roller(model, prompts, 3)
    assert found != roller(model, prompts, 4)
    repeated = [prompt for prompt in prompts for _ in range(2)]
    assert roller(model, prompts, 3, each=2) == roller(model, repeated, 3)
    for prompt, one in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt + one.ids])
        with torch.no_grad():
            expected = (model(ids).logits[0, len(prompt) - 1 : -1] / 0.7).log_softmax(-1)
        chosen = expected.gather(1, ids[0, len(prompt) :, None])[:, 0]
        torch.testing.assert_close(torch.tensor(one.log_probs), chosen, atol=1e-5, rtol=1e-5)
        assert not any(token in how.ends for token in one.ids[:-1])
        assert len(one.ids) == 6 or one.ids[-1] in how.ends
    with torch.no_grad():
        model.lm_head.weight[7] += 100 * model.lm_head.weight.norm()
        model.model.norm.weight.fill_(1.0)
    assert found != roller(model, prompts, 3), "the weights as they are now"


def test_replayed_rows_follow_from_the_step_and_carry_the_right_loss(base: Path, tmp_path: Path):
    model, tokenizer = open_pair(base, torch.float32)
    said = [{"role": "user", "content": "the cat?"}, {"role": "assistant", "content": "red hill"}]
    rows = [{"text": f"the old man {n}"} for n in range(7)] + [{"messages": said}]
    replay = read_replay([write_jsonl(tmp_path / "r.jsonl", rows)], tokenizer, 2 * ROW_TOKENS, steps=1)
    assert (len(replay.held), len(replay.learnt)) == (2, 6)
    batch = replay.batch(1, 4)  # rows 4, 5, 0, 1
    assert batch["input_ids"].equal(replay.tensors([replay.learnt[row] for row in (4, 5, 0, 1)])["input_ids"])
    labels = batch["labels"][1]
    assert tokenizer.decode(labels[labels != IGNORED]) == "red hill<|im_end|>"
    first = replay.learnt[0]
    assert first.ids[-1] == tokenizer.eos_token_id
    assert all(first.trained)
    with torch.no_grad():
        losses = [model(input_ids=torch.tensor([row.ids]), labels=torch.tensor([row.ids])).loss for row in replay.held]
    weights = torch.tensor([len(row.ids) - 1.0 for row in replay.held])
    assert perplexity(model, replay) == pytest.approx(
        float((torch.stack(losses) @ weights / weights.sum()).exp()), rel=1e-4
    )
