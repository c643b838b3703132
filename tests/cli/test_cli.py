"""The command line as a user types it: exit codes, messages, no tracebacks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.programs import run as run_program
from support.recipes import tiny_recipe

from keylm.pipeline.run import run
from keylm.recipe.run_folder import RunFolder


def keylm(*arguments: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run_program([sys.executable, "-m", "keylm", *arguments], stdin=stdin, cwd=cwd)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("cli")
    return run(tiny_recipe(folder), folder / "run", quiet=True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "none.toml"], "none.toml: no such file; packaged recipes: "),
        (["run", "RECIPE", "--set", "training.batch_token=1"], "did you mean 'batch_tokens'?"),
        (["run", "RECIPE", "--set", "training.batch_tokens=many"], 'training.batch_tokens: got "many"; accepted: '),
        (["run", "RECIPE", "--set", "sources.tales.path=nowhere"], "does not exist; accepted: a file or folder"),
        (["run", "RECIPE", "--set", "training.device=cuda:9"], "training.device: got"),
        (["run", "RECIPE", "--run-dir", "notes.jsonl"], "notes.jsonl: File exists"),
        (["run", "RECIPE", "--set", "tokenizer.path=."], "has no tokenizer.json; accepted: a tokenizer's folder"),
        (["run", "RECIPE", "--set", "sources.tales.path="], "sources.tales.path: got"),
        (
            ["run", "RECIPE", "--set", "model.hidden_size=1048576", "--set", "model.intermediate_size=1048576"],
            "model: needs",
        ),
        (["run", "RECIPE", "--set", "training.batch_tokens=32000000000000"], "windows; accepted: at most 65536"),
        (["run", "."], "is a folder; accepted: a recipe's TOML file"),
        (["run", "RECIPE", "--until", "lunch"], "--until: got 'lunch'; accepted: tokenizer, shards"),
        (["run", "RECIPE", "--set", "tokenizer.vocab_size=60000"], "tokenizer.vocab_size: got 60000"),
        (["run", "RECIPE", "--set", 'sources.tales={typos_of=["tales"]}'], "which is a typo source itself"),
        (["data", "verify", "nowhere"], "no recipe.toml in it; accepted: a run folder"),
        (["data", "plan", "RECIPE", "--plot", "plan.bmp"], "accepted: a name that ends in .svg, .png or .pdf"),
        (["generate", "nowhere", "Hello"], "nowhere: no config.json in it; accepted: a model folder"),
        (["chat", "nowhere"], "accepted: a model folder"),
        (["data", "show", "nowhere"], "no recipe.toml in it; accepted: a run folder"),
        (["report", "nowhere"], "no recipe.toml in it; accepted: a run folder"),
    ],
)
def test_bad_input_is_one_clear_error_with_exit_code_2(tmp_path: Path, arguments: list[str], says: str):
    tiny_recipe(tmp_path)
    done = keylm(*[str(tmp_path / "recipe.toml") if a == "RECIPE" else a for a in arguments], cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1


def test_a_damaged_model_and_a_prompt_that_is_no_text_are_told(finished: RunFolder, tmp_path: Path):
    not_text = subprocess.run(
        [sys.executable.encode(), b"-m", b"keylm", b"generate", os.fsencode(finished.model), b"\xff"],
        capture_output=True,
    )
    assert (not_text.returncode, b"not valid UTF-8; accepted: Unicode text" in not_text.stderr) == (2, True)
    shutil.copytree(finished.model, tmp_path / "model")
    os.truncate(tmp_path / "model" / "model.safetensors", 500)
    damaged = keylm("generate", str(tmp_path / "model"), "the")
    assert damaged.returncode == 2
    assert "model.safetensors: cannot be read: " in damaged.stderr


def test_under_torchrun_one_process_speaks(tmp_path: Path):
    tiny_recipe(tmp_path)
    command = ["--standalone", "--nproc-per-node", "2", "-m", "keylm", "run", str(tmp_path / "recipe.toml")]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *command, "--set", "tokenizer.vocab_size=60000"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert done.stderr.count("error: tokenizer.vocab_size: got 60000") == 1
    assert "Connection closed" not in done.stderr


def test_help_lists_the_verbs():
    done = subprocess.run([sys.executable, "-m", "keylm", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for verb in ("run", "doctor", "generate", "chat", "data", "report"):
        assert verb in done.stdout


def test_data_show_prints_sources_documents_and_text(finished: RunFolder):
    done = keylm("data", "show", str(finished.path), "--step", "7", "--windows", "3")
    assert done.returncode == 0, done.stderr
    assert "step 7: stage chat (2 of 4), 8 windows of 32: " in done.stdout
    assert "chat.jsonl:" in done.stdout
    assert "<|im_start|>user" in done.stdout
    outside = keylm("data", "show", str(finished.path), "--step", "10")
    assert outside.returncode == 2
    assert "--step: got 10; accepted: 0 to 9" in outside.stderr


def test_generate_continues_the_prompt_and_reads_standard_input(finished: RunFolder):
    arguments = ["--max-new-tokens", "8", "--seed", "3"]
    done = keylm("generate", str(finished.model), "the old man", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the old man")
    assert keylm("generate", str(finished.model), "-", *arguments, stdin="the old man").stdout == done.stdout


def test_chat_answers_until_quit(finished: RunFolder):
    done = keylm(
        "chat", str(finished.model), "--max-new-tokens", "5", stdin="hi\n/reset\n" + "word " * 90 + "\nhi\n/quit\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("> ") == 5
    assert "context" in done.stderr


def test_fresh_puts_the_old_run_aside_and_no_resume_refuses(tmp_path: Path):
    tiny_recipe(tmp_path)
    command = ["run", str(tmp_path / "recipe.toml"), "--run-dir", str(tmp_path / "run"), "--until", "tokenizer", "-q"]
    assert keylm(*command).returncode == 0
    refused = keylm(*command, "--no-resume")
    assert refused.returncode == 2
    assert "holds a run already" in refused.stderr
    assert keylm(*command, "--fresh").returncode == 0
    assert len(list(tmp_path.glob("run.old-*"))) == 1


# Does not wait for a hub that may be out of reach.
OFFLINE = """
from huggingface_hub import constants
constants.HF_HUB_OFFLINE = True
from keylm.cli.main import main
main()
"""


def test_doctor_passes_a_sound_recipe_and_fails_one_that_cannot_run(tmp_path: Path):
    tiny_recipe(tmp_path)
    done = keylm("doctor", str(tmp_path / "recipe.toml"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    for expected in ("parameters", "tokens/s", "everything is ready", "tales: 1 file"):
        assert expected in done.stdout
    hub = run_program([sys.executable, "-c", OFFLINE, "doctor", "keylm-75m"], cwd=tmp_path)
    assert hub.returncode == 2
    assert "75,251,200" in hub.stdout
    assert "FAILED" in hub.stdout
