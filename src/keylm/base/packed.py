"""Files of lines, plain or packed with gzip or zstandard: their bytes as one stream, and JSON lines that must be whole.

Invariant: an archive that is cut short or damaged raises one of UNPACKING; it is never taken for a shorter file.
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from keylm.base.files import DamagedFile, parse_json

CHUNK_BYTES = 1 << 16
"""Bytes that are read in one go."""
PACKED_BYTES = 1 << 10
"""Bytes of a zstandard file that are unpacked in one go: to 32 MB at most (a block has 4 bytes and gives 128 KB)."""
UNPACKING = (OSError, EOFError, zlib.error, zstandard.ZstdError)
"""What reading a packed file raises that is damaged, cut short or not what its name says."""


def open_packed(file: Path) -> IO[bytes]:
    """Open a plain, gzip (.gz) or zstandard (.zst) file for reading its unpacked bytes; reading raises UNPACKING."""
    if file.name.lower().endswith(".zst"):
        return cast(IO[bytes], io.BufferedReader(ZstdReader(file), CHUNK_BYTES))
    if file.name.lower().endswith(".gz"):
        return cast(IO[bytes], gzip.open(file, "rb"))
    return file.open("rb")


def json_rows(file: Path, accepted: str) -> Iterator[tuple[str, Any]]:
    """Yield (place, value) of each line of a JSON-lines file that is of use only as a whole; place: file and line.

    Raises DamagedFile where it cannot be opened or unpacked to its end, and at the first line that is no JSON in UTF-8;
    the message says what is `accepted`.
    """
    place = str(file)
    try:
        with open_packed(file) as stream:
            for number, line in enumerate(stream, 1):
                place = f"{file}, line {number}"
                yield place, parse_json(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)
    except (*UNPACKING, ValueError) as error:
        raise DamagedFile(f"{place}: cannot be read: {error}; accepted: {accepted}") from None


class ZstdReader(io.RawIOBase):
    """A zstandard file as one stream; one cut short raises EOFError, where the library's own reader just ends."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("rb")
        self._frame: Any = None
        self._ready = memoryview(b"")  # a part of it is no copy

    def readable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as one piece goes; return how many bytes that is. Raises EOFError, ZstdError."""
        while not self._ready:
            ended = self._frame is None or self._frame.eof
            left = self._frame.unused_data if self._frame is not None and ended else b""
            packed = left or self._file.read(PACKED_BYTES)
            if not packed and ended:
                return 0
            if not packed:
                raise EOFError("ends in the middle of a zstandard frame")
            if ended:
                self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            self._ready = memoryview(self._frame.decompress(packed))
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size
