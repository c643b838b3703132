"""Records to token ids: what a worker process does with a batch, whichever process it is.

Invariant: what a record becomes depends on the record, the recipe and the tokenizer alone, so any number of
workers gives the same shards.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from keylm.data.contrast import Contrast, Occurrence
from keylm.data.documents import Document, Fault, Record, content_hash, document_bytes, is_held_out
from keylm.data.pieces import Piece, fitting_tokens, untrain_turns
from keylm.data.sources import parse, source_adapter
from keylm.recipe.load import Recipe
from keylm.text.tokenizer import END_OF_TEXT, DocumentTokenizer, Tokens


@dataclass(frozen=True, slots=True)
class PieceFacts:
    """What is known of a piece beside its tokens."""

    record: int
    """which of the batch's records it comes from"""
    file: str
    line: int
    held_out: bool
    whole: bool
    length: int
    """tokens"""
    starts: tuple[int, ...]
    text_bytes: int
    """UTF-8 bytes of the document that begins with this piece, 0 for the document's further pieces"""


@dataclass
class Encoded:
    """A batch of records as arrays, which pass cheaply from process to process."""

    records: int
    pieces: list[PieceFacts] = field(default_factory=list)
    faults: list[tuple[int, Fault]] = field(default_factory=list)
    """(which of the batch's records, fault)"""
    tokens: bytes = b""
    """uint16, all pieces one after the other"""
    trained: bytes = b""
    """a byte a token"""
    partners: bytes = b""
    """uint16 a token, or nothing where no piece has partners"""

    def split(self) -> Iterator[tuple[PieceFacts, Piece]]:
        """Yield the pieces with their tokens."""
        tokens = np.frombuffer(self.tokens, np.uint16)
        trained = np.frombuffer(self.trained, np.bool_)
        partners = np.frombuffer(self.partners, np.uint16) if self.partners else None
        begin = 0
        for facts in self.pieces:
            part = slice(begin, begin + facts.length)
            pairs = None if partners is None else partners[part]
            yield facts, Piece(tokens[part], trained[part], facts.starts, facts.whole, pairs)
            begin += facts.length


class Encoder:
    """Encodes one source's records."""

    def __init__(self, recipe: Recipe, name: str, tokenizer_folder: Path) -> None:
        """Prepare for the source `name`. Raises KeylmError where the tokenizer or a word list cannot be read."""
        self._source = source = recipe.sources[name]
        self._tokenizer = DocumentTokenizer(tokenizer_folder)
        self._context, self._holdout = recipe.training.context, recipe.evaluation.holdout
        self._contrast = Contrast(recipe, name, self._tokenizer) if source.typos_of else None
        origins = source.typos_of or (name,)
        self._adapters = {origin: source_adapter(recipe.sources[origin]) for origin in origins}
        self._name = name

    def encode(self, records: Iterable[Record]) -> Encoded:
        """Return what `records` become."""
        parts: list[Piece] = []
        result = Encoded(0)
        read: list[tuple[int, Occurrence | Fault]] = []
        for number, record in enumerate(records):
            result.records += 1
            for item in parse(record, self._adapters[record.source or self._name]):
                read.append((number, item if isinstance(item, Fault) else (item, content_hash(item), record.epoch)))
        made = self._made([item for _, item in read if not isinstance(item, Fault)])
        for number, found in read:
            if isinstance(found, Fault):
                result.faults.append((number, found))
            else:
                self._add(found, next(made), number, result, parts)
        result.tokens = b"".join(piece.tokens.astype(np.uint16, copy=False).tobytes() for piece in parts)
        result.trained = b"".join(piece.trained.tobytes() for piece in parts)
        if any(piece.partners is not None for piece in parts):
            result.partners = b"".join(piece.partner_bytes() for piece in parts)
        return result

    def _add(
        self, occurrence: Occurrence, made: Iterable[Piece | Fault], record: int, result: Encoded, parts: list[Piece]
    ) -> None:
        document, content, _ = occurrence
        held_out, size = is_held_out(content, self._holdout), document_bytes(document)
        for piece in made:
            if isinstance(piece, Fault):
                result.faults.append((record, piece))
                continue
            facts = PieceFacts(
                record, document.file, document.line, held_out, piece.whole, len(piece.tokens), piece.starts, size
            )
            result.pieces.append(facts)
            parts.append(piece)
            size = 0

    def _made(self, documents: list[Occurrence]) -> Iterator[Iterable[Piece | Fault]]:
        """Yield what each document becomes."""
        if self._contrast is not None:
            yield from self._contrast.pieces(documents)
            return
        for document, content, _ in documents:
            if document.text is not None:
                [tokens] = self._tokenizer.encode_texts([document.text])
                yield [text_piece(tokens, content)]
            else:
                yield self._conversation(document)

    def _conversation(self, document: Document) -> Iterator[Piece | Fault]:
        """Yield a conversation that fits into one window, cut after an answer where it was longer."""
        tokens, answers, ends = self._tokenizer.encode_chat(document.messages)
        trained = answers if self._source.loss == "assistant" else np.ones(len(tokens), dtype=np.bool_)
        untrain_turns(trained, document.messages, ends)
        fitting = fitting_tokens(document.messages, ends, self._context)
        if fitting < len(tokens):
            kind = "conversation_cut" if fitting else "conversation_too_long"
            yield Fault(document.file, document.line, kind, f"{len(tokens)} tokens")
        if fitting:
            yield Piece(tokens[:fitting], trained[:fitting], whole=True)


def text_piece(tokens: Tokens, content: int) -> Piece:
    """Return a text that ends in `<|endoftext|>`; every other one, by its hash, begins with it too.

    So the model knows both a prompt that starts with it (as evaluation harnesses use for an empty context)
    and one that does not (as everyone else does).
    """
    opening = [END_OF_TEXT] * (content >> 40 & 1)
    tokens = np.concatenate([opening, tokens, [END_OF_TEXT]]).astype(np.uint16)
    return Piece(tokens, np.ones(len(tokens), dtype=np.bool_))
