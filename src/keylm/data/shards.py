"""Shards: tokens of one source on disk, cut into windows of the training context.

A shard is one safetensors file with
    tokens      uint16 [windows * context]   documents one after the other, `<|pad|>` where nothing stands
    trained     uint8  [windows * context/8] a bit a token: does it carry loss when it is the next token?
    starts      uint32 [documents]           where each document begins; the first is 0
    file, line  uint32 [documents]           where each document came from (file: index into the manifest's list)
    partners    uint16 [windows * context]   only with typo pairs: how many tokens back the position stands whose
                                             next-word distribution this one's is drawn to; 0: none

Invariants: a shard appears under its name complete; its SHA-256 stands in the manifest; the same documents and
tokenizer give the same bytes. Memory is bounded by one shard, whatever the corpus's size. A shard begins with a
document and ends with one, so each can be built and read alone. A conversation never crosses the edge of a window,
so no turn is cut; texts run on from window to window.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from keylm.data.pieces import Partners, Piece
from keylm.errors import KeylmError
from keylm.files import atomic_path, read_json, sha256_file, sha256_json
from keylm.tokenizer import PAD, Mask, Tokens

FORMAT = 3
"""Of manifest and shards; a change of what the same documents become raises it."""
NO_FILE = 2**32 - 1
"""Stands in `file` for padding, which came from nowhere."""


@dataclass(frozen=True)
class ShardRecord:
    """What the manifest says of a shard."""

    file: str
    sha256: str
    size: int
    """bytes of the file"""
    windows: int
    tokens: int
    trained_tokens: int
    documents: int
    bytes: int
    """UTF-8 bytes of what its tokens stand for"""


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

    def __init__(self, path: Path, context: int, files: list[str]) -> None:
        self._context = context
        self._files = files
        self._arrays = memory_map(path)

    @cached_property
    def _starts(self) -> npt.NDArray[np.uint32]:
        return np.asarray(self._arrays["starts"])

    def packed_anew(self, key: str) -> "Shard":
        """Return as many windows of the same documents in the order that `key` names, in memory.

        Itself where pieces stand whole in their windows: padding between documents, or partners, show that.
        """
        if "partners" in self._arrays or (self._arrays["file"][:-1] == NO_FILE).any():
            return self
        documents = len(self._starts) - int(self._arrays["file"][-1] == NO_FILE)  # what is padded stays at the end
        tokens, trained = np.asarray(self._arrays["tokens"]), np.unpackbits(np.asarray(self._arrays["trained"]))
        ends = np.append(self._starts.astype(np.int64), len(tokens))
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        order = np.random.default_rng(int.from_bytes(digest, "little")).permutation(documents)
        order = np.append(order, np.arange(documents, len(self._starts)))
        places = np.concatenate([np.arange(ends[number], ends[number + 1]) for number in order])
        lengths = np.diff(ends)[order]
        anew = Shard.__new__(Shard)
        anew._context, anew._files = self._context, self._files
        anew._arrays = {
            "tokens": tokens[places],
            "trained": np.packbits(trained[places]),
            "starts": (np.cumsum(lengths) - lengths).astype(np.uint32),
            "file": self._arrays["file"][order],
            "line": self._arrays["line"][order],
        }
        return anew

    def window(self, index: int) -> Window:
        """Return window `index` of this shard."""
        begin, end = index * self._context, (index + 1) * self._context
        tokens = np.asarray(self._arrays["tokens"][begin : end + 1])
        bits = self._arrays["trained"][begin // 8 : (end + 8) // 8]
        trained = np.unpackbits(np.asarray(bits))[begin % 8 :][: len(tokens)].astype(np.bool_)
        first, last = self._documents(begin, end + 1)
        starts = self._starts[first:last].astype(np.int64) - begin
        documents = np.zeros(len(tokens), dtype=np.int32)
        documents[starts[(starts > 0) & (starts < len(tokens))]] = 1
        documents = np.cumsum(documents, dtype=np.int32)
        # A token is learnt only from what stands before it in its own document.
        learnt = trained[1:] & (documents[1:] == documents[:-1])
        labels = np.full(self._context, -100, dtype=np.int64)
        labels[: len(learnt)] = np.where(learnt, tokens[1:].astype(np.int64), -100)
        return Window(tokens[: self._context], labels, documents[: self._context], self._partners(begin, end))

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
        return [self._origin(number, max(0, int(self._starts[number]) - begin)) for number in range(first, last)]

    def _documents(self, begin: int, end: int) -> tuple[int, int]:
        """Return the range of documents that have tokens in [begin, end)."""
        first = int(np.searchsorted(self._starts, begin, side="right")) - 1
        return first, int(np.searchsorted(self._starts, end, side="left"))

    def _origin(self, document: int, start: int) -> tuple[str, int, int]:
        file = int(self._arrays["file"][document])
        name = "" if file == NO_FILE else self._files[file]
        return name, int(self._arrays["line"][document]), start


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


TOTALS = ("windows", "tokens", "trained_tokens", "documents", "bytes")
"""What is summed over a split's shards."""


def split_entry(records: list[ShardRecord]) -> dict[str, Any]:
    """Return a split's manifest entry: its totals and its shards."""
    totals = {key: sum(getattr(record, key) for record in records) for key in TOTALS}
    return {**totals, "shards": [asdict(record) for record in records]}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return `folder/manifest.json`.

    Raises KeylmError where it is missing, damaged, of another format, or its own hash does not hold.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise KeylmError(f"{path}: no such file; accepted: the shards folder of a run whose data were built")
    return load_manifest(path, str(path), "delete it, and the build makes it again")


def load_manifest(path: Path, name: str, mend: str) -> dict[str, Any]:
    """Return the manifest in the file `path`, called `name` in errors, which say how to `mend` a damaged one.

    Raises KeylmError as `read_manifest` does.
    """
    try:
        manifest: dict[str, Any] = dict(read_json(path))
    except (ValueError, TypeError) as error:
        raise KeylmError(f"{name}: is damaged: {error}; {mend}") from None
    if manifest_hash(manifest) != manifest.get("hash"):
        raise KeylmError(
            f"{name}: its content does not have the hash it states; it was altered after it was written; {mend}"
        )
    if manifest.get("format") != FORMAT:
        raise KeylmError(
            f"{name}: is of format {manifest.get('format')}; accepted: format {FORMAT}, which this keylm builds; "
            "build the data anew, or use the keylm that built them"
        )
    flaw = _flaw(manifest)
    if flaw:
        raise KeylmError(f"{name}: is no manifest of this keylm's: {flaw}; {mend}")
    return manifest


SETTINGS = ("seed", "context", "shard_tokens", "holdout", "tokenizer_sha256", "curation", "order", "origins", "sources")
"""What stands in a manifest beside its format and its hash."""


def _flaw(manifest: dict[str, Any]) -> str | None:
    """Return what a manifest lacks that its readers rely on, None where it is whole."""
    tables: list[tuple[str, Any, Iterable[str]]] = [("it", manifest, SETTINGS)]
    sources = manifest.get("sources")
    for name, entry in sources.items() if isinstance(sources, dict) else ():
        where = f"sources.{name}"
        tables.append((where, entry, ("settings", "train", "validation", "exhausted", "files", "faults")))
        for split in ("train", "validation"):
            part = entry.get(split) if isinstance(entry, dict) else None
            tables.append((f"{where}.{split}", part, (*TOTALS, "shards")))
            records = part.get("shards") if isinstance(part, dict) else None
            wanted = [field.name for field in fields(ShardRecord)]
            tables += [(f"{where}.{split}.shards", record, wanted) for record in records or ()]
    if not isinstance(sources, dict):
        return "it has no sources"
    for where, table, keys in tables:
        missing = [key for key in keys if key not in table] if isinstance(table, dict) else list(keys)
        if missing:
            return f"{where} has no {missing[0]!r}"
    return None


def manifest_hash(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of everything in a manifest but its own hash."""
    return sha256_json({key: value for key, value in manifest.items() if key != "hash"})
