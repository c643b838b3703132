"""lm_eval's generative requests on keylm's decoder: the texts that lm_eval's own backend gives."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.recipes import sentence
from support.shapes import random_qwen3

pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install 'keylm[eval]'")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer

from keylm.evaluation import benchmarks
from keylm.evaluation.harness_generation import decodable
from keylm.evaluation.scoring import SharedContextLM

CONTEXT = 96
LIMIT = {"max_gen_toks": 24}
KINDS: list[dict[str, Any]] = [
    {"until": [], "do_sample": False, "temperature": 0.0, **LIMIT},
    {"until": ["\n", "e "], **LIMIT},
    {"until": "th", "max_gen_toks": 60},
    {"until": ["<|im_end|>"], "do_sample": False, "repetition_penalty": 1.0, **LIMIT},
]


@pytest.fixture(scope="module")
def folder(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generating") / "model"
    vocabulary = len(AutoTokenizer.from_pretrained(tokenizer))
    model = random_qwen3(4, vocabulary, max_position_embeddings=CONTEXT, hidden_size=32)
    with torch.no_grad():
        model.lm_head.weight *= 40
    model.generation_config.update(eos_token_id=[0, 2], pad_token_id=3, repetition_penalty=1.1)
    model.generation_config.update(do_sample=True, temperature=0.7, top_p=0.9)  # as keylm writes it
    model.save_pretrained(path)
    for file in tokenizer.iterdir():
        shutil.copyfile(file, path / file.name)
    return path


def requests() -> list[Instance]:
    rng, found = random.Random(3), []
    for number in range(24):
        context = sentence(rng, rng.choice([2, 7, 15, 150]))  # the longest are cut on the left
        found.append(Instance("generate_until", {}, (context, KINDS[number % len(KINDS)]), number))
    return found


def test_texts_are_those_of_the_harness(folder: Path) -> None:
    fast = benchmarks.open_model(str(folder), benchmarks.BenchmarkOptions(device="cpu"))
    assert isinstance(fast, SharedContextLM)
    assert decodable(fast, requests())
    harness = benchmarks.open_model(str(folder), benchmarks.BenchmarkOptions(device="cpu", scoring="harness"))
    assert type(harness) is HFLM
    expected = harness.generate_until(requests(), disable_tqdm=True)
    assert fast.generate_until(requests(), disable_tqdm=True) == expected
    assert len(set(expected)) > 8
    assert any(len(text.split()) > 5 for text in expected)
    before = fast.model.generation_config.repetition_penalty
    fast.model.generation_config.repetition_penalty = 3.0
    assert fast.generate_until(requests()[:1], disable_tqdm=True) != expected[:1]  # the folder's settings count
    fast.model.generation_config.repetition_penalty = before


@pytest.mark.parametrize("more", [{"num_beams": 2}, {"max_length": 40}, {"max_gen_toks": CONTEXT}])
def test_what_is_more_than_sampling_is_left_to_transformers(folder: Path, more: dict[str, Any]) -> None:
    fast = benchmarks.open_model(str(folder), benchmarks.BenchmarkOptions(device="cpu"))
    asked = [Instance("generate_until", {}, ("the old man", {**KINDS[0], **more}), 0)]
    assert not decodable(fast, [*requests(), *asked])
    assert decodable(fast, requests())
