"""Every mistake in a recipe is reported with its field, its value and what is accepted."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.recipes import TINY, tiny_recipe

from keylm.base.errors import KeylmError
from keylm.model.decoder import count_parameters
from keylm.recipe.load import Recipe, load_recipe, packaged_recipes, parse_recipe, stage_steps
from keylm.recipe.schema import PIECE_BYTES, Curation

RECIPES = Path(__file__).parents[2] / "recipes"


def refused(folder: Path, *overrides: str) -> str:
    """Return the message with which the tiny recipe with `overrides` is refused."""
    tiny_recipe(folder)
    return refused_file(folder / "recipe.toml", *overrides)


def refused_file(file: Path, *overrides: str) -> str:
    with pytest.raises(KeylmError) as caught:
        load_recipe(file, list(overrides))
    assert caught.value.exit_code == 2
    return str(caught.value)


REFUSED = {
    "unknown key": ("training.batch_token=8192", "training.batch_token: unknown key", "'batch_tokens'", "clip_norm"),
    "unknown top key": ("modell={}", "modell: unknown key", "did you mean 'model'", "stages"),
    "unknown key of a source": ('sources.tales.licens="x"', "sources.tales.licens", "'licence'", "max_bytes"),
    "inner name of a key": ('sources.tales.text_register="casual"', "text_register: unknown key", ", register,"),
    "no language": ('language="German"', "language", '"German"', "accepted"),
    "no languages": ("language=[]", "language", "[]", "accepted"),
    "language of noise": (
        'sources.typos={typos_of=["tales"], language="de"}',
        "sources.typos",
        "'de'",
        "has that of the sources it is made from",
    ),
    "language of a source": ("sources.tales.language=1", "sources.tales.language", "1", "accepted"),
    "quoted number": ('training.batch_tokens="8192"', "training.batch_tokens", '"8192"', "accepted: a valid int"),
    "fraction for int": ("training.context=32.5", "training.context", "32.5", "accepted: a valid integer"),
    "bool for int": ("seed=true", "seed", "true", "accepted: a valid integer"),
    "number for bool": ("training.compile=1", "training.compile", "got 1", "accepted: a valid bool"),
    "zero": ("model.hidden_size=0", "model.hidden_size", "got 0", "accepted: greater than 0"),
    "not a number": ("stages.chat.peak=nan", "stages.chat.peak", "NaN", "accepted: a finite number"),
    "endless weight": ("stages.chat.weights.chat=inf", "stages.chat.weights.chat", "Infinity", "a finite number"),
    "negative weight": ("stages.chat.weights.chat=-1", "stages.chat.weights.chat", "got -1", "accepted: greater"),
    "outside the choice": ("training.precision=fp16", "training.precision", '"fp16"', "'fp32' or 'bf16'"),
    "unknown way to share": ("training.parallel=pp", "training.parallel", '"pp"', "'ddp' or 'fsdp'"),
    "form that is gone": (
        "sources.tales={typos_of=['notes'], forms={continuation=1}}",
        "sources.tales.forms.continuation",
        "accepted: 'masked', 'correction' or 'pair'",
    ),
    "seed too large": (f"seed={2**63}", "seed", str(2**63), f"less than {2**63}"),
    "value for a table": ("model=3", "model", "got 3", "accepted: "),
    "name that is no name": ('name="../x"', "name", '"../x"', "letters, digits, _ and -"),
    "weights sum to zero": ("stages.chat.weights={chat=0}", "stages.chat: weights sum to 0", "positive weight"),
    "no weights": ("stages.chat.weights={}", "stages.chat: weights sum to 0", "positive weight"),
    "tiny weight": (
        "stages.pretrain.weights={tales=2, notes=0.0015}",
        "stages.pretrain: weights.notes = 0.0015",
        "1/1000",
        "at least 0.0020015 or 0",
    ),
    "unknown source": (
        "stages.chat.weights.tails=1",
        "stages.chat.weights names 'tails'",
        "tales, notes, chat",
        "did you mean 'tales'",
    ),
    "typos of an unknown source": (
        'sources.typed={typos_of=["tails"]}',
        "sources.typed.typos_of names 'tails'",
        "did you mean 'tales'",
    ),
    "two origins": ('sources.tales.hub="a/b"', "sources.tales", "path and hub", "exactly one of path, hub, typos_of"),
    "no origin": ("sources.empty={}", "sources.empty", "got none", "exactly one of path, hub, typos_of"),
    "ragged batch": ("training.batch_tokens=100", "batch_tokens = 100", "context = 32", "try 96 or 128"),
    "batch under a window": ("training.batch_tokens=20", "batch_tokens = 20", "context = 32", "try 32"),
    "context over positions": (
        "training.context=64",
        "training.context = 64",
        "model.max_position_embeddings = 32",
    ),
    "heads that don't share": ("model.num_key_value_heads=3", "num_attention_heads = 2", "multiple", "heads = 3"),
    "odd head": ("model.head_dim=15", "head_dim = 15", "even"),
    "warmup and decay overlap": ("stages.chat.warmup=0.5", "stages.chat", "1.5", "at most 1"),
    "no stages": ("stages={}", "stages is empty", "[stages.NAME]"),
    "typos of a source twice": (
        'sources.typed={typos_of=["notes", "tales", "notes"]}',
        "sources.typed: typos_of names 'notes' twice",
        "accepted: each source once",
    ),
    "documents longer than any": (
        "curation={maximum_characters=1048577}",
        "curation: maximum_characters = 1048577 would never act",
        "accepted: at most 1048576",
    ),
    "unknown benchmark": (
        'evaluation.benchmarks=["piqa", "mmlu"]',
        "evaluation.benchmarks.1",
        '"mmlu"',
        "accepted: 'arc_easy', 'hellaswag' or 'piqa'",
    ),
    "benchmark twice": (
        'evaluation.benchmarks=["piqa", "piqa"]',
        "evaluation: benchmarks names 'piqa' twice",
        "accepted: each benchmark once",
    ),
    "path with a NUL": (
        'sources.tales.path="a\\u0000b"',
        "sources.tales.path",
        "a\\x00b': embedded null",
        "a file or folder",
    ),
    "home of nobody": ('paths.x="~nobody-of-this-name/x"', "~nobody-of-this-name/x'", "home directory"),
    "missing embedded file": (
        'sources.tales.path="embedded:gone"',
        "sources.tales.path",
        "'embedded:gone'",
        "embedded files are: ",
    ),
    "override without equals": ("training.context", "--set 'training.context'", "dotted.key=value"),
    "override with an empty part": ("training..context=32", "'training..context=32'", "dotted.key=value"),
    "override without a key": ("=32", "--set '=32'", "dotted.key=value"),
    "override through a value": ("seed.low=1", "--set 'seed.low=1'", "'seed' is a value, not a table"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_told_with_field_value_and_what_is_accepted(case: str, tmp_path: Path) -> None:
    override, *told = REFUSED[case]
    message = refused(tmp_path, override)
    assert [part for part in told if part not in message] == [], message


def test_all_mistakes_are_told_at_once_each_with_the_file(tmp_path: Path) -> None:
    lines = refused(tmp_path, "seed=-1", "model.head_dim=x", "training.clip=1").splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{tmp_path / 'recipe.toml'}: ") for line in lines)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(TINY.replace("head_dim = 16\n", ""))
    assert "model.head_dim: is missing" in refused_file(tmp_path / "recipe.toml")


def test_a_missing_recipe_is_named_beside_those_that_come_with_keylm(tmp_path: Path) -> None:
    message = refused_file(tmp_path / "gone.toml")
    assert str(tmp_path / "gone.toml") in message
    assert "nano" in message


@pytest.mark.parametrize("content", [b"name = \n", b"name = 'a\xff'\n", b"[model]\n[model]\n"])
def test_what_is_not_toml_is_refused_with_the_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(content)
    assert f"{tmp_path / 'recipe.toml'}: not valid TOML" in refused_file(tmp_path / "recipe.toml")


def test_overrides_reach_nested_keys_make_tables_and_read_toml_or_plain_text(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        tmp_path,
        [
            "training.batch_tokens=512",
            "optimizer.adam_betas=[0.5, 0.75]",
            "sources.more={path = 'tales.jsonl', register = 'casual'}",
            " stages.pretrain.weights.more = 2",
            "name=bare-name",
            "description=a = b, plainly",
        ],
    )
    assert recipe.training.batch_tokens == 512
    assert recipe.optimizer.adam_betas == (0.5, 0.75)
    assert recipe.sources["more"].text_register == "casual"
    assert recipe.stages["pretrain"].weights == {"tales": 3, "notes": 1, "more": 2}
    assert (recipe.name, recipe.description) == ("bare-name", "a = b, plainly")


def test_of_two_overrides_of_one_key_the_later_counts(tmp_path: Path) -> None:
    assert tiny_recipe(tmp_path, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("field", ["seed", "name", "new"])
def test_a_recipe_is_frozen(field: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(recipe, field, 1)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(recipe.training, field, 1)


def test_relative_paths_count_from_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_recipe(tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("there/recipe.toml")
    assert recipe.sources["tales"].path == str(tmp_path.resolve() / "there" / "tales.jsonl")


@pytest.mark.parametrize("field", ["sources.tales.path", "data.shards", "tokenizer.path"])
def test_links_in_a_circle_are_told_with_the_field(field: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    message = refused(tmp_path, f"{field}={tmp_path}/loop")
    assert f"{field}: got '{tmp_path}/loop'" in message
    assert "loop" in message.partition("accepted:")[0]


def test_a_recipe_loads_where_its_files_are_gone(tmp_path: Path) -> None:
    there = tiny_recipe(tmp_path)
    for name in ("tales", "notes", "chat"):
        (tmp_path / f"{name}.jsonl").unlink()
    assert load_recipe(tmp_path / "recipe.toml") == there


def test_the_highest_bound_of_characters_is_the_size_at_which_texts_are_cut(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, [f"curation={{maximum_characters={PIECE_BYTES}}}"])
    assert recipe.curation == Curation()


def test_only_sources_with_a_positive_weight_are_used_in_the_recipes_order(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, ["stages.pretrain.weights={notes = 0, tales = 1}"])
    assert list(recipe.used_sources) == ["tales", "chat"]


def test_steps_cover_the_tokens_of_a_stage(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, ["stages.chat.tokens=1025"])
    assert stage_steps(recipe) == {"pretrain": 6, "chat": 5}


def test_the_resolved_recipe_saved_as_toml_loads_as_an_equal_one(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, ["sources.notes.max_bytes=9000", "optimizer.adam_eps=1e-12"])
    saved = tmp_path / "elsewhere" / "recipe.toml"
    saved.parent.mkdir()
    saved.write_text(recipe.to_toml(), encoding="utf-8")
    assert load_recipe(saved) == recipe
    assert "muon_momentum_steps" in recipe.to_toml(), "defaults are written out"


finite = st.floats(min_value=1e-300, max_value=1e3)


@given(
    text=st.text(st.characters(exclude_categories=["Cs"])),
    prompts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3),
    rate=finite,
    weights=st.lists(st.floats(min_value=0.01, max_value=1), min_size=3, max_size=3),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_recipe_survives_toml(text: str, prompts: list[str], rate: float, weights: list[float], seed: int) -> None:
    data = tomllib.loads(TINY)
    data |= {"description": text, "seed": seed, "optimizer": {"muon_learning_rate": rate}}
    data["evaluation"]["prompts"] = prompts
    data["stages"]["pretrain"]["weights"] = dict(zip(data["sources"], weights, strict=True))
    recipe = parse_recipe(data, "test")
    assert parse_recipe(tomllib.loads(recipe.to_toml()), "again") == recipe


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.toml")), ids=lambda file: file.stem)
def test_every_recipe_that_comes_with_keylm_loads_by_its_bare_name(file: Path) -> None:
    recipe = load_recipe(file.stem)
    assert isinstance(recipe, Recipe)
    assert recipe == load_recipe(file)
    assert recipe.name == file.stem == packaged_recipes()[file.stem].stem


def test_keylm_75m_has_exactly_its_parameters() -> None:
    file = RECIPES / "keylm-75m.toml"
    if not file.is_file():
        pytest.skip("recipes/keylm-75m.toml is not there yet")
    recipe = load_recipe(file)
    assert count_parameters(recipe.model, recipe.tokenizer.vocab_size) == 75_251_200


def test_recipes_of_earlier_runs_load_without_the_retired_optimizer_fields(tmp_path: Path):
    plain = tiny_recipe(tmp_path)
    data = plain.to_data()
    old = {"matrices": "muon", "matrix_learning_rate": 0.003, "matrix_betas": [0.9, 0.95], "matrix_weight_decay": 0.1}
    data["optimizer"].update(old)
    assert parse_recipe(data, "an earlier run") == plain
    data["optimizer"]["matrices"] = "adamw"
    with pytest.raises(KeylmError, match="matrices: unknown key"):
        parse_recipe(data, "an earlier run")


def test_sources_of_no_stated_licence_can_be_left_out(tmp_path: Path) -> None:
    stated = ["sources.tales.licence=CC0", "sources.chat.licence=MIT"]
    mixed = 'sources.slips={typos_of=["tales", "notes"], licence="as its sources"}'
    alone = 'sources.alone={typos_of=["notes"], licence="as its sources"}'
    weights = "stages.pretrain.weights={tales=0.5, notes=0.3, slips=0.1, alone=0.1}"
    chosen = [*stated, mixed, alone, weights]
    everything = tiny_recipe(tmp_path, chosen)
    assert set(everything.used_sources) == {"tales", "notes", "slips", "alone", "chat"}
    recipe = tiny_recipe(tmp_path, [*chosen, "licences=open", "stages.chat.weights={chat=0.6, notes=0.4}"])
    assert recipe.stages["pretrain"].weights == {"tales": 0.5, "slips": 0.1}
    assert recipe.stages["chat"].weights == {"chat": 0.6}
    assert recipe.sources["slips"].typos_of == ("tales",)
    (tmp_path / "again.toml").write_text(recipe.to_toml())
    assert load_recipe(tmp_path / "again.toml") == recipe
    said = refused(tmp_path, "licences=open")
    assert 'licences = "open" leaves stages.pretrain without a source' in said
    assert "licences" in refused(tmp_path, "licences=closed")


def test_a_recipe_names_its_languages_and_sources_follow(tmp_path: Path) -> None:
    assert tiny_recipe(tmp_path).language == ("en",)
    one = tiny_recipe(tmp_path, ['language="de/german"', "curation={}"])
    assert (one.language, one.language_of("tales")) == (("de/german",), "de/german")
    assert one.curation is not None
    assert one.curation.languages == ("de",)
    both = ['language=["de","en"]', 'sources.notes.language="en"', 'sources.typos={typos_of=["notes"]}', "curation={}"]
    recipe = tiny_recipe(tmp_path, both)
    assert [recipe.language_of(name) for name in ("tales", "notes", "typos")] == ["de", "en", "en"]
    assert recipe.curation is not None
    assert recipe.curation.languages == ("de", "en")
    assert tiny_recipe(tmp_path, ['language="de"', 'curation={languages=["fr"]}']).curation.languages == ("fr",)
    assert tiny_recipe(tmp_path, ["curation={}"]).curation == Curation()
    message = refused(tmp_path, *both[:2], 'sources.typos={typos_of=["tales","notes"]}')
    assert "sources.typos.typos_of names sources of 'de' and 'en'; accepted: of one language" in message
