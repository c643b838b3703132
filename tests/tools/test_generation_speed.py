"""The generation benchmark's parts, on a model that is small: what it times is a whole greedy text."""

import argparse
import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.recipes import tiny_recipe
from support.shapes import random_qwen3

from keylm.model.folder import export_model

PACKAGES = ("gguf", "onnx", "onnxruntime", "xllamacpp")
pytestmark = pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason="needs the export extra")


@pytest.fixture(scope="module")
def speed() -> Any:
    return importlib.import_module("tools.speed.generation_speed")


@pytest.fixture(scope="module")
def model(speed: Any, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speed")
    recipe = tiny_recipe(folder, ["model.max_position_embeddings=64"])
    small = random_qwen3(0, 400, hidden_size=32, head_dim=16, intermediate_size=64)
    export_model(recipe, small.state_dict(), tokenizer, folder / "model")
    speed.write_files(folder / "model", folder, ["onnx-q4", "llama-q8_0"])
    return folder / "model"


@pytest.mark.parametrize("variant", ["hf-eager", "onnx-q4", "llama-q8_0"])
def test_each_runtime_writes_and_is_timed(speed: Any, model: Path, variant: str):
    row = speed.measure(variant, model, model.parent, threads=1, prompt=8, tokens=12, repeats=2)
    assert row["variant"] == variant
    assert row["fastest"] >= row["tokens_per_second"] > 0
    assert row["first_token_ms"] > 0
    assert row["peak_memory_mb"] > 20
    assert row["bytes"] > 10_000


def test_variants_have_processes_of_their_own(speed: Any, model: Path, capsys: pytest.CaptureFixture[str]):
    sizes = argparse.Namespace(threads=1, prompt=8, tokens=12, repeats=1)
    rows = [speed.in_a_process(name, sizes, model, model.parent) for name in ("onnx-q4", "llama-f16")]
    assert rows[0]["load"]
    assert "f16.gguf" in rows[1]["failed"][0]  # it was not written
    speed.show(rows)
    printed = capsys.readouterr().out
    assert "| onnx-q4 | 0 | " in printed
    assert "| llama-f16 | failed: " in printed


def test_one_token_more_costs_one_reading_more(speed: Any):
    read: list[int] = []

    class Logits:
        def __getitem__(self, place: int) -> "Logits":
            return self

        def argmax(self) -> int:
            return 7

    def reader(ids: list[int]) -> Logits:
        read.append(len(ids))
        return Logits()

    first, rest = speed.by_reading(reader, read.clear)([1, 2, 3], 5)
    assert read == [3, 1, 1, 1, 1]
    assert first >= 0
    assert rest >= 0
