"""llama.cpp through its C interface reads what PyTorch reads, however the tokens come in."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from support.recipes import tiny_recipe
from support.shapes import random_qwen3

from keylm.base.errors import KeylmError
from keylm.export.reference import TorchModel
from keylm.model.folder import export_model
from keylm.runtimes import llama
from keylm.runtimes.gguf_write import write_gguf

PACKAGES = ("gguf", "xllamacpp")
pytestmark = pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason="needs the export extra")


@pytest.fixture(scope="module")
def opened(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchModel, Path]:
    folder = tmp_path_factory.mktemp("long")
    recipe = tiny_recipe(folder, ["model.max_position_embeddings=700"])
    export_model(
        recipe,
        random_qwen3(1, 400, hidden_size=32, head_dim=16, intermediate_size=64).state_dict(),
        tokenizer,
        folder / "model",
    )
    source = TorchModel(folder / "model")
    write_gguf(folder / "model", source.weights(), folder / "model.gguf", "f32", "long")
    return source, folder / "model.gguf"


def test_long_texts_pieces_and_single_tokens_give_the_same_logits(opened: tuple[TorchModel, Path]):
    source, file = opened
    ids = np.random.default_rng(0).integers(0, 400, 600).tolist()
    expected = source.read(ids)
    with llama.LlamaModel(file, 700) as model:
        assert model.vocab_size == 400
        whole = model.read(ids)  # in two batches
        model.reset()
        parts = np.concatenate([model.read(ids[:590]), *(model.read([token]) for token in ids[590:])])
        model.reset()
        last = model.read(ids, every=False)
    for found in (whole, parts):
        assert found.shape == (600, 400)
        np.testing.assert_allclose(found, expected, atol=5e-3)
    np.testing.assert_allclose(last, expected[-1:], atol=5e-3)
    assert np.abs(expected[0] - expected[-1]).max() > 0.05  # positions differ by more than the tolerance


def test_what_a_file_says_is_read_back(opened: tuple[TorchModel, Path]):
    with llama.LlamaModel(opened[1], 32) as model:
        assert (model.eos, model.eot, model.adds_bos) == (0, 2, False)
        assert model.ends(0)
        assert model.ends(2)
        assert not model.ends(100)
        assert "im_start" in (model.chat_template or "")
        assert model.encode("<|im_end|>", special=True) == [2]
        assert 2 not in model.encode("<|im_end|>")
        assert model.encode("") == []


def test_more_tokens_than_the_context_are_one_error(opened: tuple[TorchModel, Path]):
    with llama.LlamaModel(opened[1], 256) as model, pytest.raises(KeylmError, match="could not decode"):
        model.read([5] * 300)


def test_a_file_that_is_none_is_one_error(tmp_path: Path):
    (tmp_path / "no.gguf").write_bytes(b"no")
    with pytest.raises(KeylmError, match="cannot load it"):
        llama.LlamaModel(tmp_path / "no.gguf", 32)


def test_without_llama_cpp_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(llama.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KeylmError, match=r"pip install -e '\.\[export\]'"):
        llama.library_file()
