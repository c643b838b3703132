"""Commands that are killed -9 at any moment and started again leave what they leave undisturbed.

pytest tests/fuzz/test_kills.py                        # a few kills of the quick commands
KEYLM_KILLS=200 pytest -s tests/fuzz/test_kills.py     # so many trials over all commands; prints a table
"""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from fuzz.kills import Command, Tally, differences, timeless, trial, undisturbed
from support.instruction_examples import documents
from support.recipes import chat, tiny_recipe, write_jsonl

from keylm.pipeline.run import run

TRIALS = int(os.environ.get("KEYLM_KILLS", "0"))
CURATION = (
    "curation={near_duplicates=true, minimum_characters=1, language_threshold=0.0, "
    "filters={formal=[], casual=[], conversational=[], structured=[], synthetic=[]}}"
)
QUICK = {"train": 1, "instructions": 1}
"""Trials of each command without KEYLM_KILLS: what starts in a moment."""
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


@pytest.mark.timeout(400 + 120 * TRIALS)
def test_killed_commands_leave_what_they_leave_undisturbed(commands: dict[str, Command], tmp_path: Path):
    tallies = {name: Tally() for name in commands}
    wanted = {name: TRIALS // len(commands) + (n < TRIALS % len(commands)) for n, name in enumerate(commands)}
    for name, count in (wanted if TRIALS else QUICK).items():
        if not count or not find_spec(NEEDS.get(name, "keylm")):
            continue
        known = undisturbed(commands[name], tmp_path / name)
        for number in range(count):
            trial(commands[name], known, number, tmp_path / name, tallies[name])
        tally = tallies[name]
        print(f"{name}: {tally.trials} trials, {tally.kills} kills, {len(tally.differing)} differ", flush=True)
        shutil.rmtree(tmp_path / name)
    differing = [told for tally in tallies.values() for told in tally.differing]
    assert not differing, "\n".join(differing)
    assert sum(tally.kills for tally in tallies.values()), "nothing was killed"


def test_a_difference_is_found_and_the_clock_is_none():
    whole = {"a.json": timeless("a.json", b'{"loss": 1, "seconds": 2}'), "b": b"x"}
    assert not differences(whole, {"a.json": timeless("a.json", b'{"seconds": 3, "loss": 1}'), "b": b"x"})
    assert differences(whole, {"a.json": timeless("a.json", b'{"loss": 2}'), "c": b""}) == [
        "b is missing",
        "c is left over",
        "a.json differs",
    ]
