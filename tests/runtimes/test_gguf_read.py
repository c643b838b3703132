"""A GGUF file that is damaged, or holds another model's tensors, is one clear error."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keylm.base.errors import KeylmError
from keylm.export.reference import TorchModel
from keylm.runtimes import gguf_write
from keylm.runtimes.gguf_read import GgufFile
from keylm.text.tokenizer import CHAT_TEMPLATE

pytestmark = pytest.mark.skipif(not find_spec("gguf"), reason="needs the export extra")


@pytest.fixture(scope="module")
def weights(base: Path) -> dict[str, Any]:
    return TorchModel(base).weights()


def written(base: Path, weights: dict[str, Any], file: Path) -> Path:
    gguf_write.write_gguf(base, weights, file, "f32", "x")
    return file


def test_a_sound_file_gives_back_the_folders_settings(base: Path, weights: dict[str, Any], tmp_path: Path):
    opened = GgufFile(written(base, weights, tmp_path / "x.gguf"))
    opened.unpack(tmp_path)
    settings = opened._tokenizer_config()
    assert (settings["chat_template"], settings["padding_side"]) == (CHAT_TEMPLATE, "left")
    assert opened.weights().keys() == weights.keys()


@pytest.mark.parametrize(
    ("method", "values", "told"),
    [
        ("add_token_merges", ["a", "b c"], "tokenizer.ggml.merges: 0: got "),
        ("add_token_merges", ["zz qq"], "tokenizer.ggml.merges: "),
        ("add_token_types", [1, 2], "its vocabulary has 400 tokens, 2 types and the special ids [0, 2, 3]; accepted: "),
        ("add_eos_token_id", 9000, "the special ids [9000, 2, 3]"),
        ("add_block_count", 7, "tensor model.layers.2.input_layernorm.weight is missing"),
        ("add_head_count", 4, "self_attn.q_proj.weight has shape (32, 32); accepted: (64, 32)"),
        ("add_rope_freq_base", float("nan"), "qwen3.rope.freq_base: got NaN; accepted: "),
    ],
)
def test_what_is_wrong_is_told(
    method: str, values: Any, told: str, base: Path, weights: dict[str, Any], tmp_path: Path, monkeypatch: Any
):
    import gguf

    add = getattr(gguf.GGUFWriter, method)
    monkeypatch.setattr(gguf.GGUFWriter, method, lambda writer, _: add(writer, values))
    file = written(base, weights, tmp_path / "x.gguf")
    with pytest.raises(KeylmError) as raised:
        GgufFile(file).unpack(tmp_path)
    assert str(file) in str(raised.value)
    assert told in str(raised.value)


def test_a_length_that_points_behind_the_end_does_not_hang(base: Path, weights: dict[str, Any], tmp_path: Path):
    file = written(base, weights, tmp_path / "x.gguf")
    content, key = bytearray(file.read_bytes()), b"tokenizer.ggml.token_type"
    at = content.index(key) + len(key) + 4 + 4  # the field's type and that of its entries
    content[at : at + 8] = (2**60).to_bytes(8, "little")
    file.write_bytes(content)
    with pytest.raises(KeylmError, match="is no whole GGUF file: it ends early, or a length in it is damaged"):
        GgufFile(file)


def test_values_that_are_not_finite_are_told(base: Path, weights: dict[str, Any], tmp_path: Path):
    norm = "model.norm.weight"
    damaged = {**weights, norm: np.full_like(weights[norm], np.inf)}
    with pytest.raises(KeylmError, match=rf"tensor {norm} holds values that are not finite"):
        GgufFile(written(base, damaged, tmp_path / "x.gguf")).weights()
