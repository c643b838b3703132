"""A run folder as a finished run leaves it, and what every page of it must keep: `from fake_run import fake_run`."""

import json
import math
import random
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from keylm.report import drawing

RECIPE = """name = "nano"
description = "A two-million-parameter model of tales, mails and small talk, trained in minutes on a laptop."
seed = 17

[model]
hidden_size = 192
num_hidden_layers = 6
num_attention_heads = 6
num_key_value_heads = 2
head_dim = 32
intermediate_size = 512
max_position_embeddings = 512
rope_theta = 10000.0
rms_norm_eps = 1e-06

[tokenizer]
vocab_size = 4096

[sources.fairy_tales]
path = "embedded:fairy_tales.jsonl.zst"
register = "formal"
licence = "public domain"
loss = "all"

[sources.letters]
hub = "keylm/letters"
register = "casual"
licence = "CC-BY-4.0"
loss = "all"

[sources.recipes]
path = "embedded:recipes.jsonl.zst"
register = "structured"
licence = "CC0-1.0"
loss = "all"

[sources.small_talk]
path = "embedded:small_talk.jsonl.zst"
register = "conversational"
licence = "Apache-2.0"
loss = "assistant"

[stages.pretrain]
tokens = 1638400
weights = { fairy_tales = 0.6, letters = 0.3, recipes = 0.1 }
peak = 1.0
final = 0.5
warmup = 0.05
decay = 0.2

[stages.mid]
tokens = 573440
weights = { fairy_tales = 1, letters = 2, recipes = 2, small_talk = 1 }
peak = 0.5
final = 0.2
warmup = 0.0
decay = 0.5

[stages.chat]
tokens = 245760
weights = { letters = 0.1, small_talk = 0.9 }
peak = 0.2
final = 0.0
warmup = 0.1
decay = 0.9

[training]
batch_tokens = 8192
context = 256
"""
SOURCES = {"fairy_tales": 2.2, "letters": 2.5, "recipes": 2.35, "small_talk": 2.9}
BYTES_PER_TOKEN = 3.9


def stage_of(step: int, steps: int) -> str:
    return "pretrain" if step < steps * 2 / 3 else "mid" if step < steps * 0.9 else "chat"


def metric_rows(steps: int, seed: int = 3) -> list[dict[str, Any]]:
    """Plausible losses: a power law, noise, a jump at each stage."""
    dice, rows = random.Random(seed), []
    recipe = tomllib.loads(RECIPE)
    for step in range(steps):
        stage, done = stage_of(step, steps), step / steps
        shares = recipe["stages"][stage]["weights"]
        level = 6.2 * (1 + 60 * done) ** -0.62
        losses = {
            name: SOURCES[name] + level + 0.9 * (1 - done) * (name == "small_talk") + dice.gauss(0, 0.07)
            for name in shares
            if dice.random() > 0.03
        }
        loss = sum(shares[n] * x for n, x in losses.items()) / max(1e-9, sum(shares[n] for n in losses))
        warm = min(1, done / 0.033) if stage == "pretrain" else 1
        rate = {"pretrain": 1.0, "mid": 0.5, "chat": 2 * (1 - done)}[stage] * warm
        rows.append(
            {
                "kind": "train", "step": step, "stage": stage, "tokens": 8192 * (step + 1), "loss": loss,
                "bits_per_byte": loss / BYTES_PER_TOKEN / math.log(2), "z_loss": 0.01,
                "gradient_norm": 0.4 + 2 * math.exp(-done * 30) + dice.expovariate(12),
                "learning_rate_scale": rate, "source_loss": losses,
            }
        )  # fmt: skip
        if (step + 1) % max(1, steps // 12) == 0:
            held = {name: base + level + 0.05 for name, base in SOURCES.items()}
            held["small_talk"] += (1 - done) ** 3
            bits = {name: loss / BYTES_PER_TOKEN / math.log(2) for name, loss in held.items()}
            rows.append({"kind": "validation", "step": step + 1, "stage": stage, "tokens": 8192 * (step + 1),
                         "loss": held, "bits_per_byte": bits})  # fmt: skip
    return rows


def split(windows: int, documents: int) -> dict[str, int]:
    counts = {"windows": windows, "tokens": windows * 256, "documents": documents}
    return counts | {"trained_tokens": windows * 248, "bytes": windows * 998}


MANIFEST = {
    "context": 256,
    "tokenizer_sha256": "5f1c" * 16,
    "hash": "9ae0" * 16,
    "sources": {
        "fairy_tales": {
            "train": split(2900, 812),
            "validation": split(40, 9),
            "faults": {"malformed_json": 2, "empty": 1},
        },
        "letters": {"train": split(1450, 2100), "validation": split(20, 21), "faults": {}},
        "recipes": {"train": split(310, 455), "validation": split(12, 5), "faults": {"too_long": 4}},
        "small_talk": {"train": split(260, 1300), "validation": split(10, 13), "faults": {}},
    },
}
TALE = """ there was a miller who had three sons, and when he died he left them nothing but his mill, his \
donkey and his cat. The eldest took the mill, the second the donkey, and the youngest was left with the cat.

"What shall I do with you?" he said. "I am poor, and you are small." """
SAMPLES = [
    {"stage": "pretrain", "prompt": "Once upon a time", "text": TALE, "messages": None},
    {
        "stage": "mid",
        "prompt": "Dear Anna,",
        "text": " thank you for the parcel, which came on Tuesday.",
        "messages": None,
    },
    {
        "stage": "chat",
        "prompt": None,
        "messages": [
            {"role": "user", "content": "Hello! What should I cook tonight?"},
            {"role": "assistant", "content": "How about a soup? Take two onions, a carrot and some lentils."},
            {"role": "user", "content": "I have no lentils."},
            {"role": "assistant", "content": "Then take potatoes. They are as good."},
        ],
    },
]
TIMES = {"tokenizer": 3.1, "shards": 4.0, "train": 241.0, "export": 3.2, "samples": 8.0}
STAGES = {name: {"inputs": "…", "outputs": {}, "seconds": value} for name, value in TIMES.items()}
SUMMARY = {
    "keylm": "0.1.0", "torch": "2.13.0", "python": "3.11.7", "device": "cpu", "device_name": "AMD EPYC 7763",
    "world_size": 1, "parameters": 2150000, "command": "keylm run recipes/nano.toml", "date": "2026-11-22",
    "tokens_seen": 2400000,
}  # fmt: skip


def fake_run(folder: Path, steps: int = 300) -> Path:
    """A run folder as a finished run leaves it."""
    dice = random.Random(5)
    timing = []
    for step in range(steps):
        seconds = 0.8 + 0.4 * (step == 0) + abs(dice.gauss(0, 0.03)) + (0.15 if 120 < step < 150 else 0)
        timing.append({"step": step, "seconds": seconds, "tokens_per_second": 8192 / seconds})
    (folder / "shards").mkdir(parents=True)
    (folder / "recipe.toml").write_text(RECIPE)
    for name, rows in (("metrics.jsonl", metric_rows(steps)), ("timing.jsonl", timing)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"shards/manifest.json": MANIFEST, "samples.json": SAMPLES, "summary.json": SUMMARY, "stages.json": STAGES}
    for name, value in values.items():
        (folder / name).write_text(json.dumps(value))
    return folder


class Page(HTMLParser):
    """Elements and attributes of a page, and whether every element is closed where it should be."""

    VOID = ("meta", "link", "br", "img", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_self_contained(page: str) -> None:
    """Nothing of the network, no script, all ids there and each once."""
    parsed = Page(page)
    assert not {"script", "img", "iframe", "object"} & set(parsed.tags)
    for name, value in parsed.attributes:
        if name in ("href", "src", "xlink:href"):
            assert (value or "").startswith(("#", "data:"))
    assert not re.search(r"url\((?!#)", page)
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:url\(|href=")#([^)"]+)', page)
    assert set(used) <= set(ids)


def check_colours(page: str) -> None:
    """Every colour is a variable that both schemes set."""
    style, body = page.split("</style>", 1)
    assert not re.search(r"(?:fill|stroke): #", body)
    light, dark = style.split("prefers-color-scheme: dark", 1)
    for name in drawing.NAMES:
        assert f"--{name}:" in light
        assert f"--{name}:" in dark
    assert set(re.findall(r"var\(--(\w+)\)", body)) <= set(drawing.NAMES)
