"""A model folder is checked, read and hashed in one place, and what is wrong with it is one clear error."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.recipes import tiny_recipe
from support.shapes import random_qwen3
from transformers import Qwen3Config, Qwen3ForCausalLM

from keylm.base.errors import KeylmError
from keylm.base.files import read_json, write_json
from keylm.model.folder import (
    export_model,
    model_fingerprint,
    model_languages,
    qwen3_config,
    read_config,
    read_weights,
    weights_hash,
)
from keylm.model.opening import export_folder
from keylm.text.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    random_qwen3(1, 50).save_pretrained(folder)
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change_config(model: Path, **change: Any) -> None:
    config = {**read_json(model / "config.json"), **change}
    write_json(model / "config.json", {key: value for key, value in config.items() if value is not None})


def test_the_configuration_is_read_with_its_shape_and_ends(model: Path) -> None:
    write_json(model / "generation_config.json", {"eos_token_id": [0, 2]})
    config = read_config(model)
    assert (config.shape.hidden_size, config.shape.num_hidden_layers, config.vocab_size) == (16, 2, 50)
    assert config.ends == {0, 2}
    (model / "generation_config.json").unlink()
    change_config(model, eos_token_id=3)
    assert read_config(model).ends == {3}


def test_older_folders_name_their_rope_theta_alone(model: Path) -> None:
    change_config(model, rope_parameters=None, rope_theta=5000.0)
    assert read_config(model).shape.rope_theta == 5000.0
    change_config(model, rope_theta=None, rms_norm_eps=None)
    assert (read_config(model).shape.rope_theta, read_config(model).shape.rms_norm_eps) == (10_000.0, 1e-6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "llama"}, r"model_type = 'llama'; accepted: 'qwen3'"),
        ({"hidden_size": None}, r"config\.json has no hidden_size; accepted: a model that keylm exported"),
        ({"vocab_size": None}, r"config\.json has no vocab_size"),
        ({"num_key_value_heads": 0}, r"config\.json: num_key_value_heads: got 0; accepted: greater than 0"),
        ({"head_dim": 7}, r"config\.json: .*head_dim = 7 must be even"),
    ],
)
def test_a_configuration_that_does_not_fit_is_told(change: dict[str, Any], told: str, model: Path) -> None:
    change_config(model, **change)
    with pytest.raises(KeylmError, match=told):
        read_config(model)


@pytest.mark.parametrize("content", ["", "{", "3"])
def test_a_damaged_configuration_is_told(content: str, model: Path) -> None:
    (model / "config.json").write_text(content)
    with pytest.raises(KeylmError, match=r"config\.json: cannot be read: .*; accepted: a JSON object"):
        read_config(model)


def test_weights_are_read_as_they_are_stored_from_all_files(model: Path) -> None:
    whole = load_file(model / "model.safetensors")
    found = read_weights(model)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], value) for name, value in whole.items())
    first, *others = sorted(whole)
    save_file({first: whole[first]}, model / "a.safetensors")
    save_file({name: whole[name] for name in others}, model / "model.safetensors")
    assert read_weights(model).keys() == whole.keys()


def test_damaged_weights_are_told_with_their_file(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(KeylmError, match=r"model\.safetensors: cannot be read: .*a whole safetensors file"):
        read_weights(model)


def test_the_weights_hash_is_of_the_weights_alone_and_the_fingerprint_of_everything(model: Path) -> None:
    before = weights_hash(model), model_fingerprint(model)
    assert before[0] != before[1]
    (model / "README.md").write_text("a card")
    assert (weights_hash(model), model_fingerprint(model)) == before
    write_json(model / "generation_config.json", json.loads('{"temperature": 0.3}'))
    assert (weights_hash(model), model_fingerprint(model) != before[1]) == (before[0], True)
    save_file({"a": torch.zeros(1)}, model / "more.safetensors")
    assert weights_hash(model) != before[0]


def test_a_model_is_of_english_unless_its_folder_names_languages(model: Path) -> None:
    assert model_languages(model) == ("en",)
    (model / "keylm.json").write_text('{"languages": ["de/german", "en"]}')
    assert model_languages(model) == ("de/german", "en")
    for damaged in ('{"languages": []}', '{"languages": ["../de"]}', "{}", '{"languages": "de"}', "["):
        (model / "keylm.json").write_text(damaged)
        with pytest.raises(KeylmError, match=r"keylm\.json"):
            model_languages(model)


def test_a_recipes_languages_are_written_into_its_models_folder(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    train_tokenizer(iter(["ein kleines Haus " * 50]), 280, tokenizer, 32)
    for given, found in ([], ("en",)), (['language=["de/german","en"]'], ("de/german", "en")):
        recipe = tiny_recipe(tmp_path, [*given, "tokenizer.vocab_size=280"])
        config = Qwen3Config(**qwen3_config(recipe.model, 280))
        weights = Qwen3ForCausalLM(config).state_dict()
        folder = tmp_path / f"model-{len(found)}"
        export_model(recipe, weights, tokenizer, folder)
        assert model_languages(folder) == found
        export_folder(folder, tmp_path / f"hub-{len(found)}")
        assert model_languages(tmp_path / f"hub-{len(found)}") == found
        assert (folder / "keylm.json").exists() == (found != ("en",))
    tuned = tiny_recipe(tmp_path, ["tokenizer.vocab_size=280", f"training.initial_model={tmp_path / 'model-2'}"])
    export_model(tuned, weights, tokenizer, tmp_path / "tuned")
    assert model_languages(tmp_path / "tuned") == ("de/german", "en")
