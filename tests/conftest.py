"""Fixtures and settings for all tests; helpers are in tests/support."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from support.engines import engine_options
from support.recipes import tiny_recipe

from keylm.data.tokenizer_sample import tokenizer_sample
from keylm.text.tokenizer import train_tokenizer

# One thread a test process: pytest-xdist runs several side by side, and the models here are tiny.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# A busy machine is not the code's error.
settings.register_profile("keylm", deadline=None)
settings.load_profile("keylm")


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
