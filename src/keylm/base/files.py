"""Atomic files: everything keylm writes appears under its name complete, or not at all.

Invariant: a name is visible only after its bytes were flushed to disk, so a kill -9 or a power cut leaves the
old file or the new one, never half of one. Leftovers have `.tmp-` in their names and are swept.
"""

import contextlib
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from keylm.base.errors import KeylmError

TEMPORARY = ".tmp-"
DEEPEST = 100
"""Levels of nesting that are read: keylm writes fewer than ten, and what walks a value by recursion ends at 1,000."""
TOO_DEEP = f"nested deeper than {DEEPEST} levels"


class DamagedFile(KeylmError, ValueError):
    """A file is not what its name says; a ValueError to those who can do without it."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it and rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{path.name}"
    try:
        yield temporary
        _finish(temporary)
        temporary.replace(path)
        flush(path.parent)
    except SafetensorError as error:  # how that library reports a full disk
        raise KeylmError(f"{path}: cannot be written: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success flush it and replace `path` with it.

    A new folder appears at once. Where an old one is replaced there is a moment without either, because no
    system call swaps two folders portably; whatever is written this way can be rebuilt from its inputs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{path.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            _finish(file)
        flush(temporary)
        if path.exists():
            old = path.parent / f"{TEMPORARY}{os.getpid()}-old-{path.name}"
            path.replace(old)
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
        flush(path.parent)
    except SafetensorError as error:
        raise KeylmError(f"{path}: cannot be written: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write `content` (str as UTF-8) to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises ValueError where it is none, is nested deeper than DEEPEST, or holds half a surrogate pair, which is no text
    and could be neither hashed nor written.
    """
    value = within_depth(json.loads, text)
    if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]  # only escapes can hold one
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return value


def within_depth(parse: Callable[[Any], Any], text: str | bytes) -> Any:
    """Return what `parse` makes of a text. Raises ValueError as it does, and where it is nested too deeply."""
    try:
        value = parse(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raise ValueError where plain values are nested deeper than DEEPEST."""
    level = [value]
    for _ in range(DEEPEST + 1):
        tables = [part for part in level if isinstance(part, dict | list)]
        if not tables:
            return
        level = [part for table in tables for part in (table.values() if isinstance(table, dict) else table)]
    raise ValueError(TOO_DEEP)


def read_json(path: Path, accepted: str = "JSON in UTF-8") -> Any:
    """Return the content of a JSON file. Raises DamagedFile where it is none, OSError where it cannot be read."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFile(f"{path}: cannot be read: {error}; accepted: {accepted}") from None


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`. Raises as `read_json` does."""
    value = read_json(path, "a JSON object")
    if not isinstance(value, dict):
        raise DamagedFile(f"{path}: cannot be read: it holds a {type(value).__name__}; accepted: a JSON object")
    return value


def read_table(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; an empty one where the file is missing or damaged."""
    try:
        return read_object(path)
    except (FileNotFoundError, ValueError):
        return {}


def _finish(path: Path) -> None:
    """Make a written file readable to all (safetensors leaves it to its owner alone) and push it to the disk."""
    if path.is_file():
        path.chmod(0o644)
    flush(path)


def flush(path: Path) -> None:
    """Push a file's or a folder's content to the disk (fsync)."""
    is_folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)  # Windows flushes only what can be written
    except PermissionError:
        if is_folder:  # Windows opens none, and has no use for it
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what an interrupted writer left in `folder`."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        _remove(leftover)


def sweep_ended(folder: Path, name: str | None = None) -> None:
    """Remove what writers that were killed left in a folder where others may be at work.

    That is the leftovers of the file or folder `name` in it, or, without one, of all in it and in its folders.
    """
    found = folder.rglob(f"{TEMPORARY}*") if name is None else folder.glob(f"{TEMPORARY}*-{glob.escape(name)}")
    for leftover in list(found):
        writer = leftover.name.removeprefix(TEMPORARY).partition("-")[0]
        if writer.isdecimal() and not _is_running(int(writer)):
            _remove(leftover)


def _is_running(process: int) -> bool:
    """Return whether a process of this number runs on this machine, or that cannot be known."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # another user's
    return True


def _remove(leftover: Path) -> None:
    if leftover.is_dir():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)


def visible_files(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the files below a folder by name, without those that are hidden or in a hidden folder."""
    found = (file for file in folder.rglob(pattern) if file.is_file())
    return sorted(file for file in found if not any(map(is_hidden, file.relative_to(folder).parts)))


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is a program's own (.git, ._x, .ipynb_checkpoints), not data."""
    return name.startswith(".")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of `value`'s canonical JSON (sorted keys, no spaces), in hexadecimal."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
