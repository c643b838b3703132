"""Tuning by rewards in miniature: TRL, keylm's sampler and judge, resuming, replayed text, the result, bad input."""

import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.recipes import write_jsonl

from keylm.base.errors import Interrupted, KeylmError
from keylm.base.files import read_json, write_json
from keylm.base.json_lines import read_rows
from keylm.cli import tuning as cli
from keylm.instructions import Reward, reward
from keylm.tuning.grpo import grpo
from keylm.tuning.pairs import Constraint
from keylm.tuning.reward_settings import Reinforcement
from keylm.tuning.trl_runs import Tools

pytest.importorskip("trl", reason="needs keylm[post]")

TOOLS = Tools("cpu", 72, quiet=True)
LOWER = {"type": "lower_case"}
SETTINGS = Reinforcement(
    epochs=10, learning_rate=3e-2, batch_prompts=6, answers=12, max_new_tokens=6, least_words=1, replay_weight=10.0
)
SHORT = replace(SETTINGS, epochs=6, batch_prompts=12, answers=4)
QUESTIONS = [f"the {one} {two}?" for one in ("red", "old", "the") for two in ("cat", "fox", "man", "sea")]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve questions to be answered in lower case, and lines of no use."""
    rows: list[Any] = [{"prompt": question, "constraints": [LOWER]} for question in QUESTIONS]
    useless = [{"prompt": "the?", "constraints": []}, {"prompt": [], "constraints": [LOWER]}, "the?"]
    return write_jsonl(tmp_path_factory.mktemp("asked") / "prompts.jsonl", [*rows, *useless])


@pytest.fixture(scope="module")
def tuned(base: Path, asked: Path, tmp_path_factory: pytest.TempPathFactory):
    return grpo(base, [asked], tmp_path_factory.mktemp("grpo") / "run", SETTINGS, TOOLS)


@pytest.fixture(scope="module")
def texts(base: Path) -> Path:
    """The tiny recipe's stories, which its model has hardly learnt."""
    return base.parents[1] / "tales.jsonl"


@pytest.fixture(scope="module")
def replayed(base: Path, asked: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory):
    return grpo(base, [asked], tmp_path_factory.mktemp("grpo") / "run", SHORT, TOOLS, replay=[texts])


def mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def test_answers_that_keep_the_constraint_become_likelier(tuned):
    rows = read_rows(tuned.metrics, "reward")
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert [row["prompts"] for row in rows] == [6 * row["step"] for row in rows]
    first, last = rows[:4], rows[-4:]
    assert mean(last, "reward") > mean(first, "reward") + 0.5
    assert mean(last, "kept") > mean(first, "kept") + 0.2
    assert mean(last, "cut_off") < mean(first, "cut_off") - 0.5
    assert mean(last, "length") < mean(first, "length") - 1
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["kl"] > 0.1
    assert rows[-1]["families"]["lower_case"] == pytest.approx(rows[-1]["kept"])


def test_the_sampler_answers_with_the_weights_that_are_trained(tuned):
    assert max(row["sampling_gap"] for row in read_rows(tuned.metrics, "reward")) < 1e-4


def test_the_result_is_a_model_folder_like_any_other(base: Path, tuned):
    from transformers import AutoModelForCausalLM

    assert {file.name for file in tuned.model.iterdir()} == {file.name for file in base.iterdir()}
    assert AutoModelForCausalLM.from_pretrained(tuned.model).dtype == torch.bfloat16
    assert [fault["kind"] for fault in read_json(tuned.path / "faults.json")] == [
        "no_constraints",
        "no_prompt",
        "not_a_record",
    ]
    page = tuned.report.read_text()
    assert "tuning by rewards" in page
    assert page.count("<svg") >= 12
    assert "lower_case" in page
    assert "replayed" not in page


def test_replayed_text_is_learnt_and_its_cost_is_told(replayed):
    told = read_json(replayed.summary)["replay"]
    assert told["after"] < 0.9 * told["before"]
    assert told["documents"] > 1
    page = replayed.report.read_text()
    assert "perplexity per token" in page
    assert f"{told['after']:.3f}" in page
    losses = [row["replay_loss"] for row in read_rows(replayed.metrics, "reward")]
    assert losses[-1] < losses[0]


def test_a_stopped_and_killed_command_goes_on_as_if_nothing_had_happened(
    base: Path, asked: Path, texts: Path, replayed, tmp_path: Path
):
    def stopping(answer: str, constraints: Sequence[Constraint]) -> Reward:
        nonlocal checked
        checked += 1
        if checked == 3 * 48 + 1:  # 48 answers a step
            signal.raise_signal(signal.SIGINT)
        return reward(answer, constraints)

    checked, path = 0, tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("keylm.tuning.rewards.reward", stopping)
        with pytest.raises(Interrupted, match="stopped after step 4 of 6; the same command goes on"):
            grpo(base, [asked], path, SHORT, TOOLS, replay=[texts])
    assert len(read_rows(path / "metrics.jsonl")) == 4
    (path / "trl/checkpoint-4/trainer_state.json").unlink()  # as it is when the process dies while it writes
    folder = grpo(base, [asked], path, SHORT, TOOLS, replay=[texts])
    assert folder.metrics.read_bytes() == replayed.metrics.read_bytes()
    weights = [(run.model / "model.safetensors").read_bytes() for run in (folder, replayed)]
    assert weights[0] == weights[1]
    done = read_json(folder.stages)
    grpo(base, [asked], path, SHORT, TOOLS, replay=[texts])
    assert read_json(folder.stages) == done


def test_other_settings_other_text_and_another_kind_of_run_are_refused(
    base: Path, asked: Path, texts: Path, replayed, tmp_path: Path
):
    with pytest.raises(KeylmError, match=r"begun with another beta \(0\.04, now 0\.5\); accepted: the same command"):
        grpo(base, [asked], replayed.path, replace(SHORT, beta=0.5), TOOLS, replay=[texts])
    with pytest.raises(KeylmError, match="begun with another replay; accepted"):
        grpo(base, [asked], replayed.path, SHORT, TOOLS)
    (tmp_path / "dpo.json").write_text("{}")
    for folder in (base.parent, tmp_path):
        with pytest.raises(KeylmError, match="holds another kind of run"):
            grpo(base, [asked], folder, SHORT, TOOLS)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ({"type": "rhyme"}, r"prompts.jsonl, line 2: .*rhyme.*: unknown type; accepted: words, "),
        (
            {"type": "question_marks", "count": 1},
            "line 2: constraint type question_marks is held out .*accepted: words",
        ),
        ({"type": "words"}, "line 2: {'type': 'words'}: relation; accepted: at_least"),
        ({"type": "bullets", "count": "many"}, "line 2: .*many.*: count; accepted: a whole number"),
    ],
)
def test_a_constraint_that_cannot_be_trained_on_is_one_clear_error(
    constraint: Constraint, message: str, base: Path, tmp_path: Path
):
    rows = [{"prompt": "a?", "constraints": [LOWER]}, {"prompt": "b?", "constraints": [LOWER, constraint]}]
    with pytest.raises(KeylmError, match=message):
        grpo(base, [write_jsonl(tmp_path / "prompts.jsonl", rows)], tmp_path / "run", SHORT, TOOLS)


def test_what_cannot_be_tuned_is_one_clear_error(base: Path, asked: Path, tmp_path: Path):
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "a?", "chosen": "b", "rejected": "c"}])
    with pytest.raises(KeylmError, match=r"give no prompt .*'no_constraints': 1.*accepted: lines with prompt and cons"):
        grpo(base, [pairs], tmp_path / "pairs", SHORT, TOOLS)
    with pytest.raises(KeylmError, match="none with room for 32 tokens of answer: the context has 32; accepted"):
        grpo(base, [asked], tmp_path / "room", replace(SHORT, max_new_tokens=32), TOOLS)
    with pytest.raises(KeylmError, match="0 texts to replay; accepted: at least two"):
        grpo(base, [asked], tmp_path / "text", SHORT, TOOLS, replay=[write_jsonl(tmp_path / "none.jsonl", [{"a": 1}])])
    plain = shutil.copytree(base, tmp_path / "plain")
    write_json(plain / "tokenizer_config.json", read_json(plain / "tokenizer_config.json") | {"chat_template": None})
    with pytest.raises(KeylmError, match="has no chat template; accepted: a model that was tuned to chat"):
        grpo(plain, [asked], tmp_path / "chat", SHORT, TOOLS)
    with pytest.raises(KeylmError, match=r"--temperature 0\.0, .*accepted: numbers over 0"):
        cli.grpo(base, [asked], tmp_path / "cold", temperature=0.0)
