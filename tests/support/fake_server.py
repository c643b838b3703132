"""One tiny model and one server on a free port, as fixtures for the tests of serving to import."""

import contextlib
import shutil
import socket
import threading
from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig

from support.shapes import random_qwen3

openai = pytest.importorskip("openai", reason="needs openai: pip install 'keylm[dev,serve]'")
pytest.importorskip("uvicorn", reason="needs uvicorn: pip install 'keylm[serve]'")

import uvicorn  # noqa: E402

from keylm.runtimes.cached_decoder import CachedDecoder, load_weights  # noqa: E402
from keylm.serving.connections import limited_protocol  # noqa: E402
from keylm.serving.server import application  # noqa: E402
from keylm.serving.start import ServeOptions, prepare  # noqa: E402
from keylm.serving.texts import Prompts  # noqa: E402

CONTEXT = 192


@pytest.fixture(scope="session")
def model_folder(tokenizer, tmp_path_factory):
    """A model that knows what it wants, if not why."""
    folder = tmp_path_factory.mktemp("serving") / "tiny"
    model = random_qwen3(5, 400, max_position_embeddings=CONTEXT)
    with torch.no_grad():
        model.lm_head.weight *= 30
    model.generation_config = GenerationConfig(eos_token_id=[0, 2], pad_token_id=3)
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


@pytest.fixture(scope="session")
def weights(model_folder):
    return load_weights(model_folder)


@pytest.fixture(scope="session")
def decoder(weights):
    return CachedDecoder(weights)


@pytest.fixture(scope="session")
def prompts(model_folder):
    return Prompts(model_folder, 400)


@contextlib.contextmanager
def running(served, connections=500, header_seconds=1.0):
    """Serve on a free port until the block ends; yields the address."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()  # clients may come before uvicorn has begun
    limits = limited_protocol(connections, header_seconds)
    server = uvicorn.Server(uvicorn.Config(application(served), log_level="error", lifespan="off", http=limits))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        served.engine.close()
        listening.close()


both_engines = pytest.mark.parametrize("engine", ["torch", "llama.cpp"], indirect=True, scope="session")
"""For modules whose tests take a server: each is run with both (the fixture engine; by default PyTorch)."""


@pytest.fixture(scope="session")
def served(model_folder, engine):
    return prepare(model_folder, ServeOptions(slots=16, queue=32, name="tiny", **engine))


@pytest.fixture(scope="session")
def address(served):
    with running(served) as address:
        yield address


@pytest.fixture(scope="session")
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def with_rules(model_folder, engine):
    """Start a server of one's own: `with_rules(slots=2, guard={"api_key": "k"})`."""
    with contextlib.ExitStack() as stack:

        def start(guard=None, limits=None, **options):
            served = prepare(model_folder, ServeOptions(name="tiny", suggest=False, **engine, **options))
            served.guard = replace(served.guard, **(guard or {}))
            return stack.enter_context(running(served, **(limits or {})))

        yield start
