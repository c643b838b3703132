"""Unpack what tools/release/pack_run.py has packed, after looking at every part's hash.

    python -m tools.release.unpack_run OUT RUN
    python -m tools.release.unpack_run part-00.tar part-01.tar … RUN      # parts.json beside the first

RUN, which may not be there yet, appears whole or not at all.
"""

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import zstandard

from keylm.base.errors import KeylmError
from keylm.base.files import atomic_folder, read_table, sha256_file
from tools.command import run_script, script_parser

PARTS = "parts.json"
BLOCK = 1 << 20


class Joined(io.RawIOBase):
    """The bytes of several files, one after the other."""

    def __init__(self, files: Sequence[Path]) -> None:
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
    def _read_blocks(files: Sequence[Path]) -> Iterator[bytes]:
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
        if sha256_file(file) != record["sha256"]:
            raise KeylmError(f"{file}: has not the SHA-256 of {PARTS}; copy it again")
    return [by_name[record["file"]] for record in records]


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("parts", type=Path, nargs="+", help="the folder of the parts, or the parts")
    parser.add_argument("run", type=Path)
    arguments = parser.parse_args()
    unpack(arguments.parts, arguments.run)


if __name__ == "__main__":
    run_script(main)
