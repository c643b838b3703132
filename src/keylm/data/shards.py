"""Shards: tokens of one source on disk, cut into windows of the training context.

A shard is one safetensors file with
    tokens      uint16 [windows * context]   documents one after the other, `<|pad|>` where nothing stands
    trained     uint8  [windows * context/8] a bit a token: does it carry loss when it is the next token?
    starts      uint32 [documents]           where each document begins; the first is 0
    file, line  uint32 [documents]           where each document came from (file: index into the manifest's list)

Invariants: a shard appears under its name complete; its SHA-256 stands in the manifest; the same documents and
tokenizer give the same bytes. Memory is bounded by one shard, whatever the corpus's size. A conversation never
crosses the edge of a window, so no turn is cut; texts run on from window to window.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from keylm.errors import KeylmError
from keylm.files import atomic_path, read_json, sha256_file, sha256_json
from keylm.tokenizer import PAD, Mask, Tokens

SHARD_TOKENS = 1 << 25
"""Tokens in a full shard, about: rounded down to whole windows. 18 billion tokens are 540 shards."""
OPEN_SHARDS = 600
"""Shards mapped at a time, a file descriptor each; systems commonly allow 1,024."""
NO_FILE = 2**32 - 1
"""Stands in `file` for padding, which came from nowhere."""


@dataclass(frozen=True)
class ShardRecord:
    """What the manifest says of a shard."""

    file: str
    sha256: str
    windows: int
    tokens: int
    trained_tokens: int
    documents: int
    bytes: int


class ShardWriter:
    """Packs one split of one source into shards; give documents with `add`, then `close`."""

    def __init__(self, folder: Path, split: str, context: int, byte_lengths: npt.NDArray[np.int64]) -> None:
        self._folder, self._split, self._context = folder, split, context
        self._byte_lengths = byte_lengths
        self._capacity = max(1, SHARD_TOKENS // context) * context
        self._tokens: list[Tokens] = []
        self._trained: list[Mask] = []
        self._starts: list[tuple[int, int, int]] = []
        self._size = 0
        self._documents = 0
        self._records: list[ShardRecord] = []

    def add(self, tokens: Tokens, trained: Mask, file: int, line: int, *, whole: bool) -> None:
        """Append a document; `whole` keeps it within one window (it must be no longer than one)."""
        left = -self._size % self._context
        if whole and left < len(tokens) and left:
            self._append(np.full(left, PAD, np.uint16), np.zeros(left, np.bool_), NO_FILE, 0)
        self._documents += 1
        self._append(tokens, trained, file, line)

    def close(self) -> list[ShardRecord]:
        """Write what is left, padded to a whole window, and return all records in order."""
        left = -self._size % self._context
        if left:
            self._append(np.full(left, PAD, np.uint16), np.zeros(left, np.bool_), NO_FILE, 0)
        if self._size:
            self._write(self._size)
        return self._records

    def _append(self, tokens: Tokens, trained: Mask, file: int, line: int) -> None:
        self._starts.append((self._size, file, line))
        self._tokens.append(tokens)
        self._trained.append(trained)
        self._size += len(tokens)
        while self._size >= self._capacity:
            self._write(self._capacity)

    def _write(self, size: int) -> None:
        """Write the first `size` tokens as a shard and keep the rest."""
        tokens, trained = np.concatenate(self._tokens), np.concatenate(self._trained)
        rest = [start for start in self._starts if start[0] >= size]
        here = [start for start in self._starts if start[0] < size]
        path = self._folder / f"{self._split}-{len(self._records):05d}.safetensors"
        columns = np.array(here, dtype=np.uint32)
        with atomic_path(path) as temporary:
            save_file(
                {
                    "tokens": tokens[:size],
                    "trained": np.packbits(trained[:size]),
                    "starts": np.ascontiguousarray(columns[:, 0]),
                    "file": np.ascontiguousarray(columns[:, 1]),
                    "line": np.ascontiguousarray(columns[:, 2]),
                },
                temporary,
            )
            digest = sha256_file(temporary)
        self._records.append(
            ShardRecord(
                file=path.name,
                sha256=digest,
                windows=size // self._context,
                tokens=int((tokens[:size] != PAD).sum()),
                trained_tokens=int(trained[:size].sum()),
                documents=self._documents,
                bytes=int(self._byte_lengths[tokens[:size]].sum()),
            )
        )
        self._documents = 0
        self._tokens, self._trained = [tokens[size:]], [trained[size:]]
        self._size -= size
        self._starts = [(start - size, file, line) for start, file, line in rest]
        if self._size and (not self._starts or self._starts[0][0]):
            self._starts.insert(0, (0, *here[-1][1:]))  # the last document runs on into the next shard


@dataclass(frozen=True)
class Window:
    """One window as the model sees it: `context` tokens and what follows each of them."""

    tokens: Tokens
    """uint16 [context]"""
    labels: npt.NDArray[np.int64]
    """int64 [context]: the next token, or -100 where it carries no loss"""
    documents: npt.NDArray[np.int32]
    """int32 [context]: which document each token belongs to, counted from 0 in this window"""


class Shard:
    """A memory-mapped shard."""

    def __init__(self, path: Path, context: int, files: list[str]) -> None:
        self._context = context
        self._files = files
        self._arrays = memory_map(path)

    @cached_property
    def _starts(self) -> npt.NDArray[np.uint32]:
        return np.asarray(self._arrays["starts"])

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
        return Window(tokens[: self._context], labels, documents[: self._context])

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


class ShardStore:
    """All windows of all sources of a built corpus, by split, source and index."""

    def __init__(self, folder: Path, *, verify: Literal["all", "opened", "none"] = "all") -> None:
        """Open the shards that `folder/manifest.json` lists.

        Raises KeylmError where one is missing or its SHA-256 is not the manifest's: at once for "all", when it is
        first read from for "opened", never for "none" (another process has looked).
        """
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.context: int = self.manifest["context"]
        self._checks_opened = verify == "opened"
        self._open: dict[Path, Shard] = {}
        if verify == "all":
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda record: _verify(*record), self._records()))

    def windows(self, source: str, split: str = "train") -> int:
        """Return how many windows a source has."""
        return int(self.manifest["sources"][source][split]["windows"])

    def window(self, source: str, index: int, split: str = "train") -> Window:
        """Return a source's window `index`, counted over all its shards."""
        shard, within = self._find(source, index, split)
        return shard.window(within)

    def origins(self, source: str, index: int, split: str = "train") -> list[tuple[str, int, int]]:
        """Return (file, line, first token in the window) of each document of a window."""
        shard, within = self._find(source, index, split)
        return shard.origins(within)

    def _find(self, source: str, index: int, split: str) -> tuple[Shard, int]:
        """Return the shard that holds a source's window, and the window's number in it."""
        entry = self.manifest["sources"][source]
        for record in entry[split]["shards"]:
            if index < record["windows"]:
                return self._shard(self.folder / source / record["file"], record["sha256"], entry["files"]), index
            index -= record["windows"]
        raise IndexError(f"{source} has no {split} window {index} beyond its end")

    def _shard(self, path: Path, digest: str, files: list[str]) -> Shard:
        if path not in self._open:
            if self._checks_opened:
                _verify(path, digest)
            if len(self._open) >= OPEN_SHARDS:
                del self._open[next(iter(self._open))]
            self._open[path] = Shard(path, self.context, files)
        return self._open[path]

    def _records(self) -> Iterator[tuple[Path, str]]:
        for name, entry in self.manifest["sources"].items():
            for split in ("train", "validation"):
                for record in entry[split]["shards"]:
                    yield self.folder / name / record["file"], record["sha256"]


def _verify(path: Path, digest: str) -> None:
    """Raise KeylmError unless the file at `path` is there and has this SHA-256."""
    found = sha256_file(path) if path.is_file() else None
    if found != digest:
        state = f"its SHA-256 is {found[:16]}…" if found else "it is missing"
        raise KeylmError(
            f"{path}: the manifest says SHA-256 {digest[:16]}…, but {state}; put the shard back, or "
            "start anew with --fresh"
        )


def split_entry(records: list[ShardRecord]) -> dict[str, Any]:
    """Return a split's manifest entry: its totals and its shards."""
    keys = ("windows", "tokens", "trained_tokens", "documents", "bytes")
    totals = {key: sum(getattr(record, key) for record in records) for key in keys}
    return {**totals, "shards": [asdict(record) for record in records]}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return `folder/manifest.json`. Raises KeylmError where it is missing or its own hash does not hold."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise KeylmError(f"{path}: no such file; accepted: the shards folder of a run whose data were built")
    try:
        manifest: dict[str, Any] = dict(read_json(path))
    except (ValueError, TypeError) as error:
        raise KeylmError(f"{path}: is damaged: {error}; delete it, and the build makes it again") from None
    if manifest_hash(manifest) != manifest.get("hash"):
        raise KeylmError(f"{path}: its content does not have the hash it states; it was altered after it was written")
    return manifest


def manifest_hash(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of everything in a manifest but its own hash."""
    return sha256_json({key: value for key, value in manifest.items() if key != "hash"})
