"""What the README and docs/ tell people to type and write is tried: commands, recipes, Python, links, the site.

Every `keylm …` line is parsed by the real command line. Those that take seconds are run, in a folder where runs/nano,
recipes/nano.toml and chats.jsonl are tiny ones; those that are not run stand in NOT_RUN with the reason.
"""

import importlib.util
import itertools
import os
import random
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from support.documentation import PAGES, ROOT, Block, Command, anchors, blocks, commands, defined, links, prose
from support.programs import run as run_program
from support.recipes import TINY, chat, sentence, tiny_recipe, write_jsonl
from typer.core import TyperGroup

from keylm.cli.main import app
from keylm.model import released
from keylm.recipe.load import Recipe, parse_recipe, resolve_recipe

BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [command for block in BLOCKS if block.kind == "shell" for command in commands(block)]
KEYLM = [command for command in COMMANDS if command.keylm is not None]

NOT_RUN = {
    "chat runs/mine-dpo/model": "needs what keylm dpo makes; chat itself is run with another model",
    "data build RECIPE --workers 8 --executor ray": "starts a Ray cluster; tests/curate/test_curate.py does",
    "data build RECIPE --workers 32": "asks for 32 cores",
    "data build recipes/keylm-75m-hour.toml": "needs half a gigabyte of texts",
    "data instructions": "needs a corpus of documents; tests/instructions/test_instruction_files.py makes one",
    "doctor RECIPE --processes 8": "the same but for a division as keylm doctor alone",
    "dpo": "loads TRL, 20 seconds; tests/tuning/test_dpo.py runs it",
    "eval": "loads lm_eval and benchmarks' items; tests/evaluation/ runs it",
    "export": "needs a tokenizer of natural text; tests/export/test_export.py runs it",
    "card runs/nano --parity": "needs what keylm export writes; tests/report/test_card.py runs it",
    "grpo": "loads TRL, 20 seconds; tests/tuning/test_grpo.py runs it",
    "push": "needs what keylm export writes; tests/export/test_push.py runs it",
    "run RECIPE": "through torchrun here; tests/training/ runs it on two processes",
    "run my.toml --set training.batch_tokens=65536": "trains on 200 million tokens",
    "run recipes/nano.toml --run-dir runs/wide": "trains on two million tokens",
    "serve": "serves until it is stopped; tests/serving/ starts it",
}
"""Beginnings of commands that are not run, and why."""

SUBSTITUTED = {"RUN": "runs/nano", "RECIPE": "recipes/nano.toml"}
OPTIONS = {"--step": "3", "--out": "made"}
"""What options get instead: a tiny run has few steps; what is made goes where it harms nothing."""


def reason(command: Command) -> str | None:
    """Return why a command is not run, or None."""
    text = " ".join(command.keylm or ())
    if text == "chat" and released.DEFAULT not in released.released_models():
        return f"models/{released.DEFAULT} is not here yet; tests/model/test_released.py runs it on another model"
    return next((why for beginning, why in NOT_RUN.items() if text.startswith(beginning)), None)


def parse(arguments: tuple[str, ...]) -> None:
    """Read arguments as `keylm` does, without doing anything. Raises what it raises."""
    command: Any = typer.main.get_command(app)
    while isinstance(command, TyperGroup):
        name, *rest = arguments
        assert name in command.commands, f"there is no {name}"
        command, arguments = command.commands[name], tuple(rest)
    command.make_context("keylm", list(arguments))


def plain_recipe() -> dict[str, Any]:
    """Return a recipe's values, with the names that the pages use."""
    data = tomllib.loads(TINY)
    data["sources"]["mine"] = {"path": "mine.txt"}
    data["stages"]["sft"] = {"tokens": 1024, "weights": {"chat": 1.0}}
    return data


def merge(into: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    for key, value in values.items():
        deeper = isinstance(value, dict) and isinstance(into.get(key), dict) and key != "weights"
        into[key] = merge(into[key], value) if deeper else value
    return into


def test_every_command_can_be_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in released.NAMES:  # which commands may name, here or not
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    monkeypatch.setattr(released, "FOLDERS", (tmp_path,))
    assert len(KEYLM) > 50, "where have they gone?"
    faults = []
    for command in KEYLM:
        assert command.keylm
        try:
            parse(command.keylm)
        except Exception as error:
            faults.append(f"{command}: {getattr(error, 'message', error)}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "wrong", ["trains x.toml", "run", "run nano --fast", "generate m", "data show RUN --step many", "sft m d"]
)
def test_a_wrong_command_is_found(wrong: str):
    with pytest.raises(Exception, match=r"there is no trains|issing|o such option|valid integer"):
        parse(tuple(wrong.split()))


def test_verbs_and_options_in_running_text_are_there():
    root: Any = typer.main.get_command(app)
    faults = []
    for page in PAGES:
        for span in re.findall(r"`(keylm [^`]+)`", prose(page)):
            command, words = root, span.split()[1:]
            while isinstance(command, TyperGroup) and words and words[0].isalpha():
                command = command.commands.get(words.pop(0))
            known = {name for parameter in getattr(command, "params", []) for name in parameter.opts}
            known |= {name for parameter in getattr(command, "params", []) for name in parameter.secondary_opts}
            unknown = {word for word in words if word.startswith("--")} - known - {"--help"}
            if command is None or unknown:
                faults.append(f"{page.name}: {span}")
    assert not faults, "\n".join(faults)


def test_other_commands_name_what_is_there():
    """Scripts with their options, make's targets, keylm's extras."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    faults = []
    for command in COMMANDS:
        script = next((word for word in command.words if re.fullmatch(r"space/\S+\.py|tools(\.\w+)+", word)), None)
        file = ROOT / (script if script.endswith(".py") else f"{script.replace('.', '/')}.py") if script else None
        if file is not None and not file.is_file():
            faults.append(f"{command}: no such file")
        elif script is not None and file is not None:
            source = file.read_text()
            options = [word for word in command.words[command.words.index(script) :] if word.startswith("--")]
            faults += [f"{command}: no {option}" for option in options if f'"{option}"' not in source]
        if command.words[0] == "make" and command.words[-1] not in targets:
            faults.append(f"{command}: no such target")
    for page in PAGES:
        named = re.findall(r"keylm\[([\w,]+)\]", page.read_text(encoding="utf-8"))
        faults += [
            f"{page.name}: no extra {extra}" for group in named for extra in group.split(",") if extra not in extras
        ]
    assert not faults, "\n".join(faults)


def test_recipes_parts_are_accepted():
    parts = [block for block in BLOCKS if block.kind == "toml"]
    assert len(parts) > 8
    for block in parts:
        data = merge(plain_recipe(), tomllib.loads(block.text))
        mentioned = [name for stage in data["stages"].values() for name in stage["weights"]]
        mentioned += [name for source in data["sources"].values() for name in source.get("typos_of", [])]
        data["sources"] = {name: {"path": "x"} for name in mentioned} | data["sources"]
        parse_recipe(data, f"{block.page}:{block.line}")


def test_settings_in_running_text_and_commands_are_accepted(tmp_path: Path):
    written = [(command.page, setting) for command in KEYLM for setting in given(command.words, "--set")]
    for page in PAGES:
        text = prose(page)
        written += [(page.name, setting) for setting in re.findall(r"--set (?!')([\w.]+=[^'`\s]+)", text)]
        written += [(page.name, setting) for setting in re.findall(r"--set '([^']+)'", text)]
        named = re.findall(r"`([a-z]+)\.([\w.]+) = ([^`]+)`", text)
        written += [(page.name, f"{a}.{b}={value}") for a, b, value in named if a in Recipe.model_fields]
    settings = [(page, setting) for page, setting in written if "NAME" not in setting and "…" not in setting]
    assert len(settings) > 20
    for page, setting in settings:
        data = plain_recipe()
        if setting.startswith("data.shards"):
            data.pop("data", None)
        assert resolve_recipe(data, tmp_path / page, [setting])


def given(words: tuple[str, ...], option: str) -> Iterator[str]:
    """Yield what an option is given."""
    yield from (value for name, value in itertools.pairwise(words) if name == option)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as a reader's checkout, tiny: recipes/nano.toml, runs/nano, chats.jsonl, my.toml."""
    folder = tmp_path_factory.mktemp("reader")
    for place, name in ((folder / "recipes", "nano.toml"), (folder, "my.toml")):
        tiny_recipe(place)
        text = (place / "recipe.toml").read_text().replace('name = "tiny"', 'name = "nano"')
        (place / name).write_text(text)
    rng = random.Random(3)
    chats = [chat(f"{sentence(rng, 2)[:-1]}?", sentence(rng, 2)) for _ in range(40)]
    write_jsonl(folder / "chats.jsonl", chats)
    execute(("run", "recipes/nano.toml"), folder)
    for name in ("other", "one", "wide"):
        shutil.copytree(folder / "runs" / "nano", folder / "runs" / name)
    return folder


def execute(arguments: tuple[str, ...], folder: Path) -> str:
    """Run keylm and return what it printed; a command that fails is an error."""
    command = [sys.executable, "-m", "keylm", *arguments]
    return run_program(command, check=True, cwd=folder, stdin="the cat?\n/exit\n").stdout


def test_what_takes_seconds_is_run(place: Path):
    stale = [
        beginning for beginning in NOT_RUN if not any(" ".join(c.keylm or ()).startswith(beginning) for c in KEYLM)
    ]
    assert not stale, "no page has these any more"
    run = {}
    for command in KEYLM:
        if reason(command) is None and command.keylm:
            words = [SUBSTITUTED.get(word, word) for word in command.keylm]
            for option, value in OPTIONS.items():
                if option in words and words[0] != "sft":
                    words[words.index(option) + 1] = value
            if words[0] == "sft":  # its own questions are longer than the tiny model's context
                words += ["--set", 'evaluation.chats=["the cat?"]']
            run[tuple(words)] = command
    assert len(run) > 12
    for words in run:
        assert execute(words, place), words
    assert (place / "runs" / "mine" / "model" / "config.json").is_file()


def snippets(page: str) -> list[Block]:
    return [block for block in BLOCKS if block.page == page and block.kind == "python"]


RUN = ("README.md", "docs/instruction_data.md", "docs/robustness.md", "docs/typing.md", "docs/typos.md")
"""Pages whose Python is run here."""


def test_no_page_has_python_that_is_not_run():
    elsewhere = {
        "docs/instruct.md": "tests/tuning/test_lora.py",
        "space/README.md": "the same calls: tests/space/test_space.py",
    }
    assert {block.page for block in BLOCKS if block.kind == "python"} == {*RUN, "docs/serving.md", *elsewhere}


@pytest.mark.parametrize("page", RUN)
def test_python_runs(place: Path, page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(place)
    names: dict[str, Any] = {"folder": place / "tasks"}
    if page == "docs/robustness.md":
        pytest.importorskip("lm_eval", reason="needs keylm[eval]")
    if page == "docs/typing.md":  # in which classes and files stand in a table
        pytest.importorskip("symspellpy", reason="needs keylm[eval]")
        exec(snippets("README.md")[0].text, names)
        for module, name in re.findall(
            r"\[((?:keyboard|evaluation)/\w+)\.py\][^|]*\| `(\w+)`", (ROOT / page).read_text()
        ):
            names[name] = getattr(importlib.import_module(f"keylm.{module.replace('/', '.')}"), name)
        names |= {"lexicon": importlib.import_module("keylm.keyboard.lexicon").lexicon}
        names |= {"Candidates": importlib.import_module("keylm.keyboard.corrector").Candidates}
    for block in snippets(page):
        if "scan(" in block.text:  # needs curated texts and evaluation sets: tests/evaluation/test_contamination.py
            continue
        exec(compile(block.text, page, "exec"), names)
    if page == "README.md":
        assert names["model"].config.architectures == ["Qwen3ForCausalLM"]
    if page == "docs/typos.md":
        assert capsys.readouterr().out.strip()


def test_the_openai_client_of_the_page_is_answered(place: Path):
    pytest.importorskip("openai", reason="needs openai: pip install 'keylm[dev,serve]'")
    from support.fake_server import running

    from keylm.serving.start import ServeOptions, prepare

    [block] = snippets("docs/serving.md")
    served = prepare(place / "runs" / "nano" / "model", ServeOptions(suggest=False, slots=1))
    with running(served) as address:
        text = block.text.replace("http://127.0.0.1:8000", address)
        assert address in text
        names: dict[str, Any] = {}
        lines = text.splitlines()
        lines[-1] = f"answer = {lines[-1]}"
        exec("\n".join(lines), names)
    assert names["answer"].choices[0].message.role == "assistant"


def test_relative_links_lead_somewhere():
    """In every page of the repository, also to headings."""
    faults = []
    pages = [file for file in ROOT.rglob("*.md") if not {".venv", "site", "node_modules"} & set(file.parts)]
    assert set(PAGES) <= set(pages)
    for page in pages:
        for link in links(page):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path) if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                faults.append(f"{page.relative_to(ROOT)}: {link}")
    assert not faults, "\n".join(faults)


def test_the_walk_names_functions_that_are_there():
    stops = re.split(r"^## (\d+)\. .+$", (ROOT / "docs" / "walk.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [int(number) for number in stops[1::2]] == list(range(1, len(stops) // 2 + 1))
    assert len(stops) // 2 >= 10
    for number, text in zip(stops[1::2], stops[2::2], strict=True):
        named = re.findall(r"\[([\w/]+\.py): ([\w.]+)\]\(\.\./src/keylm/(\S+?)\)", text)
        assert named, f"stop {number} names no function"
        assert len(named) == text.count(".py: "), f"stop {number}: a link is not written as the others"
        for shown, name, file in named:
            assert shown == file
            assert name in defined(ROOT / "src" / "keylm" / file), f"stop {number}: {file} has no {name}"


def load(script: str) -> Any:
    spec = importlib.util.spec_from_file_location(script, ROOT / "tools" / "docs" / f"{script}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_recipes_reference_is_current():
    written = (ROOT / "docs" / "recipe_reference.md").read_text(encoding="utf-8")
    assert written == load("recipe_reference").reference(), "python -m tools.docs.recipe_reference writes it anew"


def test_the_map_of_modules_is_current():
    script = load("module_map")
    remedy = "python -m tools.docs.module_map writes both anew"
    assert script.PAGE.read_text(encoding="utf-8") == script.modules_page(), remedy
    assert script.ARCHITECTURE.read_text(encoding="utf-8") == script.architecture_page(), remedy


def test_the_site_is_built_and_its_links_lead_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    pytest.importorskip("mkdocs", reason="needs keylm[docs]")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path)))
    pages = list(tmp_path.rglob("index.html"))
    assert len(pages) > len(list(ROOT.glob("docs/*.md"))) - 1
    for page in pages:
        for link in re.findall(r'href="([^"#:?]+)["#]', page.read_text(encoding="utf-8")):
            target = Path(os.path.normpath(page.parent / link)) if not link.startswith("/") else page
            assert target.exists(), f"{page.relative_to(tmp_path)}: {link}"
