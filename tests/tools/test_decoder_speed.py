"""The decoder's benchmark on a small model, without a GPU: every part gives figures, a part that fails costs itself."""

import argparse
import shutil

import pytest
import torch
from support.shapes import random_qwen3
from transformers import AutoTokenizer, GenerationConfig

from tools.speed import decoder_speed


@pytest.fixture
def arguments(tokenizer, tmp_path):
    folder = tmp_path / "model"
    model = random_qwen3(3, len(AutoTokenizer.from_pretrained(tokenizer)), max_position_embeddings=64)
    with torch.no_grad():
        model.lm_head.weight *= 30
    model.generation_config = GenerationConfig(eos_token_id=[0, 2], pad_token_id=3)
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copyfile(file, folder / file.name)
    sizes = {"rows": [2, 5], "compared_rows": [3], "prompt": 12, "tokens": 8, "compared_tokens": 6}
    return argparse.Namespace(model=folder, **sizes, seconds=600, no_graphs=False, out=tmp_path / "out.json")


def test_every_part_gives_figures(arguments, monkeypatch, capsys):
    def damaged(*_):
        raise RuntimeError("no such counter")

    monkeypatch.setattr(decoder_speed, "kernel_times", damaged)
    found = decoder_speed.measured(arguments)
    assert found["kernels"] == {"failed": "RuntimeError: no such counter"}
    assert not [
        name for name, part in found.items() if name != "kernels" and isinstance(part, dict) and "failed" in part
    ]
    for rows in (2, 5):
        row = found[f"keylm {rows}"]
        assert row["rows"] == rows
        assert row["tokens_per_second"] == pytest.approx(8 * rows / row["seconds"], rel=0.1)
        assert 0 < row["of_roofline"] < 1
    assert found["transformers 3"]["tokens_per_second"] > 0
    assert found["agreement fp32"]["rows_identical"] == 1
    assert found["agreement fp32"]["score_error"]["largest"] < 1e-3 < found["agreement bf16"]["score_error"]["largest"]
    decoder_speed.show(found)
    assert capsys.readouterr().out.count("| keylm |") == 2


def test_what_would_begin_too_late_is_left_out(arguments):
    arguments.seconds = -1
    found = decoder_speed.measured(arguments)
    assert {name for name, part in found.items() if part == {"left_out": "after -1 s"}} >= {"keylm 2", "transformers 3"}
