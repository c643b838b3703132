"""From tokens to text that may be shown: whole characters only, and no part of a stop string.

Invariant: the pieces joined are the decoded text up to the first stop string, however it is tokenized; a piece is never
taken back. Bytes that are not UTF-8 become U+FFFD once nothing can complete them any more. Text that could still turn
into a stop string is held back.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from keylm.base.errors import KeylmError
from keylm.serving.sampling import Token
from keylm.text.byte_level import byte_table


@dataclass(frozen=True)
class Written:
    """A token and its position."""

    token: Token
    begin: int
    """Characters of the text before it."""


@dataclass(frozen=True)
class TextPiece:
    """Text that is certain, and the tokens whose last character is in it."""

    text: str
    tokens: tuple[Written, ...] = ()


class Vocabulary:
    """The bytes of each token."""

    def __init__(self, tokens: Sequence[str], special: frozenset[int]) -> None:
        """Take the vocabulary's spellings in order of their ids. Raises KeylmError where they are not ByteLevel's."""
        table = byte_table()
        try:
            plain = [b"" if n in special else bytes(table[c] for c in token) for n, token in enumerate(tokens)]
        except KeyError as error:
            raise KeylmError(f"a token has the character {error}; accepted: a ByteLevel tokenizer") from None
        self._bytes, self._names, self.special = plain, tokens, special
        self.size = len(tokens)

    def bytes_of(self, token: int) -> bytes:
        """Return a token's bytes; none for special tokens and ids without a token."""
        return self._bytes[token] if token < self.size else b""

    def name(self, token: int) -> str:
        r"""Return a token as log-probabilities show it: its text, or `bytes:\xe2` where that is no whole text."""
        if token >= self.size or token in self.special:
            return self._names[token] if token < self.size else f"<|unused_{token}|>"
        try:
            return self._bytes[token].decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self._bytes[token])

    def shown_bytes(self, token: int) -> bytes:
        """Return a token's bytes, a special token's by its name."""
        return self.name(token).encode() if token in self.special or token >= self.size else self._bytes[token]


class TextWriter:
    """Writes one text."""

    def __init__(self, vocabulary: Vocabulary, stops: Sequence[str] = (), *, special: bool = False) -> None:
        """Stop before the first of `stops`; spell special tokens out where `special`, else leave them out."""
        self._bytes_of = vocabulary.shown_bytes if special else vocabulary.bytes_of
        self._stops = [stop for stop in stops if stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held, self._begin = "", 0
        self._tokens: list[tuple[Written, int]] = []
        self.stopped = False
        """Whether a stop string was reached; nothing more comes then."""

    def add(self, token: Token) -> TextPiece:
        """Return the text that is final after one more token."""
        begin = self._begin + len(self._held)
        self._held += self._decoder.decode(self._bytes_of(token.id))
        self._tokens.append((Written(token, begin), self._begin + len(self._held)))
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            cut = self._begin + min(found)
            self._tokens = [(written, cut) for written, _ in self._tokens if written.begin < cut]
            return self._release(min(found))
        return self._release(len(self._held) - self._pending())

    def end(self) -> TextPiece:
        """Return what was held back, now that no more tokens come."""
        if self.stopped:
            return TextPiece("")
        self._held += self._decoder.decode(b"", final=True)
        piece = self._release(len(self._held))
        rest, self._tokens = tuple(written for written, _ in self._tokens), []
        return TextPiece(piece.text, (*piece.tokens, *rest))

    def _release(self, length: int) -> TextPiece:
        text, self._held = self._held[:length], self._held[length:]
        self._begin += length
        ready = [written for written, end in self._tokens if end <= self._begin]
        self._tokens = self._tokens[len(ready) :]
        return TextPiece(text, tuple(ready))

    def _pending(self) -> int:
        """Return how many characters at the end could be the beginning of a stop string."""
        most = min(len(self._held), max(map(len, self._stops), default=1) - 1)
        ends = (n for n in range(most, 0, -1) if any(stop.startswith(self._held[-n:]) for stop in self._stops))
        return next(ends, 0)
