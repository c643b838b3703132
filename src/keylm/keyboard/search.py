"""Whole words from a model of tokens: the likeliest ones that continue the typed letters.

A keyboard needs words, a subword model gives tokens, and the word being typed rarely ends at a token boundary. So the
text is cut before its last word (and the space before it), and all tokens that agree with the typed letters are tried,
as "token healing" does for prompts (github.com/guidance-ai/guidance). A word's probability is that of its tokens times
that of an end after them (a space, punctuation, the end of the text), summed over the spellings that the search meets.

The search is best-first in rounds: a round runs the likeliest `WIDTH` prefixes through the model together, on the
cached keys and values of the text. It ends when no prefix is likelier than the k-th best whole word, since more letters
only make it less likely, or after `ROUNDS`. What it misses: tokens beyond the likeliest `WIDTH` after a prefix
(docs/typing.md shows how rarely that matters). Prefixes stay known while the text stays: the next letter of the word
often needs no run at all.
"""

import heapq
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.keyboard.tokens import WordTokens, bytes_of, text_of, word_tokens
from keylm.languages.language import ENGLISH
from keylm.languages.words import Words
from keylm.model.opening import text_ids

WIDTH, ROUNDS = 8, 6
CONTEXT = 512
"""Tokens of text that the model attends to, at most; at least half of them where the text has more."""
LONGEST = 16
"""Tokens that a word may have."""


@dataclass(frozen=True)
class Suggestion:
    """A whole word and its log-probability (nats) given the text, not conditioned on the typed letters."""

    word: str
    log_probability: float


class Read(NamedTuple):
    """Tokens that a model has read, their keys and values, and the predictions after them."""

    ids: list[int]
    cache: Any
    """None where none is kept."""
    expected: Tensor | None
    """Log-probabilities of the next token: after all of them, fp32 [V], or after each, fp32 [tokens, V]."""


class Continuations:
    """A model's predictions after a text and a few more tokens. Remembers the last text's keys and values."""

    def __init__(self, model: Any) -> None:
        """Take a causal language model of transformers, in evaluation mode."""
        self._model = model
        self._read = self._ahead = self._whole = Read([], None, None)
        self._known: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def read(self, ids: list[int]) -> None:
        """Read a whole text ahead: its prefixes, and token paths along it, then need no run."""
        output = self._model(input_ids=self._tensor([ids]), use_cache=True)
        self._whole = Read(ids, _croppable(output.past_key_values), _log_probabilities(output.logits[0]))

    @torch.no_grad()
    def move(self, ids: list[int]) -> None:
        """Move to a text (at least one token); its common prefix with the last one is not computed again."""
        if ids == self._read.ids:
            return
        if (expected := self._whole.expected) is not None and self._whole.ids[: len(ids)] == ids:
            self._read = Read(ids, self._whole.cache, expected[len(ids) - 1])
        elif common_prefix(self._ahead.ids, ids) > common_prefix(self._read.ids, ids):
            self._read = self._ahead
        if ids != self._read.ids:
            same = min(common_prefix(self._read.ids, ids), len(ids) - 1)
            past = self._past(same, 1)
            fed = ids if past is None else ids[same:]
            output = self._model(input_ids=self._tensor([fed]), past_key_values=past, use_cache=True)
            self._read = Read(ids, _croppable(output.past_key_values), _log_probabilities(output.logits[0, -1]))
        assert self._read.expected is not None
        self._known = {(): self._read.expected}

    def after(self, paths: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Return for each path of tokens after the text the log-probabilities of the next one, fp32 [V]."""
        new = [path for path in paths if path not in self._known]
        for path, rows in zip(new, self.along(new), strict=True):
            self._known[path] = rows[-1]
        return [self._known[path] for path in paths]

    @torch.no_grad()
    def along(self, paths: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Return the same after each token of each path (none empty), fp32 [tokens, V]."""
        if not paths:
            return []
        if len(paths) == 1 and (expected := self._whole.expected) is not None:
            begin, end = len(self._read.ids), len(self._read.ids) + len(paths[0])
            if self._whole.ids[:end] == [*self._read.ids, *paths[0]]:
                return [expected[begin:end]]
        longest = max(map(len, paths))
        past = self._past(len(self._read.ids), len(paths))
        before: list[int] = self._read.ids if past is None else []
        padded = self._tensor([[*before, *path, *[0] * (longest - len(path))] for path in paths])
        output = self._model(input_ids=padded, past_key_values=past, use_cache=past is not None)
        rows = zip(output.logits[:, len(before) :], map(len, paths), strict=True)
        found = [_log_probabilities(row[:length]) for row, length in rows]
        if past is not None and len(paths) == 1:  # a typed word: the next text most likely continues after it
            self._ahead = Read([*self._read.ids, *paths[0]], _croppable(output.past_key_values), found[0][-1])
        return found

    def _past(self, length: int, rows: int) -> Any:
        """Return keys and values of the first `length` tokens for a batch of `rows`, None where there are none."""
        from transformers import DynamicCache

        if self._read.cache is None or length == 0:
            return None
        past = DynamicCache()
        for index, layer in enumerate(self._read.cache.layers):
            keys, values = (part[:, :, :length].expand(rows, -1, -1, -1) for part in (layer.keys, layer.values))
            past.update(keys, values, index)
        return past

    def _tensor(self, ids: list[list[int]]) -> Tensor:
        return torch.tensor(ids, device=self._model.device)


class Suggester:
    """Suggests words that continue the typed letters, and scores whole words."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        width: int = WIDTH,
        rounds: int = ROUNDS,
        words: Words = ENGLISH.words,
    ) -> None:
        """Take what AutoModelForCausalLM and AutoTokenizer open. Raises KeylmError where it cannot spell words."""
        longest = int(getattr(model.config, "max_position_embeddings", None) or CONTEXT + LONGEST)
        tokens = word_tokens(model, tokenizer, words)
        self._set_up(Continuations(model), tokens, tokenizer, longest, width, rounds)

    @classmethod
    def of(
        cls, continuations: Any, tokens: WordTokens, tokenizer: Any, longest: int, *, width: int, rounds: int
    ) -> "Suggester":
        """Return a suggester over anything with Continuations' methods; `longest`: tokens of its context."""
        suggester = cls.__new__(cls)
        suggester._set_up(continuations, tokens, tokenizer, longest, width, rounds)
        return suggester

    def _set_up(
        self, continuations: Any, tokens: WordTokens, tokenizer: Any, longest: int, width: int, rounds: int
    ) -> None:
        self._tokens, self._tokenizer = tokens, tokenizer
        self._unfinished = re.compile(tokens.words.unfinished)
        self._width, self._rounds = width, rounds
        self._continuations = continuations
        self._context = min(CONTEXT, longest - LONGEST)
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self._start = [] if start is None else [start]

    def read(self, text: str) -> None:
        """Read a text ahead whose prefixes will be requested: the same answers at less cost, but no live typing."""
        ids = [*self._start, *text_ids(self._tokenizer, text)]
        if 0 < len(ids) <= self._context:
            self._continuations.read(ids)

    def suggest(self, text: str, partial: str = "", k: int = 3) -> list[Suggestion]:
        """Return up to `k` words, the likeliest first, that begin with `partial`, which follows `text`.

        `text` ends where the word begins; `partial` itself is not suggested. Where the language says so, letters in
        lower case may begin a word with a capital. Raises KeylmError where it is anything but letters with apostrophes
        between them.
        """
        if partial and not self._unfinished.fullmatch(partial):
            raise KeylmError(f"partial word {partial!r}; accepted: letters, apostrophes between them, or nothing")
        space = self._go(text)
        wanted = [bytes_of(space + begun) for begun in self._beginnings(partial)]
        done: dict[str, float] = {}
        opened = [(0.0, "", ())]  # minus log-probability, spelling, tokens
        best: list[tuple[str, float]] = []
        for _ in range(self._rounds):
            bar = best[k - 1][1] if len(best) >= k else -math.inf
            batch = [heapq.heappop(opened) for _ in range(min(self._width, len(opened))) if -opened[0][0] > bar]
            if not batch:
                break
            for node, row in zip(batch, self._continuations.after([path for _, _, path in batch]), strict=True):
                self._finish(node, row, len(wanted[0]), done)
                self._extend(node, row, wanted, opened)
            done.pop(partial, None)
            best = sorted(done.items(), key=lambda item: (-item[1], item[0]))[:k]
        return [Suggestion(*item) for item in best]

    def log_probabilities(self, text: str, words: Sequence[str], least: Sequence[float] = ()) -> list[float]:
        """Return each word's log-probability (nats) after `text`, spelled as the tokenizer does, with an end.

        A word whose first token is already less likely than its `least` gets -inf, at no cost.
        """
        space = self._go(text)
        encoded = [text_ids(self._tokenizer, space + word) for word in words]
        paths = [tuple(ids[:LONGEST]) for ids in encoded]
        [first] = self._continuations.after([()])
        begun = [first[path[0]].item() for path in paths]
        tried = [n for n, value in enumerate(begun) if not least or value > least[n]]
        found = [-math.inf] * len(words)
        for n, rows in zip(tried, self._continuations.along([paths[n] for n in tried]), strict=True):
            later = rows[:-1].gather(1, torch.tensor(paths[n][1:], dtype=torch.int64)[:, None]).sum().item()
            found[n] = begun[n] + later + rows[-1][self._tokens.ends].logsumexp(0).item()
        return found

    def _go(self, text: str) -> str:
        """Move to `text`, without the space at its end, and return that space, if there is one."""
        if self._tokens.words.within.search(text):
            raise KeylmError(f"text {text[-20:]!r}: ends within a word; accepted: text up to where the word begins")
        space = " " if text.endswith(" ") else ""
        ids = text_ids(self._tokenizer, text.removesuffix(" ")) if text.strip() else []
        ids = [*self._start, *ids]
        if not ids:
            raise KeylmError(
                "nothing typed, and the tokenizer has no token for a text's beginning; accepted: some text"
            )
        half = self._context // 2
        # Cut at multiples, so that the start stays the same for a while and the cache remains valid.
        self._continuations.move(ids[max(0, math.ceil((len(ids) - self._context) / half)) * half :])
        return space

    def _beginnings(self, partial: str) -> list[str]:
        """Return what the word may begin with: the typed letters, and the same with a capital."""
        raised = partial[:1].upper() + partial[1:]
        other = self._tokens.words.listed_capitals > 0 and len(raised) == len(partial) and raised != partial
        return [partial, raised] if other else [partial]

    def _finish(self, node: tuple[float, str, Any], row: Tensor, least: int, done: dict[str, float]) -> None:
        """Count a prefix of at least so many bytes as a word where it is a whole one."""
        cost, spelled, _ = node
        word = text_of(spelled.removeprefix(" "))
        if len(spelled) >= least and word and self._tokens.words.whole.fullmatch(word):
            found = row[self._tokens.ends].logsumexp(0).item() - cost
            done[word] = float(torch.tensor([done.get(word, -math.inf), found]).logsumexp(0))

    def _extend(self, node: tuple[float, str, Any], row: Tensor, wanted: Sequence[str], opened: list[Any]) -> None:
        """Open the likeliest prefixes that are one token longer."""
        cost, spelled, path = node
        agreeing = (begun for begun in wanted if begun.startswith(spelled[: len(begun)]))
        fitting, *others = (self._tokens.fitting(begun[len(spelled) :]) for begun in agreeing)
        if others:
            fitting = torch.tensor(
                sorted({*fitting.tolist(), *(token for other in others for token in other.tolist())})
            )
        if len(path) == LONGEST or not len(fitting):
            return
        top = row[fitting].topk(min(self._width, len(fitting)))
        for value, place in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            token = int(fitting[place])
            heapq.heappush(opened, (cost - value, spelled + self._tokens.spelling[token], (*path, token)))


def common_prefix(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Return the length of the longest common prefix."""
    shorter = min(len(left), len(right))
    if left[:shorter] == right[:shorter]:
        return shorter
    return next(n for n in range(shorter) if left[n] != right[n])


def _log_probabilities(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(-1).cpu()


def _croppable(cache: Any) -> Any:
    """Return a cache of plain keys and values by position; None for any other kind, which is not used."""
    from transformers.cache_utils import DynamicLayer

    layers = getattr(cache, "layers", None)
    return cache if layers and all(type(layer) is DynamicLayer for layer in layers) else None
