"""Files of instructions: the same for any number of workers, without benchmark items, with a manifest."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from support.instruction_examples import documents
from support.recipes import write_jsonl

from keylm.base.errors import KeylmError
from keylm.curate.decontamination import Decontaminator
from keylm.instructions import reward
from keylm.instructions.checks import HELD_OUT, TRAINED, violations
from keylm.instructions.generator import GeneratorSettings
from keylm.instructions.instruction_files import InstructionPlan, print_summary, write_instructions
from keylm.instructions.instruction_files import _without_items as without_items
from keylm.instructions.tables import fingerprint
from keylm.recipe.schema import Typos
from keylm.typos.model import TypoModel


def test_the_verb_writes_files_once_and_the_same_for_any_number_of_workers(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, texts in documents().items():
        write_jsonl(corpus / f"{name}.jsonl", [{"text": text.text} for text in texts])
    plan = InstructionPlan(
        corpus,
        count=60,
        everyday=0.5,
        preferences=5,
        rejected=True,
        prompts=40,
        evaluation=16,
        settings=GeneratorSettings(seed=3),
    )
    first = write_instructions(tmp_path / "one", plan, workers=1, quiet=True)
    second = write_instructions(tmp_path / "two", plan, workers=2, quiet=True)
    assert first == second
    assert first["files"]["verifiable.jsonl.zst"]["records"] == 30
    assert {source["licence"] for source in first["sources"]} == {"unstated"}
    assert first["fingerprints"] == {"instructions": fingerprint(), "typos": TypoModel(Typos()).fingerprint()}
    assert not list(tmp_path.glob(".tmp-*"))
    untrained = [row for row in lines(tmp_path / "one/evaluation.jsonl.zst") if row["set"] == "held_out"]
    assert Counter(row["constraints"][0]["type"] for row in untrained) == dict.fromkeys(HELD_OUT, 2)
    assert all(violations(row["reference"], row["constraints"]) == [] for row in untrained if row["reference"])
    with pytest.raises(KeylmError, match="none of the files"):
        write_instructions(tmp_path / "three", InstructionPlan(corpus, open_only=True))
    with pytest.raises(KeylmError, match="holds something else"):
        write_instructions(corpus, plan)


def test_what_a_corpus_loses_is_in_the_manifest_and_a_killed_writer_leaves_nothing(tmp_path, capsys):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    texts = documents()
    write_jsonl(corpus / "wikinews.jsonl", [{"text": text.text} for text in texts["wikinews"]] + [{"text": 3}, {}])
    packed = zstandard.compress("".join(json.dumps({"text": t.text}) + "\n" for t in texts["wikipedia"]).encode())
    (corpus / "wikipedia.jsonl.zst").write_bytes(packed[:-20])
    ended = f".tmp-{2**23}"
    (tmp_path / f"{ended}-out").mkdir()
    (tmp_path / f"{ended}-other").mkdir()
    plan = InstructionPlan(corpus, count=10, evaluation=1)
    manifest = write_instructions(tmp_path / "out", plan, quiet=True)
    faults = {source["name"]: source.get("faults") for source in manifest["sources"]}
    assert faults == {"wikinews": {"no_text_or_messages": 2}, "wikipedia": {"unreadable_file": 1}}
    assert write_instructions(tmp_path / "two", plan, workers=2, quiet=True)["sources"] == manifest["sources"]
    print_summary(tmp_path / "out", manifest)
    assert "wikipedia.jsonl.zst: not read as documents: 1 unreadable_file" in capsys.readouterr().out
    assert [left.name for left in tmp_path.glob(".tmp-*")] == [f"{ended}-other"]


def test_a_damaged_list_of_licences_is_one_clear_error(tmp_path):
    write_jsonl(tmp_path / "wikinews.jsonl", [{"text": text.text} for text in documents()["wikinews"]])
    (tmp_path / "corpus.json").write_text('[{"path": "wikinews.jsonl", "licence": 3, "licence_status": "open"}]')
    with pytest.raises(KeylmError, match=r"corpus\.json: 0\.licence: got 3; accepted: a valid string"):
        write_instructions(tmp_path / "out", InstructionPlan(tmp_path))


def lines(file: Path) -> list[dict]:
    with zstandard.open(file, "rt", encoding="utf-8") as text:
        return [json.loads(line) for line in text]


def test_prompts_have_one_to_three_trained_constraints_and_no_answer(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, texts in documents().items():
        write_jsonl(corpus / f"{name}.jsonl", [{"text": text.text} for text in texts])
    plan = InstructionPlan(corpus, count=1, evaluation=0, prompts=300, settings=GeneratorSettings(seed=4))
    manifest = write_instructions(tmp_path / "out", plan, quiet=True)
    prompts = lines(tmp_path / "out/prompts.jsonl.zst")
    assert len(prompts) == 300 == manifest["files"]["prompts.jsonl.zst"]["records"]
    for row in prompts:
        assert set(row) == {"prompt", "constraints", "kind", "from"}
        assert row["prompt"][-1]["role"] == "user"
        assert all(constraint["type"] in TRAINED for constraint in row["constraints"])
        assert len(reward("It rains.", row["constraints"]).kept) == len(row["constraints"])
    assert {len(row["constraints"]) for row in prompts} == {1, 2, 3}


def test_records_that_hold_a_benchmark_item_are_left_out(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, texts in documents().items():
        write_jsonl(corpus / f"{name}.jsonl", [{"text": text.text} for text in texts])
    plain = InstructionPlan(corpus, count=60, everyday=0.5, evaluation=4, settings=GeneratorSettings(seed=3))
    write_instructions(tmp_path / "plain", plain, quiet=True)
    answers = [row["messages"][-1]["content"] for row in lines(tmp_path / "plain/verifiable.jsonl.zst")]
    leaked = next(answer for answer in answers if len(answer.split()) >= 25)
    items = tmp_path / "items"
    items.mkdir()
    item = {"goal": " ".join(leaked.split()[:20]), "sol1": " ".join(leaked.split()[20:]), "sol2": "No.", "label": 0}
    split = {
        "goal": "Why does ink dry on paper?",
        "sol1": "Its water sinks in and leaves the dark dye behind.",
        "sol2": "No.",
    }
    write_jsonl(items / "piqa.jsonl", [item, {**split, "label": 0}])
    manifest = write_instructions(tmp_path / "clean", replace(plain, decontaminate=(items,)), quiet=True)
    kept = [row["messages"][-1]["content"] for row in lines(tmp_path / "clean/verifiable.jsonl.zst")]
    assert leaked not in kept
    assert manifest["files"]["verifiable.jsonl.zst"]["with_benchmark_items"] >= 1
    assert len(kept) == 30
    searched = Decontaminator.from_paths([items])
    turns = [{"role": "user", "content": split["goal"]}, {"role": "assistant", "content": split["sol1"]}]
    fair = {"prompt": turns[:1], "chosen": "It depends on the paper.", "constraints": []}
    asked = [{"messages": turns}, {**fair, "chosen": split["sol1"]}, {**fair, "rejected": split["sol1"]}, fair]
    assert without_items(asked, searched) == [fair], "an item's question and answer are two turns"
    with pytest.raises(KeylmError):
        write_instructions(tmp_path / "none", replace(plain, decontaminate=(tmp_path / "nothing",)), quiet=True)
