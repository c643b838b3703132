"""The store: any window of any source, from shards that lie here, are still being built, or are fetched.

Invariant: whatever a window waits for, it is the same window. A shard is read only if its SHA-256 is the recorded one.
"""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

from keylm.data.shards import Shard, Window, read_manifest
from keylm.errors import KeylmError
from keylm.files import sha256_file, sha256_json

OPEN_SHARDS = 600
"""Shards mapped at a time, a file descriptor each; systems commonly allow 1,024."""
FIRST_HELD_OUT = "validation-00000.safetensors"
"""The shard of held-out documents that came before the first training shard was full."""


class Supply(Protocol):
    """Where shards come from."""

    mend: str
    """what helps where one is altered, in words"""

    def entry(self, source: str, shard: int) -> Mapping[str, Any]:
        """Return a source's manifest entry as soon as it holds training shard `shard`, or the source has fewer."""

    def file(self, source: str, record: Mapping[str, Any]) -> Path:
        """Return the file of a shard as soon as it is there."""

    def expect(self, step: int) -> None:
        """Hear that training has come to `step`."""


class Finished:
    """Shards that all lie in one folder."""

    mend = "put the shard back, have `keylm data build` make it again, or start anew with --fresh"

    def __init__(self, folder: Path) -> None:
        """Read `folder/manifest.json`. Raises KeylmError."""
        self._folder = folder
        self.manifest = read_manifest(folder)

    def entry(self, source: str, shard: int) -> Mapping[str, Any]:
        """Return a source's manifest entry."""
        found: Mapping[str, Any] = self.manifest["sources"][source]
        return found

    def file(self, source: str, record: Mapping[str, Any]) -> Path:
        """Return the file of a shard."""
        return self._folder / source / str(record["file"])

    def expect(self, step: int) -> None:
        """Do nothing: all shards are there."""

    def records(self) -> Iterator[tuple[Path, str]]:
        """Yield (file, SHA-256) of every shard."""
        for name, entry in self.manifest["sources"].items():
            for split in ("train", "validation"):
                for record in entry[split]["shards"]:
                    yield self.file(name, record), record["sha256"]


class ShardStore:
    """All windows of all sources, by source, shard and index."""

    def __init__(self, supply: Supply, context: int, *, verify: bool = False) -> None:
        """Read from `supply` windows of `context` tokens; `verify` each shard when it is first opened."""
        self._supply, self._context, self._verify = supply, context, verify
        self._open: dict[Path, Shard] = {}
        self._sound: dict[Path, tuple[int, int]] = {}
        self._windows: dict[str, list[int]] = {}
        self._anew: dict[tuple[str, int], tuple[str, Shard]] = {}
        self._lock = threading.Lock()  # training reads ahead in a thread, validation beside it

    def layout(self, source: str, number: int) -> list[int]:
        """Return the windows of each training shard, of enough of them to hold window `number` (a `Layout`)."""
        known = self._windows.get(source, [])
        while sum(known) <= number:
            entry = self._supply.entry(source, len(known))
            found = [int(record["windows"]) for record in entry["train"]["shards"]]
            self._windows[source] = found
            if len(found) == len(known):
                break  # the source has no more
            known = found
        return known

    def window(self, source: str, shard: int, index: int, split: str = "train") -> Window:
        """Return window `index` of a source's shard."""
        return self._shard(source, shard, split).window(index)

    def window_anew(self, source: str, shard: int, index: int, key: str) -> Window:
        """Return window `index` of a source's training shard, packed anew in the order that `key` names."""
        known, anew = self._anew.get((source, shard), ("", None))
        if anew is None or known != key:
            anew = self._shard(source, shard, "train").packed_anew(key)
            self._anew[source, shard] = key, anew
        return anew.window(index)

    def origins(self, source: str, shard: int, index: int, split: str = "train") -> list[tuple[str, int, int]]:
        """Return (file, line, first token in the window) of each document of a window."""
        return self._shard(source, shard, split).origins(index)

    def held_out(self, source: str) -> int:
        """Return how many windows are for validation: those that were held out before the first shard was full.

        So they are the same whether the source's other shards are there yet or not.
        """
        shards = self._supply.entry(source, 0)["validation"]["shards"]
        first = [record for record in shards if record["file"] == FIRST_HELD_OUT]
        return int(first[0]["windows"]) if first else 0

    def prefix_hash(self, shards: Mapping[str, int]) -> str:
        """Return the SHA-256 that names the first so many training shards of each source."""
        hashes = {}
        for source, count in shards.items():
            records = self._supply.entry(source, count - 1)["train"]["shards"] if count else []
            hashes[source] = [record["sha256"] for record in records[:count]]
        return sha256_json(hashes)

    def expect(self, step: int) -> None:
        """Hear that training has come to `step`, so that what comes next can be made ready."""
        self._supply.expect(step)

    def _shard(self, source: str, shard: int, split: str) -> Shard:
        entry = self._supply.entry(source, shard if split == "train" else 0)
        if not 0 <= shard < len(entry[split]["shards"]):
            raise IndexError(f"{source} has no {split} shard {shard}")
        record = entry[split]["shards"][shard]
        path = self._supply.file(source, record)  # may wait, so nothing is locked yet
        with self._lock:
            if path not in self._open:
                self._map(path, record["sha256"], entry["files"])
            return self._open[path]

    def _map(self, path: Path, digest: str, files: list[str]) -> None:
        """Open a shard, and close one where there are too many."""
        if self._verify:
            self._check(path, digest)
        for gone in [other for other in self._open if not other.exists()]:
            del self._open[gone]  # a fetched shard that had to make room: its mapping would keep the disk full
        if len(self._open) >= OPEN_SHARDS:
            del self._open[next(iter(self._open))]
        self._open[path] = Shard(path, self._context, files)

    def _check(self, path: Path, digest: str) -> None:
        """Check a shard unless it was, and is the same file still: it may be closed and opened many times."""
        facts = path.stat() if path.is_file() else None
        stamp = (facts.st_size, facts.st_mtime_ns) if facts else (0, 0)
        if facts is None or self._sound.get(path) != stamp:
            check_shard(path, digest, self._supply.mend)
            self._sound[path] = stamp


def check_shard(path: Path, digest: str, mend: str = Finished.mend) -> None:
    """Raise KeylmError, with how to `mend` it, unless the file at `path` is there and has this SHA-256."""
    found = sha256_file(path) if path.is_file() else None
    if found != digest:
        state = f"its SHA-256 is {found[:16]}…" if found else "it is missing"
        raise KeylmError(f"{path}: the manifest says SHA-256 {digest[:16]}…, but {state}; {mend}")


def finished_store(folder: Path, *, verify: Literal["all", "opened", "none"] = "all") -> ShardStore:
    """Return the store of the shards that `folder/manifest.json` lists.

    Raises KeylmError where one is missing or its SHA-256 is not the manifest's: at once for "all", when it is first
    read from for "opened", never for "none" (another process has looked).
    """
    supply = Finished(folder)
    if verify == "all":
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda record: check_shard(*record), supply.records()))
    return ShardStore(supply, supply.manifest["context"], verify=verify == "opened")
