"""From a recipe's sources to documents: opens each origin, keeps part for validation, samples for the tokenizer.

Invariant: whether a document is held out depends on its content alone, so the same text never stands on both
sides, whichever file, order or machine it comes from.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from keylm.data.documents import Document, Fault
from keylm.data.readers import name_within, read_documents, source_files
from keylm.errors import KeylmError
from keylm.files import sha256_file
from keylm.recipe import CORPUS_FOLDER, Recipe
from keylm.recipe_sections import EMBEDDED, Source


def source_path(name: str, source: Source) -> Path:
    """Return the file or folder that a source reads. Raises KeylmError where this version cannot read it."""
    if source.path is not None and source.is_embedded:
        return CORPUS_FOLDER / source.path.removeprefix(EMBEDDED)
    if source.path is not None:
        return Path(source.path)
    kind = f"hub = {source.hub!r}" if source.hub else "typos_of"
    raise KeylmError(
        f"sources.{name}: {kind} cannot be read by this version of keylm yet (the recipe is a complete "
        f"specification, its reader is not built); accepted today: path, as in --set 'sources.{name}={{path=\"…\"}}'"
    )


def source_inputs(name: str, source: Source) -> list[tuple[str, int, int | str]]:
    """Return (name, size, stamp) of each file that a source reads: what decides if it must be read again.

    The stamp is the time of the last change in ns; of embedded files, whose times the installer sets, the SHA-256.
    """
    path = source_path(name, source)
    return [
        (
            name_within(path, file),
            file.stat().st_size,
            sha256_file(file) if source.is_embedded else file.stat().st_mtime_ns,
        )
        for file in source_files(path)
    ]


def read_source(name: str, source: Source) -> Iterator[Document | Fault]:
    """Yield a source's documents and faults, up to its `max_bytes` of text."""
    taken = 0
    for item in read_documents(source_path(name, source)):
        if source.max_bytes is not None and isinstance(item, Document):
            taken += document_bytes(item)
            if taken > source.max_bytes:
                return
        yield item


def document_bytes(document: Document) -> int:
    """Return the UTF-8 bytes of a document's text."""
    return sum(len(text.encode()) for text in document_texts(document))


def document_texts(document: Document) -> list[str]:
    """Return the text, or each message's text."""
    return [document.text] if document.text is not None else [turn["content"] for turn in document.messages]


def content_hash(document: Document) -> int:
    """Return 64 bits that depend on a document's content alone."""
    digest = hashlib.blake2b(digest_size=8)
    for turn in document.messages:
        digest.update(f"\x00{turn['role']}\x00{turn['content']}".encode())
    digest.update((document.text or "").encode())
    return int.from_bytes(digest.digest(), "little")


def is_held_out(content: int, holdout: float) -> bool:
    """Return whether the document of this content hash belongs to validation (`holdout`: its share)."""
    return content % 1_000_000 < round(holdout * 1_000_000)


def tokenizer_sample(recipe: Recipe) -> Iterator[str]:
    """Yield text to train the tokenizer on: from each source its share of `tokenizer.sample_bytes`.

    A source's share is its share of all tokens trained; held-out documents are left out.
    """
    shares = token_shares(recipe)
    for name, source in recipe.used_sources.items():
        budget = recipe.tokenizer.sample_bytes * shares[name]
        for item in read_source(name, source):
            if isinstance(item, Fault) or is_held_out(content_hash(item), recipe.evaluation.holdout):
                continue
            yield from document_texts(item)
            budget -= document_bytes(item)
            if budget <= 0:
                break


def token_shares(recipe: Recipe) -> dict[str, float]:
    """Return each used source's share of all tokens that the recipe trains on; they sum to 1."""
    total = sum(stage.tokens for stage in recipe.stages.values())
    shares = dict.fromkeys(recipe.used_sources, 0.0)
    for stage in recipe.stages.values():
        for name in shares:
            weight = stage.weights.get(name, 0.0) / sum(stage.weights.values())
            shares[name] += weight * stage.tokens / total
    return shares
