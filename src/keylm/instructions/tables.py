"""Phrases, templates and word lists of instruction data: phrases/NAME.toml, read once a process and checked.

Invariant: lists and keys keep the files' order, which decides what a seed draws. Cost: 0.1 s.
"""

import hashlib
import tomllib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from pydantic import ValidationError

from keylm.base.errors import KeylmError
from keylm.base.shapes import explain
from keylm.instructions.table_schema import PhraseTables

PACKAGE = files("keylm.instructions")


@cache
def phrase_tables() -> PhraseTables:
    """Return the tables of this package."""
    return read_tables(PACKAGE / "phrases")


def read_tables(folder: Traversable) -> PhraseTables:
    """Return the tables of a folder. Raises KeylmError where a file is missing or holds what it may not."""
    found = {}
    for name in PhraseTables.model_fields:
        try:
            found[name] = tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise KeylmError(f"{name}.toml: cannot be read ({error}); accepted: the file of this release") from None
    try:
        return PhraseTables.model_validate(found)
    except ValidationError as error:
        raise KeylmError(f"{explain(error.errors()[0], None, 'phrases')} (table_schema.py)") from None


def fingerprint(package: Traversable = PACKAGE) -> str:
    """Return the SHA-256 of all text of a package's tables and code: any order or constant changes it."""
    digest = hashlib.sha256()
    sources = [file for folder in (package, package / "phrases") for file in folder.iterdir()]
    for file in sorted(sources, key=lambda file: file.name):
        if file.name.endswith((".py", ".toml")):
            content = file.read_text(encoding="utf-8")
            digest.update(f"{file.name} {len(content)}\n{content}".encode())
    return digest.hexdigest()
