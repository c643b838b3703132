"""Suggestions for live typing: the typing evaluation's search and corrector, on a decoder for a few tokens at a time.

The search (search.py) asks for predictions after a text and a few more tokens. `TreeContinuations` answers from one row
of a cache: the text's tokens first, then, one place each, all tokens that were tried after it. A token attends to the
text and to its own path (a tree mask, as in speculative decoding: SpecInfer, arXiv 2305.09781), so eight prefixes are
read in one run of eight tokens, each token once while the text stays. From key to key the text mostly stays; after a
word only the new tokens are read.

Cost at the 75M shape: a few runs a key, fewer where the letters narrow an earlier search (docs/performance.md).
Several people may type at once: each text goes to the keyboard (cache and tree) that holds most of it.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.keyboard.corrector import Candidates, Corrector
from keylm.keyboard.edit_model import EditModel
from keylm.keyboard.lexicon import Lexicon, lexicon
from keylm.keyboard.reading import Reading
from keylm.keyboard.search import CONTEXT, LONGEST, Suggester, Suggestion, common_prefix
from keylm.keyboard.tokens import WordTokens
from keylm.languages.language import ENGLISH, Language
from keylm.model.opening import text_ids
from keylm.runtimes.cached_decoder import CachedDecoder

TRIED = 512
"""Tokens that are kept after a text; at more, all are dropped."""
WIDTH, ROUNDS = 8, 3
"""As in the search, which has more rounds in evaluations; docs/serving.md has what that loses."""
KEYBOARDS = 4
LONGEST_TEXT = 4_000
"""Characters before the cursor that are taken into account; the model sees 512 tokens of them at most."""
CORRECTED_FROM = 2
"""Letters that a word must have to be corrected while it is typed."""


class TreeContinuations:
    """A decoder's predictions after a text and a few more tokens; the interface of search.Continuations."""

    def __init__(self, decoder: CachedDecoder) -> None:
        self._decoder = decoder
        self._context = min(CONTEXT + LONGEST, decoder.context)
        self._cache = decoder.cache(1, self._context + TRIED)
        self.ids: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}
        self._rows: dict[tuple[int, ...], Tensor] = {}
        self._expected: list[tuple[int, ...]] = []

    def announce(self, path: tuple[int, ...]) -> None:
        """Announce a path that will be requested soon: it is read together with the next ones."""
        self._expected = [path]

    def read(self, ids: list[int]) -> None:
        """Read a text ahead."""
        self.move(ids)

    def move(self, ids: list[int]) -> None:
        """Move to a text (at least one token); its common prefix with the last one is not computed again."""
        if ids == self.ids:
            return
        same = min(common_prefix(self.ids, ids), len(ids) - 1)
        hidden = self._decoder.prefill(self._cache, 0, same, ids[same:])
        self.ids, self._places = ids, {}
        self._rows = {(): self._log_probabilities(hidden[-1:])[0]}

    def after(self, paths: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Return for each path of tokens after the text the log-probabilities of the next one, fp32 [V]."""
        self._grow(paths)
        return [self._rows[path] for path in paths]

    def along(self, paths: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Return the same after each token of each path (none empty), fp32 [tokens, V]."""
        self._grow(paths)
        return [torch.stack([self._rows[path[:n]] for n in range(1, len(path) + 1)]) for path in paths]

    def _grow(self, paths: Sequence[tuple[int, ...]]) -> None:
        """Read the tokens of paths that have not been read."""
        wanted = dict.fromkeys(path[:n] for path in paths for n in range(1, len(path) + 1))
        new = [path for path in wanted if path not in self._places]
        if not new:
            return
        announced = dict.fromkeys(path[:n] for path in self._expected for n in range(1, len(path) + 1))
        new += [path for path in announced if path not in self._places and path not in wanted]
        self._expected = []
        if len(self._places) + len(new) > TRIED:
            self._places, self._rows = {}, {(): self._rows[()]}
            new = list(wanted)[:TRIED]
        text, first = len(self.ids), len(self.ids) + len(self._places)
        for path in new:
            self._places[path] = text + len(self._places)
        mask = torch.zeros(len(new), first + len(new), dtype=torch.bool)
        mask[:, :text] = True
        for row, path in zip(mask, new, strict=True):
            row[torch.tensor([self._places[path[:n]] for n in range(1, len(path) + 1)])] = True
        places = torch.arange(first, first + len(new))
        positions = torch.tensor([text + len(path) - 1 for path in new])
        tokens = [path[-1] for path in new]
        hidden = self._decoder.read_at(self._cache, 0, tokens, places, positions, first + len(new), mask)
        self._rows.update(zip(new, self._log_probabilities(hidden), strict=True))

    def _log_probabilities(self, hidden: Tensor) -> Tensor:
        return self._decoder.logits(hidden).log_softmax(-1)


class Keyboard:
    """One person's text: its suggestions and corrections."""

    def __init__(
        self,
        decoder: CachedDecoder,
        tokens: WordTokens,
        tokenizer: Any,
        words: Lexicon | None,
        language: Language = ENGLISH,
    ) -> None:
        self.continuations = TreeContinuations(decoder)
        self._suggester = Suggester.of(
            self.continuations, tokens, tokenizer, decoder.context, width=WIDTH, rounds=ROUNDS
        )
        self._candidates = Candidates(self._suggester, words, EditModel(language)) if words else None
        self._corrector = Corrector(self._candidates) if self._candidates else None
        self.text = ""
        self._tokenizer = tokenizer
        self._suggest = lru_cache(maxsize=64)(self._suggester.suggest)

    def suggest(self, before: str, partial: str, k: int, *, correct: bool) -> list[Suggestion]:
        """Return the likeliest words that begin with `partial` after `before`; `correct`: it will be corrected."""
        self.text = before
        if correct:
            spelled = text_ids(self._tokenizer, " " * before.endswith(" ") + partial)
            self.continuations.announce(tuple(spelled[:LONGEST]))
        words = self._suggest(before, partial, k)
        other = self._candidates.alternative(before, partial) if correct and self._candidates else None
        return [other, *(word for word in words if word.word != other.word)][:k] if other else words

    def correct(self, before: str, typed: str) -> str | None:
        """Return the correction of a typed word; None where it should stay."""
        if self._corrector is None:
            return None
        found = self._corrector(before, typed)
        return None if found == typed else found


class Answer:
    """What a keyboard shows: suggestions and a correction for the word being typed, and the seconds they took.

    `partial` is as it was typed; suggestions and correction have the apostrophe that the text used last.
    """

    def __init__(self, partial: str, suggestions: list[Suggestion], correction: str | None, seconds: float) -> None:
        self.partial, self.suggestions, self.correction, self.seconds = partial, suggestions, correction, seconds


class Keyboards:
    """The keyboards of all who type. Not for several threads at once."""

    def __init__(
        self, decoder: CachedDecoder, tokenizer: Any, *, number: int = KEYBOARDS, language: Language = ENGLISH
    ) -> None:
        """Take a decoder and its tokenizer. Raises KeylmError where the tokenizer cannot spell words."""
        spellings = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        tokens = WordTokens(spellings, decoder.vocab_size, language.words)
        self.language, self._words, self._reading = language, language.words, Reading(language)
        try:
            words: Lexicon | None = lexicon(language)
            self.why_no_corrections = ""
        except KeylmError as error:
            words, self.why_no_corrections = None, str(error)
        self._all = [Keyboard(decoder, tokens, tokenizer, words, language) for _ in range(number)]
        self._used = [0.0] * number

    def answer(self, text: str, k: int = 3, *, correct: bool = True) -> Answer:
        """Return what a keyboard shows after `text`, whose last letters are the word being typed."""
        begun = time.perf_counter()
        typed = text[-LONGEST_TEXT:]
        text, apostrophe = self._reading.straight(typed)
        match = self._words.typed.search(text)
        before, partial = (text[: match.start()], match[0]) if match else (text, "")
        if not partial and text and (text[-1].isalnum() or text[-1] == self._words.apostrophe):
            return Answer("", [], None, time.perf_counter() - begun)  # in a number, or a word of other letters
        keyboard = self._keyboard(before)
        wanted = correct and len(partial) >= CORRECTED_FROM and self._words.whole.fullmatch(partial) is not None
        words = keyboard.suggest(before, partial, k, correct=wanted)
        correction = keyboard.correct(before, partial) if wanted else None
        if apostrophe != self._words.apostrophe:
            words = [replace(word, word=word.word.replace(self._words.apostrophe, apostrophe)) for word in words]
            correction = correction and correction.replace(self._words.apostrophe, apostrophe)
        return Answer(typed[len(before) :], words, correction, time.perf_counter() - begun)

    def _keyboard(self, text: str) -> Keyboard:
        shared = [common_prefix(keyboard.text, text) for keyboard in self._all]
        whole = [n for n, keyboard in enumerate(self._all) if shared[n] and shared[n] >= len(keyboard.text) // 2]
        best = max(whole, key=lambda n: shared[n]) if whole else min(range(len(self._all)), key=self._used.__getitem__)
        self._used[best] = time.monotonic()
        return self._all[best]
