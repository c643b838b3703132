"""The documented LoRA tuning, as it stands in docs/instruct.md."""

import random
import re
import shutil
from pathlib import Path

import pytest
import torch
from support.recipes import chat, sentence, write_jsonl

from keylm.runtimes.generation import Generator

pytest.importorskip("peft", reason="needs keylm[post]")
DOCS = Path(__file__).parents[2] / "docs" / "instruct.md"


def answer_loss(generator: Generator) -> float:
    """Return the mean loss of an answer of the kind that was tuned on, to a question that was not."""
    turns = generator.tokenizer.apply_chat_template(
        chat("a red man?", "the sea and the hill.")["messages"], return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = (torch.tensor([turns[key]]) for key in ("input_ids", "assistant_masks"))
    with torch.no_grad():
        return generator.model(ids, labels=ids.masked_fill(mask == 0, -100)).loss.item()


def test_the_documented_code_tunes_merges_and_saves_a_model_that_chats(base: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, tmp_path / "runs" / "nano" / "model")
    rng = random.Random(3)
    write_jsonl(
        tmp_path / "chats.jsonl", [chat(f"{sentence(rng, 3)[:-1]}?", "the sea and the hill.") for _ in range(30)]
    )
    [code] = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    torch.manual_seed(0)
    values: dict[str, object] = {}
    exec(code, values)
    losses = values["losses"]
    assert isinstance(losses, list)
    # The head, which stays as it is, is hardly trained in so small a model.
    assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10 - 0.1
    generator = Generator(tmp_path / "runs" / "mine-lora")
    assert answer_loss(generator) < answer_loss(Generator(base)) - 0.1
    assert generator.model.config.architectures == ["Qwen3ForCausalLM"]
    before, after = Generator(base).model, generator.model
    assert torch.equal(before.model.embed_tokens.weight, after.model.embed_tokens.weight)
    assert not torch.equal(before.model.layers[0].mlp.up_proj.weight, after.model.layers[0].mlp.up_proj.weight)
