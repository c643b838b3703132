"""One source's shards: read, encoded by the workers, packed, and recorded shard by shard.

Invariants: `source.json` names only shards that are complete on disk, and where the next one begins; a build that
was killed resumes there and leaves the same bytes as one that was not.
"""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from keylm.base.errors import KeylmError
from keylm.base.files import sha256_file, sweep, write_json
from keylm.base.json_lines import JsonLines
from keylm.data.documents import Document, Fault, Record, document_bytes
from keylm.data.encode import Encoded, PieceFacts
from keylm.data.manifest import (
    SPLITS,
    BuildProgress,
    BuildSettings,
    ShardRecord,
    SourceRecord,
    Split,
    SplitRecord,
    read_progress,
)
from keylm.data.pieces import Piece
from keylm.data.provenance import BYTES_PER_TOKEN, DataProvenance, source_stamps
from keylm.data.shards import ShardWriter
from keylm.data.sources import Records, open_records
from keylm.data.workers import Workers
from keylm.recipe.load import Recipe

BATCH_BYTES = 1 << 20
"""Text that a worker encodes in one go, about."""
BATCH_RECORDS = 4096

Report = Callable[[int, str], None]
"""Called with the bytes of text read so far, and facts for a person."""


class ShardRow(NamedTuple):
    """One encoded record, and the position of the next one."""

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
        provenance: DataProvenance,
        settings: BuildSettings,
        byte_lengths: npt.NDArray[np.int64],
        workers: Workers,
    ) -> None:
        """Continue an earlier build in `folder`. byte_lengths: int64 [vocabulary], bytes of text a token stands for."""
        self._recipe, self._name, self._folder, self._workers = recipe, name, folder, workers
        self._source = recipe.sources[name]
        self._context = recipe.training.context
        self._capacity = max(1, recipe.data.shard_tokens // self._context) * self._context
        self._lengths, self._provenance = byte_lengths, provenance.sources[name]
        sweep(folder)
        fingerprint = provenance.fingerprint(name, settings)
        self._progress = self._saved_progress(fingerprint) or self._start_anew(fingerprint)
        self._files = {file: number for number, file in enumerate(self._progress.files)}
        self._faults = Counter(self._progress.faults)
        self._shards: dict[Split, list[ShardRecord]] = {split: list(self._progress.shards[split]) for split in SPLITS}
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
        state = self._progress.state or {}
        found = state.get("revisions") or {self._name: state.get("revision")}
        return {name: revision for name, revision in found.items() if revision}

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of the documents that are built."""
        return self._progress.text_bytes

    def is_done(self, windows: int) -> bool:
        """Return whether `windows` windows are built, or as many as there are."""
        return self._progress.exhausted or (self.windows >= windows and self.shards > 0)

    def expected_bytes(self, windows: int, available: int | None) -> int:
        """Return about how many bytes of text it takes to build `windows` windows, in whole shards.

        `available`: bytes that the source has, None where nobody knows. A token is taken for as many bytes as in the
        shards that are built.
        """
        if self.is_done(windows):
            return self.text_bytes
        each = self.text_bytes / self.windows if self.windows else BYTES_PER_TOKEN * self._context
        per_shard = self._capacity // self._context
        needed = int(each * per_shard * max(1, -(-windows // per_shard)))
        return needed if available is None else min(needed, available)

    def build_shard(self, report: Report) -> None:
        """Build the next shard and record it. Raises KeylmError where the source gives nothing to train on."""
        rows = self._open()
        train, validation = ShardWriter(self._context), ShardWriter(self._context)
        progress = self._progress.model_copy(update={"exhausted": True})  # kept only if the shard gets done
        for row in rows:
            size = sum(facts.text_bytes for facts, _ in row.pieces)
            if self._source.max_bytes is not None and progress.text_bytes + size > self._source.max_bytes:
                progress.cut = True
                break
            self._add(row, train, validation)
            progress.text_bytes += size
            progress.documents += sum(facts.text_bytes > 0 for facts, _ in row.pieces)
            progress.state, progress.skip = row.state, row.skip
            facts = f"{self._name}: {progress.documents:,} documents, {progress.text_bytes / 1e6:,.1f} MB"
            report(progress.text_bytes - self.text_bytes, facts)
            if train.size >= self._capacity:
                progress.exhausted = False
                break
        number = self.shards  # of both, so that a validation shard shows with which training shard it came
        for split, writer in zip(SPLITS, (train, validation), strict=True):
            if writer.size:
                path = self._folder / f"{split}-{number:05d}.safetensors"
                self._shards[split].append(writer.close(path, self._lengths))
        self._save(progress)

    def finish(self) -> None:
        """Close the source."""
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
        """Raise KeylmError where what the source reads is no longer what it was when the provenance was computed.

        Its shards may then be of either, and the manifest would promise what nobody can build again.
        """
        names = self._source.typos_of or (self._name,)
        if [source_stamps(name, self._recipe.sources[name]) for name in names] != self._provenance.stamps:
            raise KeylmError(f"sources.{self._name}: changed while it was read; build again")

    def record(self) -> SourceRecord:
        """Return what the manifest says of the source."""
        return SourceRecord(
            settings=self._provenance.settings,
            train=SplitRecord.of(self._shards["train"]),
            validation=SplitRecord.of(self._shards["validation"]),
            exhausted=self._progress.exhausted,
            files=list(self._files),
            faults=dict(sorted(self._faults.items())),
        )

    def summary(self) -> str:
        """Return what a person wants to know of the built source."""
        record = self.record()
        train, validation = record.train, record.validation
        faults = f", {self._faults.total()} faults {record.faults}" if self._faults else ""
        return (
            f"shards  {self._name}: {train.documents:,} documents, {train.tokens:,} tokens"
            f" ({train.bytes / max(1, train.tokens):.2f} bytes each),"
            f" {validation.tokens:,} held out{faults}"
        )

    def _reason(self) -> str:
        """Return what, besides faults, may have left nothing to train on."""
        held_out = sum(record.documents for record in self._shards["validation"])
        if held_out and not self.windows:
            return f": evaluation.holdout keeps all of its {held_out} documents for validation"
        sources = self._recipe.sources
        limits = {self._name: self._source.max_bytes} if self._progress.cut else {}
        limits |= {name: sources[name].max_bytes for name in self._source.typos_of if sources[name].max_bytes}
        cause = ", ".join(f"sources.{name}.max_bytes = {limit}" for name, limit in limits.items())
        return f": {cause} ends it before its first document" if cause and not self.text_bytes else ""

    def _saved_progress(self, fingerprint: str) -> BuildProgress | None:
        progress = read_progress(self._folder)
        if progress is None or progress.fingerprint != fingerprint or not self._has_faults(progress):
            return None
        records = [record for split in SPLITS for record in progress.shards[split]]
        with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock
            return progress if all(pool.map(self._is_intact, records)) else None

    def _has_faults(self, progress: BuildProgress) -> bool:
        """Return whether faults.jsonl still begins with what was written of the shards that are built."""
        file = self._folder / "faults.jsonl"
        if not file.is_file():
            return not progress.faults_bytes
        with file.open("rb") as log:
            content = log.read(progress.faults_bytes)
        return len(content) == progress.faults_bytes and progress.faults_sha256 in (
            None,
            hashlib.sha256(content).hexdigest(),
        )

    def _is_intact(self, record: ShardRecord) -> bool:
        file = self._folder / record.file
        same_size = file.is_file() and file.stat().st_size == record.size  # which needs no reading
        return same_size and sha256_file(file) == record.sha256

    def _start_anew(self, fingerprint: str) -> BuildProgress:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "source.json").unlink(missing_ok=True)
        for stale in self._folder.glob("*.safetensors"):
            stale.unlink()
        return BuildProgress(fingerprint=fingerprint, shards={split: [] for split in SPLITS})

    def _save(self, progress: BuildProgress) -> None:
        assert self._log is not None
        progress.shards = {split: list(self._shards[split]) for split in SPLITS}
        progress.files, progress.faults = list(self._files), dict(self._faults)
        progress.faults_bytes, progress.faults_sha256 = self._log.length(), self._log.sha256()
        self._progress = progress
        write_json(self._folder / "source.json", self._progress.model_dump())

    def _open(self) -> Iterator[ShardRow]:
        """Return the rows that are left, opening the source where the last recorded shard ended."""
        if self._rows is None:
            self._log = JsonLines(self._folder / "faults.jsonl", self._progress.faults_bytes)
            records = open_records(self._recipe.sources, self._name, self._progress.state)
            self._rows = islice(self._encoded(records), self._progress.skip, None)
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

    def _add(self, row: ShardRow, train: ShardWriter, validation: ShardWriter) -> None:
        """Pack a record's pieces, and log what was rejected."""
        assert self._log is not None
        for fault in row.faults:
            self._faults[fault.kind] += 1
            self._log.write({"file": fault.file, "line": fault.line, "kind": fault.kind, "detail": fault.detail})
        for facts, piece in row.pieces:
            file = self._files.setdefault(facts.file, len(self._files))
            writer = validation if facts.held_out else train
            writer.add(piece, file, facts.line, new_document=facts.text_bytes > 0)


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
