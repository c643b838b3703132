"""With curation `data verify` goes back to the sources themselves, unless told not to, and says which."""

import shutil
from pathlib import Path

import pytest
from support.recipes import tiny_recipe
from typer.testing import CliRunner

from keylm.base.errors import KeylmError
from keylm.base.files import read_json, sha256_json
from keylm.cli import data as cli_data
from keylm.data.build import build_shards
from keylm.data.curated import curated_recipe, curation_facts
from keylm.data.manifest import read_manifest
from keylm.data.provenance import DataProvenance, source_origin
from keylm.pipeline.run import run
from keylm.pipeline.verify import verify
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder

pytest.importorskip("datatrove", reason="datatrove is not installed: pip install 'keylm[curate]'")

CURATION = (
    "curation={near_duplicates=false, minimum_characters=1, language_threshold=0.0, "
    "filters={formal=[], casual=[], conversational=[], structured=[], synthetic=[]}}"
)
NOISY = ['sources.noisy={typos_of=["notes"]}', "stages.pretrain.weights={tales=3, noisy=1}"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    run(tiny_recipe(folder, [CURATION, *NOISY]), folder / "run", until="shards", workers=1, quiet=True)
    return folder


@pytest.fixture
def built(original: Path, tmp_path: Path) -> tuple[Recipe, RunFolder]:
    """A curated run of one's own, over sources of one's own."""
    shutil.copytree(original / "run", tmp_path / "run")
    recipe = RunFolder(tmp_path / "run").saved_recipe()
    sources = dict(recipe.sources)
    for name in recipe.read_sources:
        file = shutil.copy(str(sources[name].path), tmp_path)
        sources[name] = sources[name].model_copy(update={"path": str(file)})
    return recipe.model_copy(update={"sources": sources}), RunFolder(tmp_path / "run")


def test_the_manifest_names_the_sources_before_curation_and_what_curated_them(
    built: tuple[Recipe, RunFolder],
) -> None:
    recipe, folder = built
    manifest, report = read_manifest(folder.shards), read_json(folder.curated / "report.json")
    assert list(manifest.origins) == ["tales", "notes", "chat"]
    for name, origin in manifest.origins.items():
        assert origin["files"] == source_origin(name, recipe.sources[name])["files"]
        assert origin["settings"]["adapter"] == "auto"
    assert manifest.origins["notes"]["settings"]["register"] == "casual"
    assert manifest.curation.model_dump() == {"hash": report["hash"], "settings": report["settings"]}
    assert len((folder.shards / "manifest.json").read_bytes()) < 20_000


def test_two_workers_and_one_give_the_same_manifest(built: tuple[Recipe, RunFolder], tmp_path: Path) -> None:
    recipe, folder = built
    data, facts = curated_recipe(recipe, folder.curated), curation_facts(recipe, folder.curated)
    again = build_shards(
        data, DataProvenance.of(data, facts), folder.tokenizer, tmp_path / "again", workers=2, quiet=True
    )
    assert again == read_manifest(folder.shards)


def test_the_sources_prove_it_without_the_curated_files(
    built: tuple[Recipe, RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = built
    shutil.rmtree(folder.curated)
    assert len(verify(recipe, folder, 1, workers=1)) == 64
    assert "shards built anew from the sources, curated anew, have the SHA-256" in capsys.readouterr().out
    with pytest.raises(KeylmError, match="curated: no finished curation"):
        verify(recipe, folder, 1, workers=1, from_curated=True, quiet=True)


def test_changed_sources_are_refused_but_not_looked_at_from_the_curated_files(
    built: tuple[Recipe, RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = built
    notes = Path(str(recipe.sources["notes"].path))
    notes.write_text(notes.read_text().replace("fox", "dog", 1))
    with pytest.raises(KeylmError, match=r"sources\.notes: its origin is "):
        verify(recipe, folder, 1, workers=1, quiet=True)
    verify(recipe, folder, 1, workers=1, from_curated=True)
    told = capsys.readouterr().out.replace("\n", "")
    assert "shards built anew from the curated files in" in told
    assert "how those were made from the sources was not checked" in told


def test_the_option_of_the_command_line(built: tuple[Recipe, RunFolder], capsys: pytest.CaptureFixture[str]) -> None:
    path = built[1].path
    cli_data.verify(path, step=0, workers=1, from_curated=True)
    assert "built anew from the curated files in" in capsys.readouterr().out.replace("\n", "")
    done = CliRunner().invoke(cli_data.app, ["verify", "--help"])
    assert "--from-curated" in done.output


def test_other_filters_are_refused(built: tuple[Recipe, RunFolder]) -> None:
    recipe, folder = built
    assert recipe.curation
    other = recipe.model_copy(update={"curation": recipe.curation.model_copy(update={"mask_pii": False})})
    with pytest.raises(KeylmError, match="curation: its settings is "):
        verify(other, folder, 1, workers=1, quiet=True)
    with pytest.raises(KeylmError, match="curation: the manifest has it, the recipe has not"):
        verify(recipe.model_copy(update={"curation": None}), folder, 1, workers=1, quiet=True)


def test_the_curation_decides_the_shards_hash(built: tuple[Recipe, RunFolder]) -> None:
    recipe, folder = built
    facts = curation_facts(recipe, folder.curated)
    assert sha256_json(facts.record.settings) == sha256_json(read_manifest(folder.shards).curation.settings)
