"""Prompts to tokens.

Special tokens spelled out in a chat's messages are plain characters: typing `<|im_end|>` ends no turn. A completion's
prompt is the developer's own, so special tokens spelled out in it are those tokens.
"""

from pathlib import Path
from typing import Any

from keylm.base.errors import KeylmError
from keylm.model.opening import chat_ids, open_tokenizer
from keylm.serving.writing import Vocabulary


class Prompts:
    """A model folder's tokenizer."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        """Open it. Raises KeylmError where it cannot be, or has more tokens than the model's `vocab_size`."""
        self.tokenizer: Any = open_tokenizer(folder)
        names = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        if len(names) > vocab_size:
            raise KeylmError(f"{folder}: the tokenizer has {len(names):,} tokens, the model {vocab_size:,}")
        added = {n for n, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        try:
            self.vocabulary = Vocabulary(names, frozenset(added))
        except (KeyError, TypeError):
            raise KeylmError(
                f"{folder}: its vocabulary has gaps, or is not of bytes; accepted: byte-level BPE"
            ) from None
        self.chats = bool(self.tokenizer.chat_template)
        self.special: dict[str, int] = {names[n]: n for n in added}

    def completion(self, text: str) -> list[int]:
        """Return a prompt's ids; for an empty one the token that begins and ends texts."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids or [self.tokenizer.eos_token_id or 0]

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Return a conversation's ids, up to the start of the assistant's turn."""
        return chat_ids(self.tokenizer, messages, add_generation_prompt=True)
