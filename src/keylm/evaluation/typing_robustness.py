"""What typos in the context cost: bits of the clean continuation, and tokens of the mistyped words."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from keylm.evaluation.continuation import continuation_bits
from keylm.evaluation.correction import typed_words
from keylm.evaluation.statistics import Tallies
from keylm.evaluation.typing_items import SEED, TypingItem
from keylm.languages.language import ENGLISH, Language
from keylm.recipe.schema import Typos
from keylm.typos.model import TypoModel

KINDS = ("transposition", "omission", "insertion", "neighbour", "phonetic", "confusion", "space_missing")
"""Kinds of error that are tested one at a time; docs/typos.md explains them."""
MISTYPED = 0.2
"""Share of the words of a prefix that get an error."""
BEFORE, AFTER = 240, 160
"""Characters of prefix and continuation."""


def measure_cost(
    model: Any,
    tokenizer: Any,
    context: int,
    items: Sequence[TypingItem],
    tallies: Tallies,
    language: Language = ENGLISH,
) -> Iterator[int]:
    """Add, for each kind of error, bits per byte of the continuation after a mistyped prefix minus after a clean one.

    "touch" is the prefix as typed in the set, where it has one. Yields approximately the number of items done.
    """
    cuts = [(item, *cut) for item in items if (cut := split(item.clean))]
    if not cuts:
        return
    prefixes = [before for _, before, _ in cuts]
    clean = _bits(model, tokenizer, cuts, prefixes, context)
    for number, (kind, mistyped) in enumerate(_mistyped(cuts, language), 1):
        noisy = _bits(model, tokenizer, cuts, mistyped, context)
        for (item, _, after), with_typos, without in zip(cuts, noisy, clean, strict=True):
            cost, size = with_typos - without, len(after.encode())
            tallies.add(f"cost of typos: {kind}", "model", item.document, cost, size, "bits per byte")
        yield number * len(items) // (len(KINDS) + 1)


def measure_tokens(tokenizer: Any, items: Sequence[TypingItem], tallies: Tallies, language: Language = ENGLISH) -> None:
    """Add tokens per mistyped word, and per word as meant; each with the space before it."""
    pairs = [(item, word) for item in items for word in typed_words(item, language) if word.typed != word.meant]
    for measure, spelled in (
        ("tokens per word: mistyped", [f" {word.typed}" for _, word in pairs]),
        ("tokens per word: as meant", [f" {word.meant}" for _, word in pairs]),
    ):
        encoded = tokenizer(spelled, add_special_tokens=False)["input_ids"] if spelled else []
        for (item, _), ids in zip(pairs, encoded, strict=True):
            tallies.add(measure, "tokenizer", item.document, len(ids), 1, "tokens")


def split(text: str) -> tuple[str, str] | None:
    """Return prefix and continuation, which begins with a space before a letter; None where the text is too short."""
    middle = text.find(" ", BEFORE)
    if middle < 0 or len(text) < middle + AFTER // 2 or not text[middle + 1 : middle + 2].isalpha():
        return None
    return text[:middle], text[middle : middle + AFTER]


def _mistyped(cuts: Sequence[tuple[TypingItem, str, str]], language: Language) -> Iterator[tuple[str, list[str]]]:
    """Yield (kind, prefixes)."""
    prefixes = [before for _, before, _ in cuts]
    for kind in KINDS:
        noisy = TypoModel(Typos(), one_kind(kind, language)).corrupt_many(
            prefixes, SEED, list(range(len(prefixes))), [0] * len(prefixes), MISTYPED
        )
        yield kind, [one.text for one in noisy]
    if any(item.typed != item.clean for item, _, _ in cuts):
        yield "touch", [_typed(item, before) for item, before, _ in cuts]


def one_kind(kind: str, language: Language = ENGLISH) -> Language:
    """Return a language with one kind of error alone, equally likely in words of all lengths."""
    hazards = {kind: (0.9,) * len(language.typo_rates.hazards[kind])}
    return replace(language, typo_rates=replace(language.typo_rates, hazards=hazards))


def _typed(item: TypingItem, before: str) -> str:
    """Return as many words of the typed text as `before` has; both texts have the same white space."""
    words = iter(item.typed.split())
    return "".join(piece if piece.isspace() else next(words) for piece in re.findall(r"\s+|\S+", before))


def _bits(
    model: Any, tokenizer: Any, cuts: Sequence[tuple[TypingItem, str, str]], prefixes: Sequence[str], context: int
) -> list[float]:
    items = [(prefix, after) for prefix, (_, _, after) in zip(prefixes, cuts, strict=True)]
    return continuation_bits(model, tokenizer, items, context=context)
