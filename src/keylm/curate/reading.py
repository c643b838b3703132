# mypy: disable-error-code="misc, import-untyped"
"""What a task of curation reads: its part of a source, or what the first stage kept of that.

Invariants: a rank is one part of one source, in the recipe's order, however many workers there are, and what it reads
depends on that alone. What is missing or cut short stops the task; it is never taken for "nothing was kept".
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import zstandard
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from keylm.base.errors import KeylmError
from keylm.base.files import write_json
from keylm.curate.tally import Tally
from keylm.data.documents import Document as Read
from keylm.data.documents import Fault
from keylm.data.sources import read_source
from keylm.recipe.schema import Source

BLOCK_BYTES = 1 << 20
"""Text that goes to one part of a source before the next part's turn comes."""


@dataclass(frozen=True)
class Unit:
    """What one task reads: part `part` of `parts` of a source, or of one `file` of a folder."""

    name: str
    source: Source
    number: int
    """the unit's place among its source's units"""
    part: int = 0
    parts: int = 1
    file: str | None = None
    """what the source calls its file, where the unit is one file of a folder"""


class SourceReader(PipelineStep):
    """Reads a unit through keylm's readers; faults are counted and written down once, by the unit of part 0."""

    type, name = "READER", "source"

    def __init__(self, units: list[Unit], tallies: Path, faults: Path) -> None:
        super().__init__()
        self._units, self._tallies, self._faults = units, tallies, faults

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents of the unit `rank`: text, or the contents of messages joined by blank lines."""
        unit = self._units[rank]
        tally = Tally()
        read = taken = 0
        for item in self._without_faults(unit, rank, tally):
            mine = read // BLOCK_BYTES % unit.parts == unit.part
            messages = list(item.messages)
            text = item.text if item.text is not None else joined(messages)
            size = len(text.encode()) - max(0, 2 * (len(messages) - 1))
            read += size
            if not mine:
                continue
            tally.take(size)
            origin = [unit.file or item.file, item.line]
            facts = {"source": unit.name, "part": f"{unit.number:05d}", "origin": origin, "bytes": size}
            taken += 1
            yield Document(text, f"{rank}/{taken}", metadata=facts | ({"messages": messages} if messages else {}))
        write_json(self._tallies / f"{rank:05d}-read.json", tally.plain())

    def _without_faults(self, unit: Unit, rank: int, tally: Tally) -> Iterator[Read]:
        """Yield what was read of a unit; write its faults to the rank's file, a line each, if they are its own."""
        self._faults.mkdir(parents=True, exist_ok=True)
        with (self._faults / f"{rank:05d}.jsonl").open("wb") as written:
            for item in read_source(unit.name, unit.source):
                if not isinstance(item, Fault):
                    yield item
                elif unit.part == 0:
                    file = unit.file or item.file
                    tally.drop(file, item.line, 0, item.kind, "", f"{item.kind}: {item.detail}")
                    facts = {"source": unit.name, "file": file, "line": item.line}
                    written.write(orjson.dumps({**facts, "kind": item.kind, "detail": item.detail}) + b"\n")


def joined(messages: list[dict[str, str]]) -> str:
    """Return a conversation as the text that filters judge."""
    return "\n\n".join(turn["content"] for turn in messages)


class CleanReader(PipelineStep):
    """Reads what the first stage kept of a unit."""

    type, name = "READER", "kept by the first stage"

    def __init__(self, folder: Path, hashes: Path) -> None:
        super().__init__()
        self._folder, self._hashes = folder, hashes

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents of the unit `rank`, in order. Raises KeylmError where they are not all there."""
        file = self._folder / f"{rank:05d}.jsonl.zst"
        # datatrove makes no file where there is nothing to write; hashes are written of every unit.
        kept = len(stored_hashes(self._hashes, rank))
        if not kept:
            return
        if not file.exists():
            raise KeylmError(f"curation: {file} is gone; delete {self._folder.parent} and start again")
        with zstandard.open(file, "rb") as stream:
            for line in io.BufferedReader(stream, 1 << 20):
                record = orjson.loads(line)
                kept -= 1
                yield Document(record["text"], record["id"], metadata=record["metadata"])
        if kept:
            raise KeylmError(f"curation: {file} is damaged; delete {self._folder.parent} and start again")


def stored_hashes(folder: Path, rank: int) -> npt.NDArray[np.uint64]:
    """Return the hashes of what the first stage kept of a unit. Raises KeylmError where they are not there."""
    try:
        hashes: npt.NDArray[np.uint64] = np.load(folder / f"{rank:05d}.npy")
    except FileNotFoundError as error:
        raise KeylmError(f"curation: {error.filename} is gone; delete {folder.parent} and start again") from None
    return hashes
