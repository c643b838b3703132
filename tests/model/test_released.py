"""Released models: found by name, taken where none is named, complete where they are here."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from safetensors import safe_open
from support.programs import run as run_program

from keylm.base.errors import KeylmError
from keylm.base.files import read_json
from keylm.cli.main import main
from keylm.model import released
from keylm.model.folder import check_model_folder
from keylm.model.released import DEFAULT, find_model, released_models
from keylm.recipe.load import load_recipe
from keylm.report.card import CardDetails, gather

MODELS = Path(__file__).parents[2] / "models"
RESULTS = MODELS.parent / "results/release.json"
PARAMETERS = 75_251_200
SHARD_BYTES = 45_000_000
ROW = {"model", "benchmark", "metric", "value", "stderr", "n", "harness", "command"}
"""Of evaluation.json."""

# The command line with the models of a folder, and without a network.
KEYLM = """
import os, socket, sys
from pathlib import Path
from keylm.model import released
from keylm.cli.main import main
released.FOLDERS = (Path(sys.argv.pop(1)),)
socket.socket.connect = socket.getaddrinfo = lambda *arguments, **options: os._exit(99)
main()
"""


def keylm(models: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return run_program([sys.executable, "-c", KEYLM, str(models), *arguments], stdin=stdin, cwd=models.parent)


@pytest.fixture(scope="module")
def models(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a tiny model has the name of each released one."""
    folder = tmp_path_factory.mktemp("installed") / "models"
    for name in released.NAMES:
        shutil.copytree(base, folder / name)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Return the folders of an installed package and of a checkout, empty, from a working folder beside them."""
    folders = (tmp_path / "package" / "models", tmp_path / "checkout" / "models")
    monkeypatch.setattr(released, "FOLDERS", folders)
    monkeypatch.chdir(tmp_path)
    return folders


def put(folder: Path, name: str = DEFAULT) -> Path:
    """Make what looks like a model folder, and return it."""
    (folder / name).mkdir(parents=True)
    (folder / name / "config.json").write_text("{}")
    return folder / name


def test_the_package_comes_before_the_checkout_and_a_path_before_both(elsewhere: tuple[Path, Path], tmp_path: Path):
    package, checkout = elsewhere
    in_checkout = put(checkout)
    assert find_model(Path(DEFAULT)) == in_checkout
    in_package = put(package)
    assert find_model(Path(DEFAULT)) == in_package
    put(checkout, "keylm-75m")
    assert released_models() == {DEFAULT: in_package, "keylm-75m": checkout / "keylm-75m"}
    put(tmp_path)
    assert find_model(Path(DEFAULT)) == Path(DEFAULT)


def test_what_is_not_released_has_no_name(elsewhere: tuple[Path, Path]):
    put(elsewhere[1], "mine")
    assert released_models() == {}
    assert find_model(Path("mine")) == Path("mine")


def test_it_is_looked_for_beside_the_sources():
    assert (Path(released.__file__).parents[1] / "models", MODELS) == released.FOLDERS


@pytest.mark.parametrize(
    "arguments",
    [
        ["chat"],
        ["serve"],
        ["generate", DEFAULT, "Hello"],
        ["export", DEFAULT],
        ["eval", DEFAULT],
        ["sft", DEFAULT, "chats.jsonl", "--out", "run"],
        ["dpo", DEFAULT, "pairs.jsonl", "--out", "run"],
        ["grpo", DEFAULT, "prompts.jsonl", "--out", "run"],
    ],
)
def test_a_model_that_is_not_here_is_one_clear_error(
    elsewhere: tuple[Path, Path],
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    put(elsewhere[0], "keylm-75m")
    monkeypatch.setattr(sys, "argv", ["keylm", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"error: {DEFAULT}: ")
    for expected in (*map(str, elsewhere), "accepted: a model folder such as runs/nano/model", "here (keylm-75m)"):
        assert expected in said


def test_none_here_is_said(elsewhere: tuple[Path, Path]):
    with pytest.raises(KeylmError, match=r"here \(none is\)"):
        find_model(Path("keylm-75m"))


def test_chat_takes_the_released_model_by_itself_without_a_network(models: Path):
    before = written(models)
    done = keylm(models, "chat", "--max-new-tokens", "5", "--seed", "1", stdin="the cat?\n/exit\n")
    assert done.returncode == 0, done.stderr
    named = keylm(models, "chat", DEFAULT, "--max-new-tokens", "5", "--seed", "1", stdin="the cat?\n/exit\n")
    assert named.stdout == done.stdout
    assert written(models) == before, "an installed package may be in a folder that only root writes to"


def test_a_name_is_a_model_for_other_verbs_too(models: Path):
    done = keylm(models, "generate", "keylm-75m", "the old man", "--max-new-tokens", "4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the old man")


def test_serve_takes_the_released_model_by_itself(models: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("uvicorn", reason="needs uvicorn: pip install 'keylm[serve]'")
    from keylm.serving import start

    served = []
    monkeypatch.setattr(start, "serve", lambda model, options, quiet: served.append(start.prepare(model, options)))
    monkeypatch.setattr(released, "FOLDERS", (models,))
    monkeypatch.setattr(sys, "argv", ["keylm", "serve", "--no-suggest", "--slots", "1"])
    before = written(models)
    with pytest.raises(SystemExit, match="0"):
        main()
    assert [one.name for one in served] == [DEFAULT]
    served[0].engine.close()
    assert written(models) == before


def written(folder: Path) -> dict[Path, float]:
    """Return when each file and folder was last changed."""
    return {path: path.stat().st_mtime for path in [folder, *folder.rglob("*")]}


def needs_weights(folder: Path) -> None:
    """Skip where a light clone (README.md) left a released model's weights out."""
    if not list(folder.glob("*.safetensors")):
        pytest.skip(f"the clone left out the weights of {folder.name}: git sparse-checkout disable")


def test_the_released_model_answers():
    needs_weights(MODELS / DEFAULT)
    done = keylm(MODELS, "chat", "--max-new-tokens", "20", "--seed", "1", stdin="What is a cat?\n/exit\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("> ")[1].strip(), "an answer has words"


@pytest.mark.parametrize("name", released.NAMES)
def test_a_released_folder_is_complete(name: str):
    folder = MODELS / name
    needs_weights(folder)
    check_model_folder(folder)
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("---\n")
    assert read_json(folder / "manifest.json")["sources"]
    assert load_recipe(folder / "recipe.toml").name == folder.name
    rows = read_json(folder / "evaluation.json")
    assert rows
    assert all(set(row) >= ROW for row in rows)
    assert gather(folder, CardDetails()).parameters == PARAMETERS
    check_weights(folder)


def check_weights(folder: Path) -> None:
    """See that all shards are there, small enough for what hosts them, and bf16."""
    index = read_json(folder / "model.safetensors.index.json")["weight_map"]
    shards = sorted(folder.glob("*.safetensors"))
    assert {shard.name for shard in shards} == set(index.values())
    for shard in shards:
        assert shard.stat().st_size <= SHARD_BYTES, shard
        with safe_open(shard, "np") as tensors:
            names = list(tensors.keys())
            assert {tensors.get_slice(name).get_dtype() for name in names} == {"BF16"}
        assert names == sorted(name for name, file in index.items() if file == shard.name)


@pytest.mark.parametrize(("model", "column"), [("keylm-75m", 3), (DEFAULT, 5)])
def test_the_readme_says_what_was_measured(model: str, column: int):
    rows = {(row["benchmark"], row["metric"]): row["value"] for row in read_json(RESULTS) if row["model"] == model}

    def cell(benchmark: str, metric: str) -> str:
        return f"{100 * rows[benchmark, metric]:.1f}"

    expected = {
        "ARC": f"{50 * (rows['arc_easy', 'acc_norm'] + rows['arc_challenge', 'acc_norm']):.1f}",
        "WinoGrande": cell("winogrande", "acc"),
        "MMLU": cell("mmlu", "acc"),
        "HellaSwag acc_norm": cell("hellaswag", "acc_norm"),
        "PIQA": cell("piqa", "acc"),
        "OpenBookQA": f"{cell('openbookqa', 'acc_norm')} / {cell('openbookqa', 'acc')}",
    }
    ifeval = [value for (benchmark, _), value in rows.items() if benchmark == "ifeval"]
    assert len(ifeval) == 4
    expected["IFEval"] = f"{25 * sum(ifeval):.1f}"
    kept = []
    for name, metric, chance in (("hellaswag", "acc_norm", 0.25), ("piqa", "acc", 0.5), ("arc_easy", "acc_norm", 0.25)):
        mistyped = [rows[f"{name}_typos_10_{seed}", metric] for seed in (1, 2, 3)]
        kept.append((sum(mistyped) / 3 - chance) / (rows[name, metric] - chance))
    expected["HellaSwag, PIQA, ARC-easy"] = ", ".join(f"{100 * share:.0f}" for share in kept)
    lines = (MODELS.parent / "README.md").read_text(encoding="utf-8").splitlines()
    for title, figure in expected.items():
        (line,) = [line for line in lines if line.startswith(f"| {title}")]
        assert line.split("|")[column].strip(" *") == figure


def typing_figures(run: str) -> dict[tuple[str, str, str], str]:
    """Return set, system and measure to per cent, of a run that is kept."""
    archive = RESULTS.parent / "release_run.tar.xz"
    if not archive.is_file():
        pytest.skip(f"the clone left out results/{archive.name}: git sparse-checkout disable")
    with tarfile.open(archive) as kept:
        file = kept.extractfile(f"./{run}/evaluation/typing.json")
        assert file is not None
        rows = json.load(file)["rows"]
    shares = [row for row in rows if row["unit"] in ("", "share")]
    return {(row["set"], row["system"], row["measure"]): f"{100 * row['value']:.1f}" for row in shares}


def test_the_readme_says_what_typing_is_worth():
    value = typing_figures(f"{DEFAULT}/instruct")
    text = " ".join((MODELS.parent / "README.md").read_text(encoding="utf-8").split())
    saved = [value["casual", system, "keystroke savings"] for system in ("model", "word frequency", "ceiling")]
    mended = [value["git_fixes", system, "error reduction"] for system in ("model", "symspell")]
    assert (
        "saves {} % of keystrokes in held-out chats and comments (most frequent words: {}; upper bound: {})"
    ).format(*saved) in text
    assert "{} % fewer wrong words, against {} for SymSpell and none for Hunspell".format(*mended) in text
    assert float(value["git_fixes", "hunspell", "error reduction"]) <= 0
    base = typing_figures("keylm-75m/anneal")
    saved, mended = (
        base[key] for key in (("casual", "model", "keystroke savings"), ("git_fixes", "model", "error reduction"))
    )
    assert f"keylm-75m reaches {saved} and {mended} %" in text


def test_weights_that_the_clone_left_out_are_named_with_the_command_that_fetches_them(tmp_path: Path):
    folder = tmp_path / "keylm-75m"
    folder.mkdir()
    (folder / "config.json").touch()
    with pytest.raises(KeylmError, match=r"no \*\.safetensors in it; accepted: a model folder with weights$"):
        check_model_folder(folder)
    (folder / "model.safetensors.index.json").touch()
    with pytest.raises(KeylmError, match=re.escape("git sparse-checkout add '/models/keylm-75m/*.safetensors'")):
        check_model_folder(folder)
