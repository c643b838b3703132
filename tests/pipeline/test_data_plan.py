"""The plan says what training will take: exact once shards are built, estimated and marked before."""

from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from support.recipes import tiny_recipe

from keylm.base.errors import KeylmError
from keylm.data.build import build_shards
from keylm.data.curriculum import Curriculum
from keylm.data.manifest import read_manifest
from keylm.data.provenance import DataProvenance
from keylm.data.store import finished_store
from keylm.pipeline.data_plan import Share, plan, show_plan
from keylm.pipeline.run import run
from keylm.recipe.load import Recipe, load_recipe, parse_recipe
from keylm.recipe.run_folder import RunFolder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, RunFolder]:
    """A recipe whose shards hold all that its sources have."""
    folder = tmp_path_factory.mktemp("built")
    recipe = tiny_recipe(folder)
    return recipe, run(recipe, folder / "run", until="shards", quiet=True)


def changed(recipe: Recipe, *sets: tuple[str, str, object]) -> Recipe:
    """Return the recipe with other (stage, field, value)s."""
    data = recipe.to_data()
    for stage, field, value in sets:
        data["stages"][stage][field] = value
    return parse_recipe(data, "test")


@pytest.mark.parametrize(("pretrain", "chat"), [(1536, 1024), (1, 256), (70_000, 3000)])
def test_each_stages_tokens_are_those_of_all_picks(built: tuple[Recipe, RunFolder], pretrain: int, chat: int) -> None:
    recipe = changed(built[0], ("pretrain", "tokens", pretrain), ("chat", "tokens", chat))
    store = finished_store(built[1].shards)
    curriculum = Curriculum(recipe, store.layout)
    taken: Counter[tuple[str, str]] = Counter()
    epochs: Counter[str] = Counter()
    for step in range(curriculum.total_steps):
        for pick in curriculum.picks(step):
            taken[curriculum.place(step)[0], pick.source] += recipe.training.context
            epochs[pick.source] = max(epochs[pick.source], pick.epoch)
    shares = plan(recipe, built[1])
    assert [share.source for share in shares] == ["tales", "notes", "chat"]
    for share in shares:
        assert share.stages == {stage: taken[stage, share.source] for stage in recipe.stages}
        assert share.tokens == sum(share.stages.values())


def test_sizes_are_the_manifests_once_shards_are_built(built: tuple[Recipe, RunFolder]) -> None:
    recipe, folder = built
    sources = read_manifest(folder.shards).sources
    for share in plan(recipe, folder):
        assert share.exact
        assert share.size == sources[share.source].train.tokens
        assert share.epochs == share.tokens / share.size


def test_a_source_that_is_built_in_part_is_not_called_exact(built: tuple[Recipe, RunFolder], tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, ["data.shard_tokens=2048"])
    folder = run(recipe, tmp_path / "run", until="shards", quiet=True)
    exact = {share.source: share.exact for share in plan(recipe, folder)}
    assert not exact["tales"]
    whole = {share.source: share.size for share in plan(*built)}["tales"]
    [estimate] = [share.size for share in plan(recipe, folder) if share.source == "tales"]
    assert estimate == pytest.approx(whole, rel=0.2), "and the estimate comes from the whole source"


def test_sizes_are_no_more_exact_once_a_source_or_a_setting_has_changed(tmp_path: Path) -> None:
    folder = run(tiny_recipe(tmp_path), tmp_path / "run", until="shards", quiet=True)
    recipe = load_recipe(tmp_path / "recipe.toml")
    sizes = {share.source: share.size for share in plan(recipe, folder) if share.exact}
    assert list(sizes) == ["tales", "notes", "chat"]
    half = (tmp_path / "notes.jsonl").stat().st_size // 2
    limited = plan(load_recipe(tmp_path / "recipe.toml", [f"sources.notes.max_bytes={half}"]), folder)
    assert not any(share.exact for share in limited)
    [size] = [share.size for share in limited if share.source == "notes"]
    assert size == pytest.approx(sizes["notes"] / 2, rel=0.3), "at the bytes that a token has, not four"
    tales = (tmp_path / "tales.jsonl").read_text()
    (tmp_path / "tales.jsonl").write_text(tales * 2)
    shares = {share.source: share for share in plan(recipe, folder)}
    assert not any(share.exact for share in shares.values())
    assert shares["tales"].size == pytest.approx(2 * sizes["tales"], rel=0.3)
    (tmp_path / "tales.jsonl").unlink()
    assert all(share.exact for share in plan(recipe, folder)), "the shards are all there is"


def test_a_trained_runs_sizes_stay_exact_whatever_becomes_of_its_sources(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    folder = run(recipe, tmp_path / "run", until="train", quiet=True)
    (tmp_path / "tales.jsonl").write_text('{"text": "other"}\n')
    assert all(share.exact for share in plan(recipe, folder))


def test_curated_sizes_are_no_more_exact_once_a_raw_source_or_a_filter_has_changed(tmp_path: Path) -> None:
    pytest.importorskip("datatrove", reason="datatrove is not installed: pip install 'keylm[curate]'")
    plain = "minimum_characters=1, language_threshold=0.0, filters={formal=[], casual=[], conversational=[]}"
    given = f"curation={{near_duplicates=false, {plain}}}"
    folder = run(tiny_recipe(tmp_path, [given]), tmp_path / "run", until="shards", workers=1, quiet=True)
    recipe = load_recipe(tmp_path / "recipe.toml", [given])
    assert all(share.exact for share in plan(recipe, folder))
    other = load_recipe(tmp_path / "recipe.toml", [given.replace("characters=1", "characters=2")])
    assert not any(share.exact for share in plan(other, folder))
    notes = tmp_path / "notes.jsonl"
    notes.write_text(notes.read_text().replace("fox", "dog"))
    assert not any(share.exact for share in plan(recipe, folder))


def test_before_anything_is_built_sizes_are_estimated_and_marked(
    built: tuple[Recipe, RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe(tmp_path, ["sources.notes.max_bytes=400"])
    nothing = RunFolder(tmp_path / "run")
    shares = {share.source: share for share in plan(recipe, nothing)}
    assert not any(share.exact for share in shares.values())
    assert shares["notes"].size == 100
    known = {share.source: share.size for share in plan(*built)}
    for name in ("tales", "chat"):
        assert known[name] / 3 < shares[name].size < known[name] * 3
    show_plan(recipe, nothing, None)
    shown = capsys.readouterr().out
    assert "≈ 100" in shown
    assert "≈ estimated from a sample; `keylm data build` counts" in shown
    assert not nothing.path.exists(), "planning leaves nothing"


def test_a_plan_without_estimates_marks_nothing(
    built: tuple[Recipe, RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    show_plan(*built, None)
    shown = capsys.readouterr().out
    assert "≈" not in shown
    assert "plan: tiny, 2,560 tokens" in shown
    assert "warning" not in shown
    assert "registers: formal 5" in shown


def test_typos_are_estimated_from_their_origins_and_passes(tmp_path: Path) -> None:
    noisy = 'sources.noisy={typos_of=["tales", "notes"], passes=3}'
    recipe = tiny_recipe(tmp_path, [noisy, "stages.pretrain.weights={tales=2, notes=1, noisy=1}"])
    sizes = {share.source: share.size for share in plan(recipe, RunFolder(tmp_path / "run"))}
    assert sizes["noisy"] == 3 * (sizes["tales"] + sizes["notes"])


def test_more_than_four_epochs_are_warned_of_by_name(
    built: tuple[Recipe, RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = built
    sizes = {share.source: share.size for share in plan(recipe, folder)}
    for epochs, warned in ((3.9, False), (4.1, True)):
        tokens = round(epochs * sizes["notes"] * 4)  # notes are a quarter of the stage
        show_plan(changed(recipe, ("pretrain", "tokens", tokens)), folder, None)
        warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: notes")]
        expected = "warning: notes is gone through 4.1 times; more than 4 teach little"
        assert warnings == [expected] * warned


@pytest.mark.parametrize(("name", "begin"), [("a.svg", b"<?xml"), ("b.png", b"\x89PNG"), ("c/d.pdf", b"%PDF")])
def test_the_plot_is_written_in_the_format_its_name_asks_for(
    name: str, begin: bytes, built: tuple[Recipe, RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_plan(*built, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begin)
    assert str(tmp_path / name) in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("name", ["plan.gif", "plan", "svg"])
def test_another_format_is_refused_with_what_is_accepted(
    name: str, built: tuple[Recipe, RunFolder], tmp_path: Path
) -> None:
    with pytest.raises(KeylmError, match=rf"--plot: got .*{name}; accepted: a name that ends in \.svg, \.png or \.pdf"):
        show_plan(*built, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_nobody_knowing_a_size_is_told_and_no_epochs_are_claimed() -> None:
    share = Share("web", "formal", {"one": 100, "two": 50}, None, False)
    assert (share.tokens, share.epochs) == (150, None)


def test_the_plan_names_what_a_build_then_takes(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, ["data.shard_tokens=512"])
    folder = run(recipe, tmp_path / "run", until="tokenizer", quiet=True)
    manifest = build_shards(recipe, DataProvenance.of(recipe), folder.tokenizer, folder.shards, quiet=True)
    for share in plan(recipe, folder):
        entry = manifest.sources[share.source]
        assert entry.exhausted or entry.train.windows * recipe.training.context >= share.tokens


def test_names_stay_whole_in_a_narrow_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    recipe = tiny_recipe(tmp_path)
    long = {name: f"wikipedia_of_many_languages_{name}" for name in recipe.sources}
    sources = {long[name]: source for name, source in recipe.sources.items()}
    stages = {
        name: stage.model_copy(update={"weights": {long[key]: value for key, value in stage.weights.items()}})
        for name, stage in recipe.stages.items()
    }
    renamed = recipe.model_copy(update={"sources": sources, "stages": stages})
    for width, hidden in ((160, ()), (80, ("register",))):
        monkeypatch.setattr("keylm.pipeline.data_plan.console", Console(width=width))
        show_plan(renamed, RunFolder(tmp_path / "run"), None)
        shown = capsys.readouterr().out
        assert all(name in shown for name in long.values())
        assert ("not shown in" in shown) == bool(hidden)
        assert all(head in shown.split("not shown in")[-1] for head in hidden)
