"""A whole recipe in miniature, for every test that needs one: `from conftest import tiny_recipe`."""

import contextlib
import json
import os
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from keylm.data.tokenizer_sample import tokenizer_sample
from keylm.recipe.load import Recipe, load_recipe
from keylm.text.tokenizer import train_tokenizer

# One thread a test process: pytest-xdist runs several side by side, and the models here are tiny.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# A busy machine is no fault of the code's.
settings.register_profile("keylm", deadline=None)
settings.load_profile("keylm")

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


def random_qwen3(seed: int, vocab_size: int, **shape: int) -> Any:
    """Return a small Qwen3ForCausalLM with random weights; `shape` changes its configuration."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(seed)
    config = Qwen3Config(vocab_size=vocab_size, **{**small, "head_dim": 8, "intermediate_size": 32, **shape})
    return Qwen3ForCausalLM(config).eval()


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


@pytest.fixture(scope="session", autouse=True)
def no_inventory() -> Iterator[None]:
    """Spare lm_eval its list of all installed packages, for which it starts pip at each evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")
        yield


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what servers convert out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEYLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return the options of the tests' server's engine: PyTorch, or what fake_server.both_engines says."""
    return engine_options(getattr(request, "param", "torch"))


@pytest.fixture(scope="session")
def exactness(engine: dict[str, str]) -> float:
    """Return what an engine's log-probabilities may differ by from keylm's decoder in fp32."""
    return 1e-4 if engine["engine"] == "torch" else 5e-3  # llama.cpp keeps keys and values in f16


def engine_options(name: str) -> dict[str, str]:
    """Return the options of an engine at its most exact; skip where it is not installed."""
    if name == "torch":
        return {"engine": "torch"}
    for package in ("gguf", "xllamacpp"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'keylm[export]'")
    return {"engine": "llama.cpp", "precision": "f32"}


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the tiny recipe's tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    recipe = tiny_recipe(folder)
    sample = tokenizer_sample(recipe, recipe.sources)
    train_tokenizer(sample, recipe.tokenizer.vocab_size, folder / "tokenizer", recipe.training.context)
    return folder / "tokenizer"


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the model folder of a finished tiny run; chat.jsonl and recipe.toml lie two folders above."""
    from keylm.pipeline.run import run

    folder = tmp_path_factory.mktemp("base")
    return run(tiny_recipe(folder), folder / "run", until="export", quiet=True).model


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
