"""Pack a run's curated data and tokenizer into a few files, to train on them on another machine.

    python -m tools.release.pack_run RUN OUT [--part-bytes 50_000_000] [--level 19]
    python -m tools.release.unpack_run OUT RUN_THERE

Packs RUN/recipe.toml, stages.json, tokenizer/, curated/ and the typo word lists that the recipe names (as
word_lists/), as one tar cut by bytes into OUT/part-00.tar, part-01.tar, …; OUT/parts.json has the SHA-256 of each.
Without tools/release/unpack_run.py: cat OUT/part-*.tar | tar x.

Zstandard files under curated/ are compressed anew (`--level`, long-distance matching) where that makes them smaller;
--level 0 leaves them. Level 19 took 12 % off two files of the hour recipe, at 5.5 CPU-seconds a megabyte of the file.
They hold the same documents, but their bytes are others than curated/report.json has hashes of, so what is unpacked
serves tools/studies/training_grid.py and tools/studies/ablation.py; `keylm data build` of the recipe itself, which also
looks at the files that were curated, would curate anew.
"""

import hashlib
import io
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import zstandard

from keylm.base.files import atomic_path, write_json
from keylm.recipe.run_folder import RunFolder
from tools.command import run_script, script_parser

PARTS = "parts.json"
PART_BYTES = 50_000_000
LEVEL = 19
WINDOW_LOG = 27
"""Of long-distance matching: 128 MiB, the most that readers accept without an option."""


class Parts(io.RawIOBase):
    """Takes a stream of bytes and writes it as numbered files of at most `limit` bytes."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Write into `folder`."""
        self._folder, self._limit = folder, limit
        self._held = bytearray()
        self.records: list[dict[str, Any]] = []
        """of each part: file, size in bytes, SHA-256"""

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Take bytes; whole parts go to the disk."""
        self._held += data
        while len(self._held) >= self._limit:
            self._put(self._limit)
        return len(data)

    def finish(self) -> None:
        """Write what is left."""
        if self._held:
            self._put(len(self._held))

    def _put(self, size: int) -> None:
        content = bytes(self._held[:size])
        del self._held[:size]
        name = f"part-{len(self.records):02}.tar"
        with atomic_path(self._folder / name) as temporary:
            temporary.write_bytes(content)
        self.records.append({"file": name, "bytes": size, "sha256": hashlib.sha256(content).hexdigest()})


def pack(run: Path, out: Path, *, part_bytes: int = PART_BYTES, level: int = LEVEL) -> dict[str, Any]:
    """Pack the run folder and return what parts.json says. Raises KeylmError where `run` is none."""
    parts, before = _fresh_parts(out, part_bytes), 0
    with tarfile.open(fileobj=parts, mode="w|", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        files = list(packed_files(run))
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # zstandard lets other threads run
            contents = pool.map(lambda each: packed_content(*each, level), files)
            for (name, file), content in zip(files, contents, strict=True):
                before += file.stat().st_size
                archive.addfile(entry(name, len(content), file), io.BytesIO(content))
    return _finish(parts, out, before)


def _fresh_parts(out: Path, part_bytes: int) -> Parts:
    out.mkdir(parents=True, exist_ok=True)
    for old in (out / PARTS, *out.glob("part-*.tar")):
        old.unlink(missing_ok=True)
    return Parts(out, part_bytes)


def _finish(parts: Parts, out: Path, before: int) -> dict[str, Any]:
    parts.finish()
    found = {"bytes": sum(part["bytes"] for part in parts.records), "parts": parts.records}
    write_json(out / PARTS, found)  # last: without it nothing is unpacked
    print(f"{before:,} bytes of files, packed as {found['bytes']:,}, in {len(parts.records)} parts", file=sys.stderr)
    return found


def pack_build(run: Path, out: Path, *, part_bytes: int = PART_BYTES) -> dict[str, Any]:
    """Pack a finished build (shards and tokenizer, instructions/ where it is there) for training elsewhere, likewise.

    `shards` is then a published build (`data.shards` of a recipe). All of it is one Zstandard stream.
    """
    folder = RunFolder(run)
    places = {"shards": folder.shards, "shards/tokenizer": folder.tokenizer, "instructions": run / "instructions"}
    files = [
        (f"{name}/{file.relative_to(place).as_posix()}", file)
        for name, place in places.items()
        for file in sorted(place.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(run).parts)
    ]
    return pack_files([("recipe.toml", folder.recipe), *files], out, part_bytes=part_bytes)


KEPT = ("recipe.toml", "metrics.jsonl", "timing.jsonl", "summary.json", "samples.json", "reached.json")
"""Of a run, beside its model and evaluation, what its report and a release are made from."""


def pack_result(
    run: Path, out: Path, folders: Sequence[str] = ("model",), *, part_bytes: int = PART_BYTES
) -> dict[str, Any]:
    """Pack what a run has come to, likewise: its records and these folders of it, as far as they are there."""
    places = [run / name for name in (*KEPT, *folders)]
    inside = [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*")))]
    files = [(file.relative_to(run).as_posix(), file) for file in inside if file.is_file()]
    return pack_files(files, out, part_bytes=part_bytes)


def pack_files(files: Sequence[tuple[str, Path]], out: Path, *, part_bytes: int) -> dict[str, Any]:
    """Pack files under their names as one Zstandard stream, cut by bytes; return what parts.json says."""
    parts = _fresh_parts(out, part_bytes)
    compressor = zstandard.ZstdCompressor(level=3, threads=-1)
    with (
        compressor.stream_writer(parts, closefd=False) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive,  # type: ignore[call-overload]
    ):
        for name, file in files:
            archive.addfile(entry(name, file.stat().st_size, file), io.BytesIO(file.read_bytes()))
    return _finish(parts, out, sum(file.stat().st_size for _, file in files))


def packed_files(run: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name in the archive and the file of everything that is packed, in a fixed order."""
    folder = RunFolder(run)
    recipe = folder.saved_recipe()
    single = [folder.recipe, run / "stages.json"]
    inside = [file for place in (folder.tokenizer, folder.curated) for file in sorted(place.rglob("*"))]
    for file in (*single, *inside):
        name = file.relative_to(run).as_posix()
        if file.is_file() and not any(part.startswith(".") for part in Path(name).parts):
            yield name, file
    for text in recipe.typos.word_lists:
        yield f"word_lists/{Path(text).name}", Path(text)


def packed_content(name: str, file: Path, level: int) -> bytes:
    """Return what stands in the archive under `name`."""
    content = file.read_bytes()
    return smaller(content, level) if level and name.startswith("curated/") else content


def smaller(content: bytes, level: int) -> bytes:
    """Return a Zstandard file compressed anew, where that is smaller; anything else as it is."""
    if not content.startswith(b"\x28\xb5\x2f\xfd"):
        return content
    with zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True) as reader:
        plain = reader.read()
    settings = zstandard.ZstdCompressionParameters.from_level(
        level, source_size=len(plain), window_log=WINDOW_LOG, enable_ldm=True, write_checksum=True
    )
    packed = zstandard.ZstdCompressor(compression_params=settings).compress(plain)
    return min(content, packed, key=len)


def entry(name: str, size: int, file: Path) -> tarfile.TarInfo:
    """Return the archive's entry of a file: its name, size and time, and nobody's ownership."""
    found = tarfile.TarInfo(name)
    found.size, found.mtime, found.mode = size, int(file.stat().st_mtime), 0o644
    return found


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--part-bytes", type=int, default=PART_BYTES, help="the most that a part has")
    parser.add_argument("--level", type=int, default=LEVEL, help="of Zstandard; 0 leaves files as they are")
    arguments = parser.parse_args()
    pack(arguments.run, arguments.out, part_bytes=arguments.part_bytes, level=arguments.level)


if __name__ == "__main__":
    run_script(main)
