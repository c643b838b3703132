"""Answers that must be JSON: llguidance (github.com/guidance-ai/llguidance) says which tokens may come next."""

import json
from typing import Any

import torch
from torch import Tensor

from keylm.base.errors import KeylmError, how_to_install


class Grammars:
    """Makes grammars for one tokenizer, which is prepared once."""

    def __init__(self, tokenizer: Any, vocab_size: int, end: int) -> None:
        """Take a fast tokenizer of transformers, the number of logits, and the token that ends an answer."""
        try:
            import llguidance
            import llguidance.hf
        except ImportError:
            raise KeylmError(f"response_format needs llguidance; accepted: {how_to_install('serve')}") from None
        self._matcher = llguidance.LLMatcher
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocab_size, eos_token=end)

    def json(self, schema: dict[str, Any] | bool) -> "JsonGrammar":
        """Return a new grammar of the JSON that a JSON schema allows. Raises KeylmError for an unusable schema."""
        try:
            compiled = self._matcher.grammar_from_json_schema(json.dumps(schema))
        except ValueError as error:
            raise KeylmError(f"the schema cannot be used: {error}") from None
        if fault := self._matcher.validate_grammar(compiled, self._tokenizer):
            raise KeylmError(f"the schema cannot be used: {fault}")
        return JsonGrammar(self._matcher(self._tokenizer, compiled))


class JsonGrammar:
    """What may come next in one answer."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def restrict(self, logits: Tensor) -> None:
        """Set the logits [V] of tokens that may not come next to minus infinity, in place."""
        mask = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.int32)
        bits = (mask[:, None] >> torch.arange(32, dtype=torch.int32)) & 1
        logits[bits.flatten()[: len(logits)] == 0] = -torch.inf

    def accept(self, token: int) -> None:
        """Advance by a token."""
        self._matcher.consume_token(token)

    def finished(self) -> bool:
        """Return whether nothing more may come."""
        return bool(self._matcher.is_stopped())
