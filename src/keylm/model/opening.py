"""The one place where transformers opens a model or a tokenizer, as what a folder holds is data and never code.

Invariant: `from_pretrained` is called here and nowhere else (a test looks), with no remote code trusted and weights
from safetensors alone. What is handed out has exactly the tensors of its files, computes finite logits and renders
conversations, so that a damaged folder is one error at its opening.
"""

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from tokenizers import Tokenizer

from keylm.base.errors import KeylmError
from keylm.base.files import atomic_folder
from keylm.model.config_files import KEYLM_FILE, check_config_files
from keylm.model.folder import check_model_folder, save_model, silence_transformers
from keylm.model.tensors import check_finite, stored_tensors

Place = Path | str
"""A model folder, or a model's name on the hub."""
VEIL = "\ufdd0"
"""A character that no text has: Unicode keeps it for a program's own use."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    KEYLM_FILE,
)
"""What another form of a model takes over as it is."""


@contextlib.contextmanager
def _opening(place: Place) -> Iterator[None]:
    """Turn whatever transformers and tokenizers raise on a folder's files into one KeylmError."""
    silence_transformers()
    try:
        yield
    except (KeylmError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # of no narrower class: tokenizers' panics are not even Exceptions
        told = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise KeylmError(f"{place}: transformers cannot open it: {told}; accepted: a whole model folder") from None


def open_tokenizer(place: Place) -> Any:
    """Return the tokenizer of a model folder, or of a model on the hub. Raises KeylmError where it is unusable."""
    if isinstance(place, Path):
        check_config_files(place)  # it may be that of a GGUF file, which has no weights beside it
    with _opening(place):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        found = [tokenizer("Hello, world.")["input_ids"]]
        if tokenizer.chat_template:
            found.append(chat_ids(tokenizer, [{"role": "user", "content": "Hello"}], add_generation_prompt=True))
        if not all(found):
            raise KeylmError(f"{place}: its tokenizer gives no tokens of a text; accepted: one that was not damaged")
        tokenizer.decode(found[-1])
    return tokenizer


def open_model(place: Place, dtype: torch.dtype | None = None) -> Any:
    """Return a causal language model, on the CPU, in `dtype` or as stored. Raises KeylmError where it isn't whole."""
    if isinstance(place, Path):
        check_model_folder(place)
    with _opening(place):
        from transformers import AutoModelForCausalLM

        options: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
        model, found = AutoModelForCausalLM.from_pretrained(place, **options, **({"dtype": dtype} if dtype else {}))
        for kind, what in (("missing", "is missing"), ("unexpected", "is none"), ("mismatched", "has another shape")):
            if names := sorted(map(str, found[f"{kind}_keys"])):
                raise KeylmError(f"{place}: tensor {names[0]} {what} of the model's; accepted: exactly its tensors")
        if isinstance(place, Path):
            check_finite(model.state_dict(), stored_tensors(place), place)
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, 1, dtype=torch.long)).logits
        if logits.shape[:2] != (1, 1) or not bool(torch.isfinite(logits).all()):
            raise KeylmError(f"{place}: the model's logits are not finite; accepted: weights that were not damaged")
    return model


def open_pair(place: Place, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """Return a model and its tokenizer. Raises KeylmError as those do, and where they do not belong together."""
    model, tokenizer = open_model(place, dtype), open_tokenizer(place)
    check_vocabulary(tokenizer, model.get_input_embeddings().num_embeddings, place)
    return model, tokenizer


def check_vocabulary(tokenizer: Any, rows: int, place: Place) -> None:
    """Raise KeylmError where a tokenizer (transformers' or tokenizers') gives ids that an embedding has no row for."""
    entries = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if entries > rows:
        raise KeylmError(
            f"{place}: its tokenizer has {entries:,} entries, its embedding {rows:,}; accepted: a tokenizer and a "
            "model that were made for each other"
        )


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Return a text's ids; a special token spelled out in it is characters."""
    if not hasattr(tokenizer, "backend_tokenizer"):  # one that is written in Python
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    return list(_plain(tokenizer).encode(text, add_special_tokens=False).ids)


_PLAIN: WeakKeyDictionary[Any, Tokenizer] = WeakKeyDictionary()


def _plain(tokenizer: Any) -> Tokenizer:
    """Return a copy of a tokenizer of transformers to which nothing is special.

    A copy, since its own argument for this switches the tokenizer that other threads use.
    """
    if tokenizer not in _PLAIN:
        copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        copy.no_truncation()
        copy.no_padding()
        copy.encode_special_tokens = True
        _PLAIN[tokenizer] = copy
    return _PLAIN[tokenizer]


def chat_ids(tokenizer: Any, messages: Sequence[dict[str, Any]], **options: Any) -> list[int]:
    """Return a conversation's ids, as the chat template renders it; `options` are the template's.

    A special token spelled out in a message is characters: it ends no turn. Raises KeylmError where the template
    refuses the conversation.
    """
    special = _special_tokens(tokenizer)
    if not spells_special(tokenizer, messages):
        ids: list[int] = _rendered(tokenizer, messages, return_dict=True, **options)["input_ids"]
        return ids
    # The template's own tokens are those that stand where the contents have other characters of the same number.
    veiled = [{**message, "content": _veiled(message["content"], special)} for message in messages]
    text, marks = (_rendered(tokenizer, some, tokenize=False, **options) for some in (messages, veiled))
    if len(text) != len(marks):  # a template that rewrites contents
        text = marks
    ids, begin = [], 0
    for found in re.finditer("|".join(map(re.escape, sorted(special, key=len, reverse=True))), marks):
        ids += text_ids(tokenizer, text[begin : found.start()]) if found.start() > begin else []
        ids.append(special[found[0]])
        begin = found.end()
    return ids + (text_ids(tokenizer, text[begin:]) if text[begin:] else [])


def spells_special(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a conversation's texts spell out a special token, which transformers itself takes for one."""
    special = _special_tokens(tokenizer)
    return any(token in text for message in messages for text in _texts(message) for token in special)


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    return {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def _texts(message: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a message's content holds of text: it is one, or parts as OpenAI's clients send them, or None."""
    content = message.get("content")
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            yield text


def _veiled(content: Any, special: Iterable[str]) -> Any:
    """Return a message's content with special tokens replaced by as many characters of no meaning."""
    if isinstance(content, str):
        for token in special:
            content = content.replace(token, VEIL * len(token))
        return content
    if isinstance(content, list):
        return [_veiled(part, special) for part in content]
    return {**content, "text": _veiled(content.get("text"), special)} if isinstance(content, dict) else content


def _rendered(tokenizer: Any, messages: Sequence[dict[str, Any]], **options: Any) -> Any:
    """Return what the chat template makes of a conversation. Raises KeylmError where it refuses that."""
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(list(messages), **options)
    except (
        TemplateError,
        TypeError,
        ValueError,
        LookupError,
        ArithmeticError,
        AttributeError,
        RecursionError,
    ) as error:
        raise KeylmError(
            f"{tokenizer.name_or_path}: its chat template cannot render the conversation: {str(error)[:200]}; "
            "accepted: a Jinja template over messages with role and content"
        ) from None


def export_folder(source: Path, folder: Path, card: str | None = None) -> None:
    """Rewrite a model folder for the hub: bf16, in shards of SHARD_SIZE, with its tokenizer and `card` (README.md).

    Whole or not at all. Raises KeylmError where transformers cannot open `source`.
    """
    model = open_model(source, torch.bfloat16)
    with atomic_folder(folder) as temporary:
        save_model(model, temporary)
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, temporary / name)
        if card is not None:
            (temporary / "README.md").write_text(card, encoding="utf-8")
