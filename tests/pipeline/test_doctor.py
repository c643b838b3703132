"""The doctor looks at everything that a build will read."""

from pathlib import Path

import pytest
from support.recipes import tiny_recipe

from keylm.base.errors import KeylmError
from keylm.pipeline.doctor import _data
from keylm.recipe.load import load_recipe

NOISY = ['sources.noisy={typos_of=["notes"]}', "stages.pretrain.weights={tales=3, noisy=1}"]


def test_a_source_that_is_read_only_for_its_typos_is_looked_at_too(tmp_path: Path) -> None:
    found = _data(tiny_recipe(tmp_path, NOISY))
    assert "noisy: typos in notes" in found
    assert "notes: 1 file" in found
    (tmp_path / "notes.jsonl").unlink()
    with pytest.raises(KeylmError, match=r"sources\.notes\.path: .* does not exist"):
        _data(load_recipe(tmp_path / "recipe.toml", NOISY))


def test_a_list_of_words_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(KeylmError, match=r"typos\.word_lists: .*nothing\.txt does not exist"):
        _data(tiny_recipe(tmp_path, ['typos.word_lists=["nothing.txt"]']))
