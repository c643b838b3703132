"""What is known of a language beside what computes: its name, what curation calls it, licences of the shipped data.

Apart from `Language`, so that a corrected licence has nobody build data again.
"""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from keylm.base.errors import KeylmError
from keylm.base.shapes import explain
from keylm.languages.language import SHIPPED

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class Origin:
    """Where a file's content comes from."""

    file: str
    licence: str
    source: str


@dataclass(frozen=True, config=_STRICT)
class About:
    """A language's name in English, its code in the language identifier of curation, and where its data come from."""

    name: str
    identifier: Annotated[str, Field(min_length=2, max_length=3)]
    origins: tuple[Origin, ...] = ()


def about_language(folder: Path) -> About:
    """Return what about.toml says; the folder's name as name and identifier where there is none. Raises KeylmError."""
    path = folder / "about.toml"
    if not path.is_file():
        return About(folder.name, folder.name[:3])
    try:
        return TypeAdapter(About).validate_python(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        what = "; ".join(map(explain, error.errors())) if isinstance(error, ValidationError) else error
        raise KeylmError(f"{path}: {what}; accepted: name, identifier and origins, as in languages/en") from None


def identifier_of(code: str) -> str:
    """Return what curation's language identifier calls a language that comes with keylm; any other code as it is."""
    return about_language(SHIPPED / code).identifier
