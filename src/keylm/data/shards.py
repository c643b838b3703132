"""Shards: tokens of one source on disk, cut into windows of the training context.

A shard is one safetensors file with
    tokens      uint16 [windows * context]   documents one after the other, `<|pad|>` elsewhere
    trained     uint8  [windows * context/8] a bit a token: does it carry loss when it is the next token?
    starts      uint32 [documents]           where each document begins; the first is 0
    file, line  uint32 [documents]           where each document came from (file: index into the manifest's list)
    partners    uint16 [windows * context]   only with typo pairs: how many tokens back the position is whose
                                             next-word distribution this one is pulled towards

Invariants: a shard appears under its name complete; its SHA-256 is in the manifest; the same documents and
tokenizer give the same bytes. Memory is bounded by one shard, whatever the corpus's size. A shard begins with a
document and ends with one, so each can be built and read alone. A conversation never crosses the edge of a window,
so no turn is cut; texts run on from window to window, and so may be repacked: read in another order of documents.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from keylm.base.files import atomic_path, sha256_file
from keylm.data.manifest import ShardRecord
from keylm.data.pieces import Partners, Piece
from keylm.text.tokenizer import IM_START, PAD, TYPO, Mask, Tokens

NO_FILE = 2**32 - 1
"""In `file`: padding, which has no origin."""


class ShardWriter:
    """Packs pieces into one shard; give them with `add`, then `close`."""

    def __init__(self, context: int) -> None:
        """Pack into windows of `context` tokens."""
        self._context = context
        self._tokens: list[Tokens] = []
        self._trained: list[Mask] = []
        self._partners: list[tuple[int, Partners]] = []
        self._starts: list[tuple[int, int, int]] = []
        self._documents = 0
        self.size = 0
        """tokens so far"""

    def add(self, piece: Piece, file: int, line: int, *, new_document: bool = True) -> None:
        """Append a piece that comes from this line of the manifest's file number `file`."""
        left = -self.size % self._context
        if piece.whole and left < len(piece.tokens) and left:
            self._pad(left)
        if piece.partners is not None:
            self._partners.append((self.size, piece.partners))
        self._starts += [(self.size + start, file, line) for start in piece.starts]
        self._tokens.append(piece.tokens)
        self._trained.append(piece.trained)
        self._documents += new_document
        self.size += len(piece.tokens)

    def close(self, path: Path, byte_lengths: npt.NDArray[np.int64]) -> ShardRecord:
        """Write the shard to `path`, padded to a whole window, and return its record.

        byte_lengths: int64 [vocabulary], UTF-8 bytes of each id.
        """
        left = -self.size % self._context
        if left:
            self._pad(left)
        tokens, trained = np.concatenate(self._tokens), np.concatenate(self._trained)
        columns = np.array(self._starts, dtype=np.uint32)
        arrays: dict[str, npt.NDArray[Any]] = {
            "tokens": tokens,
            "trained": np.packbits(trained),
            "starts": np.ascontiguousarray(columns[:, 0]),
            "file": np.ascontiguousarray(columns[:, 1]),
            "line": np.ascontiguousarray(columns[:, 2]),
        }
        if self._partners:
            arrays["partners"] = np.zeros(len(tokens), np.uint16)
            for start, partners in self._partners:
                arrays["partners"][start : start + len(partners)] = partners
        with atomic_path(path) as temporary:
            save_file(arrays, temporary)
            digest, size = sha256_file(temporary), temporary.stat().st_size
        return ShardRecord(
            file=path.name,
            sha256=digest,
            size=size,
            windows=len(tokens) // self._context,
            tokens=int((tokens != PAD).sum()),
            trained_tokens=int(trained.sum()),
            documents=self._documents,
            bytes=int(byte_lengths[tokens].sum()),
        )

    def _pad(self, count: int) -> None:
        self._starts.append((self.size, NO_FILE, 0))
        self._tokens.append(np.full(count, PAD, np.uint16))
        self._trained.append(np.zeros(count, np.bool_))
        self.size += count


@dataclass(frozen=True)
class Window:
    """One window as the model sees it: `context` tokens and what follows each of them."""

    tokens: Tokens
    """uint16 [context]"""
    labels: npt.NDArray[np.int64]
    """int64 [context]: the next token, or -100 where it carries no loss"""
    documents: npt.NDArray[np.int32]
    """int32 [context]: which document each token belongs to, counted from 0 in this window"""
    partners: npt.NDArray[np.int64] | None = None
    """int64 [context]: the position in this window whose prediction each one's should equal, -1: none"""


class Shard:
    """A memory-mapped shard."""

    def __init__(self, path: Path, context: int, files: Sequence[str]) -> None:
        self._context = context
        self._files = files
        self._arrays = memory_map(path)

    def repacked(self, order: str) -> "Shard":
        """Return the shard with its documents in the pseudorandom order that `order` names, in as many windows.

        Padding at its end stays there. A shard with pieces that stand whole in their windows stays as it is, as another
        order would cut them or need other padding: conversations and corrections are known by their first token, or by
        padding between documents, pairs by `partners`.
        """
        starts = self._arrays["starts"]
        count = len(starts) - int(self._arrays["file"][-1] == NO_FILE)
        whole = np.isin(self._arrays["tokens"][starts[:count]], (PAD, IM_START, TYPO)).any()
        if whole or "partners" in self._arrays:
            return self
        # Not NumPy's generators: their values may change from release to release.
        keys = np.frombuffer(hashlib.shake_128(order.encode()).digest(8 * count), "<u8")
        return RepackedShard(self, np.append(np.argsort(keys, kind="stable"), np.arange(count, len(starts))))

    def window(self, index: int) -> Window:
        """Return window `index` of this shard."""
        begin, end = index * self._context, (index + 1) * self._context
        tokens, trained = self._read(begin, min(end + 1, len(self._arrays["tokens"])))
        first, last = self._documents(begin, end + 1)
        starts = self._arrays["starts"][first:last].astype(np.int64) - begin
        documents = np.zeros(len(tokens), dtype=np.int32)
        documents[starts[(starts > 0) & (starts < len(tokens))]] = 1
        documents = np.cumsum(documents, dtype=np.int32)
        # A token is predicted only from what precedes it in its own document.
        targets = trained[1:] & (documents[1:] == documents[:-1])
        labels = np.full(self._context, -100, dtype=np.int64)
        labels[: len(targets)] = np.where(targets, tokens[1:].astype(np.int64), -100)
        return Window(tokens[: self._context], labels, documents[: self._context], self._partners(begin, end))

    def _read(self, begin: int, end: int) -> tuple[Tokens, Mask]:
        """Return the tokens [begin, end), and whether each is trained on."""
        bits = self._arrays["trained"][begin // 8 : (end + 7) // 8]
        return self._arrays["tokens"][begin:end], np.unpackbits(bits)[begin % 8 :][: end - begin].astype(np.bool_)

    def _partners(self, begin: int, end: int) -> npt.NDArray[np.int64] | None:
        """Return the positions within the window [begin, end) that its tokens point back to."""
        if "partners" not in self._arrays:
            return None
        back = self._arrays["partners"][begin:end].astype(np.int64)
        return np.where(back > 0, np.arange(end - begin) - back, -1)

    def origins(self, index: int) -> list[tuple[str, int, int]]:
        """Return (file, line, first token in the window) of each document; the file of padding is empty."""
        begin = index * self._context
        first, last = self._documents(begin, begin + self._context)
        starts = self._arrays["starts"]
        return [self._origin(number, max(0, int(starts[number]) - begin)) for number in range(first, last)]

    def _documents(self, begin: int, end: int) -> tuple[int, int]:
        """Return the range of documents that have tokens in [begin, end)."""
        starts = self._arrays["starts"]
        # A bound of another type would have NumPy convert all of `starts`.
        first = int(np.searchsorted(starts, np.uint32(begin), side="right")) - 1
        return first, int(np.searchsorted(starts, np.uint32(end), side="left"))

    def _origin(self, document: int, start: int) -> tuple[str, int, int]:
        file = int(self._arrays["file"][document])
        name = "" if file == NO_FILE else self._files[file]
        return name, int(self._arrays["line"][document]), start


class RepackedShard(Shard):
    """A shard in another order of its documents; a document takes 20 bytes, its tokens are read where they lie."""

    def __init__(self, shard: Shard, order: npt.NDArray[np.int64]) -> None:
        """Read `shard` in this order. order: int64 [documents], their numbers in the shard."""
        self._context, self._files = shard._context, shard._files
        arrays = shard._arrays
        lengths = np.diff(arrays["starts"], append=np.uint32(len(arrays["tokens"])))[order]
        moved = {"starts": np.cumsum(lengths) - lengths, "file": arrays["file"][order], "line": arrays["line"][order]}
        moved["starts"] = moved["starts"].astype(np.uint32)
        self._arrays = {**arrays, **moved}
        self._shifts = arrays["starts"][order].astype(np.int64) - moved["starts"]

    def _read(self, begin: int, end: int) -> tuple[Tokens, Mask]:
        first, last = self._documents(begin, end)
        bounds = np.append(self._arrays["starts"][first:last], end).clip(begin)
        places = np.arange(begin, end) + np.repeat(self._shifts[first:last], np.diff(bounds))
        bits = self._arrays["trained"][places // 8] >> (7 - places % 8)
        return self._arrays["tokens"][places], (bits & 1).astype(np.bool_)


def memory_map(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a safetensors file as views of one read-only memory map.

    The format is documented at huggingface.co/docs/safetensors.
    """
    kinds = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32}
    content = np.memmap(path, np.uint8, "r")
    length = int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(content[begin:end], kinds[entry["dtype"]])
    return arrays
