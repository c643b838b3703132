"""ONNX models in the folder layout that transformers.js opens, and onnxruntime to run them.

onnx/model.onnx            fp32
onnx/model_quantized.onnx  dynamic int8, 8 bits in weights and activations: what is fast in wasm; products whose
                           inputs these bits round too coarsely stay in fp32
onnx/model_q4.onnx         4-bit weights in blocks of 32 (MatMulNBits): for WebGPU and for native CPUs
config.json, tokenizer…    as in the model folder, with what transformers.js needs
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keylm.base.errors import KeylmError, how_to_install
from keylm.base.files import atomic_path, read_json, read_table, write_json
from keylm.runtimes.chat_template import plain_template
from keylm.runtimes.onnx_graph import MICROSOFT, build_graph, onnx_package

FILES = {"fp32": "model.onnx", "int8": "model_quantized.onnx", "q4": "model_q4.onnx"}
"""File of each precision, in the names of transformers.js."""
BLOCK = 32
"""Weights that share a scale in q4."""
COARSE = 1.0
"""Of the root mean square of a product's input: where a level of its 8 bits is wider, the product stays in fp32."""

Array = npt.NDArray[np.float32]


def build(folder: Path, weights: Mapping[str, Array]) -> Any:
    """Return a model folder's graph in fp32 (a ModelProto); `weights` are its fp32 parameters by name."""
    return build_graph(read_json(folder / "config.json"), weights)


def write_onnx(model: Any, file: Path, kind: str, sample: Sequence[int]) -> None:
    """Write an fp32 graph as `kind` (a key of FILES), whole or not at all; int8 is fitted to the tokens of `sample`."""
    onnx = onnx_package()
    with atomic_path(file) as temporary:
        if kind == "int8":
            _write_int8(_copy(model), temporary, coarse_products(model, sample))
        else:
            onnx.save(_to_q4(_copy(model)) if kind == "q4" else model, str(temporary))


def embedding_error(file: Path, weights: Mapping[str, Array]) -> float:
    """Return the largest difference of the embedding, which no precision rounds: most of its rows no prompt reads."""
    onnx = onnx_package()
    stored = {entry.name: entry for entry in onnx.load(str(file)).graph.initializer}
    found = onnx.numpy_helper.to_array(stored["embedding"])
    expected = weights["model.embed_tokens.weight"]
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")


def _copy(model: Any) -> Any:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def write_beside(folder: Path, target: Path) -> None:
    """Copy configuration and tokenizer as transformers.js reads them: its settings, and the template in one file."""
    target.mkdir(parents=True, exist_ok=True)
    config = read_json(folder / "config.json")
    config["transformers.js_config"] = {"dtype": "q8", "use_external_data_format": False}
    write_json(target / "config.json", config)
    shutil.copyfile(folder / "tokenizer.json", target / "tokenizer.json")
    if (folder / "generation_config.json").is_file():
        shutil.copyfile(folder / "generation_config.json", target / "generation_config.json")
    settings = read_table(folder / "tokenizer_config.json")
    template = plain_template(folder)
    write_json(target / "tokenizer_config.json", {**settings, **({"chat_template": template} if template else {})})


def coarse_products(model: Any, sample: Sequence[int]) -> list[str]:
    """Return the nodes of an fp32 graph whose inputs 8 bits would round too coarsely, as seen on the tokens of a text.

    One scale serves a whole input, so a few huge values leave too few levels for all others. Gated units produce such
    values, above all at the first token; the matmuls after them are left unquantized (Yang et al., Mitigating
    quantization errors due to activation spikes in GLU-based large language models, doi 10.3390/fi17040185).
    """
    onnx, watched = onnx_package(), _copy(model)
    products = {node.name: node.input[0] for node in model.graph.node if node.op_type == "MatMul"}
    seen = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in set(products.values())]
    watched.graph.output.extend(seen)
    session = _open(watched.SerializeToString(), threads=1)
    read = {"input_ids": np.array([sample], np.int64), "attention_mask": np.ones((1, len(sample)), np.int64)}
    names = [entry.name for entry in seen]
    values = dict(zip(names, session.run(names, {**read, **_empty_cache(session)}), strict=True))
    return [node for node, name in products.items() if _level(values[name]) > COARSE]


def _level(values: Array) -> float:
    """Return the width of a level of dynamic int8, which covers 0 and all values, over their root mean square."""
    width = (max(0.0, float(values.max())) - min(0.0, float(values.min()))) / 255
    size = float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
    return width / size if size else 0.0


def _write_int8(model: Any, file: Path, kept: list[str]) -> None:
    """Write an fp32 model with its matrix products, but for the nodes `kept`, in dynamic int8.

    Weights are unsigned, with a scale a column: signed ones overflow the 16-bit sums of processors without VNNI.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    prepared = model.metadata_props.add()  # or the quantizer advises to prepare what is prepared
    prepared.key, prepared.value = "onnx.quant.pre_process", "onnxruntime.quant"
    quantize_dynamic(
        model,
        str(file),
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QUInt8,
        nodes_to_exclude=kept,
        extra_options={"DefaultTensorType": onnx_package().TensorProto.FLOAT},
    )


def _to_q4(model: Any) -> Any:
    """Return an fp32 model with its matrix products in 4 bits: MatMulNBits, as onnxruntime defines it."""
    onnx = onnx_package()
    matrices = {initializer.name: initializer for initializer in model.graph.initializer}
    replaced, added = set(), []
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in matrices:
            name = node.input[1]
            matrix = onnx.numpy_helper.to_array(matrices[name])
            packed, scales = pack_q4(matrix.T)
            added += [
                onnx.numpy_helper.from_array(packed, f"{name}_q4"),
                onnx.numpy_helper.from_array(scales, f"{name}_scales"),
            ]
            rows, columns = matrix.shape
            attributes = {"K": rows, "N": columns, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
            made = onnx.helper.make_node(
                "MatMulNBits",
                [node.input[0], f"{name}_q4", f"{name}_scales"],
                list(node.output),
                name=node.name,
                domain=MICROSOFT,
                **attributes,
            )
            node.CopyFrom(made)
            replaced.add(name)
    kept = [initializer for initializer in model.graph.initializer if initializer.name not in replaced]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *added])
    return model


def pack_q4(matrix: Array) -> tuple[npt.NDArray[np.uint8], Array]:
    """Return a matrix [out, in] in 4 bits: uint8 [out, blocks, BLOCK / 2] and scales [out x blocks].

    A block's value of largest magnitude becomes -8 exactly, the others are rounded to -8..7 of its eighths; values are
    stored plus 8, the first of two in the lower half of a byte.
    """
    out, width = matrix.shape
    blocks = -(-width // BLOCK)
    padded = np.zeros((out, blocks * BLOCK), dtype=np.float32)
    padded[:, :width] = matrix
    padded = padded.reshape(out, blocks, BLOCK)
    largest = np.take_along_axis(padded, np.abs(padded).argmax(-1)[..., None], axis=-1)
    scales = largest / np.float32(-8)
    safe = np.where(scales == 0, np.float32(1), scales)
    levels = np.clip(np.rint(padded / safe) + 8, 0, 15).astype(np.uint8)
    return levels[..., 0::2] | (levels[..., 1::2] << 4), scales.reshape(-1).astype(np.float32)


def _open(source: str | bytes, threads: int) -> Any:
    """Return onnxruntime's session of a file, or of a graph as bytes. Raises KeylmError where it refuses."""
    try:
        import onnxruntime
    except ImportError:
        raise KeylmError(f"running ONNX files needs more packages; accepted: {how_to_install('export')}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes are not public
        name = source if isinstance(source, str) else "the graph"
        raise KeylmError(f"{name}: onnxruntime cannot open it: {str(error)[:300]}") from None


def _empty_cache(session: Any) -> dict[str, Array]:
    """Return the cache of a model that has read nothing, by the names of its inputs."""
    caches = [entry for entry in session.get_inputs() if entry.name.startswith("past_key_values.")]
    return {entry.name: np.zeros((1, entry.shape[1], 0, entry.shape[3]), np.float32) for entry in caches}


class OnnxModel:
    """An ONNX file with a key-value cache, run by onnxruntime on the CPU."""

    def __init__(self, file: Path, threads: int = 1) -> None:
        """Open `file`. Raises KeylmError where onnxruntime refuses it."""
        self._session = _open(str(file), threads)
        self._empty = _empty_cache(self._session)
        self._outputs = [entry.name for entry in self._session.get_outputs()]
        self.reset()

    def reset(self) -> None:
        """Forget the tokens read so far."""
        self._cache, self._filled = dict(self._empty), 0

    def read(self, ids: Sequence[int]) -> Array:
        """Read `ids` after those read before; return the logits of each [tokens, vocab]."""
        self._filled += len(ids)
        inputs = {"input_ids": np.array([ids], np.int64), "attention_mask": np.ones((1, self._filled), np.int64)}
        found = dict(zip(self._outputs, self._session.run(None, {**inputs, **self._cache}), strict=True))
        logits: Array = found.pop("logits")[0]
        self._cache = {name.replace("present", "past_key_values"): value for name, value in found.items()}
        return logits
