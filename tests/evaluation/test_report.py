"""The run report: what it shows, what it survives, and that it stays small, safe and the same."""

import json
import math
import random
import re
import time
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from keylm.evaluation import charts, drawing, report, run_record
from keylm.evaluation.report import write_report

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


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(fake_run(tmp_path_factory.mktemp("run") / "nano")).read_text(encoding="utf-8")


def test_shows_what_the_run_was(page: str) -> None:
    words = ["nano", "2.15M", "2.46M", "4 min 1 s", "AMD EPYC 7763", "CC-BY-4.0", "2 malformed json, 1 empty"]
    words += [
        "Once upon a time",
        "three sons",
        "I have no lentils.",
        "rms_norm_eps",
        "keylm run",
        "9ae0" * 16,
    ]
    assert [word for word in words if word not in page] == []
    last = [row for row in metric_rows(300) if row["kind"] == "validation"][-1]["bits_per_byte"]
    assert f"<dd>{sum(last.values()) / 4:.3f}</dd>" in page
    assert page.count("<svg") == 4 * 2 + 6
    assert "not there yet" not in page


def test_is_self_contained_and_well_formed(page: str) -> None:
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


def test_every_colour_is_a_variable_that_both_schemes_set(page: str) -> None:
    style, body = page.split("</style>", 1)
    assert not re.search(r"(?:fill|stroke): #", body)
    light, dark = style.split("prefers-color-scheme: dark", 1)
    for name in drawing.NAMES:
        assert f"--{name}:" in light
        assert f"--{name}:" in dark
    assert set(re.findall(r"var\(--(\w+)\)", body)) <= set(drawing.NAMES)


def test_same_run_same_bytes_and_global_settings_untouched(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    run = fake_run(tmp_path / "run")
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert dict(matplotlib.rcParams) == before
    assert sorted(path.name for path in run.iterdir() if "report" in path.name) == ["report.html"]


def test_nothing_from_the_run_is_markup(tmp_path: Path) -> None:
    run, evil = fake_run(tmp_path / "run"), "<script>alert(1)</script><!--$x_1$"
    for file in ("recipe.toml", "metrics.jsonl", "shards/manifest.json"):
        text = (run / file).read_text()
        quoted = text.replace("sources.letters", f"sources.'{evil}'").replace("letters =", f"'{evil}' =")
        (run / file).write_text(quoted.replace('"letters"', json.dumps(evil)))
    bad = {"stage": evil, "prompt": evil, "text": evil, "messages": None}
    chat = {"stage": "chat", "prompt": None, "messages": [{"role": '"><script>', "content": evil}]}
    (run / "samples.json").write_text(json.dumps([bad, chat]))
    summary = SUMMARY | {"command": evil, "device_name": evil}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "stages.json").write_text(json.dumps({evil: {"seconds": 3.0}}))
    text = write_report(run).read_text()
    assert "<script" not in text
    assert "<!--" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 8
    Page(text)


@pytest.mark.parametrize("name", run_record.FILES)
def test_one_missing_file_costs_its_section_only(tmp_path: Path, name: str) -> None:
    run = fake_run(tmp_path / "run", steps=30)
    (run / name).unlink()
    text = write_report(run).read_text()
    Page(text)
    assert f"<code>{name}</code>: not there yet" in text
    assert text.count("<svg") >= 4


def test_an_empty_folder_has_a_report_and_no_folder_has_none(tmp_path: Path) -> None:
    text = write_report(tmp_path).read_text()
    Page(text)
    assert all(f"<code>{name}</code>: not there yet" in text for name in run_record.FILES)
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        write_report(tmp_path / "absent")


def test_a_run_cut_off_while_writing(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=40)
    whole = (run / "metrics.jsonl").read_bytes()
    again = b'{"kind": "train", "step": 30, "stage": "chat", "tokens": 253952, "loss": null}\n{"kind": "tr'
    (run / "metrics.jsonl").write_bytes(whole[: whole.index(b'"step": 33')] + b"\xc3\n" + again)
    (run / "summary.json").write_text('{"keylm": ')
    (run / "samples.json").write_text('{"not": "a list"}')
    found = run_record.read_run(run)
    assert [row["step"] for row in found.train] == list(range(33))
    assert found.train[30]["loss"] is None
    text = write_report(run).read_text()
    assert "summary.json</code>: cannot be read" in text
    assert "samples.json</code>: cannot be read: holds no list" in text
    assert "1 step had no finite loss" in text


def test_one_step_and_no_finite_number(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=1)
    Page(write_report(run).read_text())
    row = {"kind": "train", "step": 0, "stage": "pretrain", "tokens": 8192, "loss": math.nan}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    Page(write_report(run).read_text())


def test_many_rows_are_quick_and_small(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=40_000)
    start = time.process_time()
    path = write_report(run)
    assert time.process_time() - start < 5
    assert path.stat().st_size < 2_000_000
    points = [len(re.findall(r"[ML] ", d)) for d in re.findall(r' d="([^"]*)"', path.read_text())]
    assert max(points) <= charts.MOST_POINTS + 4


def test_many_sources_with_long_names(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=30)
    names = [f"a_source_with_a_rather_long_name_{i}" for i in range(11)]
    rows = [{"kind": "train", "step": i, "stage": "s", "tokens": 10 * i + 10, "loss": 2.0,
             "source_loss": dict.fromkeys(names, 2.0)} for i in range(20)]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_report(run).read_text()
    Page(text)
    assert 'class="dashed"' in text


def test_epochs_are_planned_windows_over_windows(tmp_path: Path) -> None:
    table = report.epochs(run_record.read_run(fake_run(tmp_path / "run", steps=3)))
    assert table["fairy_tales"] == pytest.approx([1638400 * 0.6 / 256 / 2900, 573440 / 6 / 256 / 2900, 0])
    assert table["small_talk"] == pytest.approx([0, 573440 / 6 / 256 / 260, 245760 * 0.9 / 256 / 260])
