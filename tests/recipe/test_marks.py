"""A field says once that it holds a path, or may change on resume; nothing else does."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field
from support.recipes import tiny_recipe

from keylm.recipe.fields import Section
from keylm.recipe.load import PATHS, Recipe, load_recipe
from keylm.recipe.marks import FREE, IsFree, IsPath, covers, map_texts, marked
from keylm.recipe.run_identity import FREE_FIELDS, identity

FREE_BY_HAND = {
    "name",
    "description",
    "paths",
    "licences",
    "data.stream",
    "data.shards",
    "data.cache_bytes",
    "checkpoints",
    "evaluation.benchmarks",
    "evaluation.benchmark_items",
    "evaluation.benchmarks_every_steps",
    "evaluation.prompts",
    "evaluation.chats",
    "evaluation.sample_tokens",
    "training.attention",
    "training.deterministic",
    "training.device",
    "training.compile",
    "training.micro_batch_windows",
    "training.parallel",
}
PATHS_BY_HAND = {
    "paths": "folder",
    "data.shards": "build",
    "sources.*.path": "text",
    "typos.word_lists": "text",
    "curation.decontaminate": "text",
    "tokenizer.path": "tokenizer",
    "training.initial_model": "tokenizer",
}


class Inner(Section):
    kept: int = 1
    free: Annotated[int, FREE] = 1
    free_too: int = 1


class Outer(Section):
    name: Annotated[str, FREE] = ""
    name_of_it: str = ""
    one: Inner = Inner()
    some: dict[str, Inner] = Field(default_factory=dict)
    maybe: Annotated[Inner | None, FREE] = None
    place: Annotated[str | None, IsPath()] = None
    places: Annotated[tuple[str, ...], IsPath()] = ()
    named: Annotated[dict[str, str], IsPath("folder")] = Field(default_factory=dict)


def test_the_free_fields_and_the_paths_are_these() -> None:
    assert {".".join(location) for location in FREE_FIELDS} == FREE_BY_HAND
    assert {".".join(location): mark.to for location, mark in PATHS.items()} == PATHS_BY_HAND


def test_marks_are_found_in_tables_and_in_tables_of_tables() -> None:
    assert list(marked(Outer, IsFree)) == [
        ("name",),
        ("one", "free"),
        ("some", "*", "free"),
        ("maybe",),
        ("maybe", "free"),
    ]
    assert list(marked(Outer, IsPath)) == [("place",), ("places",), ("named",)]


def test_a_field_beside_a_free_one_is_not_free_for_its_name() -> None:
    free = marked(Outer, IsFree)
    for key in (("name",), ("one", "free"), ("some", "x", "free"), ("maybe", "kept")):
        assert covers(free, key), key
    for key in (("name_of_it",), ("one", "free_too"), ("some", "x", "free_too"), ("one",), ("some", "free")):
        assert not covers(free, key), key
    for key in (("name_suffix",), ("evaluation", "benchmark_shots"), ("checkpoints_kept",), ("training", "compiled")):
        assert not covers(FREE_FIELDS, key), key


def test_a_new_field_decides_what_is_trained_unless_it_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wider(Recipe):
        name_of_it: str = "a"

    class Marked(Recipe):
        name_of_it: Annotated[str, FREE] = "a"

    data = tiny_recipe(tmp_path).model_dump(by_alias=True)
    assert "name" not in identity(Wider(**data))
    assert identity(Wider(**data))["name_of_it"] == "a"
    monkeypatch.setattr("keylm.recipe.run_identity.FREE_FIELDS", marked(Marked, IsFree))
    assert "name_of_it" not in identity(Marked(**data))


def test_texts_are_changed_where_they_are_marked_and_nowhere_else() -> None:
    data = {"name": "a", "place": "b", "places": ["c", 3], "named": {"x": "d"}, "one": {"place": "e"}}
    seen: list[tuple[str, str]] = []

    def change(text: str, field: str) -> str:
        seen.append((text, field))
        return text.upper()

    changed = map_texts(data, marked(Outer, IsPath), change)
    assert changed == {**data, "place": "B", "places": ["C", 3], "named": {"x": "D"}}
    assert seen == [("b", "place"), ("c", "places"), ("d", "named.x")]


def test_every_path_of_the_command_line_counts_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_recipe(tmp_path / "there")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    overrides = [
        "sources.tales={path='tales.jsonl'}",
        "sources.notes.path=notes.jsonl",
        "typos={word_lists=['a.txt']}",
        "curation.decontaminate=['b.jsonl']",
        "tokenizer.path=t",
        "training.initial_model=m",
        "data.shards=s",
        "paths={corpus='c'}",
    ]
    recipe = load_recipe(tmp_path / "there" / "recipe.toml", overrides)
    here, curation = tmp_path.resolve() / "here", recipe.curation
    assert curation is not None
    found = [recipe.sources["tales"].path, recipe.sources["notes"].path, *recipe.typos.word_lists]
    found += [*curation.decontaminate, recipe.tokenizer.path, recipe.training.initial_model, recipe.data.shards]
    found.append(recipe.paths["corpus"])
    names = ["tales.jsonl", "notes.jsonl", "a.txt", "b.jsonl", "t", "m", "s", "c"]
    assert found == [str(here / name) for name in names]
    assert recipe.sources["chat"].path == str(tmp_path.resolve() / "there" / "chat.jsonl")


@pytest.mark.parametrize("address", ["https://host/build", "hf://datasets/owner/build"])
def test_an_address_of_a_build_stays_as_it_is(address: str, tmp_path: Path) -> None:
    assert tiny_recipe(tmp_path, [f"data.shards={address}"]).data.shards == address
