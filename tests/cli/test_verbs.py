"""What the command line shows: verbs in the order of work, and every extra as a user must type it."""

import re
from pathlib import Path

import pytest
from rich.table import Table
from typer.main import get_command
from typer.testing import CliRunner

from keylm.base.console import console, errors, say
from keylm.base.errors import KeylmError, how_to_install
from keylm.cli.main import app
from keylm.cli.verbs import ORDER

SOURCE = Path(__file__).parents[2] / "src" / "keylm"
COMMANDS = sorted(get_command(app).commands)


def help_of(*verbs: str) -> str:
    done = CliRunner().invoke(app, [*verbs, "--help"], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"})
    assert done.exit_code == 0, done.output
    return done.output


def test_help_lists_the_verbs_in_the_order_of_work():
    listed = re.findall(r"^│ (\w+)  ", help_of(), re.MULTILINE)
    assert listed == ORDER
    assert sorted(ORDER) == COMMANDS


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_help_text_shows_every_extra_that_its_source_names(verb):
    command = get_command(app).commands[verb]
    texts = [command.callback.__doc__ or "" if command.callback else "", *(p.help or "" for p in command.params)]
    named = re.findall(r"\.\[\w+\]", " ".join(texts).replace("\\[", "["))
    assert re.findall(r"\.\[\w+\]", help_of(verb)) == named
    assert "\\[" not in help_of(verb)
    assert named == ([".[post]"] if verb in ("dpo", "grpo") else [])


def extras() -> list[str]:
    """Return each extra that the sources say how to install."""
    calls = re.compile(r"""how_to_install\(['"](\w+)|'\.\[(\w+)\]'""")
    return sorted({"".join(names) for file in SOURCE.rglob("*.py") for names in calls.findall(file.read_text())})


@pytest.mark.parametrize("extra", extras())
def test_an_extra_in_a_message_is_printed_as_it_is_written(extra):
    message = f"needs more packages; accepted: {how_to_install(extra)}"
    table = Table("check", "result")
    table.add_row("package", message)
    for target in (console, errors):
        with target.capture() as shown:
            target.print(message, soft_wrap=True)
            target.rule(message)
            target.print(table, soft_wrap=True, width=200)
        assert shown.get().count(f"'.[{extra}]'") == 3
    with console.capture() as shown:
        say(message)
    assert shown.get() == f"{message}\n"


def test_every_named_extra_exists():
    declared = (SOURCE.parents[1] / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1]
    assert len(extras()) > 4
    for extra in extras():
        assert re.search(rf"^{extra} = ", declared, re.MULTILINE), extra


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["serve", "--api-key", ""], "--api-key"),
        (["serve", "--api-key="], "--api-key"),
        (["serve", "--host", ""], "--host"),
        (["run", "nano", "--run-dir", ""], "--run-dir"),
        (["run", "nano", "--set", "seed=1", "--set", ""], "--set"),
        (["data", "plan", "nano", "--plot", ""], "--plot"),
        (["eval", "nowhere", "--tasks", ""], "--tasks"),
    ],
)
def test_an_option_whose_value_is_empty_is_refused(arguments, name):
    """As from `--api-key "$KEY"` where KEY is not set: it never means the default, no key, or the folder here."""
    raised = CliRunner().invoke(app, arguments).exception
    assert isinstance(raised, KeylmError)
    assert str(raised) == f"{name}: is empty; accepted: a value, or no {name}"


def test_an_empty_variable_is_no_key(monkeypatch):
    monkeypatch.setenv("KEYLM_API_KEY", "")
    raised = CliRunner().invoke(app, ["serve", "nowhere"]).exception
    assert str(raised) == "KEYLM_API_KEY: is empty; accepted: a value, or the variable not set"
    raised = CliRunner().invoke(app, ["serve", "nowhere", "--api-key", "secret"]).exception
    assert "KEYLM_API_KEY" not in str(raised), "what is given comes first"


def test_an_argument_may_be_empty():
    assert "--" not in str(CliRunner().invoke(app, ["generate", "nowhere", ""]).exception)
