"""The Space, laid out as on the hub (keylm's code beside app.py), started on a free port and asked by gradio_client."""

import contextlib
import importlib.util
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.shapes import random_qwen3
from transformers import GenerationConfig

WHY = "needs Gradio: pip install 'keylm[demo]'"
gradio = pytest.importorskip("gradio", reason=WHY)
gradio_client = pytest.importorskip("gradio_client", reason=WHY)

from gradio_client.exceptions import AppError  # noqa: E402

from keylm.base.errors import KeylmError  # noqa: E402
from keylm.cli.chat import Chat  # noqa: E402
from keylm.runtimes.generation import Generator, Sampling  # noqa: E402

ROOT = Path(__file__).parents[2]
OFFLINE = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def model(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random model with opinions."""
    folder = tmp_path_factory.mktemp("space") / "tiny"
    random = random_qwen3(5, 400, max_position_embeddings=192)
    with torch.no_grad():
        random.lm_head.weight *= 30
    random.generation_config = GenerationConfig(
        eos_token_id=[0, *range(40, 60)], pad_token_id=3, suppress_tokens=list(range(20))
    )
    random.save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


def start(folder: Path, model: str, port: int) -> "subprocess.Popen[str]":
    """Start the app in `folder`."""
    environment = {**os.environ, **OFFLINE, "KEYLM_MODEL": model, "GRADIO_SERVER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lay_out(folder: Path) -> Path:
    """Make the Space's folder as space/README.md says."""
    shutil.copytree(ROOT / "space", folder)
    shutil.copytree(ROOT / "src" / "keylm", folder / "keylm", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def client(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Yield a client of the running app."""
    folder = lay_out(tmp_path_factory.mktemp("hub") / "space")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with start(folder, str(model), port) as process:
        try:
            deadline = time.monotonic() + 120
            while True:
                assert process.poll() is None, process.stdout and process.stdout.read()
                assert time.monotonic() < deadline
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            yield gradio_client.Client(f"http://127.0.0.1:{port}", verbose=False, analytics_enabled=False)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def generator(model: Path) -> Generator:
    return Generator(model)


@pytest.fixture(scope="module")
def app() -> Any:
    """Return app.py as a module."""
    spec = importlib.util.spec_from_file_location("keylm_space", ROOT / "space" / "app.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo(app: Any, model: Path) -> Iterator[Any]:
    """Yield the same in this process, without the dictionary of corrections, which takes seconds to read."""

    def no_lexicon(*_: Any) -> None:
        raise KeylmError("no dictionary")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keylm.keyboard.suggest.lexicon", no_lexicon)
        yield app.Demo(model)


def test_a_text_is_continued_piece_by_piece(client: Any, generator: Generator):
    job = client.submit("the old man", 40, 0, api_name="/complete")
    expected = "the old man" + generator.complete("the old man", Sampling(40, temperature=0))
    assert job.result(60) == expected
    pieces = job.outputs()
    assert len(pieces) > 2
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(pieces))


def test_a_conversation_is_remembered(client: Any, generator: Generator):
    chat = Chat(generator, Sampling(256, temperature=0, loop_guard=8), "be a fox")
    for question in ("the cat?", "and the fox?"):
        assert client.predict(question, "be a fox", 0, api_name="/chat") == chat.say(question)
    assert len(chat.messages) == 5


def test_typos_are_fixed_by_the_request_of_the_instruction_data(client: Any, generator: Generator):
    asked = [{"role": "user", "content": "Fix the spelling: teh cat"}]
    greedy = Sampling(256, temperature=0, repetition_penalty=1.0)
    assert client.predict("teh cat ", api_name="/fix") == generator.answer(asked, greedy)


def test_words_are_suggested(client: Any, demo: Any):
    found = client.predict("the old ma", api_name="/suggest")
    assert found["suggestions"] == demo.suggest("the old ma")["suggestions"]
    assert found["partial"] == "ma"
    assert all(word.startswith("ma") for word in found["suggestions"])


def test_a_tapped_word_takes_the_place_of_what_is_typed(client: Any, demo: Any):
    """As the page asks: with its buttons and its state."""
    page = gradio_client.Client(client.src, verbose=False, analytics_enabled=False, _skip_components=False)
    *words, _, _ = page.predict("the old ma", api_name="/keys")
    assert words == (demo.suggest("the old ma")["suggestions"] + ["", ""])[:3]
    state = None  # is kept by the app
    assert page.predict("the old ma", words[0], state, api_name="/tap")[0] == f"the old {words[0]} "
    assert page.predict("the old ", "", state, api_name="/tap")[0] == "the old "


def test_what_is_too_much_or_nothing_is_refused_in_a_sentence(client: Any):
    for arguments, name, message in (
        (("a" * 4001, 10, 0), "/complete", r"the text has 4,001 characters; accepted: at most 4,000"),
        (("a", 100_000, 0), "/complete", r"100000"),
        ((" ", 10, 0), "/complete", r"the text is empty; accepted: 1 to 4,000 characters"),
        (("word " * 300, 10, 0), "/complete", r"the prompt has \d+ tokens; accepted: fewer than the context of 192"),
        (("a" * 401,), "/fix", r"accepted: at most 400"),
        (("a", "b" * 1001, 0), "/chat", r"the system prompt has 1,001 characters"),
        (("a" * 4001,), "/suggest", r"the text has 4,001 characters"),
    ):
        with pytest.raises((AppError, ValueError), match=message):
            client.predict(*arguments, api_name=name)


def test_a_text_that_is_cancelled_makes_room_for_the_next(client: Any):
    job = client.submit("the old man", 180, 0, api_name="/complete")
    while not job.outputs():
        time.sleep(0.005)
    job.cancel()
    assert client.submit("a cat", 2, 0, api_name="/complete").result(30).startswith("a cat")
    assert job.done()


def test_a_text_that_nobody_waits_for_ends_at_its_next_piece(demo: Any):
    ended = threading.Event()

    def write(emit: Any) -> None:
        try:
            while True:
                emit("word ")
                time.sleep(0.001)
        except KeyboardInterrupt:
            ended.set()
            raise

    stream = demo._stream(write)
    assert next(stream) == "word "
    assert not ended.is_set()
    stream.close()
    assert ended.wait(10)
    assert next(demo.complete("a cat", 2, 0)), "the next one may write"


def test_a_fault_of_the_model_is_told_and_an_unknown_one_raised(demo: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo._generator.tokenizer, "chat_template", None)
    with pytest.raises(gradio.Error, match="no chat template; accepted: a model that was tuned to chat"):
        list(demo.fix("teh"))

    def fail(emit: Any) -> None:
        raise RuntimeError("odd")

    with pytest.raises(RuntimeError, match="odd"):
        list(demo._stream(fail))
    with pytest.raises(gradio.Error, match="without a word"):
        list(demo._stream(lambda emit: None))


def test_only_whole_exchanges_are_remembered(app: Any):
    history = [
        {"role": "assistant", "content": "cut off"},
        {"role": "user", "content": [{"type": "text", "text": "a?"}]},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "stopped"},
        {"role": "user", "content": "c?"},
        {"role": "assistant", "content": " "},
    ]
    assert app._messages(history) == [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nobody/nothing", "nobody/nothing is no folder here and cannot be had from the hub"),
        ("no such folder", "accepted: a model folder, or OWNER/NAME on the hub"),
    ],
)
def test_a_model_that_is_not_there_is_said_at_once(app: Any, monkeypatch: pytest.MonkeyPatch, model: str, message: str):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("KEYLM_MODEL", model)
    with pytest.raises(SystemExit, match=f"error: KEYLM_MODEL: .*{message}"):
        app.main()


def test_the_space_takes_the_versions_that_are_tested():
    pinned = set((ROOT / "constraints.txt").read_text().lower().replace("-", "_").splitlines())
    needed = (ROOT / "space" / "requirements.txt").read_text().lower().replace("-", "_").splitlines()
    assert {line for line in needed if "==" in line} <= pinned
    header = (ROOT / "space" / "README.md").read_text().split("---")[1]
    assert re.search(r"^sdk_version: (\S+)$", header, re.MULTILINE)[1] == gradio.__version__  # type: ignore[index]
