"""The files of an evaluation, with made-up outcomes: `from fake_evaluation import records, write_evaluation`."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Items = Mapping[str, Sequence[Any]]


def record(name: str, items: Items, /, **settings: Any) -> dict[str, Any]:
    """A benchmark's record whose figures are those of its items."""
    metrics = {metric: figure(metric, outcomes) for metric, outcomes in items.items()}
    limit = settings.get("limit")
    return {
        "benchmark": name,
        "metrics": metrics,
        "n": len(next(iter(items.values()))),
        "items": dict(items),
        "harness": "0.4.13",
        "versions": {name: 1.0},
        "task_hashes": {name: f"{name}-{limit}"},
        "seconds": 2.0,
        "settings": {"model": "x", "items": "from the hub", "limit": None, "chat": False} | settings,
    }


def figure(metric: str, outcomes: Sequence[Any]) -> dict[str, float]:
    flat = [float(x) for outcome in outcomes for x in (outcome if isinstance(outcome, list) else [outcome])]
    mean = math.fsum(flat) / len(flat)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in flat) / (len(flat) - 1) / len(flat))
    if metric == "perplexity":
        return {"value": math.exp(-mean), "stderr": deviation * math.exp(-mean)}
    return {"value": mean, "stderr": deviation}


def outcomes(number: int, share: float, seed: int) -> list[int]:
    """Outcomes 0 or 1; the same items are hard under every seed."""
    hard, luck = random.Random("items"), random.Random(seed)
    return [int(0.7 * hard.random() + 0.3 * luck.random() < share) for _ in range(number)]


def records(seed: int, skill: float = 0.0, number: int = 400, **settings: Any) -> dict[str, dict[str, Any]]:
    dice = random.Random(seed)
    both = {"acc": outcomes(number, 0.4 + skill, seed), "acc_norm": outcomes(number, 0.42 + skill, seed + 100)}
    made = {name: record(name, both, **settings) for name in ("arc_easy", "arc_challenge", "hellaswag", "piqa")}
    lambada = {"perplexity": [dice.gauss(-4 + skill, 0.5) for _ in range(number)], "acc": both["acc"]}
    made["lambada_openai"] = record("lambada_openai", lambada, **settings)
    prompts = [[dice.randrange(2) for _ in range(1 + i % 3)] for i in range(number)]
    levels = {
        f"{level}_{kind}_acc": prompts for level in ("prompt_level", "inst_level") for kind in ("strict", "loose")
    }
    made["ifeval"] = record("ifeval", levels, **settings)
    made["hellaswag_typos_10_1"] = record("hellaswag_typos_10_1", both, **settings)
    made["my_task"] = record("my_task", {"acc": both["acc"]}, **settings)
    return made


def typing_row(measure: str, system: str, value: float, unit: str = "share", **more: Any) -> dict[str, Any]:
    bounds = {"low": value - 0.02, "high": value + 0.02}
    return (
        {"measure": measure, "set": "letters", "system": system, "value": value, "n": 300, "unit": unit} | bounds | more
    )


TYPING = {
    "protocol": "Three suggestions, taken as soon as they are shown.",
    "sets": {"letters": {"items": 300, "hash": "ab12" * 16, "licence": "public domain"}},
    "rows": [
        typing_row("next word top-1", "model", 0.163),
        typing_row("next word top-1", "model", 0.141, set="fixes"),
        typing_row("error reduction", "model", 0.517),
        typing_row("error reduction", "symspell", 0.304),
        typing_row("false corrections", "typed text", 0.0, low=0.0, high=0.0),
        typing_row("cost of typos: transposition", "model", 0.113, "bits/byte"),
        typing_row("tokens per word: mistyped", "tokenizer", 2.61, "tokens/word"),
        typing_row("tokens per word: as meant", "tokenizer", 1.32, "tokens/word", low=None, high=None),
    ],
    "latency": {"p50_ms": 11.3, "p95_ms": 19.8, "machine": "AMD EPYC", "threads": 1},
    "skipped": {"hunspell": "no dictionary here"},
}
POINTS = [
    {
        "benchmark": "hellaswag",
        "metric": "acc_norm",
        "rate": rate,
        "seed": seed,
        "value": 0.35 - rate / 400 + seed / 500,
    }
    for rate in (0, 5, 10, 20)
    for seed in (1, 2, 3)
]
CURVE = {
    "benchmark": "hellaswag",
    "metric": "acc_norm",
    "floor": 0.25,
    "rates": [0, 5, 10, 20],
    "values": [0.354, 0.342, 0.329, 0.304],
    "spread": [None, 0.002, 0.003, 0.002],
    "retention": [1.0, 0.885, 0.76, 0.519],
    "reason": None,
}
LOST = {**CURVE, "benchmark": "piqa", "metric": "acc", "retention": None, "reason": "not clearly above chance"}
ROBUSTNESS = {
    "points": POINTS,
    "curves": [CURVE, LOST],
    "area": 0.837,
    "area_low": 0.801,
    "area_high": 0.872,
    "reason": None,
}
CONTAMINATION = {
    "statement": "Of 12,418 items 115 shared a 13-gram with the sources.",
    "rows": [
        {"benchmark": "hellaswag", "items": 10042, "before": 103, "after": 0},
        {"benchmark": "ifeval", "items": 541, "before": None, "after": None},
    ],
}
EVERYDAY = {
    "protocol": "keylm everyday 1",
    "chat": True,
    "answers": [
        {"group": "lists", "prompt": "Name two fruits.", "answer": "Apples and <b>pears</b>.", "ended": True},
        {"group": "advice", "prompt": "How do I sleep?", "answer": "Go to bed. " * 9, "ended": False},
        {"group": "advice", "prompt": "How do I wake up?", "answer": "", "ended": True},
    ],
}
ROWS = [{"benchmark": "piqa", "metric": "acc", "value": 0.6, "command": "keylm eval runs/nano/model --tasks card"}]


def write_evaluation(folder: Path, benchmarks: Mapping[str, Any]) -> Path:
    """Write an evaluation folder with all its files."""
    (folder / "benchmarks").mkdir(parents=True)
    for name, value in benchmarks.items():
        (folder / "benchmarks" / f"{name}.json").write_text(json.dumps(value))
    files = {"typing": TYPING, "robustness": ROBUSTNESS, "contamination": CONTAMINATION, "evaluation": ROWS}
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder
