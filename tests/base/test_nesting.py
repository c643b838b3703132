"""What is nested too deeply is one clear error wherever JSON or TOML is read."""

from pathlib import Path

import pytest
from support.recipes import tiny_recipe

from keylm.base.errors import KeylmError
from keylm.base.files import DEEPEST, DamagedFile, parse_json, read_json, read_object, read_table
from keylm.base.json_lines import parse_rows
from keylm.recipe.load import load_recipe, read_toml

DEEP = "[" * 2000 + "]" * 2000


def test_json_is_read_down_to_the_deepest_level():
    nested = parse_json("[" * DEEPEST + "]" * DEEPEST)
    for _ in range(DEEPEST - 1):
        [nested] = nested
    assert nested == []
    for levels in (DEEPEST + 1, 500, 2000, 100_000):
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            inner = "0" if opening != "[" else ""
            with pytest.raises(ValueError, match="nested deeper than 100 levels"):
                parse_json(opening * levels + inner + closing * levels)


def test_a_file_of_json_says_where(tmp_path: Path):
    file = tmp_path / "x.json"
    file.write_text(DEEP)
    with pytest.raises(DamagedFile, match=r"x\.json: cannot be read: nested deeper than 100 levels; accepted: JSON"):
        read_json(file)
    assert read_table(file) == {}
    for other in ("[1]", "3", '[["a", 1]]'):
        file.write_text(other)
        with pytest.raises(DamagedFile, match="accepted: a JSON object"):
            read_object(file)
        assert read_table(file) == {}
    assert parse_rows(f'{{"a": 1}}\n{{"a": {DEEP}}}\n{{"a": 2}}\n') == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    "setting", [f"a={DEEP}", "a=" + "[" * 2000, "a=" + "{b=" * 2000, ".".join("a" * 2000) + "=1", f"seed={DEEP}"]
)
def test_an_override_says_so(setting: str, tmp_path: Path):
    tiny_recipe(tmp_path)
    with pytest.raises(KeylmError, match=r"--set 'a|--set 'seed|nested deeper than") as told:
        load_recipe(tmp_path / "recipe.toml", [setting])
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    "line", [f"a = {DEEP}", "a = " + "[" * 3000, "a" + ".a" * 3000 + " = 1", "[a" + ".a" * 500 + "]"]
)
def test_a_recipe_says_so(line: str, tmp_path: Path):
    file = tmp_path / "deep.toml"
    file.write_text(line)
    with pytest.raises(KeylmError, match=r"deep\.toml: not valid TOML: nested deeper than 100 levels"):
        read_toml(file)
