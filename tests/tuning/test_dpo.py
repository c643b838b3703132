"""Preference tuning in miniature: pairs from files and from the model's own answers, TRL, resuming, the result."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.recipes import write_jsonl

from keylm.base.errors import KeylmError
from keylm.base.files import read_json
from keylm.base.json_lines import read_rows
from keylm.data.documents import Fault
from keylm.runtimes.generation import Message
from keylm.tuning.dpo import dpo
from keylm.tuning.pairs import Constraint, PairRequest, Search, make_pairs, read_pairs, read_requests
from keylm.tuning.preference_settings import Preference
from keylm.tuning.trl_runs import Tools, round_by_chance

trl = pytest.importorskip("trl", reason="needs keylm[post]")

SETTINGS = Preference(learning_rate=5e-3, batch_pairs=4, holdout=0.2, max_new_tokens=8, epochs=2)
QUESTIONS = [f"the {one} {two}?" for one in ("red", "old", "the") for two in ("cat", "fox", "man", "sea")]


def toy(answer: str, constraints: Sequence[Constraint]) -> list[Constraint]:
    """Return the words that are required and missing."""
    return [one for one in constraints if one["word"] not in answer.split()]


TOOLS = Tools("cpu", 2, lambda: toy, quiet=True)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve questions whose answers must hold a word, one with a bad example, and two lines of no use."""
    rows = [
        {"prompt": question, "chosen": "red hill and rain.", "constraints": [{"word": "and"}]} for question in QUESTIONS
    ]
    useless = [{"prompt": "the?", "chosen": ""}, {"prompt": [], "chosen": "a", "rejected": "b"}]
    bad = {"prompt": "a?", "chosen": "rain.", "constraints": [{"word": "hill"}]}
    return write_jsonl(tmp_path_factory.mktemp("asked") / "pairs.jsonl", [*rows, *useless, bad])


@pytest.fixture(scope="module")
def tuned(base: Path, asked: Path, tmp_path_factory: pytest.TempPathFactory):
    return dpo(base, [asked], tmp_path_factory.mktemp("dpo") / "run", SETTINGS, TOOLS)


def test_rejected_answers_are_the_models_own_and_violate(tuned):
    pairs = read_pairs(tuned.path / "pairs.jsonl")
    assert len(pairs) > 8
    assert all(toy(pair["rejected"], [{"word": "and"}]) for pair in pairs)
    assert {pair["chosen"] for pair in pairs} == {"red hill and rain."}
    assert len({pair["rejected"] for pair in pairs}) > 3
    skipped = [row["skipped"] for row in read_rows(tuned.path / "pairs.jsonl") if "skipped" in row]
    assert "chosen_violates" in skipped
    assert [fault["kind"] for fault in read_json(tuned.path / "faults.json")] == ["no_chosen", "no_prompt"]


def test_tuning_prefers_the_chosen_answers_and_the_record_says_so(tuned):
    learnt, held = (read_rows(tuned.metrics, kind) for kind in ("preference", "held_out"))
    assert learnt[-1]["loss"] < learnt[0]["loss"]
    assert learnt[-1]["margin"] > 0.05
    assert held[0]["margin"] == pytest.approx(0, abs=1e-6)
    assert held[-1]["margin"] > 0
    assert [row["pairs"] for row in learnt] == [4 * row["step"] for row in learnt]
    summary = read_json(tuned.summary)
    assert summary["pairs"] + summary["held_out"] + summary["too_long"] == len(read_pairs(tuned.path / "pairs.jsonl"))


def test_the_result_is_a_model_folder_like_any_other(base: Path, tuned):
    from transformers import AutoModelForCausalLM

    assert {file.name for file in tuned.model.iterdir()} == {file.name for file in base.iterdir()}
    model = AutoModelForCausalLM.from_pretrained(tuned.model)
    before = AutoModelForCausalLM.from_pretrained(base)
    assert model.dtype == torch.bfloat16
    assert not torch.equal(model.lm_head.weight, before.lm_head.weight)
    page = tuned.report.read_text()
    assert "preference tuning" in page
    assert page.count("<svg") >= 3
    assert "red hill and rain." in page


def test_a_killed_command_goes_on_and_a_finished_one_does_nothing(base: Path, asked: Path, tuned, tmp_path: Path):
    shutil.copytree(tuned.path, tmp_path / "run")
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    done = read_json(tmp_path / "run" / "stages.json")
    folder = dpo(base, [asked], tmp_path / "run", SETTINGS, TOOLS)
    assert read_json(folder.stages) == done
    # As it is when the process dies after TRL's last checkpoint but one, in the middle of the last.
    checkpoints = sorted((folder.path / "trl").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert len(checkpoints) == 2
    (checkpoints[-1] / "trainer_state.json").unlink()
    shutil.rmtree(folder.model)
    (folder.path / "metrics.jsonl").write_text("")
    dpo(base, [asked], folder.path, SETTINGS, TOOLS)
    again = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    first = [json.loads(line) for line in metrics.decode().splitlines()]
    assert [(row["kind"], row["step"]) for row in again] == [(row["kind"], row["step"]) for row in first]
    assert again[-1]["loss"] == pytest.approx(first[-1]["loss"], abs=1e-4)
    weights = [(path / "model" / "model.safetensors").read_bytes() for path in (folder.path, tuned.path)]
    assert weights[0] == weights[1]


def test_other_settings_another_model_and_another_kind_of_run_are_refused(base: Path, asked: Path, tuned):
    with pytest.raises(KeylmError, match=r"begun with another beta \(0\.1, now 0\.5\); accepted: the same command"):
        dpo(base, [asked], tuned.path, Preference(**{**vars(SETTINGS), "beta": 0.5}), TOOLS)
    with pytest.raises(KeylmError, match="begun with another model"):
        dpo(tuned.model, [asked], tuned.path, SETTINGS, TOOLS)
    with pytest.raises(KeylmError, match="holds another kind of run"):
        dpo(base, [asked], base.parent, SETTINGS, TOOLS)


def test_data_without_a_pair_are_one_clear_error(base: Path, tmp_path: Path):
    file = write_jsonl(tmp_path / "none.jsonl", [{"prompt": "a?", "chosen": "b", "rejected": "b"}, {"text": "c"}])
    with pytest.raises(KeylmError, match=r"give no pair to tune on .*'same_answers': 1.*accepted: lines with prompt"):
        dpo(base, [file], tmp_path / "run", SETTINGS, TOOLS)
    with pytest.raises(KeylmError, match="does not exist"):
        dpo(base, [tmp_path / "nowhere.jsonl"], tmp_path / "other", SETTINGS, TOOLS)


def test_a_pair_that_spells_a_special_token_is_left_out(base: Path, tmp_path: Path):
    """TRL would take it for one."""
    rows = [
        {"prompt": "a<|im_end|>?", "chosen": "b", "rejected": "c"},
        {"prompt": "a?", "chosen": "b", "rejected": "<|pad|>"},
    ]
    file = write_jsonl(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(KeylmError, match=r"2 pairs, none .*: 0 too long .*, 2 that spell out a special token"):
        dpo(base, [file], tmp_path / "run", SETTINGS, TOOLS)


def test_lines_are_read_in_all_their_forms(tmp_path: Path):
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    whole = [*turns, {"role": "assistant", "content": "good"}]
    file = write_jsonl(
        tmp_path / "p.jsonl",
        [{"prompt": "q", "chosen": "good", "rejected": "bad"}, {"prompt": turns, "chosen": whole, "rejected": "bad"}],
    )
    first, second = read_requests([file])
    assert isinstance(first, PairRequest)
    assert isinstance(second, PairRequest)
    assert first.prompt == turns[1:]
    assert (second.prompt, second.chosen, second.rejected, second.line) == (turns, "good", "bad", 1)


TURNS = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
GOOD, BAD = ([{"role": "assistant", "content": text}] for text in ("good", "bad"))


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": TURNS + GOOD, "rejected": TURNS + BAD},
        {"prompt": TURNS, "chosen": GOOD, "rejected": BAD},
        {"prompt": TURNS, "chosen": TURNS[1:] + GOOD, "rejected": TURNS[1:] + BAD},
        {"prompt": "q", "chosen": TURNS + GOOD, "rejected": TURNS + BAD},
        {"prompt": " q ", "chosen": TURNS + GOOD, "rejected": TURNS + BAD},
        {"system": "s", "question": "q", "chosen": "good", "rejected": "bad"},
        {"system": "s", "instruction": "q", "input": "", "chosen": GOOD[0], "rejected": BAD[0]},
        {"messages": TURNS, "chosen": "good", "rejected": "bad"},
        {"system": "s", "chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
        {
            "prompt": [
                {"role": "developer", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "q"}]},
            ],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "good"}]}],
            "rejected": [{"from": "gpt", "value": "bad"}],
        },
    ],
)
def test_pairs_are_read_in_the_hubs_forms(row: dict[str, Any], tmp_path: Path):
    [pair] = read_requests([write_jsonl(tmp_path / "p.jsonl", [row])])
    assert pair == PairRequest(0, TURNS, "good", "bad", [])


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "q", "chosen": GOOD, "rejected": [{"role": "user", "content": "x"}]}, "no_rejected_or_constraints"),
        ({"prompt": "q", "chosen": [*GOOD, TURNS[1], *GOOD], "rejected": BAD}, "prompts_differ"),
        ({"chosen": "good", "rejected": "bad"}, "no_prompt"),
        ({"chosen": 5, "rejected": "bad"}, "no_chosen"),
        ({"prompt": "q", "chosen": [{"role": "tool", "content": "x"}], "rejected": BAD}, "unknown_role"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}], "chosen": GOOD, "rejected": BAD}, "not_text"),
    ],
)
def test_a_pair_that_cannot_be_read_is_told_why(row: dict[str, Any], kind: str, tmp_path: Path):
    [fault] = read_requests([write_jsonl(tmp_path / "p.jsonl", [row])])
    assert isinstance(fault, Fault)
    assert (fault.line, fault.kind) == (1, kind)


def test_a_pair_with_tools_is_read_and_the_tools_are_told(tmp_path: Path):
    file = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "q", "chosen": GOOD, "rejected": BAD, "tools": ["t"]}])
    notice, pair = read_requests([file])
    assert isinstance(notice, Fault)
    assert (notice.kind, pair) == ("tools_not_used", PairRequest(0, TURNS[1:], "good", "bad", []))


def test_sampling_goes_on_with_the_lines_that_are_left(tmp_path: Path):
    asked = [PairRequest(n, [{"role": "user", "content": str(n)}], "yes", None, [{"word": "yes"}]) for n in range(10)]
    seen: list[int] = []

    def sample(conversations: Sequence[list[Message]], seed: int) -> list[str]:
        numbers = [int(messages[0]["content"]) for messages in conversations]
        seen.extend(numbers)
        if 7 in numbers and len(seen) < 12:
            raise KeyboardInterrupt
        return ["yes" if number == 2 else "no" for number in numbers]

    out, search = tmp_path / "pairs.jsonl", Search(tries=3, batch=4)
    with pytest.raises(KeyboardInterrupt):
        make_pairs(asked, out, lambda: sample, lambda: toy, search, quiet=True)
    assert [row["line"] for row in read_rows(out)] == [0, 1, 2, 3]
    assert seen.count(2) == 3, "an answer without fault is asked for again"
    out.write_text(out.read_text() + '{"line": 4, "pro')  # a line that was being written
    seen.clear()
    seen.extend([99] * 12)
    counts = make_pairs(asked, out, lambda: sample, lambda: toy, search, quiet=True)
    assert counts == {"pairs": 9, "no_violation_found": 1}
    assert min(number for number in seen if number != 99) == 4
    assert [row["line"] for row in read_rows(out)] == list(range(10))


def test_rounding_by_chance_keeps_the_mean_and_what_needs_no_rounding():
    generator = torch.Generator().manual_seed(1)
    exact = torch.randn(1000, generator=generator).bfloat16().float()
    assert torch.equal(round_by_chance(exact, generator).float(), exact)
    values = exact[:1].expand(200_000) * (1 + 2**-10)  # a quarter of the way to the next bf16 number, or an eighth
    rounded = round_by_chance(values, generator).float()
    assert len(rounded.unique()) == 2
    assert torch.equal(values.bfloat16().float(), exact[:1].expand(200_000)), "to the nearest, the change is gone"
    moved, meant = (rounded - exact[0]).mean(), (values - exact[0]).mean()
    assert moved / meant == pytest.approx(1, abs=0.03)
