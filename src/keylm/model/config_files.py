"""The JSON files of a model folder, checked as they are read: no other module relies on what they may hold.

Invariant: nothing in them names code (`auto_map`, kernels of the hub, adapters of another model), and each entry that
keylm or transformers acts on has its type; what is wrong is one error with the file, the entry and what is accepted.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from keylm.base.errors import KeylmError
from keylm.base.files import read_object
from keylm.base.shapes import check
from keylm.recipe.fields import LanguageName

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Ends = TokenId | list[TokenId] | None
Count = Annotated[int, Field(ge=1, le=1 << 20)]
Positive = Annotated[float, Field(gt=0, lt=float("inf"))]
Dtype = Literal["float64", "float32", "float16", "bfloat16", "auto"]


class _ConfigFile(BaseModel):
    """Entries by name; those that are not listed belong to the layout and are transformers' to judge."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class _Rope(_ConfigFile):
    rope_type: str = "default"
    rope_theta: Positive | None = None


class _Config(_ConfigFile):
    """config.json of any layout."""

    model_type: str
    architectures: list[str] | None = None
    dtype: Dtype | None = None
    torch_dtype: Dtype | None = None
    bos_token_id: Ends = None
    eos_token_id: Ends = None
    pad_token_id: TokenId | None = None
    vocab_size: Count | None = None
    max_position_embeddings: Count | None = None
    rope_theta: Positive | None = None
    rope_parameters: _Rope | None = None
    tie_word_embeddings: bool = False
    use_cache: bool = True


class _PlainRope(_Rope):
    rope_type: Literal["default"] = "default"


class _Qwen3(_Config):
    """config.json of Qwen3's layout; recipe.schema.Model has the shape, and says more of it."""

    vocab_size: Count = 1
    max_position_embeddings: Count = 1
    attention_bias: Literal[False] = False
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    hidden_act: Literal["silu"] = "silu"
    initializer_range: Positive = 0.02
    layer_types: list[Literal["full_attention"]] | None = None
    max_window_layers: int | None = None
    rope_parameters: _PlainRope | None = None
    rope_scaling: None = None
    sliding_window: int | None = None
    use_sliding_window: Literal[False] = False


class _Generation(_ConfigFile):
    """generation_config.json."""

    bos_token_id: Ends = None
    eos_token_id: Ends = None
    pad_token_id: TokenId | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, Field(ge=0, lt=1e4)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    repetition_penalty: Positive | None = None
    num_beams: Annotated[int, Field(ge=1, le=64)] | None = None
    num_return_sequences: Annotated[int, Field(ge=1, le=64)] | None = None


class _Added(_ConfigFile):
    content: str


Special = str | _Added | None


class _TokenizerConfig(_ConfigFile):
    """tokenizer_config.json."""

    tokenizer_class: str | None = None
    model_max_length: Positive | None = None
    padding_side: Literal["left", "right"] = "right"
    bos_token: Special = None
    eos_token: Special = None
    pad_token: Special = None
    unk_token: Special = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    clean_up_tokenization_spaces: bool | None = None
    chat_template: str | list[dict[str, str]] | dict[str, str] | None = None


class _Index(_ConfigFile):
    """model.safetensors.index.json."""

    weight_map: dict[str, Annotated[str, Field(pattern=r"^[^/\\]+\.safetensors$")]]


class _Keylm(_ConfigFile):
    """keylm.json."""

    languages: Annotated[list[LanguageName], Field(min_length=1)]


KEYLM_FILE = "keylm.json"
"""What keylm knows of a model and no other program asks for; a model of English alone has none."""
INDEX = "model.safetensors.index.json"
_FILES: dict[str, type[BaseModel]] = {
    "config.json": _Config,
    "generation_config.json": _Generation,
    "tokenizer_config.json": _TokenizerConfig,
    "special_tokens_map.json": _ConfigFile,
    "processor_config.json": _ConfigFile,
    INDEX: _Index,
    KEYLM_FILE: _Keylm,
}
ADAPTER = "adapter_config.json"


def read_config_file(file: Path) -> dict[str, Any]:
    """Return what a JSON file of a model folder holds. Raises KeylmError where it names code, or is damaged."""
    try:
        content = read_object(file)
    except OSError as error:
        raise KeylmError(f"{file}: cannot be read: {error.strerror}; accepted: a JSON object") from None
    _refuse_code(content, file)
    kind = _Qwen3 if (file.name, content.get("model_type")) == ("config.json", "qwen3") else _FILES[file.name]
    check(kind, content, str(file))
    return content


def check_config_files(folder: Path) -> None:
    """Raise KeylmError where a JSON file of a model folder names code, or is damaged."""
    if (folder / ADAPTER).exists():
        raise KeylmError(f"{folder / ADAPTER}: adapters of another model are not opened; accepted: merged weights")
    for name in _FILES:
        if (folder / name).exists():
            read_config_file(folder / name)


def _refuse_code(value: Any, file: Path) -> None:
    """Raise KeylmError where transformers would be told to fetch or run code: a model is data."""
    if isinstance(value, list):
        for part in value:
            _refuse_code(part, file)
    for key, part in value.items() if isinstance(value, dict) else ():
        kernel = "attn_implementation" in key or "experts_implementation" in key
        if part and (kernel or key in ("auto_map", "custom_generate")):
            raise KeylmError(
                f"{file}: {key}: names code or kernels to run, and keylm runs none that a folder names; accepted: a "
                "layout that transformers has itself, without this entry"
            )
        _refuse_code(part, file)
