"""A whole recipe in miniature with its sources, for every test that needs one."""

import contextlib
import json
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from keylm.recipe.load import Recipe, load_recipe

WORDS = "the a old red fox cat sea man user assistant saw told ran and in on to by hill rain night was"

TINY = """
name = "tiny"
seed = 7

[model]
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16
intermediate_size = 64
max_position_embeddings = 32

[tokenizer]
vocab_size = 400
sample_bytes = 200_000

[sources.tales]
path = "tales.jsonl"

[sources.notes]
path = "notes.jsonl"
register = "casual"

[sources.chat]
path = "chat.jsonl"
register = "conversational"
loss = "assistant"

[stages.pretrain]
tokens = 1536
weights = { tales = 3, notes = 1 }
warmup = 0.2
decay = 0.4
final = 0.1

[stages.chat]
tokens = 1024
weights = { chat = 0.8, tales = 0.2 }
peak = 0.2
decay = 1.0

[training]
batch_tokens = 256
context = 32
micro_batch_windows = 4
precision = "fp32"
device = "cpu"

[checkpoints]
every_steps = 3
keep_last = 2

[evaluation]
every_steps = 4
windows_per_source = 2
holdout = 0.1
prompts = ["the old man"]
chats = ["the red cat?"]
sample_tokens = 6
"""


def tiny_recipe(folder: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Write `folder/recipe.toml` and its three sources, and return the resolved recipe (always the same bytes)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    for name, lines in (("tales", 200), ("notes", 80)):
        texts = [" ".join(sentence(rng, 12) for _ in range(rng.randint(1, 8))) for _ in range(lines)]
        write_jsonl(folder / f"{name}.jsonl", [{"text": text} for text in texts])
    chats = [chat(f"{sentence(rng, 2)[:-1]}?", sentence(rng, 2)) for _ in range(120)]
    write_jsonl(folder / "chat.jsonl", chats)
    (folder / "recipe.toml").write_text(TINY, encoding="utf-8")
    with contextlib.chdir(folder):  # paths in overrides count from the working folder
        return load_recipe(folder / "recipe.toml", list(overrides))


def training_command(folder: Path, name: str, settings: Iterable[str], processes: int = 1) -> list[str]:
    """Return the command that trains `folder/recipe.toml` with `settings` in `folder/name`."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    keylm = ["-m", "keylm", "run", str(folder / "recipe.toml"), "--run-dir", str(folder / name), "--until", "train"]
    sets = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, *(torchrun if processes > 1 else []), *keylm, *sets]


def sentence(rng: random.Random, words: int) -> str:
    """Return English-like words, an odd one now and then, so that there is something to merge and to learn."""
    odd = "".join(rng.choices("abcdefghijklmnoprstuvwy", k=rng.randint(4, 7)))
    return " ".join([*rng.choices(WORDS.split(), k=words - 1), rng.choice([odd, *WORDS.split()])]).capitalize() + "."


def write_jsonl(file: Path, records: Iterable[dict[str, Any]]) -> Path:
    """Write records as JSON lines and return the file."""
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def chat(*contents: str) -> dict[str, Any]:
    """Return a conversation record: user and assistant in turn."""
    turns = [
        {"role": "assistant" if number % 2 else "user", "content": content} for number, content in enumerate(contents)
    ]
    return {"messages": turns}


def with_shards(folder: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, Path]:
    """Return the tiny recipe and `folder`, in which `run` has tokenizer and shards but no training yet."""
    from keylm.pipeline.run import run

    recipe = tiny_recipe(folder, overrides)
    run(recipe, folder / "run", until="shards", quiet=True)
    return recipe, folder
