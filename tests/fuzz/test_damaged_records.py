"""Damaged files of records that are no sources: preference pairs, evaluation items, word lists, instruction corpora."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from fuzz.mutation import budget, dice, mutate_bytes, mutate_json, probe, report
from support.instruction_examples import GOOD_AND_BAD, documents
from support.recipes import chat

from keylm.base.files import read_json
from keylm.base.json_lines import read_rows
from keylm.curate.decontamination import Decontaminator
from keylm.curate.evaluation_items import read_items
from keylm.data.documents import Fault
from keylm.data.readers import FileRecords
from keylm.data.sources import read_source
from keylm.evaluation import instructions
from keylm.evaluation.typing_items import git_fixes_set
from keylm.instructions.instruction_files import InstructionPlan, write_instructions
from keylm.recipe.schema import Source
from keylm.tuning.pairs import Search, default_checker, make_pairs, read_pairs, read_requests
from keylm.typos.lists import read_lists

PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
PAIRS: list[dict[str, Any]] = [
    {"prompt": "the cat?", "chosen": "It sat.", "rejected": "It ran."},
    {"messages": chat("a?")["messages"], "chosen": chat("a?", "b")["messages"], "rejected": "c", "source": "x"},
    {"prompt": "no?", "chosen": "Yes.", "constraints": [{"type": "words", "relation": "at_most", "count": 4}]},
    {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
]
ITEMS: list[dict[str, Any]] = [
    {"question": "What is a reed?", "choices": ["A grass.", "A bird."], "answer": 0},
    {"question": {"stem": "Why?", "choices": [{"text": "So.", "label": "A"}]}, "answerKey": "A"},
    {"goal": "Dry ink on paper", "sol1": "Wait for it.", "sol2": "Eat it.", "label": 0},
    {"ctx": "A man", "endings": ["sits.", "flies."], "label": "1", "activity_label": "Chess"},
    {"text": "the last word of this is rain"},
]
TASKS: list[dict[str, Any]] = [
    {"set": "trained", "messages": chat("Say it.")["messages"], "constraints": [one], "max_new_tokens": 4}
    for one, _, _ in GOOD_AND_BAD[::6]
] + [
    {"set": "typos", "messages": chat("Fix: teh cat")["messages"], "constraints": [], "max_new_tokens": 4}
    | {"noisy": "teh cat", "reference": "the cat"}
]


def damaged(file: Path, rows: list[dict[str, Any]], rng: Any) -> Path:
    """Write rows as JSON lines, packed by the file's ending, with a row changed or bytes damaged."""
    lines = [json.dumps(row) for row in rows]
    for _ in range(rng.choice((0, 1, 1, 2))):
        at = rng.randrange(len(rows))
        lines[at] = json.dumps(mutate_json(json.loads(json.dumps(rows[at])), rng))
    packer = PACKERS.get(file.suffix, PACKERS[""])
    content = packer("".join(line + "\n" for line in lines).encode())
    file.write_bytes(mutate_bytes(content, rng) if rng.random() < 0.4 else content)
    return file


def prefer(folder: Path, rng: Any) -> None:
    """Read preference pairs: each line is a request or a fault; each request is a pair, or is skipped with a reason."""
    file = damaged(folder / f"pairs.jsonl{rng.choice(list(PACKERS))}", PAIRS, rng)
    found = list(read_requests([file]))
    faults = [one for one in found if isinstance(one, Fault)]
    requests = [one for one in found if not isinstance(one, Fault)]
    records = sum(1 for _ in FileRecords(file))
    changed = sum(fault.kind == "weight_not_used" for fault in faults)
    assert len(requests) + len(faults) - changed >= records, "a line that is neither a request nor a fault"
    out = folder / "out.jsonl"
    counts = make_pairs(requests, out, lambda: long_answers, default_checker, Search(tries=1), quiet=True)
    assert sum(counts.values()) == len(requests)
    assert counts["pairs"] == len(read_pairs(out))
    assert len(read_rows(out)) == len(requests)


def long_answers(asked: Any, seed: int) -> list[str]:
    return ["word " * 9] * len(asked)


def protect(folder: Path, rng: Any) -> None:
    """Read benchmark items to decontaminate with: each line is an item, or reading stops."""
    file = damaged(folder / f"set.jsonl{rng.choice(list(PACKERS))}", ITEMS, rng)
    items = [item for found in read_items([file]).values() for item in found]
    assert len(items) >= len(ITEMS) - 1, "an item that is skipped in silence"
    Decontaminator.from_paths([file]).check_many(["the last word of this is rain"])


def ask(folder: Path, rng: Any) -> None:
    """Read the items of the evaluation of instructions, and score answers to them."""
    items = instructions.read_items(damaged(folder / f"evaluation.jsonl{rng.choice(['', '.zst'])}", TASKS, rng))
    json.dumps(instructions.score(items, ["the cat"] * len(items)), allow_nan=False)


def mistype(folder: Path, rng: Any) -> None:
    """Read a list of known misspellings."""
    rows = [{"noisy": "teh", "clean": "the"}, {"noisy": "recieve", "clean": "receive"}] * 3
    file = damaged(folder / f"words.jsonl{rng.choice(['', '.zst'])}", rows, rng)
    listed, _ = read_lists([str(file)])
    assert listed is not None


def retype(folder: Path, rng: Any) -> None:
    """Read real typing errors and their corrections; that they are all there is proved by their hash."""
    rows = [{"repo": f"a/{n}", "clean": f"The cat {n} sat.", "noisy": f"Teh cat {n} sat."} for n in range(8)]
    (folder / "typo").mkdir()
    damaged(folder / "typo/git_fixes.jsonl.zst", rows, rng)
    assert len(git_fixes_set(folder).digest) == 64


def instruct(folder: Path, rng: Any) -> None:
    """Make instruction data of a damaged corpus: what cannot be read of it is in the manifest."""
    for name, texts in documents().items():
        file = folder / f"corpus/{name}.jsonl{rng.choice(list(PACKERS))}"
        file.parent.mkdir(exist_ok=True)
        damaged(file, [{"text": text.text} for text in texts], rng)
    if rng.random() < 0.3:
        listed = [{"path": "x", "licence": "CC0", "licence_status": "open"}]
        (folder / "corpus/corpus.json").write_text(json.dumps(mutate_json(listed, rng)))
    write_instructions(folder / "out", InstructionPlan(folder / "corpus", count=12, evaluation=2), quiet=True)
    for source in read_json(folder / "out/manifest.json")["sources"]:
        read = Source(path=str(folder / "corpus" / source["file"]))
        faults = sum(isinstance(item, Fault) for item in read_source(source["name"], read))
        assert sum(source.get("faults", {}).values()) == faults, "faults of a corpus that go unreported"


ACTS = {prefer: 60, protect: 60, ask: 60, mistype: 60, retype: 60, instruct: 4}


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_damaged_records(act: Callable[[Path, Any], None], tmp_path: Path):
    findings = {}
    for number in budget(ACTS[act]):
        rng, folder = dice(f"records {act.__name__}", number), tmp_path / "case"
        folder.mkdir()
        if found := probe(lambda folder=folder, rng=rng: act(folder, rng)):
            findings[f"{act.__name__} {number}"] = found
        shutil.rmtree(folder)
    report(findings)
