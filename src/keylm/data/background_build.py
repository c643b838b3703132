"""Training that begins before all shards exist: they are still being built, or fetched as they are needed.

Invariants: a batch is the same as with all shards present; the disk holds no more fetched shards than the recipe
allows, but for those in use; a build in the background ends with the process that began it.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import fsspec

from keylm.base.console import say
from keylm.base.errors import KeylmError
from keylm.base.files import atomic_path, atomic_write, sha256_file
from keylm.data.build import build_shards, discard_stale
from keylm.data.curriculum import Curriculum, fixed
from keylm.data.manifest import BuildProgress, ShardManifest, ShardRecord, load_manifest, read_manifest, read_progress
from keylm.data.provenance import DataProvenance
from keylm.data.store import FIRST_HELD_OUT, ShardStore, SourceShards, check_shard, finished_store, shards_of
from keylm.data.workers import exit_with
from keylm.recipe.load import Recipe

POLL_SECONDS = 0.1
TRIES = 5
"""Attempts to fetch a shard, with 1, 2, 4 … seconds between them."""
FAILED = "failed.txt"
"""Why the background build failed, in words."""
KILLED = "the build of the shards was killed; the same command goes on from what is built"


class GrowingShards:
    """Shards that another process is building; it records each in its source's source.json."""

    fix = "start the same command again, which builds it anew"

    def __init__(self, folder: Path, build: "BackgroundBuild | None") -> None:
        """Read from `folder`; `build` is the one that this process started, if it did."""
        self._folder, self._build = folder, build
        self._progress: dict[str, BuildProgress] = {}
        self._announced = False

    def shards(self, source: str, shard: int) -> SourceShards:
        """Return a source's shards as soon as training shard `shard` is among them, or the source has fewer."""
        while not self._has(source, shard):
            if progress := read_progress(self._folder / source):
                self._progress[source] = progress
            if not self._has(source, shard):
                self._wait(source, shard)
        known = self._progress[source]
        return SourceShards(known.shards["train"], known.shards["validation"], known.files)

    def file(self, source: str, record: ShardRecord) -> Path:
        """Return the file of a shard; it was there before it was recorded."""
        return self._folder / source / record.file

    def expect(self, step: int) -> None:
        """Do nothing: the build knows the order."""

    def _has(self, source: str, shard: int) -> bool:
        known = self._progress.get(source)
        shards = len(known.shards["train"]) if known else 0
        return shards > shard or (shards > 0 and known is not None and known.exhausted)

    def _wait(self, source: str, shard: int) -> None:
        if not self._announced:
            say(f"train  waiting for shard {shard} of {source} to be built")
            self._announced = True
        gone = self._build is not None and not self._build.is_alive()
        failed = self._folder / FAILED
        if failed.is_file():
            raise KeylmError(failed.read_text(encoding="utf-8"))
        if self._build is not None and gone and not (self._folder / "manifest.json").is_file():
            raise KeylmError(self._build.failure())
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class PendingBuild:
    """A build of shards that is left to do; the fields are the arguments of `build_shards`."""

    recipe: Recipe
    provenance: DataProvenance
    tokenizer: Path
    folder: Path
    workers: int | None

    def clear(self) -> None:
        """Delete what an earlier build left that this one does not reuse; call it before anyone reads there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / FAILED).unlink(missing_ok=True)
        discard_stale(self.recipe, self.provenance, self.tokenizer, self.folder)

    def run(self, *, quiet: bool) -> ShardManifest:
        """Build the shards and return their manifest. Raises KeylmError as `build_shards` does."""
        arguments = (self.recipe, self.provenance, self.tokenizer, self.folder)
        return build_shards(*arguments, workers=self.workers, quiet=quiet)


class BackgroundBuild:
    """The build of a recipe's shards in a process of its own."""

    def __init__(self, pending: PendingBuild) -> None:
        """Start it."""
        context = multiprocessing.get_context("spawn")
        self._reason: str | None = None
        self._reasons, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_build, args=(pending, os.getpid(), sender))
        self._process.start()
        sender.close()

    def is_alive(self) -> bool:
        """Return whether it is still at work."""
        return self._process.is_alive()

    def stop(self) -> None:
        """End it; what it has built stays."""
        self._process.terminate()
        self._process.join()

    def wait(self) -> None:
        """Wait until all is built. Raises KeylmError where it could not be."""
        self._process.join()
        if self._process.exitcode:
            raise KeylmError(self.failure())

    def failure(self) -> str:
        """Return in words why it ended before all was built."""
        with contextlib.suppress(EOFError, OSError):  # a build that was killed says nothing
            if self._reason is None and self._reasons.poll():
                self._reason = str(self._reasons.recv())
        return self._reason or KILLED


def _build(pending: PendingBuild, parent: int, reasons: Connection) -> None:
    """Build the shards; the body of the process in the background. Whatever ends it, the parent gets the reason."""
    exit_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, which then ends this process
    try:
        pending.run(quiet=True)
    except Exception as error:
        reason = _words(error)
        with contextlib.suppress(OSError):
            reasons.send(reason)  # first, as a full disk takes no file
            atomic_write(pending.folder / FAILED, reason)  # for torchrun's other processes
        raise SystemExit(2) from None


def _words(error: Exception) -> str:
    """Return what an error says, and of one that nobody expected its kind and place too."""
    if isinstance(error, KeylmError | OSError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return f"the build of the shards failed: {type(error).__name__}: {error} ({where})"


@contextlib.contextmanager
def background_build(pending: PendingBuild | None) -> Iterator[BackgroundBuild | None]:
    """Build in the background while the body runs, and stop where the body fails; do nothing for None."""
    if pending is None:
        yield None
        return
    build = BackgroundBuild(pending)
    try:
        yield build
        build.wait()
    except BaseException:
        build.stop()
        raise


class FetchedShards:
    """The shards of a published build, fetched in the order in which training needs them, and deleted after use."""

    fix = "delete it, and the same command fetches it again"

    def __init__(self, recipe: Recipe, folder: Path, *, fetches: bool = True) -> None:
        """Keep shards of `recipe.data.shards` in the `folder` of their manifest; one process `fetches` for all."""
        self._folder, self._base = folder, str(recipe.data.shards).rstrip("/")
        self._allowed = recipe.data.cache_bytes
        self.manifest = read_manifest(folder)
        shards = {
            name: [record.windows for record in source.train.shards] for name, source in self.manifest.sources.items()
        }
        self._curriculum = Curriculum(recipe, fixed(shards))
        self._pinned = {folder / name / FIRST_HELD_OUT for name in recipe.used_sources}
        self._step = 0
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        if fetches:
            threading.Thread(target=self._work, daemon=True).start()

    def shards(self, source: str, shard: int) -> SourceShards:
        """Return a source's shards, whether they are fetched or not."""
        return shards_of(self.manifest, source)

    def file(self, source: str, record: ShardRecord) -> Path:
        """Return the file of a shard as soon as it is fetched. Raises KeylmError where that fails."""
        path = self._folder / source / record.file
        while not path.is_file():
            if self._error is not None:
                raise KeylmError(str(self._error))
            time.sleep(POLL_SECONDS)
        return path

    def expect(self, step: int) -> None:
        """Note that training has reached `step`: shards used up may go, those to come may be fetched."""
        with self._changed:
            self._step = step
            self._changed.notify()

    def _work(self) -> None:
        """Fetch what is needed next, for as long as the process lives."""
        try:
            for path in sorted(self._pinned):
                self._fetch(path)
            while True:
                step = self._step
                wanted = self._wanted(step)
                missing = [path for path in wanted if not path.is_file()]
                if missing:
                    self._make_room(wanted)
                    self._fetch(missing[0])
                    continue
                with self._changed:
                    if self._step == step:
                        self._changed.wait(timeout=1.0)
        except BaseException as error:  # raised again where a shard is waited for
            self._error = error

    def _wanted(self, step: int) -> list[Path]:
        """Return the files needed next, in order: those in use at `step`, and as many more as the disk may hold."""
        wanted: dict[Path, None] = {}
        size = 0
        for needed, source, shard in self._curriculum.upcoming(min(step, self._curriculum.total_steps - 1)):
            path = self._folder / source / self.manifest.sources[source].train.shards[shard].file
            if path in wanted:
                continue
            record = self._record(path)
            size += record.size if record else 0
            if needed > step and size > self._allowed:
                break
            wanted[path] = None
        return list(wanted)

    def _make_room(self, wanted: list[Path]) -> None:
        """Delete fetched shards that are not among the next ones."""
        keep = {*wanted, *self._pinned}
        for file in self._folder.glob("*/*.safetensors"):
            if file not in keep:
                file.unlink()

    def _record(self, path: Path) -> ShardRecord | None:
        source = self.manifest.sources[path.parent.name]
        records = (*source.train.shards, *source.validation.shards)
        return next((record for record in records if record.file == path.name), None)

    def _fetch(self, path: Path) -> None:
        """Fetch one shard, unless the source has none of that name. Raises KeylmError."""
        record = self._record(path)
        if record is None or path.is_file():
            return
        with atomic_path(path) as temporary:
            url = f"{self._base}/{path.parent.name}/{path.name}"
            fetch(url, temporary)
            try:
                check_shard(temporary, record.sha256, "")
            except KeylmError:
                raise KeylmError(
                    _damaged(url, f"the manifest says SHA-256 {record.sha256[:16]}…, but it has another")
                ) from None


def fetch(url: str, path: Path) -> None:
    """Copy a file from anything fsspec opens (a path, https://, hf://, s3://). Raises KeylmError after TRIES."""
    for attempt in range(TRIES):
        try:
            with fsspec.open(url, "rb") as source, path.open("wb") as target:
                while block := source.read(1 << 22):
                    target.write(block)
            return
        except (FileNotFoundError, PermissionError, ImportError, ValueError) as error:
            raise KeylmError(f"data.shards: {url} cannot be fetched: {error}") from None
        except OSError as error:
            if error.filename == str(path) or attempt == TRIES - 1:
                raise KeylmError(f"data.shards: {url} cannot be fetched: {error}") from None
            time.sleep(2**attempt)


def fetch_manifest(base: str, folder: Path, tokenizer: Path, *, keep: bool) -> ShardManifest:
    """Fetch the manifest and the tokenizer of a published build; `keep` those already fetched, if they are sound.

    Raises KeylmError where they cannot be had, or are damaged there; what is damaged is not kept.
    """
    base = base.rstrip("/")
    manifest = _sound_manifest(folder) if keep else None
    if manifest is None:
        url = f"{base}/manifest.json"
        with atomic_path(folder / "manifest.json") as temporary:
            fetch(url, temporary)
            manifest = load_manifest(temporary, f"data.shards: {url}", PUBLISHED)
    path, url, digest = tokenizer / "tokenizer.json", f"{base}/tokenizer/tokenizer.json", manifest.tokenizer_sha256
    if not path.is_file() or sha256_file(path) != digest:
        with atomic_path(path) as temporary:
            fetch(url, temporary)
            if sha256_file(temporary) != digest:
                raise KeylmError(_damaged(url, "it is not the tokenizer that the manifest names by its SHA-256"))
    return manifest


PUBLISHED = "it is the published build that is damaged (or no build lies there): look at the address, or tell its owner"


def _damaged(url: str, what: str) -> str:
    return f"data.shards: {url}: {what}; {PUBLISHED}"


def _sound_manifest(folder: Path) -> ShardManifest | None:
    """Return the manifest in `folder`, None where there is none that can be used."""
    try:
        return read_manifest(folder)
    except KeylmError:
        return None


def open_store(
    recipe: Recipe, folder: Path, tokenizer: Path, *, reads_all: bool, build: BackgroundBuild | None = None
) -> ShardStore:
    """Return the store that training reads from: `folder`'s finished, growing or fetched shards.

    `reads_all` is true in one process a machine, which verifies the shards (or fetches them) for the others.
    Shards that are not complete yet are verified one by one, as they are opened, in each process.
    Raises KeylmError where finished shards are not sound or were made with another tokenizer.
    """
    context, finished = recipe.training.context, folder / "manifest.json"
    if finished.is_file() and read_manifest(folder).tokenizer_sha256 != sha256_file(tokenizer / "tokenizer.json"):
        raise KeylmError(f"{folder}: the shards were made with another tokenizer; build them again")
    if recipe.data.shards is not None:
        return ShardStore(FetchedShards(recipe, folder, fetches=reads_all), context, verify=True)
    if build is not None or not finished.is_file():
        return ShardStore(GrowingShards(folder, build), context, verify=True)
    return finished_store(folder, verify="all" if reads_all else "none")
