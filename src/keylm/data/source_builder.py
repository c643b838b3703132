"""One source's shards: read, encoded by the workers, packed, and recorded shard by shard.

Invariants: `source.json` names only shards that are complete on disk, and where the next one begins; a build that
was killed goes on there and leaves the same bytes as one that was not.
"""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from keylm.base.errors import KeylmError
from keylm.base.files import read_table, sha256_file, sha256_json, sweep, write_json
from keylm.base.json_lines import JsonLines
from keylm.data.documents import Document, Fault, Record
from keylm.data.encode import Encoded, PieceFacts
from keylm.data.pieces import Piece
from keylm.data.shards import ShardRecord, ShardWriter, split_entry
from keylm.data.sources import Records, document_bytes, open_records, source_inputs, source_settings
from keylm.data.workers import Workers
from keylm.recipe.load import Recipe
from keylm.typos.model import TypoModel

BATCH_BYTES = 1 << 20
"""Text that a worker encodes in one go, about."""
BATCH_RECORDS = 4096
SPLITS = ("train", "validation")

Told = Callable[[int, str], None]
"""Called with the bytes of text read so far, and facts for a person."""


class ShardRow(NamedTuple):
    """One record when it is encoded, and where the one behind it stands."""

    state: dict[str, Any]
    """the reader's, at the beginning of the batch"""
    skip: int
    """records of the batch up to and with this one"""
    pieces: list[tuple[PieceFacts, Piece]]
    faults: list[Fault]


class SourceBuilder:
    """Builds one source's shards in its own folder."""

    def __init__(
        self,
        recipe: Recipe,
        name: str,
        folder: Path,
        settings: dict[str, Any],
        byte_lengths: npt.NDArray[np.int64],
        workers: Workers,
    ) -> None:
        """Take up what an earlier build of the same source with the same settings left in `folder`.

        byte_lengths: int64 [vocabulary], how many bytes of text each token stands for.
        """
        self._recipe, self._name, self._folder, self._workers = recipe, name, folder, workers
        self._source = recipe.sources[name]
        self._context = recipe.training.context
        self._capacity = max(1, recipe.data.shard_tokens // self._context) * self._context
        self._lengths, self._settings = byte_lengths, own_settings(recipe, name)
        self._inputs = source_stamps(recipe, name)
        self._fingerprint = fingerprint(recipe, name, settings, self._inputs)
        sweep(folder)
        self._progress = self._saved_progress() or self._begin_anew()
        self._files = {file: number for number, file in enumerate(self._progress["files"])}
        self._faults = Counter(self._progress["faults"])
        self._shards = {
            split: [ShardRecord(**record) for record in self._progress["shards"][split]] for split in SPLITS
        }
        self._rows: Iterator[ShardRow] | None = None
        self._log: JsonLines | None = None

    @property
    def shards(self) -> int:
        """Training shards that are built."""
        return len(self._shards["train"])

    @property
    def windows(self) -> int:
        """Training windows that are built."""
        return sum(record.windows for record in self._shards["train"])

    @property
    def revisions(self) -> dict[str, str]:
        """The commits of the data sets on the hub that were read, by the name of their source."""
        state = self._progress["state"] or {}
        found = state.get("revisions") or {self._name: state.get("revision")}
        return {name: revision for name, revision in found.items() if revision}

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of the documents that are built."""
        return int(self._progress["text_bytes"])

    def is_done(self, windows: int) -> bool:
        """Return whether `windows` windows are built, or as many as there are."""
        return bool(self._progress["exhausted"]) or (self.windows >= windows and self.shards > 0)

    def build_shard(self, tell: Told) -> None:
        """Build the next shard and record it. Raises KeylmError where the source gives nothing to train on."""
        rows = self._open()
        train, validation = ShardWriter(self._context), ShardWriter(self._context)
        progress = {**self._progress, "exhausted": True}
        for row in rows:
            if not self._add(row, train, validation, progress):
                progress["cut"] = True
                break
            progress |= {"state": row.state, "skip": row.skip}
            tell(progress["text_bytes"] - self.text_bytes, self._facts(progress))
            if train.size >= self._capacity:
                progress["exhausted"] = False
                break
        number = self.shards  # of both, so that a validation shard tells with which training shard it came
        for split, writer in (("train", train), ("validation", validation)):
            if writer.size:
                path = self._folder / f"{split}-{number:05d}.safetensors"
                self._shards[split].append(writer.close(path, self._lengths))
        self._save(progress)

    def finish(self) -> None:
        """Let go of the source."""
        self._rows = None
        if self._log:
            self._log.close()

    def check(self) -> None:
        """Raise KeylmError where the source gave nothing to train on."""
        trained = sum(record.trained_tokens for record in self._shards["train"])
        if not trained:
            why = "gives no answer to train on" if self.windows else "gives no document to train on"
            raise KeylmError(
                f"sources.{self._name}: {why} with loss = {self._source.loss!r}{self._reason()} "
                f"(faults: {dict(self._faults) or 'none'}); see {self._folder / 'faults.jsonl'}"
            )

    def check_unchanged(self) -> None:
        """Raise KeylmError where what the source reads is no more what it was when the build began.

        Its shards may then be of either, and the manifest would promise what nobody can build again.
        """
        if source_stamps(self._recipe, self._name) != self._inputs:
            raise KeylmError(f"sources.{self._name}: changed while it was read; build again")

    def entry(self) -> dict[str, Any]:
        """Return the source's manifest entry."""
        return {
            "settings": self._settings,
            **{split: split_entry(self._shards[split]) for split in SPLITS},
            "exhausted": self._progress["exhausted"],
            "files": list(self._files),
            "faults": dict(sorted(self._faults.items())),
        }

    def summary(self) -> str:
        """Return what a person wants to know of the built source."""
        train, validation = (split_entry(self._shards[split]) for split in SPLITS)
        told = f", {self._faults.total()} faults {dict(sorted(self._faults.items()))}" if self._faults else ""
        return (
            f"shards  {self._name}: {train['documents']:,} documents, {train['tokens']:,} tokens"
            f" ({train['bytes'] / max(1, train['tokens']):.2f} bytes each),"
            f" {validation['tokens']:,} held out{told}"
        )

    def _reason(self) -> str:
        """Return what, beside faults, may have left nothing to train on."""
        held_out = sum(record.documents for record in self._shards["validation"])
        if held_out and not self.windows:
            return f": evaluation.holdout keeps all of its {held_out} documents for validation"
        sources = self._recipe.sources
        limits = {self._name: self._source.max_bytes} if self._progress["cut"] else {}
        limits |= {name: sources[name].max_bytes for name in self._source.typos_of if sources[name].max_bytes}
        told = ", ".join(f"sources.{name}.max_bytes = {limit}" for name, limit in limits.items())
        return f": {told} ends it before its first document" if told and not self.text_bytes else ""

    def _saved_progress(self) -> dict[str, Any] | None:
        progress = read_table(self._folder / "source.json")
        if progress.get("fingerprint") != self._fingerprint:
            return None
        records = [record for split in SPLITS for record in progress["shards"][split]]
        with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock
            return progress if all(pool.map(self._is_intact, records)) else None

    def _is_intact(self, record: Mapping[str, Any]) -> bool:
        file = self._folder / record["file"]
        same_size = file.is_file() and file.stat().st_size == record["size"]  # which asks no reading
        return bool(same_size and sha256_file(file) == record["sha256"])

    def _begin_anew(self) -> dict[str, Any]:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "source.json").unlink(missing_ok=True)
        for stale in self._folder.glob("*.safetensors"):
            stale.unlink()
        return {
            "fingerprint": self._fingerprint,
            "shards": {split: [] for split in SPLITS},
            "files": [],
            "faults": {},
            "faults_bytes": 0,
            "text_bytes": 0,
            "documents": 0,
            "exhausted": False,
            "cut": False,
            "state": None,
            "skip": 0,
        }

    def _save(self, progress: dict[str, Any]) -> None:
        assert self._log is not None
        self._progress = {
            **progress,
            "shards": {split: [asdict(record) for record in self._shards[split]] for split in SPLITS},
            "files": list(self._files),
            "faults": dict(self._faults),
            "faults_bytes": self._log.length(),
        }
        write_json(self._folder / "source.json", self._progress)

    def _open(self) -> Iterator[ShardRow]:
        """Return the rows that are left, opening the source where the last recorded shard ended."""
        if self._rows is None:
            self._log = JsonLines(self._folder / "faults.jsonl", self._progress["faults_bytes"])
            records = open_records(self._recipe.sources, self._name, self._progress["state"])
            self._rows = islice(self._encoded(records), self._progress["skip"], None)
        return self._rows

    def _encoded(self, records: Records) -> Iterator[ShardRow]:
        """Yield each record's pieces, with the workers a few batches ahead."""
        pending: deque[tuple[dict[str, Any], Future[Encoded]]] = deque()
        for state, batch in _batches(records):
            pending.append((state, self._workers.submit(self._name, batch)))
            if len(pending) > 2 * self._workers.count:
                yield from self._collect(*pending.popleft())
        while pending:
            yield from self._collect(*pending.popleft())

    def _collect(self, state: dict[str, Any], future: "Future[Encoded]") -> Iterator[ShardRow]:
        encoded = self._workers.result(future)
        pieces = {number: list(group) for number, group in groupby(encoded.split(), lambda item: item[0].record)}
        faults = {number: [fault for _, fault in group] for number, group in groupby(encoded.faults, lambda f: f[0])}
        for number in range(encoded.records):
            yield ShardRow(state, number + 1, pieces.get(number, []), faults.get(number, []))

    def _add(self, row: ShardRow, train: ShardWriter, validation: ShardWriter, progress: dict[str, Any]) -> bool:
        """Pack a record's pieces; return False where `max_bytes` ends the source before them."""
        size = sum(facts.text_bytes for facts, _ in row.pieces)
        if self._source.max_bytes is not None and progress["text_bytes"] + size > self._source.max_bytes:
            return False
        for fault in row.faults:
            self._count(fault)
        for facts, piece in row.pieces:
            file = self._files.setdefault(facts.file, len(self._files))
            writer = validation if facts.held_out else train
            writer.add(piece, file, facts.line, new_document=facts.text_bytes > 0)
            progress["documents"] += facts.text_bytes > 0
        progress["text_bytes"] += size
        return True

    def _count(self, fault: Fault) -> None:
        assert self._log is not None
        self._faults[fault.kind] += 1
        self._log.write({"file": fault.file, "line": fault.line, "kind": fault.kind, "detail": fault.detail})

    def _facts(self, progress: dict[str, Any]) -> str:
        return f"{self._name}: {progress['documents']:,} documents, {progress['text_bytes'] / 1e6:,.1f} MB"


def own_settings(recipe: Recipe, name: str) -> dict[str, Any]:
    """Return what, beside its files and the settings of the whole build, decides what a source's shards hold."""
    source = recipe.sources[name]
    settings = source_settings(source)
    if source.typos_of:
        noise = TypoModel(recipe.typos).fingerprint()
        origins = {origin: source_settings(recipe.sources[origin]) for origin in source.typos_of}
        settings |= {"typos_of": origins, "noise": noise, "seed": recipe.seed}
    return settings


def source_stamps(recipe: Recipe, name: str) -> list[Any]:
    """Return what tells whether a source must be read again: names, sizes and times of all that it reads.

    Raises KeylmError where its files are missing.
    """
    names = recipe.sources[name].typos_of or (name,)
    return [source_inputs(origin, recipe.sources[origin]) for origin in names]


def fingerprint(recipe: Recipe, name: str, settings: Mapping[str, Any], stamps: list[Any] | None = None) -> str:
    """Return the hash of all that a source's shards are made from; `settings` are those of the whole build."""
    shared = {key: value for key, value in settings.items() if key != "seed"}
    return sha256_json([shared, own_settings(recipe, name), stamps or source_stamps(recipe, name)])


def _batches(records: Records) -> Iterator[tuple[dict[str, Any], list[Record]]]:
    """Yield batches of about BATCH_BYTES, each with the reader's state at its beginning."""
    state = records.state()
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += _size(record.content)
        if size >= BATCH_BYTES or len(batch) >= BATCH_RECORDS:
            yield state, batch
            state, batch, size = records.state(), [], 0
    if batch:
        yield state, batch


def _size(content: object) -> int:
    """Return about how many bytes of text a record's content holds."""
    if isinstance(content, bytes | str):
        return len(content)
    if isinstance(content, Document):
        return document_bytes(content)
    return len(json.dumps(content, default=str)) if isinstance(content, dict) else 64
