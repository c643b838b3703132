"""Answers that must be JSON: llguidance (github.com/guidance-ai/llguidance) says which tokens may come next.

A schema is built once, whatever the number of texts, and kept for later requests. Its cost is bounded: llguidance
counts its own work, and texts of one schema share its states.
"""

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from keylm.base.errors import KeylmError, how_to_install
from keylm.serving.finite import has_finite_value

MOST_CHARACTERS, KEPT = 100_000, 8
"""Of a schema as JSON; schemas kept."""
FUEL, STATES, SYMBOLS, ROW = 200_000, 50_000, 100_000, 10_000
"""llguidance's limits. A build within them and MOST_MULTIPLE takes about a second and some tens of MB."""
MOST_MULTIPLE = 10_000
"""Of the least common multiple of a schema's multipleOf: each remainder is a state, which llguidance does not count."""
SPACE: Any = {"whitespace_pattern": " ?"}
"""Between tokens at most one blank: small models fill an answer with line ends where JSON allows them."""


class GrammarFault(KeylmError):
    """A grammar that cannot go on, as it reached its limits."""


class Grammars:
    """Makes grammars for one tokenizer, which is prepared once."""

    def __init__(self, tokenizer: Any, vocab_size: int, end: int) -> None:
        """Take a fast tokenizer of transformers, the number of logits, and the token that ends an answer."""
        try:
            import llguidance
            import llguidance.hf
        except ImportError:
            raise KeylmError(f"response_format needs llguidance; accepted: {how_to_install('serve')}") from None
        self._matcher, self._limits = (
            llguidance.LLMatcher,
            llguidance.LLParserLimits(
                initial_lexer_fuel=FUEL, max_lexer_states=STATES, max_grammar_size=SYMBOLS, max_items_in_row=ROW
            ),
        )
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocab_size, eos_token=end)
        self._brace = self._tokenizer.tokenize_str("{")
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, schema: dict[str, Any] | bool) -> "JsonGrammar | None":
        """Return the grammar of a schema that is kept."""
        key = json.dumps(schema)
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return JsonGrammar(self._kept[key], lambda: self._kept.pop(key, None))

    def json(self, schema: dict[str, Any] | bool) -> "JsonGrammar":
        """Return a grammar of the JSON that a JSON schema allows. Raises KeylmError for an unusable schema."""
        key = json.dumps(schema)
        if not (known := self.known(schema)):
            built = self._built(key, schema)
            with self._lock:
                self._kept[key] = built
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            known = JsonGrammar(built, lambda: self._kept.pop(key, None))
        return known

    def _built(self, key: str, schema: dict[str, Any] | bool) -> Any:
        if len(key) > MOST_CHARACTERS:
            raise KeylmError(f"the schema has {len(key):,} characters; accepted: {MOST_CHARACTERS:,}")
        if _multiple(schema) > MOST_MULTIPLE:
            raise KeylmError(f"multipleOf is beyond this server's limits; accepted: up to {MOST_MULTIPLE:,}")
        if not has_finite_value(schema):
            raise KeylmError("the schema cannot be used: its references never end, so no finite value satisfies it")
        try:
            compiled = self._matcher.grammar_from_json_schema(key, overrides=SPACE)
        except ValueError as error:
            raise KeylmError(f"the schema cannot be used: {error}") from None
        matcher = self._matcher(self._tokenizer, compiled, log_level=0, limits=self._limits)
        probe = matcher.deep_copy()
        for _ in range(2):  # an object's limits show after its brace
            probe.compute_bitmask()
            probe.try_consume_tokens(self._brace)
        if fault := probe.get_error():
            raise KeylmError(f"the schema cannot be used: {_first_line(fault)}")
        return matcher


class JsonGrammar:
    """What may come next in one answer."""

    def __init__(self, matcher: Any, forget: Callable[[], object] = lambda: None) -> None:
        """Take a matcher; `forget` drops what is kept of the schema, should it fail."""
        self._matcher, self._forget = matcher, forget

    def copy(self) -> "JsonGrammar":
        """Return one for another text, in the same state."""
        return JsonGrammar(self._matcher.deep_copy(), self._forget)

    def restrict(self, logits: Tensor) -> None:
        """Set the logits [V] of tokens that may not come next to minus infinity, in place. Raises GrammarFault."""
        mask = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.int32)
        self._check()
        bits = (mask[:, None] >> torch.arange(32, dtype=torch.int32)) & 1
        logits[bits.flatten()[: len(logits)] == 0] = -torch.inf

    def accept(self, token: int) -> None:
        """Advance by a token. Raises GrammarFault where the grammar cannot go on."""
        self._matcher.consume_token(token)
        self._check()

    def finished(self) -> bool:
        """Return whether nothing more may come."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            self._forget()
            raise GrammarFault(f"the schema cannot be followed further: {_first_line(self._matcher.get_error())}")


def _multiple(schema: Any) -> int:
    """Return the least common multiple of all multipleOf; of fractions, of their numerators."""
    if isinstance(schema, list):
        return math.lcm(*map(_multiple, schema))
    if not isinstance(schema, dict):
        return 1
    own = schema.get("multipleOf")
    usable = isinstance(own, int | float) and math.isfinite(own) and own > 0
    return math.lcm(Fraction(str(own)).numerator if usable else 1, *map(_multiple, schema.values()))


def _first_line(fault: str) -> str:
    """Return what llguidance says, without the grammar and the state that follow."""
    line = fault.partition("\n")[0][:300]
    limit = any(word in line for word in ("fuel", "items", "too "))
    return f"beyond this server's limits ({line})" if limit else line
