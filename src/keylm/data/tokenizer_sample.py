"""Text to train the tokenizer on, sampled from a recipe's sources.

Invariant: the sample depends on the recipe and the documents alone, and holds no held-out document. Every source gives
its share, be it many documents or a single one.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from keylm.base.errors import KeylmError
from keylm.data.documents import (
    Document,
    Fault,
    content_hash,
    document_bytes,
    document_texts,
    is_held_out,
    piece_end,
)
from keylm.data.provenance import input_bytes
from keylm.data.sources import read_source
from keylm.recipe.load import Recipe
from keylm.recipe.schema import Source
from keylm.recipe.shares import sample_shares

SAMPLE_READ = 20
"""How many times its budget the sample reads of a source, at most."""
LONG = 1 / 8
"""Share of its source's budget from which on a document gives pieces instead of all or nothing."""
SHORTEST, LONGEST = 1024, 4096
"""Bytes that such a piece may have, at most: by the budget."""


@dataclass
class _Sample:
    """What one source gives, and how much of it has been looked at, in bytes of text."""

    source: str
    budget: float
    given: int = 0
    seen: int = 0
    held_out: int = 0

    def text(self) -> str:
        """Return what a person wants to know of it."""
        held = f", {self.held_out / 1e6:.3g} MB are held out" if self.held_out and not self.given else ""
        return f"{self.source}: {self.given / 1e6:.3g} MB of {self.seen / 1e6:.3g} MB read{held}"


def tokenizer_sample(
    recipe: Recipe, sources: Mapping[str, Source], tell: Callable[[str], None] = lambda _: None
) -> Iterator[str]:
    """Yield text from each source that the tokenizer is trained on, its share of `tokenizer.sample_bytes`.

    Documents are chosen by their content's hash from a source's whole length, or from its first SAMPLE_READ budgets.
    `tell` gets what each source gave. Raises KeylmError where all give nothing.
    """
    shares, samples = sample_shares(recipe), []
    for name, share in shares.items():
        sample = _Sample(name, recipe.tokenizer.sample_bytes * share / sum(shares.values()))
        samples.append(sample)
        available = min(input_bytes(name, sources[name]), SAMPLE_READ * sample.budget)
        chosen = min(1.0, 1.2 * sample.budget / available) if available else 1.0
        yield from _texts(recipe, sources[name], sample, 0.0, chosen)
        if sample.given < min(sample.budget, sample.seen) / 2:
            # The files hold less text than was thought, as in columns that are not read: their whole text is known now.
            sample.seen, known = 0, sample.seen
            yield from _texts(recipe, sources[name], sample, chosen, min(1.0, 1.2 * sample.budget / known))
        tell(f"tokenizer  {sample.text()}")
    if not any(sample.given for sample in samples):
        raise KeylmError(f"tokenizer: the sources give no text to train it on: {'; '.join(s.text() for s in samples)}")


def _texts(recipe: Recipe, source: Source, sample: _Sample, least: float, most: float) -> Iterator[str]:
    """Yield the texts whose hashes are between these shares of all hashes, until the budget is spent."""
    for item in read_source(sample.source, source):
        if isinstance(item, Fault):
            continue
        if is_held_out(content_hash(item), recipe.evaluation.holdout):
            sample.held_out += document_bytes(item)
            continue
        sample.seen += document_bytes(item)
        for part in _parts(item, sample.budget) if most < 1 or least else [item]:
            if least * 1_000_000 <= (content_hash(part) >> 20) % 1_000_000 < most * 1_000_000:
                yield from document_texts(part)
                sample.given += document_bytes(part)
        if sample.given >= sample.budget:
            return


def _parts(document: Document, budget: float) -> Iterator[Document]:
    """Yield a document, or the pieces of one that is long for the budget."""
    if document_bytes(document) <= max(SHORTEST, LONG * budget):
        yield document
        return
    most = int(max(SHORTEST, min(LONGEST, LONG * budget / 8)))
    for text in document_texts(document):
        start = 0
        while start < len(text):
            end = piece_end(text, start, most)
            yield Document(document.file, document.line, text=text[start:end])
            start = end
