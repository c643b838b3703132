"""Qwen3's forward pass with a key-value cache as an ONNX graph, written node by node.

By hand, so that it depends on no exporter's version, takes two seconds, and has the names, shapes and fused operators
that onnxruntime and transformers.js want (com.microsoft GroupQueryAttention). The parity check proves it the same.

    input_ids              int64 [batch_size, sequence]
    attention_mask         int64 [batch_size, past + sequence]; rows shorter than others are padded on the right
    past_key_values.N.key  fp32 [batch_size, key-value heads, past, head_dim], likewise .value
    logits                 fp32 [batch_size, sequence, vocabulary]
    present.N.key, .value  the cache to give back with the next tokens

transformers.js takes every name in a shape for 0 but batch_size, so the cache's last dimension is a number.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from keylm.base.errors import KeylmError, how_to_install

Array = npt.NDArray[np.float32]
OPSET, IR_VERSION = 21, 10
MICROSOFT = "com.microsoft"
LARGEST = 2_000_000_000
"""Bytes: a protobuf message, which an ONNX file is, may not be larger than 2 GiB."""


def onnx_package() -> Any:
    """Return the onnx module. Raises KeylmError where it is not installed."""
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise KeylmError(f"writing ONNX needs more packages; accepted: {how_to_install('export')}") from None
    return onnx


class _Graph:
    """Nodes and weights as they are added."""

    def __init__(self) -> None:
        self.onnx = onnx_package()
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add a constant and return its name."""
        self.weights.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], outputs: str | list[str], domain: str = "", **attributes: Any) -> str:
        """Add a node and return its first output."""
        outputs = [outputs] if isinstance(outputs, str) else outputs
        name = f"{outputs[0]}/{kind}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def product(self, x: str, name: str, *matrices: Array) -> str:
        """Add one matmul of `x` with several matrices [out, in]; returns the name of [..., sum of outs]."""
        matrix = self.weight(f"{name}.weight", np.concatenate(matrices).T)
        return self.node("MatMul", [x, matrix], name)


def build_graph(config: Mapping[str, Any], weights: Mapping[str, Array]) -> Any:
    """Return the ModelProto of a Qwen3 model (config.json's fields, fp32 parameters by name)."""
    size = sum(value.nbytes for value in weights.values())
    if size > LARGEST:
        raise KeylmError(f"the weights take {size:,} bytes in fp32; accepted for ONNX: up to {LARGEST:,}")
    graph = _Graph()
    helper, types = graph.onnx.helper, graph.onnx.TensorProto
    _shared(graph, config)
    hidden = _layers(graph, config, weights)
    head = weights["model.embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"]
    graph.node("MatMul", [hidden, graph.weight("lm_head.weight", head.T)], "logits")
    heads, width = config["num_key_value_heads"], config["head_dim"]
    inputs = [
        helper.make_tensor_value_info("input_ids", types.INT64, ["batch_size", "sequence_length"]),
        helper.make_tensor_value_info("attention_mask", types.INT64, ["batch_size", "total_sequence_length"]),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", types.FLOAT, ["batch_size", "sequence_length", config["vocab_size"]])
    ]
    for layer in range(config["num_hidden_layers"]):
        for part in ("key", "value"):
            cache = (
                ["batch_size", heads, "past_sequence_length", width],
                ["batch_size", heads, "total_sequence_length", width],
            )
            inputs.append(helper.make_tensor_value_info(f"past_key_values.{layer}.{part}", types.FLOAT, cache[0]))
            outputs.append(helper.make_tensor_value_info(f"present.{layer}.{part}", types.FLOAT, cache[1]))
    made = helper.make_graph(graph.nodes, "keylm", inputs, outputs, graph.weights)
    versions = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(made, opset_imports=versions, ir_version=IR_VERSION, producer_name="keylm")


def _shared(graph: _Graph, config: Mapping[str, Any]) -> None:
    """Add what all layers read: how long each row and the whole is, and the rotations' cosines and sines."""
    axis, one = graph.weight("axis", np.array([1])), graph.weight("one", np.array(1))
    graph.node("ReduceSum", ["attention_mask", axis], "lengths", keepdims=0)
    graph.node("Sub", ["lengths", one], "last")
    graph.node("Cast", ["last"], "last_places", to=graph.onnx.TensorProto.INT32)
    graph.node("Shape", ["attention_mask"], "mask_shape")
    graph.node("Gather", ["mask_shape", one], "total", axis=0)
    graph.node("Cast", ["total"], "total_length", to=graph.onnx.TensorProto.INT32)
    width, positions = config["head_dim"], config["max_position_embeddings"]
    rope = config.get("rope_parameters") or {}
    theta = np.float32(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    frequencies = np.float32(1) / theta ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    angles = np.outer(np.arange(positions, dtype=np.float32), frequencies)
    graph.weight("cosines", np.cos(angles))
    graph.weight("sines", np.sin(angles))
    for name, heads in (("queries", config["num_attention_heads"]), ("keys", config["num_key_value_heads"])):
        graph.weight(f"{name}_apart", np.array([0, 0, heads, width]))
        graph.weight(f"{name}_together", np.array([0, 0, heads * width]))
    keys = config["num_key_value_heads"] * width
    graph.weight("attention_parts", np.array([config["num_attention_heads"] * width, keys, keys]))
    graph.weight("feed_forward_parts", np.array([config["intermediate_size"]] * 2))


def _layers(graph: _Graph, config: Mapping[str, Any], weights: Mapping[str, Array]) -> str:
    """Add embedding, layers and the last norm; return the name of the final states [batch, sequence, hidden]."""
    epsilon = config["rms_norm_eps"]
    norms = [f"model.layers.{layer}.input_layernorm.weight" for layer in range(config["num_hidden_layers"])]
    norms.append("model.norm.weight")
    stream = graph.node("Gather", [graph.weight("embedding", weights["model.embed_tokens.weight"]), "input_ids"], "x")
    gain = graph.weight(norms[0], weights[norms[0]])
    normed = graph.node("SimplifiedLayerNormalization", [stream, gain], "x/norm", axis=-1, epsilon=epsilon)
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        attended = _attention(graph, config, weights, layer, normed)
        normed, stream = _add_and_norm(graph, weights, stream, attended, f"{name}.post_attention_layernorm", epsilon)
        fed = _feed_forward(graph, weights, f"{name}.mlp", normed)
        next_norm = norms[layer + 1].removesuffix(".weight")
        normed, stream = _add_and_norm(graph, weights, stream, fed, next_norm, epsilon)
    return normed


def _add_and_norm(
    graph: _Graph, weights: Mapping[str, Array], stream: str, addend: str, norm: str, epsilon: float
) -> tuple[str, str]:
    """Add to the residual stream; return the names of its norm and of the sum."""
    gain = graph.weight(f"{norm}.weight", weights[f"{norm}.weight"])
    outputs = [f"{norm}/normed", "", "", f"{norm}/sum"]
    graph.node("SkipSimplifiedLayerNormalization", [stream, addend, gain], outputs, MICROSOFT, epsilon=epsilon)
    return outputs[0], outputs[3]


def _attention(graph: _Graph, config: Mapping[str, Any], weights: Mapping[str, Array], layer: int, x: str) -> str:
    name = f"model.layers.{layer}.self_attn"
    parts = [weights[f"{name}.{part}_proj.weight"] for part in "qkv"]
    graph.product(x, f"{name}/qkv", *parts)
    split = [f"{name}/q", f"{name}/k", f"{name}/v"]
    graph.node("Split", [f"{name}/qkv", "attention_parts"], split, axis=-1)
    for part, heads in (("q", "queries"), ("k", "keys")):
        gain = graph.weight(f"{name}.{part}_norm.weight", weights[f"{name}.{part}_norm.weight"])
        apart = graph.node("Reshape", [f"{name}/{part}", f"{heads}_apart"], f"{name}/{part}_apart")
        inputs, epsilon = [apart, gain], config["rms_norm_eps"]
        graph.node("SimplifiedLayerNormalization", inputs, f"{name}/{part}_normed", axis=-1, epsilon=epsilon)
        graph.node("Reshape", [f"{name}/{part}_normed", f"{heads}_together"], f"{name}/{part}_ready")
    cache = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
    inputs = [f"{name}/q_ready", f"{name}/k_ready", split[2], *cache, "last_places", "total_length", "cosines", "sines"]
    outputs = [f"{name}/attended", f"present.{layer}.key", f"present.{layer}.value"]
    heads_of = {"num_heads": config["num_attention_heads"], "kv_num_heads": config["num_key_value_heads"]}
    graph.node("GroupQueryAttention", inputs, outputs, MICROSOFT, do_rotary=1, **heads_of)
    return graph.product(outputs[0], f"{name}/out", weights[f"{name}.o_proj.weight"])


def _feed_forward(graph: _Graph, weights: Mapping[str, Array], name: str, x: str) -> str:
    graph.product(x, f"{name}/gate_up", weights[f"{name}.gate_proj.weight"], weights[f"{name}.up_proj.weight"])
    graph.node("Split", [f"{name}/gate_up", "feed_forward_parts"], [f"{name}/gate", f"{name}/up"], axis=-1)
    graph.node("Sigmoid", [f"{name}/gate"], f"{name}/sigmoid")
    graph.node("Mul", [f"{name}/gate", f"{name}/sigmoid"], f"{name}/silu")
    graph.node("Mul", [f"{name}/silu", f"{name}/up"], f"{name}/product")
    return graph.product(f"{name}/product", f"{name}/down", weights[f"{name}.down_proj.weight"])
