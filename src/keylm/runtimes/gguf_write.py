"""A model as a GGUF file, which llama.cpp, Ollama, LM Studio and their like open.

Written with the `gguf` package alone. The architecture is llama.cpp's `qwen3`, whose rotary layout is ours, so nothing
is permuted; the vocabulary its `gpt2` kind with merges, with a pre-tokenizer that it knows. K-quants (llama.cpp pull
request 1684) are mixtures: most matrices in 4 or 5 bits, those that suffer most in 6. llama.cpp's own library quantizes
the blocks, and which matrix gets which type is decided as its `llama-quantize` does; Q2_K and Q3_K_M need that tool.
"""

import json
import math
import re
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keylm.base.errors import KeylmError, how_to_install
from keylm.base.files import atomic_path, read_json, read_table
from keylm.model.opening import check_vocabulary
from keylm.runtimes import llama
from keylm.runtimes.chat_template import plain_template
from keylm.text.tokenizer import open_tokenizer_file

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
"""What keylm writes itself."""
K_QUANTS = {"q4_k_m": "Q4_K", "q5_k_m": "Q5_K", "q6_k": "Q6_K"}
"""What is written by llama.cpp's library: the mixture, and the type of most of its matrices."""
QUANTIZED_BY_LLAMA_CPP = ("q2_k", "q3_k_m")
"""The types that `llama-quantize` writes."""
ALL_TYPES = (*TYPES, *K_QUANTS, *QUANTIZED_BY_LLAMA_CPP)
NARROW = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What llama.cpp takes in place of K-quants where rows are no multiple of 256 long."""
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
PRE_TOKENIZER = "gpt-2"
"""llama.cpp's name for BYTE_LEVEL's regular expression."""
BLOCK = 32
"""Values that share a scale in Q8_0 and Q4_0: rows of other lengths stay in F16."""
K_BLOCK = 256
"""Values of a block in K-quants."""
_NAMES = tomllib.loads((files("keylm.runtimes") / "gguf_names.toml").read_text(encoding="utf-8"))
TENSORS: dict[str, str] = _NAMES["model"]
LAYER_TENSORS: dict[str, str] = _NAMES["layer"]
"""Names in GGUF of the model's own parameters, and of a layer's."""

Weights = Mapping[str, npt.NDArray[np.float32]]
"""fp32 arrays by parameter name."""


def tensor_name(name: str) -> str:
    """Return llama.cpp's name of a Qwen3 parameter."""
    if name in TENSORS:
        return TENSORS[name]
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if not found or found[2] not in LAYER_TENSORS:
        raise KeylmError(f"parameter {name}: has no name in GGUF; accepted: the parameters of Qwen3ForCausalLM")
    return f"blk.{found[1]}.{LAYER_TENSORS[found[2]]}.weight"


def write_gguf(folder: Path, weights: Weights, file: Path, kind: str, name: str) -> None:
    """Write the model of `folder`, whose fp32 weights are given, as `file`, whole or not at all.

    `kind` is one of TYPES or K_QUANTS. Raises KeylmError where llama.cpp has no equal of the architecture or the
    tokenizer, or is needed and missing.
    """
    gguf = gguf_package()
    config = read_json(folder / "config.json")
    with atomic_path(file) as temporary:
        writer = gguf.GGUFWriter(temporary, "qwen3")
        _write_shape(writer, config, kind, name)
        _write_tokenizer(writer, folder, config)
        for parameter, value in weights.items():
            if parameter == "lm_head.weight" and config.get("tie_word_embeddings"):
                continue
            target = tensor_name(parameter)
            stored = _stored(target, value, kind, config)
            writer.add_tensor(target, _quantized(value, stored), raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def quantize_with_llama_cpp(source: Path, file: Path, kind: str) -> None:
    """Make a file of `kind` out of `source` (F32 or F16) with llama.cpp's own tool. Raises KeylmError without it."""
    tool = shutil.which("llama-quantize")
    if not tool:
        raise KeylmError(
            f"--gguf-types {kind}: needs llama.cpp's llama-quantize, which is not on PATH; "
            f"accepted without it: {', '.join((*TYPES, *K_QUANTS))}"
        )
    with atomic_path(file) as temporary:
        done = subprocess.run([tool, str(source), str(temporary), kind.upper()], capture_output=True, text=True)
        if done.returncode:
            raise KeylmError(f"llama-quantize failed: {(done.stderr or done.stdout).strip()[-400:]}")


def gguf_package() -> Any:
    """Return the gguf package. Raises KeylmError where it is missing."""
    try:
        import gguf
        import gguf.quants
    except ImportError:
        raise KeylmError(f"GGUF files need more packages; accepted: {how_to_install('export')}") from None
    return gguf


def _stored(target: str, value: npt.NDArray[np.float32], kind: str, config: Mapping[str, Any]) -> Any:
    """Return the type that a tensor is stored in: vectors in F32, matrices in `kind` where their rows fit its blocks.

    In Q4_0 nothing gets another type: at this size embedding and head are a third of the weights.
    """
    types = gguf_package().GGMLQuantizationType
    if value.ndim == 1:
        return types.F32
    if kind.startswith("q") and value.shape[-1] % BLOCK:
        return types.F16
    if kind not in K_QUANTS:
        return types[kind.upper()]
    name = _k_quant(target, kind, config)
    return types[name if value.shape[-1] % K_BLOCK == 0 else NARROW[name]]


def _k_quant(target: str, kind: str, config: Mapping[str, Any]) -> str:
    """Return the type that a mixture gives a matrix, by llama.cpp's name for it (its llama_tensor_get_type)."""
    most = K_QUANTS[kind]
    head = "token_embd.weight" if config.get("tie_word_embeddings") else "output.weight"
    if target == head:
        return "Q6_K"
    found = re.fullmatch(r"blk\.(\d+)\.(attn_v|ffn_down)\.weight", target)
    if not found:
        return most
    layer, layers = int(found[1]), config["num_hidden_layers"]
    eighth = layers // 8
    finer = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
    return "Q6_K" if finer else most


def _quantized(value: npt.NDArray[np.float32], stored: Any) -> npt.NDArray[Any]:
    """Return a tensor as bytes of its type (or, unquantised, as numbers)."""
    gguf, values = gguf_package(), np.ascontiguousarray(value, dtype=np.float32)
    if stored.name not in (*K_QUANTS.values(), *NARROW.values()) or stored.name == "Q8_0":
        quantized: npt.NDArray[Any] = gguf.quants.quantize(values, stored)
        return quantized
    block, size = gguf.GGML_QUANT_SIZES[stored]
    return llama.quantize(values, int(stored), values.shape[-1] // block * size)


def _write_shape(writer: Any, config: Mapping[str, Any], kind: str, name: str) -> None:
    rope = config.get("rope_parameters") or {}
    writer.add_name(name)
    writer.add_file_type(gguf_package().LlamaFileType["ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _write_tokenizer(writer: Any, folder: Path, config: Mapping[str, Any]) -> None:
    tokenizer = read_json(folder / "tokenizer.json")
    check_tokenizer(tokenizer, folder)
    check_vocabulary(open_tokenizer_file(folder), config["vocab_size"], folder)
    kinds, model = gguf_package().TokenType, tokenizer["model"]
    tokens = [f"[unused {index}]" for index in range(config["vocab_size"])]
    types = [kinds.UNUSED] * len(tokens)
    for token, index in model["vocab"].items():
        tokens[index], types[index] = token, kinds.NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = kinds.CONTROL if added["special"] else kinds.USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    ids = special_ids(folder)
    writer.add_eos_token_id(ids["eos"])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    if "eot" in ids:
        writer.add_eot_token_id(ids["eot"])
    if "pad" in ids:
        writer.add_pad_token_id(ids["pad"])
    template = plain_template(folder)
    if template:
        writer.add_chat_template(template)


def special_ids(folder: Path) -> dict[str, int]:
    """Return the ids that a runtime needs: `eos`, and if the model has them `eot` (turn's end) and `pad`."""
    tokenizer, config = read_json(folder / "tokenizer.json"), read_json(folder / "config.json")
    generation = read_table(folder / "generation_config.json")
    by_text = {added["content"]: added["id"] for added in tokenizer["added_tokens"]}
    ends = config.get("eos_token_id")
    ends = generation.get("eos_token_id") if ends is None else ends
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    if not ends:
        raise KeylmError(f"{folder}: config.json names no eos_token_id; accepted: a model that says where a text ends")
    found = {"eos": ends[0]}
    if "<|im_end|>" in by_text:
        found["eot"] = by_text["<|im_end|>"]
    if config.get("pad_token_id") is not None:
        found["pad"] = config["pad_token_id"]
    return found


def check_tokenizer(tokenizer: Mapping[str, Any], folder: Path) -> None:
    """Raise KeylmError where llama.cpp would split text in other ways."""
    split = {key: (tokenizer.get("pre_tokenizer") or {}).get(key) for key in BYTE_LEVEL}
    if tokenizer["model"].get("type") != "BPE" or split != BYTE_LEVEL or tokenizer.get("normalizer"):
        raise KeylmError(
            f"{folder / 'tokenizer.json'}: llama.cpp has no name for this tokenizer's splitting "
            f"({json.dumps(tokenizer.get('pre_tokenizer'))[:120]}); accepted: byte-level BPE with ByteLevel's own "
            "regular expression and no normalizer, as keylm trains"
        )


FAINT = 0.01
"""Share of a matrix's strongest row under which a row adds nothing that another could not hide."""


def weight_error(file: Path, weights: Weights) -> float:
    """Return the largest relative error of a row of the file's weights: |stored - ours| / |ours|, as norms.

    It finds what no prompt may reach, such as the embedding of a rare token. A row that is fainter than FAINT of its
    matrix's strongest is measured by that: what died in training is under the smallest number that f16 has. Infinite
    where a tensor is missing or has another shape.
    """
    gguf, worst = gguf_package(), 0.0
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for name, value in weights.items():
        tensor = stored.get(tensor_name(name))
        if tensor is None:
            if name == "lm_head.weight" and np.array_equal(value, weights["model.embed_tokens.weight"]):
                continue  # tied: llama.cpp takes the embedding
            return math.inf
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if found.size != value.size:
            return math.inf
        rows = value.reshape(-1, value.shape[-1])
        error = np.linalg.norm(found.reshape(rows.shape) - rows, axis=-1)
        sizes = np.linalg.norm(rows, axis=-1)
        size = np.maximum(sizes, max(FAINT * float(sizes.max()), float(np.finfo(np.float32).tiny)))
        worst = max(worst, float(np.nan_to_num(error / size, nan=math.inf).max()))
    return worst


def write_modelfile(folder: Path, model: str, file: Path) -> None:
    """Write an Ollama Modelfile next to a GGUF file named `model`: ChatML, the tokens that end a turn, sampling."""
    ids = special_ids(folder)
    by_id = {added["id"]: added["content"] for added in read_json(folder / "tokenizer.json")["added_tokens"]}
    lines = [f"FROM ./{model}"]
    if "eot" in ids:
        lines.append(
            'TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}'
            '<|im_start|>assistant\n"""'
        )
    stops = dict.fromkeys(by_id[ids[key]] for key in ("eos", "eot") if key in ids and ids[key] in by_id)
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    context = read_json(folder / "config.json")["max_position_embeddings"]
    lines += [f"PARAMETER num_ctx {context}", "PARAMETER temperature 0.7", "PARAMETER top_p 0.9"]
    with atomic_path(file) as temporary:
        temporary.write_text("\n".join([*lines, "PARAMETER repeat_penalty 1.1"]) + "\n", encoding="utf-8")
