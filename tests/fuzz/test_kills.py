"""Commands that are killed -9 at any moment and started again leave what they leave undisturbed.

pytest tests/fuzz/test_kills.py                        # a few kills of the quick commands
KEYLM_KILLS=200 pytest -s tests/fuzz/test_kills.py     # so many trials over all commands; prints a table
"""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from fuzz.kills import Command, Tally, differences, timeless, trial, undisturbed
from support import programs
from support.instruction_examples import documents
from support.recipes import chat, tiny_recipe, write_jsonl

from keylm.pipeline.run import run

KILLS, FIRST = int(os.environ.get("KEYLM_KILLS", "0")), int(os.environ.get("KEYLM_KILLS_FROM", "0"))
CURATION = (
    "curation={near_duplicates=true, minimum_characters=1, language_threshold=0.0, "
    "filters={formal=[], casual=[], conversational=[], structured=[], synthetic=[]}}"
)
QUICK = ("train", "instructions")
"""The commands that are killed without KEYLM_KILLS, once or more each: what starts in a moment."""
HEAVY = (
    *("keylm.curate.pipeline", "keylm.curate.steps", "keylm.tuning.dpo", "keylm.tuning.dpo_trainer", "lm_eval"),
    *("keylm.evaluation.benchmarks", "keylm.export.exporter", "keylm.instructions.instruction_files", "onnxruntime"),
)
"""What the commands import: once for all of them where there are many trials."""
NEEDS = {"build": "datatrove", "dpo": "trl", "eval": "lm_eval", "export": "onnxruntime"}


@pytest.fixture(scope="module")
def commands(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Command]:
    """Return the commands by name, over one tiny recipe, its model and its data."""
    place = tmp_path_factory.mktemp("kills")
    tiny_recipe(place / "recipe")
    recipe, data = str(place / "recipe/recipe.toml"), str(place / "recipe/chat.jsonl")
    corpus, items = place / "corpus", place / "items"
    for name, texts in documents().items():
        corpus.mkdir(exist_ok=True)
        write_jsonl(corpus / f"{name}.jsonl", [{"text": text.text} for text in texts])
    (items / "data/piqa").mkdir(parents=True)
    goals = [{"goal": f"the {n} cat", "sol1": "ran on", "sol2": "sat in the rain", "label": n % 2} for n in range(9)]
    write_jsonl(items / "data/piqa/validation.jsonl", goals)
    pairs = [{"prompt": f"the {n}?", "chosen": f"rain {n}.", "rejected": f"hill {n}."} for n in range(24)]
    preferences = str(write_jsonl(place / "pairs.jsonl", pairs))
    questions = write_jsonl(place / "evaluation.jsonl", instruction_items())
    build = tiny_recipe(place / "curated", [CURATION, "data.shard_tokens=2048"])
    (place / "curated/given.toml").write_text(build.to_toml())
    run(tiny_recipe(place / "shards"), place / "shards/run", until="shards", quiet=True)
    cpu = ["--set", "training.device=cpu", "--set", "training.precision=fp32", "--set", "evaluation.chats=[]"]
    quick = ["--set", "checkpoints.every_steps=2", "--quiet"]
    made = ["--count", "40", "--preferences", "4", "--rejected", "--evaluation", "3", "--workers", "1", "--quiet"]
    formats = ["--to", "hf,gguf,onnx", "--gguf-types", "f16,q8_0", "--onnx-types", "fp32,int8", "--quiet"]
    tasks = ["--tasks", "piqa,instructions", "--tasks-path", str(items), "--items", str(questions), "--quiet"]
    dpo = ["--batch-pairs", "4", "--epochs", "2", "--device", "cpu", "--quiet"]
    found = [
        Command(
            "build",
            lambda out: ["data", "build", str(place / "curated/given.toml"), "--run-dir", str(out), "--workers", "1"],
        ),
        Command("train", lambda out: ["run", recipe, "--run-dir", str(out), *quick]),
        Command("sft", lambda out: ["sft", str(base), data, "--out", str(out), "--epochs", "1", *cpu, *quick]),
        Command("dpo", lambda out: ["dpo", str(base), preferences, "--out", str(out), *dpo]),
        Command("eval", lambda out: ["eval", str(base), "--out", str(out), "--device", "cpu", *tasks]),
        Command("export", lambda out: ["export", str(base), "--out", str(out), "--name", "tiny", *formats]),
        Command("instructions", lambda out: ["data", "instructions", str(out), "--corpus", str(corpus), *made]),
    ]
    return {command.name: command for command in found}


def instruction_items() -> list[dict[str, object]]:
    rule = {"type": "words", "relation": "at_most", "count": 4}
    plain = {"set": "trained", "messages": chat("the cat?")["messages"], "constraints": [rule], "max_new_tokens": 4}
    return [{**plain, "max_new_tokens": 3 + n % 3} for n in range(6)]


def test_killed_commands_leave_what_they_leave_undisturbed(commands: dict[str, Command], tmp_path: Path):
    names = [name for name in commands if find_spec(NEEDS.get(name, "keylm"))]
    if KILLS:
        programs.ALSO_IMPORTED += HEAVY
    else:
        names = [name for name in names if name in QUICK]
    known, tallies = {}, {name: Tally() for name in names}
    for number in range(FIRST, FIRST + (KILLS or len(names))):
        name = names[number % len(names)]
        if name not in known:
            known[name] = undisturbed(commands[name], tmp_path / name)
        trial(commands[name], known[name], number, tmp_path / name, tallies[name])
        if KILLS:
            print(f"{number}: {name}: {tallies[name]}", flush=True)
        if KILLS and sum(tally.kills for tally in tallies.values()) >= KILLS:
            break
    findings = [told for tally in tallies.values() for told in tally.findings]
    assert not findings, "\n".join(findings)
    assert sum(tally.kills for tally in tallies.values()), "nothing was killed"


def test_a_difference_is_found_and_the_clock_is_none():
    whole = {"a.json": timeless("a.json", b'{"loss": 1, "seconds": 2}'), "b": b"x"}
    assert not differences(whole, {"a.json": timeless("a.json", b'{"seconds": 3, "loss": 1}'), "b": b"x"})
    assert differences(whole, {"a.json": timeless("a.json", b'{"loss": 2}'), "c": b""}) == [
        "b is missing",
        "c is left over",
        "a.json differs",
    ]
