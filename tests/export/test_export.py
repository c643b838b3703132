"""Every artefact is the model, is laid out as its runtimes want it, and one that was altered is found."""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import typing
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from support.recipes import tiny_recipe
from support.shapes import random_qwen3
from transformers import AutoModelForCausalLM, AutoTokenizer

from keylm.base.errors import KeylmError
from keylm.base.files import read_json, write_json
from keylm.cli.main import main
from keylm.export.exporter import Exporter, ExportOptions, ParityFailed, export
from keylm.export.parity import limits_of
from keylm.export.reference import TorchModel
from keylm.model import folder as huggingface
from keylm.model.folder import export_model
from keylm.model.opening import export_folder
from keylm.report.card_sections import snippet
from keylm.runtimes import gguf_write as gguf_file
from keylm.runtimes import llama, onnx_files
from keylm.runtimes.gguf_read import GgufFile
from keylm.text.tokenizer import train_tokenizer

PACKAGES = ("gguf", "onnx", "onnxruntime", "xllamacpp")
pytestmark = pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason="needs the export extra")

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
CONTEXT = 96
VOCABULARY = 1000


def make_model(folder: Path, tokenizer: Path, seed: int = 0, vocabulary: int = VOCABULARY, **shape: int) -> Path:
    """A random model of two layers that is surer of its words than new weights are."""
    shape = {**SHAPE, **shape}
    overrides = [f"model.{name}={value}" for name, value in {**shape, "max_position_embeddings": CONTEXT}.items()]
    overrides.append(f"tokenizer.vocab_size={vocabulary}")
    model = random_qwen3(seed, vocabulary, **shape)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.mul_(5)
    export_model(tiny_recipe(folder, overrides), model.state_dict(), tokenizer, folder / "model")
    return folder / "model"


def texts() -> Iterator[str]:
    """English and code in paragraphs, with a little of other scripts."""
    for module in (argparse, typing, re):
        yield from Path(str(module.__file__)).read_text(encoding="utf-8").split("\n\n")
    yield from ["Žluťoučký kůň pěl ďábelské ódy.", "日本語の文章です。", "Привет, мир! 👋🏽"] * 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    train_tokenizer(texts(), VOCABULARY, folder / "words", CONTEXT)
    return make_model(folder, folder / "words")


@pytest.fixture(scope="module")
def out(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything exported at once."""
    folder = tmp_path_factory.mktemp("export")
    options = ExportOptions(("hf", "gguf", "onnx", "web"), gguf=("f16", "bf16", "q8_0", "q4_0"), name="small")
    export(model, folder, options, quiet=True)
    return folder


@pytest.fixture(scope="module")
def exporter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    """For checks of single files: the reference's answers are worked out once."""
    return Exporter(model, tmp_path_factory.mktemp("altered"), ExportOptions(name="small"), quiet=True)


@pytest.fixture
def altered(exporter: Exporter) -> Iterator[Exporter]:
    exporter.rows.clear()
    shutil.rmtree(exporter.out, ignore_errors=True)
    exporter.out.mkdir()
    yield exporter
    exporter.options = ExportOptions(name="small")


def test_every_artefact_passes_and_is_recorded(out: Path):
    record = read_json(out / "parity.json")
    kinds = [(row["artefact"], row["kind"]) for row in record["artefacts"]]
    assert kinds == [
        ("hf", "exact"),
        ("gguf/small-F16.gguf", "f16"),
        ("gguf/small-BF16.gguf", "bf16"),
        ("gguf/small-Q8_0.gguf", "q8_0"),
        ("gguf/small-Q4_0.gguf", "q4_0"),
        ("onnx/onnx/model.onnx", "fp32"),
        ("onnx/onnx/model_quantized.onnx", "int8"),
        ("onnx/onnx/model_q4.onnx", "q4"),
        ("web/models/small/onnx/model_quantized.onnx", "int8"),
        ("web/models/small/onnx/model_q4.onnx", "q4"),
    ]
    for row in record["artefacts"]:
        assert row["passed"], row
        assert not row["faults"]
        assert (out / row["artefact"]).exists()
        assert (row["tokenizer_mismatches"], row["tokenizer_strings"]) == (0, 500)
        if limits_of(row["kind"]).greedy:
            assert row["greedy_equal"] + row["greedy_ties"] == row["greedy_prompts"] == 8
    assert record["prompts"] == 50
    assert {"torch", "gguf", "onnxruntime", "xllamacpp"} <= set(record["runtimes"])
    assert not [file for file in out.rglob("*") if re.search(r"\.(unchecked|failed)|\.tmp-", file.name)]


def test_the_comparison_is_no_formality(out: Path):
    """Each precision loses what it must, so it was that file that was run."""
    rows = {row["kind"]: row for row in read_json(out / "parity.json")["artefacts"]}
    assert rows["exact"]["logit"] < 1e-4
    assert rows["fp32"]["logit"] < 1e-4 < rows["f16"]["logit"] < rows["q8_0"]["logit"] < rows["q4_0"]["logit"]
    assert rows["exact"]["weights"] is None
    assert 0 < rows["f16"]["weights"] < rows["q8_0"]["weights"] < rows["q4_0"]["weights"] < 0.4
    assert rows["fp32"]["kl"] < rows["f16"]["kl"] < rows["q8_0"]["kl"] < rows["q4_0"]["kl"]


def test_gguf_says_what_llama_cpp_must_know(out: Path, model: Path):
    from gguf import GGUFReader

    fields = GGUFReader(out / "gguf" / "small-Q8_0.gguf").fields
    found: dict[str, Any] = {name: field.contents() for name, field in fields.items()}
    assert found["general.architecture"] == "qwen3"
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert (found["tokenizer.ggml.eos_token_id"], found["tokenizer.ggml.eot_token_id"]) == (0, 2)
    assert found["tokenizer.ggml.padding_token_id"] == 3
    assert found["tokenizer.ggml.token_type"][:21] == [3] * 20 + [1]
    assert "<|im_start|>" in found["tokenizer.chat_template"]
    assert "generation" not in found["tokenizer.chat_template"].replace("add_generation_prompt", "")
    modelfile = (out / "gguf" / "Modelfile").read_text()
    assert modelfile.startswith("FROM ./small-Q8_0.gguf\n")
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    assert f"PARAMETER num_ctx {CONTEXT}" in modelfile


def test_llama_cpps_server_renders_the_chat_template(out: Path, model: Path):
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(out / "gguf" / "small-F16.gguf")
    parameters.n_ctx, parameters.n_parallel, parameters.warmup, parameters.verbosity = CONTEXT, 1, False, -1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "the fox?\n it's <b>"}]
    parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    options = {"max_tokens": 1, "temperature": 0}
    answer, same = (server.handle_chat_completions({"messages": one, **options}) for one in (turns, parts))
    assert same["usage"]["prompt_tokens"] == answer["usage"]["prompt_tokens"]
    rendered = AutoTokenizer.from_pretrained(model).apply_chat_template(
        turns, add_generation_prompt=True, return_dict=True
    )
    assert answer["usage"]["prompt_tokens"] == len(rendered["input_ids"])


def test_onnx_is_laid_out_for_transformers_js(out: Path, model: Path):
    import onnx

    graph = onnx.load(out / "onnx" / "onnx" / "model.onnx").graph
    shapes = {entry.name: entry.type.tensor_type.shape.dim for entry in [*graph.input, *graph.output]}
    caches = [f"{n}.{part}" for n in range(2) for part in ("key", "value")]
    assert [entry.name for entry in graph.input] == [
        "input_ids",
        "attention_mask",
        *(f"past_key_values.{cache}" for cache in caches),
    ]
    assert [entry.name for entry in graph.output] == ["logits", *(f"present.{cache}" for cache in caches)]
    for cache in caches:
        for name in (f"past_key_values.{cache}", f"present.{cache}"):
            assert shapes[name][0].dim_param == "batch_size"  # other names are 0 to transformers.js
            assert (shapes[name][1].dim_value, shapes[name][3].dim_value) == (1, 32)
    config = read_json(out / "onnx" / "config.json")
    assert (config["model_type"], config["transformers.js_config"]["dtype"]) == ("qwen3", "q8")
    listed = read_json(out / "web" / "models.json")
    assert listed[0]["name"] == "small"
    assert set(listed[0]["files"]) == {
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("onnx/model_quantized.onnx", "onnx/model_q4.onnx"),
    }
    turns = [{"role": "user", "content": "the fox?"}, {"role": "assistant", "content": "ran."}]
    plain = read_json(out / "onnx" / "tokenizer_config.json")["chat_template"]
    ours = AutoTokenizer.from_pretrained(model)
    for prompt in (False, True):
        options = {"tokenize": False, "add_generation_prompt": prompt}
        rendered = ours.apply_chat_template(turns, chat_template=plain, **options)
        assert rendered == ours.apply_chat_template(turns, **options)


def test_the_cards_snippet_runs_as_it_stands(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    card = ModelCard.load(out / "hf" / "README.md")
    code = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert code[0].strip() == snippet("small").strip()
    assert "trust_remote_code" not in card.text
    assert "| gguf/small-F16.gguf |" in card.text
    shutil.copytree(out / "hf", tmp_path / "small")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in code:
        exec(block, names)
    assert capsys.readouterr().out.startswith("Once upon a time")
    assert type(names["model"]).__name__ == "Qwen3ForCausalLM"
    tokenizer, control = names["tokenizer"], {1, 2}
    assert [token for token in names["asked"] if token in control] == [1, 2, 1], "typed marks are characters"
    turns = [{"role": "user", "content": "the fox?"}]
    plain = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert names["turn"]("user", "the fox?") + names["ids"]("<|im_start|>assistant\n") == plain
    assert tokenizer.padding_side == "left"


def test_weights_go_into_shards(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface, "SHARD_SIZE", "150KB")
    export_folder(model, tmp_path / "hf")
    shards = list((tmp_path / "hf").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert all(shard.stat().st_size < 160_000 for shard in shards)
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (model, tmp_path / "hf"))
    assert after.dtype == torch.bfloat16
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())
    assert after.generation_config.eos_token_id == [0, 2]


def only(exporter: Exporter, **options: tuple[str, ...]) -> None:
    exporter.options = ExportOptions(name="small", **options)


def test_an_altered_gguf_fails_loudly(altered: Exporter, monkeypatch: pytest.MonkeyPatch):
    """A sixteenth of one of fourteen matrices with its sign turned, in each precision."""
    write = gguf_file.write_gguf

    def alter(folder: Path, weights: Any, file: Path, kind: str, name: str) -> None:
        matrix = "model.layers.1.mlp.down_proj.weight"
        turned = weights[matrix].copy()
        turned[:4] *= -1
        write(folder, {**weights, matrix: turned}, file, kind, name)

    monkeypatch.setattr(gguf_file, "write_gguf", alter)
    only(altered, formats=("gguf",), gguf=("f16", "q4_0"))
    with pytest.raises(ParityFailed, match=r"small-F16\.gguf: max \|logit\| difference .* a row of weights") as failure:
        altered.run()
    assert failure.value.exit_code == 2
    left = sorted(file.name for file in (altered.out / "gguf").iterdir())
    assert left == ["small-F16.gguf.failed", "small-Q4_0.gguf.failed"]
    rows = read_json(altered.out / "parity.json")["artefacts"]
    assert [row["passed"] for row in rows] == [False, False]
    assert "a row of weights is off by 2" in rows[1]["faults"][-1]


def test_one_altered_embedding_that_no_prompt_reads_is_found(altered: Exporter, monkeypatch: pytest.MonkeyPatch):
    read = {token for ids in [*altered.reference.probe.prompts, *altered.reference.probe.text] for token in ids}
    unread = next(token for token in range(VOCABULARY) if token not in read)
    weights = altered.source.weights()
    changed = weights["model.embed_tokens.weight"].copy()
    changed[unread] *= 1.5
    monkeypatch.setattr(
        gguf_file,
        "write_gguf",
        lambda folder, weights, *rest, write=gguf_file.write_gguf: write(
            folder, {**weights, "model.embed_tokens.weight": changed}, *rest
        ),
    )
    monkeypatch.setattr(
        onnx_files,
        "build",
        lambda folder, weights, build=onnx_files.build: build(
            folder, {**weights, "model.embed_tokens.weight": changed}
        ),
    )
    only(altered, formats=("gguf", "onnx"), gguf=("q8_0",), onnx=("fp32",))
    with pytest.raises(ParityFailed, match="weights"):
        altered.run()
    assert all(row.faults and "weights" in row.faults[0] for row in altered.rows), altered.rows
    assert len(altered.rows) == 2


def test_an_altered_onnx_fails_loudly(altered: Exporter, monkeypatch: pytest.MonkeyPatch):
    """Queries and keys that are rotated by another base differ little at first, and enough."""
    build = onnx_files.build_graph
    monkeypatch.setattr(
        onnx_files,
        "build_graph",
        lambda config, weights: build({**config, "rope_parameters": {"rope_theta": 20_000.0}}, weights),
    )
    only(altered, formats=("onnx",), onnx=("fp32",))
    with pytest.raises(ParityFailed, match=r"onnx/model\.onnx: max \|logit\| difference"):
        altered.run()
    assert (altered.out / "onnx" / "onnx" / "model.onnx.failed").is_file()


def test_another_tokenizer_fails_loudly(altered: Exporter, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gguf_file, "PRE_TOKENIZER", "qwen2")  # digits apart, other runs of spaces
    only(altered, formats=("gguf",), gguf=("f16",))
    with pytest.raises(ParityFailed, match="strings are tokenized differently"):
        altered.run()


def test_a_file_that_its_runtime_refuses_is_one_error(altered: Exporter, monkeypatch: pytest.MonkeyPatch):
    def broken(folder: Path, weights: Any, file: Path, kind: str, name: str) -> None:
        file.write_bytes(b"GGUF" + b"\0" * 60)

    monkeypatch.setattr(gguf_file, "write_gguf", broken)
    only(altered, formats=("gguf",), gguf=("f16",))
    with pytest.raises(KeylmError, match="cannot load it"):
        altered.run()
    assert [file.name for file in (altered.out / "gguf").iterdir()] == ["small-F16.gguf.failed"]


def test_a_row_that_died_in_training_is_no_difference_and_another_one_is(tokenizer: Path, tmp_path: Path):
    folder = make_model(tmp_path, tokenizer, vocabulary=400)
    weights, file = dict(TorchModel(folder).weights()), tmp_path / "f16.gguf"
    name = "model.layers.0.mlp.gate_proj.weight"
    dead = weights[name].copy()
    dead[3] = 1e-9  # under the smallest number of f16
    weights[name] = dead
    gguf_file.write_gguf(folder, weights, file, "f16", "dead")
    assert gguf_file.weight_error(file, weights) < 2e-3
    altered = dead.copy()
    altered[3] = 0.02 * np.abs(dead).max()
    assert gguf_file.weight_error(file, {**weights, name: altered}) > 0.5


def test_k_quants_are_mixtures_that_llama_cpp_reads(tokenizer: Path, tmp_path: Path):
    """Most matrices as they say; the head, and some of the values and of the last of the feed-forward, in 6 bits."""
    shape = {"hidden_size": 256, "head_dim": 128, "intermediate_size": 256, "num_hidden_layers": 8}
    folder = make_model(tmp_path, tokenizer, vocabulary=400, **shape)
    source, errors, sizes = TorchModel(folder), [], []
    weights = source.weights()
    for kind in gguf_file.K_QUANTS:
        file = tmp_path / f"{kind}.gguf"
        gguf_file.write_gguf(folder, weights, file, kind, "wide")
        errors.append(gguf_file.weight_error(file, weights))
        sizes.append(file.stat().st_size)
    assert 0 < errors[2] < errors[1] < errors[0] < 0.2
    assert sizes[0] < sizes[1] < sizes[2]
    stored = GgufFile(tmp_path / "q4_k_m.gguf")
    kinds = stored.types()
    assert (kinds["output.weight"], kinds["token_embd.weight"], kinds["output_norm.weight"]) == ("Q6_K", "Q4_K", "F32")
    for name in ("attn_v", "ffn_down"):
        # The first and the last eighth, and each third between them.
        assert [n for n in range(8) if kinds[f"blk.{n}.{name}.weight"] == "Q6_K"] == [0, 3, 6, 7]
    rest = ("attn_q.weight", "attn_k.weight", "attn_output.weight", "ffn_gate.weight", "ffn_up.weight")
    assert {kind for name, kind in kinds.items() if name.endswith(rest)} == {"Q4_K"}
    # llama.cpp computes with what the file holds, but for rounding what it multiplies to 8 bits.
    source.model.load_state_dict({name: torch.from_numpy(value) for name, value in stored.weights().items()})
    ids = list(range(30, 90))
    expected = source.read(ids)
    with llama.LlamaModel(tmp_path / "q4_k_m.gguf", 64) as model:
        assert np.abs(model.read(ids) - expected).mean() < 0.1 * expected.std()


def test_rows_that_do_not_fit_k_quants_are_stored_in_what_is_next(altered: Exporter):
    only(altered, formats=("gguf",), gguf=("q4_k_m", "q5_k_m"))
    assert [row.faults for row in altered.run()] == [[], []]
    for kind, narrow in (("Q4_K_M", "Q5_0"), ("Q5_K_M", "Q5_1")):
        kinds = GgufFile(altered.out / "gguf" / f"small-{kind}.gguf").types()
        assert (kinds["blk.0.attn_q.weight"], kinds["output.weight"]) == (narrow, "Q8_0")


def test_other_quants_are_left_to_llama_cpps_tool(altered: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    only(altered, formats=("gguf",), gguf=("q3_k_m",))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KeylmError, match="llama-quantize, which is not on PATH"):
        altered.run()
    tool = tmp_path / "llama-quantize"  # stands in for llama.cpp's: gives back what it got
    tool.write_text(
        f"#!{sys.executable}\nimport shutil, sys\nassert sys.argv[3] == 'Q3_K_M'\nshutil.copy(*sys.argv[1:3])\n"
    )
    tool.chmod(0o755)
    assert [row.kind for row in altered.run()] == ["q3_k_m"]
    assert {file.name for file in (altered.out / "gguf").iterdir()} == {"small-Q3_K_M.gguf", "Modelfile"}


def test_transformers_serve_answers_with_an_export(out: Path, tmp_path: Path):
    pytest.importorskip("fastapi", reason="needs transformers' server: pip install 'transformers[serving]'")
    port = free_port()
    program = [sys.executable, "-c", "from transformers.cli.transformers import main; main()"]
    command = [*program, "serve", str(out / "hf"), "--device", "cpu", "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    asked = {
        "model": str(out / "hf"),
        "messages": [{"role": "user", "content": "the fox?"}],
        "max_tokens": 8,
    }
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, env=settings) as server:
        try:
            until = time.monotonic() + 120
            while not listens(address):
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < until
                time.sleep(0.2)
            request = urllib.request.Request(
                f"{address}/v1/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                found = json.loads(answer.read())
        finally:
            server.terminate()
    ids = AutoTokenizer.from_pretrained(out / "hf").apply_chat_template(
        asked["messages"], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert found["usage"]["prompt_tokens"] == len(ids)
    assert 1 <= found["usage"]["completion_tokens"] <= 8
    assert found["choices"][0]["message"]["role"] == "assistant"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def listens(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/health", timeout=2).close()
        return True
    except OSError:
        return False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(("hf", "coreml")), "--to: got coreml; accepted: hf, gguf, onnx, web"),
        (ExportOptions(()), "--to: got nothing"),
        (ExportOptions(gguf=("q9",)), "--gguf-types: got q9; accepted: f32, f16"),
        (ExportOptions(onnx=("fp8",)), "--onnx-types: got fp8; accepted: fp32, int8, q4"),
    ],
)
def test_what_cannot_be_made_is_told_first(options: ExportOptions, message: str, model: Path, tmp_path: Path):
    with pytest.raises(KeylmError, match=re.escape(message)):
        export(model, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_other_architectures_and_tokenizers_are_refused(model: Path, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(model, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["add_prefix_space"] = True
    with pytest.raises(KeylmError, match="no name for this tokenizer's splitting"):
        gguf_file.check_tokenizer(tokenizer, other)
    config = read_json(other / "config.json")
    write_json(other / "config.json", {**config, "model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    with pytest.raises(KeylmError, match="model_type = 'llama'"):
        export(other, tmp_path / "out", ExportOptions(("gguf",)))


def test_the_command_prints_the_table(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", ["keylm", "export", str(model), "--to", "gguf", "--gguf-types", "f16", "--out", str(out)]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)
    printed = capsys.readouterr().out
    assert re.search(r"gguf f16 .*\d(\+\d)?/8 +0/500 +passed", printed)
    assert "PyTorch in fp32: perplexity" in printed


def test_q4_packs_what_it_says():
    matrix = np.random.default_rng(0).normal(size=(5, 70)).astype(np.float32)
    matrix[1, :32] = 0
    packed, scales = onnx_files.pack_q4(matrix)
    assert (packed.shape, packed.dtype, scales.shape) == ((5, 3, 16), np.uint8, (15,))
    levels = np.stack([packed & 15, packed >> 4], axis=-1).reshape(5, 3, 32).astype(np.float32) - 8
    found = (levels * scales.reshape(5, 3, 1)).reshape(5, 96)
    assert (found[:, 70:] == 0).all()
    steps = np.abs(scales).reshape(5, 3).repeat(32, axis=1)[:, :70]
    assert (np.abs(found[:, :70] - matrix) <= 1.001 * steps).all()
    assert (np.abs(found[:, :70] - matrix) <= 0.501 * steps).mean() > 0.95


def test_a_product_behind_a_spike_stays_in_fp32(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One unit answers a text's first token alone, hugely: in 8 bits all others would vanish beside it."""
    folder = make_model(tmp_path, model, intermediate_size=2048)
    words = AutoTokenizer.from_pretrained(folder)(" ".join(texts())).input_ids
    ids = [words[0], *(word for word in words if word != words[0])][:CONTEXT]
    plain, heard = TorchModel(folder).weights(), []
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    network.model.layers[0].mlp.register_forward_pre_hook(lambda _, given: heard.append(given[0][0, 0].numpy()))
    with torch.inference_mode():
        network(torch.tensor([ids]))
    spiked = {name: value.copy() for name, value in plain.items()}
    first = "model.layers.0.mlp."
    spiked[f"{first}gate_proj.weight"][0] = spiked[f"{first}up_proj.weight"][0] = 100 * heard[0]
    spiked[f"{first}down_proj.weight"][:, 0] *= 1e-7
    assert onnx_files.coarse_products(onnx_files.build(folder, plain), ids) == []
    graph = onnx_files.build(folder, spiked)
    assert onnx_files.coarse_products(graph, ids) == ["model.layers.0.mlp/down/MatMul"]
    logits = {}
    for name, kind, coarse in (("exact", "fp32", 1), ("kept", "int8", 1), ("rounded", "int8", np.inf)):
        monkeypatch.setattr(onnx_files, "COARSE", coarse)
        onnx_files.write_onnx(graph, tmp_path / name, kind, ids)
        logits[name] = onnx_files.OnnxModel(tmp_path / name).read(ids)
    error = {name: np.abs(found - logits["exact"]).mean() for name, found in logits.items()}
    assert 0 < error["kept"] < error["rounded"] / 2
