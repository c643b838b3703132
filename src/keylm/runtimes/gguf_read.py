"""Read a GGUF file that keylm wrote: configuration, tokenizer and weights.

What gguf_write.py writes suffices to rebuild a model folder's small files; weights are as the file rounded them.
A rebuilt tokenizer gives the same tokens (a test compares them on stress_strings).
"""

import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from keylm.base.errors import KeylmError
from keylm.base.files import atomic_write, write_json
from keylm.base.shapes import check
from keylm.model.config_files import Count, Positive, TokenId
from keylm.model.folder import read_config
from keylm.model.tensors import Stored, check_finite, check_shapes
from keylm.runtimes.chat_template import without_marks
from keylm.runtimes.gguf_write import LAYER_TENSORS, PRE_TOKENIZER, TENSORS, gguf_package
from keylm.text.tokenizer import CHAT_TEMPLATES

FIELDS: dict[str, Any] = {
    "general.file_type": int,
    "qwen3.context_length": Count,
    "qwen3.embedding_length": Count,
    "qwen3.feed_forward_length": Count,
    "qwen3.block_count": Count,
    "qwen3.attention.head_count": Count,
    "qwen3.attention.head_count_kv": Count,
    "qwen3.attention.key_length": Count,
    "qwen3.attention.layer_norm_rms_epsilon": Positive,
    "qwen3.rope.freq_base": Positive,
    "tokenizer.ggml.tokens": list[str],
    "tokenizer.ggml.token_type": list[int],
    "tokenizer.ggml.merges": list[Annotated[str, Field(pattern=r"^\S+ \S+$")]],
    "tokenizer.ggml.eos_token_id": TokenId,
    "tokenizer.ggml.eot_token_id": TokenId | None,
    "tokenizer.ggml.padding_token_id": TokenId | None,
    "tokenizer.chat_template": str | None,
}
"""What is read of a file, and of which type it must be."""


def _reader(file: Path) -> Any:
    """Return the gguf package's reader of a file. Raises ValueError where a length in it points past its end."""

    class Bounded(gguf_package().GGUFReader):  # type: ignore[misc]  # an array that is cut off, it would read for ever
        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise ValueError("it ends early, or a length in it is damaged")
            return super()._get(offset, dtype, count, override_order)

    return Bounded(file)


class GgufFile:
    """An opened file."""

    def __init__(self, file: Path) -> None:
        """Open the file. Raises KeylmError if it is not a GGUF file, or not of the kind that keylm writes."""
        self.file = file
        try:
            self._reader = _reader(file)
            self._fields = {name: field.contents() for name, field in self._reader.fields.items()}
        except KeylmError:
            raise
        except Exception as error:  # the reader trusts every byte, so a damaged one may raise anything
            raise KeylmError(f"{file}: is no whole GGUF file: {error}; accepted: one that keylm wrote") from None
        wanted = {"general.architecture": "qwen3", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": PRE_TOKENIZER}
        for name, value in wanted.items():
            if self._field(name) != value:
                raise KeylmError(f"{file}: {name} is {self._field(name)!r}; accepted: {value!r}, as keylm writes")
        for name, kind in FIELDS.items():
            check(kind, self._field(name), f"{file}: {name}")
        tokens, types = self._field("tokenizer.ggml.tokens"), self._field("tokenizer.ggml.token_type")
        ids = [self._field(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "padding")]
        if len(types) != len(tokens) or any(n is not None and n >= len(tokens) for n in ids):
            raise KeylmError(
                f"{file}: its vocabulary has {len(tokens):,} tokens, {len(types):,} types and the special ids {ids}; "
                "accepted: a type for each, and ids below their number"
            )

    def _field(self, name: str, default: Any = None) -> Any:
        return self._fields.get(name, default)

    @property
    def kind(self) -> str:
        """How the file says that it is quantised, such as "q8_0"."""
        types = gguf_package().LlamaFileType
        name = str(types(self._field("general.file_type", 0)).name)
        return name.removeprefix("ALL_").removeprefix("MOSTLY_").lower()

    def unpack(self, folder: Path) -> None:
        """Write config.json, generation_config.json, tokenizer.json and tokenizer_config.json into `folder`.

        Raises KeylmError where the file's tensors are not those of its configuration, or its vocabulary is damaged.
        """
        write_json(folder / "config.json", self._config())
        ends = [self._field(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
        write_json(folder / "generation_config.json", {"eos_token_id": [end for end in ends if end is not None]})
        atomic_write(folder / "tokenizer.json", self._tokenizer())
        write_json(folder / "tokenizer_config.json", self._tokenizer_config())
        facts = read_config(folder)
        shapes = {parameter_name(one.name): Stored(self.file, _shape(one)) for one in self._reader.tensors}
        check_shapes(shapes, facts.shape, facts.vocab_size, self.file, tied=facts.tied)

    def types(self) -> dict[str, str]:
        """Return the type that each tensor is stored in, both by llama.cpp's names."""
        return {tensor.name: str(tensor.tensor_type.name) for tensor in self._reader.tensors}

    def weights(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the fp32 parameters by name. Raises KeylmError where one is not finite."""
        gguf, found = gguf_package(), {}
        for tensor in self._reader.tensors:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(_shape(tensor))
            found[parameter_name(tensor.name)] = np.array(values, np.float32)  # a copy, as the file is only mapped
        check_finite({name: torch.from_numpy(value) for name, value in found.items()}, {}, self.file)
        return found

    def _config(self) -> dict[str, Any]:
        def part(name: str) -> Any:
            value = self._field(f"qwen3.{name}")
            return float(f"{value:.7g}") if isinstance(value, float) else value  # 1e-6, not fp32's neighbour of it

        theta = part("rope.freq_base")
        names = {tensor.name for tensor in self._reader.tensors}
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": len(self._field("tokenizer.ggml.tokens")),
            "hidden_size": part("embedding_length"),
            "intermediate_size": part("feed_forward_length"),
            "num_hidden_layers": part("block_count"),
            "num_attention_heads": part("attention.head_count"),
            "num_key_value_heads": part("attention.head_count_kv"),
            "head_dim": part("attention.key_length"),
            "max_position_embeddings": part("context_length"),
            "rms_norm_eps": part("attention.layer_norm_rms_epsilon"),
            "rope_parameters": {"rope_type": "default", "rope_theta": theta},
            "rope_theta": theta,
            "initializer_range": 0.02,
            "tie_word_embeddings": "output.weight" not in names,
            "eos_token_id": self._field("tokenizer.ggml.eos_token_id"),
            "pad_token_id": self._field("tokenizer.ggml.padding_token_id"),
        }

    def _tokenizer(self) -> str:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        kinds, names = gguf_package().TokenType, self._field("tokenizer.ggml.tokens")
        types = self._field("tokenizer.ggml.token_type")
        vocabulary = {name: n for n, name in enumerate(names) if types[n] != kinds.UNUSED}
        left_right = (merge.partition(" ") for merge in self._field("tokenizer.ggml.merges"))
        try:
            tokenizer = Tokenizer(models.BPE(vocabulary, [(left, right) for left, _, right in left_right]))
        except Exception as error:  # tokenizers raises no narrower class
            raise KeylmError(f"{self.file}: tokenizer.ggml.merges: {error}; accepted: merges of its tokens") from None
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.decoder = decoders.ByteLevel()
        for kind, special in ((kinds.CONTROL, True), (kinds.USER_DEFINED, False)):
            added = [
                AddedToken(name, special=special, normalized=False) for n, name in enumerate(names) if types[n] == kind
            ]
            (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
        return str(tokenizer.to_str())

    def _tokenizer_config(self) -> dict[str, Any]:
        names, template = self._field("tokenizer.ggml.tokens"), self._field("tokenizer.chat_template")
        ours = {without_marks(one): one for one in CHAT_TEMPLATES}
        pad = self._field("tokenizer.ggml.padding_token_id")
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self._field("qwen3.context_length"),
            "eos_token": names[self._field("tokenizer.ggml.eos_token_id")],
            "pad_token": None if pad is None else names[pad],
            "padding_side": "left",
            "clean_up_tokenization_spaces": False,
            "chat_template": ours.get(template, template),
        }


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in reversed(tensor.shape))


def parameter_name(name: str) -> str:
    """Return the Qwen3 parameter of one of llama.cpp's tensors. Raises KeylmError where there is none."""
    whole = {theirs: ours for ours, theirs in TENSORS.items()}
    layered = {theirs: ours for ours, theirs in LAYER_TENSORS.items()}
    if name in whole:
        return whole[name]
    found = re.fullmatch(r"blk\.(\d+)\.(.+)\.weight", name)
    if not found or found[2] not in layered:
        raise KeylmError(f"tensor {name}: is not one of Qwen3's; accepted: a GGUF file that keylm wrote")
    return f"model.layers.{found[1]}.{layered[found[2]]}.weight"
