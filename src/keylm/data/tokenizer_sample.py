"""Text to train the tokenizer on: a sample of a recipe's sources without held-out documents, the same every time."""

from collections.abc import Iterator, Mapping

from keylm.data.documents import Fault, content_hash, document_bytes, document_texts, is_held_out
from keylm.data.provenance import input_bytes
from keylm.data.sources import read_source
from keylm.recipe.load import Recipe
from keylm.recipe.schema import Source
from keylm.recipe.shares import sample_shares

SAMPLE_READ = 20
"""How many times its budget the sample reads of a source, at most."""


def tokenizer_sample(recipe: Recipe, sources: Mapping[str, Source]) -> Iterator[str]:
    """Yield text from each source that the tokenizer is trained on, its share of `tokenizer.sample_bytes`.

    Documents are chosen by their content's hash from a source's whole length, or from its first SAMPLE_READ budgets.
    """
    shares = sample_shares(recipe)
    for name, share in shares.items():
        budget = recipe.tokenizer.sample_bytes * share / sum(shares.values())
        available = min(input_bytes(name, sources[name]), SAMPLE_READ * budget)
        chosen = min(1.0, 1.2 * budget / available) if available else 1.0
        for item in read_source(name, sources[name]):
            if isinstance(item, Fault):
                continue
            content = content_hash(item)
            if is_held_out(content, recipe.evaluation.holdout) or (content >> 20) % 1_000_000 >= chosen * 1_000_000:
                continue
            yield from document_texts(item)
            budget -= document_bytes(item)
            if budget <= 0:
                break
