"""Text to train the tokenizer on, sampled from a recipe's sources.

Invariant: the sample depends on the recipe and the documents alone, and holds no held-out document. Every source gives
its share, be it many documents or a single one.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from keylm.base.errors import KeylmError
from keylm.data.documents import Document, Fault, content_hash, document_bytes, document_texts, is_held_out, piece_end
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


def tokenizer_sample(
    recipe: Recipe, sources: Mapping[str, Source], tell: Callable[[str], None] = lambda _: None
) -> Iterator[str]:
    """Yield text from each source that the tokenizer is trained on, its share of `tokenizer.sample_bytes`.

    Documents are chosen by their content's hash from a source's whole length, or from its first SAMPLE_READ budgets.
    `tell` gets what each source gave. Raises KeylmError where all give nothing.
    """
    shares, told, total = sample_shares(recipe), [], 0
    for name, share in shares.items():
        budget, size = recipe.tokenizer.sample_bytes * share / sum(shares.values()), Counter[str]()
        # The files' size, `max_bytes` or not: which documents are chosen depends on it, and with them the tokenizer.
        available = min(input_bytes(name, sources[name]), SAMPLE_READ * budget)
        chosen = min(1.0, 1.2 * budget / available) if available else 1.0
        yield from _texts(recipe, read_source(name, sources[name]), budget, (0.0, chosen), size)
        if size["given"] < min(budget, size["read"]) / 2:
            # The files hold less text than was thought, as in columns that are not read: now it is known how much.
            more = chosen, min(1.0, 1.2 * budget / size["read"])
            size["read"] = size["held"] = 0
            yield from _texts(recipe, read_source(name, sources[name]), budget, more, size)
        held = "" if size["given"] else f", {size['held'] / 1e6:.3g} MB are held out"
        told.append(f"{name}: {size['given'] / 1e6:.3g} MB of {size['read'] / 1e6:.3g} MB read{held}")
        tell(f"tokenizer  {told[-1]}")
        total += size["given"]
    if not total:
        raise KeylmError(f"tokenizer: the sources give no text to train it on: {'; '.join(told)}")


def _texts(
    recipe: Recipe, items: Iterator[Document | Fault], budget: float, shares: tuple[float, float], size: Counter[str]
) -> Iterator[str]:
    """Yield texts whose hashes are between two shares of all hashes until the budget is spent; `size` counts bytes."""
    least, most = (share * 1_000_000 for share in shares)
    for item in items:
        if isinstance(item, Fault):
            continue
        held = is_held_out(content_hash(item), recipe.evaluation.holdout)
        size["held" if held else "read"] += document_bytes(item)
        for part in () if held else _parts(item, budget) if shares != (0, 1) else (item,):
            if least <= (content_hash(part) >> 20) % 1_000_000 < most:
                yield from document_texts(part)
                size["given"] += document_bytes(part)
                if size["given"] >= budget:
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
