"""How well a model follows instructions that a program can check, on items from `keylm data instructions`.

Three sets (instructions/held_out_items.py): constraints of trained types on held-out documents, constraints of types
never seen in training, and typo fixing on held-out sentences. Decoding is greedy, so the figures are reproducible on
one machine; each is a share with a 95 % bootstrap interval over items and its standard error.
Cost: one answer an item, batched by length.
"""

import difflib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field

from keylm.base.console import Status
from keylm.base.errors import KeylmError
from keylm.base.files import read_table, sha256_file, write_json
from keylm.base.packed import json_rows
from keylm.base.shapes import check, json_object, list_of
from keylm.evaluation.following import EACH_KIND
from keylm.evaluation.shapes import Text
from keylm.evaluation.statistics import Tallies
from keylm.instructions.checks import FAMILIES, check_constraint, keeps
from keylm.model.folder import model_fingerprint
from keylm.runtimes.generation import Generator

PROTOCOL = "keylm instructions 2"
"""Incremented with any change of a rule: figures of two protocols do not compare."""
Item = dict[str, Any]
_TURNS = list_of(json_object("role content", role=str, content=str))
_ITEM = json_object(
    "set messages constraints max_new_tokens",
    set=str,
    messages=Annotated[_TURNS, Field(min_length=1)],
    constraints=list[dict[str, Any]],
    max_new_tokens=Annotated[int, Field(ge=1, lt=2**31)],
    noisy=Text,
    reference=Text,
)


def _typos_have_both(item: Any) -> Any:
    if item.set_ == "typos" and None in (item.noisy_, item.reference_):
        raise ValueError("the texts noisy and reference in an item of the set typos")
    return item


ITEM: Any = Annotated[_ITEM, AfterValidator(_typos_have_both)]
"""A line of evaluation.jsonl.zst of `keylm data instructions`."""


def read_items(path: Path) -> list[Item]:
    """Return the items of an evaluation.jsonl.zst. Raises KeylmError where there are none, or one is damaged."""
    accepted, items = "evaluation.jsonl.zst of `keylm data instructions`", []
    for place, item in json_rows(path, accepted):
        check(ITEM, item, place)
        for constraint in item["constraints"]:
            check_constraint(constraint, place)
        items.append(item)
    if not items:
        raise KeylmError(f"{path}: no evaluation items; accepted: {accepted}")
    return items


def evaluate_instructions(
    model_folder: Path,
    items: Sequence[Item],
    *,
    device: torch.device | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Return a model's answers to the items and their scores, ready for JSON.

    {"protocol", "rows": [{"measure", "set", "value", "low", "high", "n", …}], "answers": [{"set", "answer", "broken"}]}

    Measures of the sets trained and held_out: "all constraints" (share of items that keep all), "constraints" (share of
    constraints kept), one a kind of types and one a type. Of typos: "exact" (share of sentences right to the
    character), "error reduction" (share of wrong words that are right afterwards, less those made wrong), "unchanged".
    Raises KeylmError where the model cannot be opened or has no chat template.
    """
    generator = Generator(model_folder, device)
    if not generator.tokenizer.chat_template:
        raise KeylmError(f"{model_folder}: this model has no chat template; accepted: a model that was tuned to chat")
    messages, limits = [item["messages"] for item in items], [item["max_new_tokens"] for item in items]
    with Status("instructions", len(items), quiet=quiet) as status:
        finished = itertools.count(1)
        answers = generator.sampled(
            messages, limits, done=lambda _: status.update(next(finished), "items answered"), do_sample=False
        )
    scored = [_scored(item, answer) for item, answer in zip(items, answers, strict=True)]
    return {"protocol": PROTOCOL, "rows": score(items, answers, seed), "answers": scored}


def score(items: Sequence[Item], answers: Sequence[str], seed: int = 0) -> list[dict[str, Any]]:
    """Return a row a set and measure: {"measure", "set", "value", "low", "high", "n", …}."""
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(item["set"] for item in items):
        tallies = Tallies()
        for number, (item, answer) in enumerate(zip(items, answers, strict=True)):
            if item["set"] != name:
                continue
            if name == "typos":
                _add_fix(tallies, number, item, answer.strip())
            else:
                kept = [keeps(answer, constraint) for constraint in item["constraints"]]
                tallies.add("all constraints", "model", number, all(kept), 1)
                tallies.add("constraints", "model", number, sum(kept), len(kept))
                for constraint, right in zip(item["constraints"], kept, strict=True):
                    kind = FAMILIES[constraint["type"]].kind
                    tallies.add(f"{EACH_KIND}: {kind}", "model", number, right, 1)
                    tallies.add(constraint["type"], "model", number, right, 1)
        rows += tallies.rows(name, seed)
    return rows


def _add_fix(tallies: Tallies, number: int, item: Item, answer: str) -> None:
    clean, noisy = item["reference"], item["noisy"]
    before = _wrong_words(noisy, clean)
    tallies.add("exact", "model", number, answer == clean, 1)
    tallies.add("exact", "doing nothing", number, noisy == clean, 1)
    tallies.add("unchanged", "model", number, answer == noisy, 1)
    if before:
        tallies.add("error reduction", "model", number, before - _wrong_words(answer, clean), before)


def _wrong_words(text: str, clean: str) -> int:
    """Return how many words must be inserted, deleted or replaced to turn `text` into `clean`."""
    matcher = difflib.SequenceMatcher(None, text.split()[:200], clean.split(), autojunk=False)
    return sum(max(b - a, d - c) for tag, a, b, c, d in matcher.get_opcodes() if tag != "equal")


def _scored(item: Item, answer: str) -> dict[str, Any]:
    broken = [constraint["type"] for constraint in item["constraints"] if not keeps(answer, constraint)]
    return {"set": item["set"], "answer": answer, "broken": broken}


def measure_instructions(
    model_folder: Path,
    items_file: Path,
    out: Path,
    *,
    limit: int | None,
    device: torch.device | None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Write the results of `evaluate_instructions` to `out`, unless it has them; return them.

    `limit`: only the first items of each set. Raises KeylmError as `read_items` and `evaluate_instructions` do.
    """
    settings = {"model": model_fingerprint(model_folder), "items": sha256_file(items_file), "limit": limit}
    found = read_table(out)
    if found.get("settings") == settings and found.get("protocol") == PROTOCOL:
        return found
    items = read_items(items_file)
    if limit is not None:
        sets = dict.fromkeys(item["set"] for item in items)
        items = [item for name in sets for item in [item for item in items if item["set"] == name][:limit]]
    found = {**evaluate_instructions(model_folder, items, device=device, quiet=quiet), "settings": settings}
    write_json(out, found)
    return found
