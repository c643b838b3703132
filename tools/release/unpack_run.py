"""Unpack what tools/release/pack_run.py has packed, after looking at every part's hash.

    python -m tools.release.unpack_run OUT RUN
    python -m tools.release.unpack_run part-00.tar part-01.tar … RUN      # parts.json beside the first

RUN, which may not be there yet, appears whole or not at all. With --arriving the parts may still be on their way
(parts.json first): each is unpacked as soon as it is there, and each file of RUN appears whole, so that `train.py
--arriving` can wait for those that it needs.
"""

import io
import shutil
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import zstandard

from keylm.base.errors import KeylmError
from keylm.base.files import atomic_folder, read_table, sha256_file
from tools.command import run_script, script_parser

PARTS = "parts.json"
BLOCK = 1 << 20
PATIENCE = 120.0
"""Seconds without another part, or in train.py another shard, after which --arriving gives up."""


class Joined(io.RawIOBase):
    """The bytes of several files, one after the other."""

    def __init__(self, files: Iterable[Path]) -> None:
        """Read `files` in this order."""
        self._blocks = self._read_blocks(files)
        self._held = b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as a block reaches; 0 at the end."""
        if not self._held:
            self._held = next(self._blocks, b"")
        taken = self._held[: len(buffer)]
        self._held = self._held[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)

    @staticmethod
    def _read_blocks(files: Iterable[Path]) -> Iterator[bytes]:
        for path in files:
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    yield block


def unpack(parts: Sequence[Path], run: Path) -> None:
    """Unpack into `run`. Raises KeylmError where a part is missing or altered, or `run` is there."""
    if run.exists():
        raise KeylmError(f"{run}: is there already; accepted: a folder that is not")
    files = checked_parts(parts)
    with (
        atomic_folder(run) as folder,
        io.BufferedReader(Joined(files), BLOCK) as stream,
        plain(stream) as unpacked,
        tarfile.open(fileobj=unpacked, mode="r|") as archive,
    ):
        archive.extractall(folder, filter="data")


def unpack_arriving(parts: Path, run: Path, patience: float = PATIENCE) -> None:
    """Unpack the folder `parts` into `run` while it is being filled, each part whole and under its own name at once.

    Raises KeylmError where a part is altered, or nothing arrives for `patience` seconds.
    """
    with (
        io.BufferedReader(Joined(_arriving(parts, patience)), BLOCK) as stream,
        plain(stream) as unpacked,
        tarfile.open(fileobj=unpacked, mode="r|") as archive,
    ):
        for member in archive:
            archive.extract(member, run / ".arriving", filter="data")
            target = run / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            (run / ".arriving" / member.name).replace(target)
    shutil.rmtree(run / ".arriving", ignore_errors=True)


def _arriving(parts: Path, patience: float) -> Iterator[Path]:
    """Yield the parts in order, each once it is there."""
    _wait_for(parts / PARTS, patience)
    for record in read_table(parts / PARTS).get("parts", []):
        file = _wait_for(parts / record["file"], patience)
        _check(file, record)
        yield file


def _wait_for(file: Path, patience: float) -> Path:
    since = time.monotonic()
    while not file.is_file():
        if time.monotonic() - since > patience:
            raise KeylmError(f"{file}: did not arrive within {patience:g} s; accepted: all parts that {PARTS} names")
        time.sleep(min(0.5, patience / 10))
    return file


def _check(file: Path, record: dict[str, Any]) -> None:
    if sha256_file(file) != record["sha256"]:
        raise KeylmError(f"{file}: has not the SHA-256 of {PARTS}; copy it again")


def plain(stream: io.BufferedReader) -> Any:
    """Return a reader of the archive, which may be one Zstandard stream."""
    if stream.peek(4).startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
    return stream


def checked_parts(given: Sequence[Path]) -> list[Path]:
    """Return the parts in order, all of them there and with the hashes of parts.json."""
    files = [file for path in given for file in (sorted(path.glob("part-*.tar")) if path.is_dir() else [path])]
    table = (given[0] if given[0].is_dir() else given[0].parent) / PARTS
    records = read_table(table).get("parts")
    if not records:
        raise KeylmError(f"{table}: missing or damaged; accepted: the {PARTS} that was written with the parts")
    by_name = {file.name: file for file in files}
    for record in records:
        file = by_name.get(record["file"])
        if file is None or not file.is_file():
            raise KeylmError(f"{record['file']}: is missing; {PARTS} names {len(records)} parts")
        _check(file, record)
    return [by_name[record["file"]] for record in records]


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("parts", type=Path, nargs="+", help="the folder of the parts, or the parts")
    parser.add_argument("run", type=Path)
    parser.add_argument("--arriving", action="store_true", help="PARTS is a folder that is still being filled")
    arguments = parser.parse_args()
    if arguments.arriving:
        unpack_arriving(arguments.parts[0], arguments.run)
    else:
        unpack(arguments.parts, arguments.run)


if __name__ == "__main__":
    run_script(main)
