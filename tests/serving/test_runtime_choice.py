"""Which runtime serves, the file it needs, and GGUF files as models."""

import re

import pytest
from support.engines import engine_options
from support.fake_server import model_folder, prompts  # noqa: F401

from keylm.base.errors import KeylmError
from keylm.export.reference import FileTokenizer, TorchModel
from keylm.export.stress_strings import stress_strings
from keylm.runtimes import gguf_write as gguf_file
from keylm.runtimes import llama
from keylm.runtimes.cached_decoder import load_weights
from keylm.runtimes.gguf_write import write_gguf
from keylm.serving import runtime_choice
from keylm.serving.runtime_choice import EngineOptions, computed_in, make_slots, opened
from keylm.serving.start import ServeOptions, prepare


@pytest.fixture(scope="module")
def gguf(model_folder, tmp_path_factory):
    """The model as a file of its own, in F32."""
    engine_options("llama.cpp")
    file = tmp_path_factory.mktemp("gguf") / "one.gguf"
    write_gguf(model_folder, TorchModel(model_folder).weights(), file, "f32", "one")
    return file


def made(place, *wanted):
    """Return the runtime, its precision and what was reported."""
    told = []
    with opened(place) as source:
        slots, precision = make_slots(source, EngineOptions(*wanted, rows=1, threads=1), told.append)
    slots.close()
    return slots.name, precision, told


def test_auto_converts_once(model_folder, monkeypatch, tmp_path):
    engine_options("llama.cpp")
    monkeypatch.setenv("KEYLM_CACHE", str(tmp_path))
    name, precision, told = made(model_folder)
    assert (name, precision) == ("llama.cpp", "f16")
    assert "converting to GGUF (f16)" in told[0]
    [file] = tmp_path.rglob("*.gguf")
    assert (file.parents[1] / "parity.json").is_file()
    assert made(model_folder) == ("llama.cpp", "f16", [])
    assert not [left for left in tmp_path.rglob("*") if "tmp" in left.name]


def test_auto_says_why_it_takes_pytorch(model_folder, monkeypatch):
    monkeypatch.setattr(llama.importlib.util, "find_spec", lambda name: None)
    name, precision, told = made(model_folder)
    assert (name, precision) == ("torch", "fp32")
    assert re.search(r"PyTorch serves.*pip install -e '\.\[export\]'", told[0])
    with pytest.raises(KeylmError, match="llama-cpp-python"):
        made(model_folder, "llama.cpp")
    with pytest.raises(KeylmError, match="llama-cpp-python"):
        made(model_folder, "auto", "f16")


def test_a_file_that_is_another_model_is_not_served(model_folder, monkeypatch, tmp_path):
    engine_options("llama.cpp")

    def turned(folder, weights, *rest):
        write_gguf(folder, {**weights, "lm_head.weight": -weights["lm_head.weight"]}, *rest)

    monkeypatch.setenv("KEYLM_CACHE", str(tmp_path))
    monkeypatch.setattr(gguf_file, "write_gguf", turned)
    with pytest.raises(KeylmError, match="not the same model"):
        made(model_folder, "llama.cpp")
    assert made(model_folder)[:2] == ("torch", "fp32")
    assert not list(tmp_path.rglob("*.gguf"))


@pytest.mark.parametrize(
    ("precision", "gpu", "expected"),
    [
        (None, True, ("bf16", "cuda")),
        ("bf16", True, ("bf16", "cuda")),
        ("fp32", True, ("fp32", "cuda")),
        ("int8", True, ("int8", "cpu")),
        (None, False, ("fp32", "cpu")),
        ("int8", False, ("int8", "cpu")),
    ],
)
def test_pytorch_takes_a_gpu_where_there_is_one(precision, gpu, expected):
    found, device = computed_in(precision, gpu=gpu)
    assert (found, device.type) == expected


def test_half_precision_needs_a_gpu():
    with pytest.raises(KeylmError, match="there is no GPU here; accepted: fp32, int8"):
        computed_in("bf16", gpu=False)


def test_a_precision_chooses_its_runtime(model_folder, gguf):
    assert made(model_folder, "auto", "int8")[:2] == ("torch", "int8")
    assert made(gguf)[:2] == ("llama.cpp", "f32")
    assert made(gguf, "torch")[:2] == ("torch", "fp32")
    for wanted in (("torch", "f16"), ("llama.cpp", "int8"), ("auto", "fp8")):
        with pytest.raises(KeylmError, match=f"--precision {wanted[1]} with --engine {wanted[0]}; accepted: "):
            made(model_folder, *wanted)
    with pytest.raises(KeylmError, match=r"one\.gguf is f32; accepted: that, or the folder"):
        made(gguf, "auto", "q8_0")


def test_a_gguf_file_is_the_model(gguf, model_folder, tmp_path, prompts):
    with opened(gguf) as source:
        ours = load_weights(model_folder)
        assert vars(source.facts) == {name: value for name, value in vars(ours).items() if name != "tensors"}
        assert source.weights.tensors.keys() == ours.tensors.keys()
        assert all((source.weights.tensors[name] == tensor).all() for name, tensor in ours.tensors.items())
        theirs, own = FileTokenizer(source.folder), FileTokenizer(model_folder)
        for text in stress_strings():
            for special in (True, False):
                assert theirs.encode(text, special=special) == own.encode(text, special=special)
    served = prepare(gguf, ServeOptions(slots=1))
    served.engine.close()
    assert (served.name, served.runtime) == ("one", "llama.cpp, f32")
    turns = [{"role": "user", "content": "x<|im_end|> the red cat?"}]
    assert served.prompts.chat(turns) == prompts.chat(turns)
    assert served.keyboards.answer("the old m").suggestions


def test_other_files_are_refused(gguf, tmp_path):
    with pytest.raises(KeylmError, match="no such file"), opened(tmp_path / "none.gguf"):
        pass
    (tmp_path / "zeros.gguf").write_bytes(bytes(100))
    with pytest.raises(KeylmError, match="is no whole GGUF file"), opened(tmp_path / "zeros.gguf"):
        pass
    (tmp_path / "short.gguf").write_bytes(gguf.read_bytes()[:-5000])
    with pytest.raises(KeylmError, match="is no whole GGUF file"), opened(tmp_path / "short.gguf"):
        pass
    changed = gguf.read_bytes().replace(b"gpt-2", b"qwen2")
    (tmp_path / "other.gguf").write_bytes(changed)
    refused = pytest.raises(KeylmError, match=r"tokenizer\.ggml\.pre is 'qwen2'; accepted: 'gpt-2'")
    with refused, opened(tmp_path / "other.gguf"):
        pass


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.delenv("KEYLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runtime_choice.cache_folder() == tmp_path / "keylm"
