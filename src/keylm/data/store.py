"""The store: any window of any source, from shards that are finished, still being built, or fetched.

Invariant: whatever a window waits for, it is the same window. A shard is read only if its SHA-256 is the recorded one.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from keylm.base.errors import KeylmError
from keylm.base.files import sha256_file, sha256_json
from keylm.data.manifest import SPLITS, ShardManifest, ShardRecord, Split, read_manifest
from keylm.data.shards import Shard, Window

OPEN_SHARDS = 600
"""Shards mapped at a time, a file descriptor each; systems commonly allow 1,024."""
FIRST_HELD_OUT = "validation-00000.safetensors"
"""The shard of held-out documents that came before the first training shard was full."""


class SourceShards(NamedTuple):
    """The shards of a source that are known."""

    train: Sequence[ShardRecord]
    validation: Sequence[ShardRecord]
    files: Sequence[str]
    """names of the files that documents come from"""

    def split(self, split: Split) -> Sequence[ShardRecord]:
        """Return the shards for training or for validation."""
        return self.train if split == "train" else self.validation


class Supply(Protocol):
    """Where shards come from."""

    fix: str
    """how to fix an altered one, in words"""

    def shards(self, source: str, shard: int) -> SourceShards:
        """Return a source's shards as soon as training shard `shard` is among them, or the source has fewer."""

    def file(self, source: str, record: ShardRecord) -> Path:
        """Return the file of a shard as soon as it is there."""

    def expect(self, step: int) -> None:
        """Note that training has reached `step`."""


class FinishedShards:
    """Shards that are all in one folder."""

    fix = "put the shard back, have `keylm data build` make it again, or start anew with --fresh"

    def __init__(self, folder: Path) -> None:
        """Read `folder/manifest.json`. Raises KeylmError."""
        self._folder = folder
        self.manifest = read_manifest(folder)

    def shards(self, source: str, shard: int) -> SourceShards:
        """Return a source's shards."""
        return shards_of(self.manifest, source)

    def file(self, source: str, record: ShardRecord) -> Path:
        """Return the file of a shard."""
        return self._folder / source / record.file

    def expect(self, step: int) -> None:
        """Do nothing: all shards are there."""

    def records(self) -> Iterator[tuple[Path, str]]:
        """Yield (file, SHA-256) of every shard."""
        for name, source in self.manifest.sources.items():
            for split in SPLITS:
                for record in source.split(split).shards:
                    yield self.file(name, record), record.sha256


def shards_of(manifest: ShardManifest, source: str) -> SourceShards:
    """Return the shards of a source of a finished build."""
    record = manifest.sources[source]
    return SourceShards(record.train.shards, record.validation.shards, record.files)


class ShardStore:
    """All windows of all sources, by source, shard and index."""

    def __init__(self, supply: Supply, context: int, *, verify: bool = False) -> None:
        """Read from `supply` windows of `context` tokens; `verify` each shard when it is first opened."""
        self._supply, self._context, self._verify = supply, context, verify
        self._open: dict[Path, Shard] = {}
        self._sound: dict[Path, tuple[int, int]] = {}
        self._windows: dict[str, list[int]] = {}
        self._repacked: dict[str, tuple[str, Shard]] = {}
        self._lock = threading.Lock()  # training reads ahead in a thread, validation beside it

    def layout(self, source: str, number: int) -> list[int]:
        """Return the windows of each training shard, of enough of them to hold window `number` (a `Layout`)."""
        known = self._windows.get(source, [])
        while sum(known) <= number:
            found = [record.windows for record in self._supply.shards(source, len(known)).train]
            self._windows[source] = found
            if len(found) == len(known):
                break  # the source has no more
            known = found
        return known

    def window(self, source: str, shard: int, index: int, split: Split = "train") -> Window:
        """Return window `index` of a source's shard."""
        return self.shard(source, shard, split).window(index)

    def shard(self, source: str, shard: int, split: Split = "train", packing: str = "") -> Shard:
        """Return a source's shard, with its documents in the order that `packing` names; empty: as it was built.

        Of each source the last repacked shard is kept: training is done with a shard before it begins the next, even
        where both have windows in one batch. Raises IndexError where there is no such shard.
        """
        known = self._supply.shards(source, shard if split == "train" else 0)
        records = known.split(split)
        if not 0 <= shard < len(records):
            raise IndexError(f"{source} has no {split} shard {shard}")
        record = records[shard]
        path = self._supply.file(source, record)  # may wait, so nothing is locked yet
        with self._lock:
            if path not in self._open:
                self._map(path, record.sha256, known.files)
            if not packing:
                return self._open[path]
            if self._repacked.get(source, ("",))[0] != packing:
                self._repacked[source] = packing, self._open[path].repacked(packing)
            return self._repacked[source][1]

    def held_out(self, source: str) -> int:
        """Return how many windows are for validation: those that were held out before the first shard was full.

        So they are the same whether the source's other shards are there yet or not.
        """
        shards = self._supply.shards(source, 0).validation
        return next((record.windows for record in shards if record.file == FIRST_HELD_OUT), 0)

    def prefix_hash(self, shards: Mapping[str, int]) -> str:
        """Return the SHA-256 that names the first so many training shards of each source."""
        hashes = {}
        for source, count in shards.items():
            records = self._supply.shards(source, count - 1).train if count else []
            hashes[source] = [record.sha256 for record in records[:count]]
        return sha256_json(hashes)

    def expect(self, step: int) -> None:
        """Note that training has reached `step`, so that what comes next can be prepared."""
        self._supply.expect(step)

    def _map(self, path: Path, digest: str, files: Sequence[str]) -> None:
        """Open a shard, and close one where there are too many."""
        if self._verify:
            self._check(path, digest)
        self._repacked.clear()  # they read from mappings that may be closed here
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
            check_shard(path, digest, self._supply.fix)
            self._sound[path] = stamp


def check_shard(path: Path, digest: str, fix: str = FinishedShards.fix) -> None:
    """Raise KeylmError, with how to `fix` it, unless the file at `path` exists with this SHA-256."""
    found = sha256_file(path) if path.is_file() else None
    if found != digest:
        state = f"its SHA-256 is {found[:16]}…" if found else "it is missing"
        raise KeylmError(f"{path}: the manifest says SHA-256 {digest[:16]}…, but {state}; {fix}")


def finished_store(folder: Path, *, verify: Literal["all", "opened", "none"] = "all") -> ShardStore:
    """Return the store of the shards that `folder/manifest.json` lists.

    Raises KeylmError where one is missing or its SHA-256 is not the manifest's: at once for "all", when it is first
    read from for "opened", never for "none" (another process has checked).
    """
    supply = FinishedShards(folder)
    if verify == "all":
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda record: check_shard(*record), supply.records()))
    return ShardStore(supply, supply.manifest.context, verify=verify == "opened")
