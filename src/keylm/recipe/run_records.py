"""What a run folder's JSON files hold: finished stages, the initial model, the facts of a finished training."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from keylm.base.files import read_table

Record = TypeVar("Record", bound="RunRecord")


class RunRecord(BaseModel):
    """A JSON object of a run folder; keys that it does not know are left out."""

    model_config = ConfigDict(frozen=True, strict=True)


class DoneRecord(RunRecord):
    """A stage of a run (`keylm run --until`) that is done, in stages.json under its name."""

    inputs: str
    """SHA-256 of everything that decides its result"""
    outputs: dict[str, str]
    """SHA-256 of each file that it wrote, by path within the run folder"""
    seconds: float


class InitialModelRecord(RunRecord):
    """Which model training began with: initial.json."""

    path: str
    sha256: str
    """of its weights"""


class RunSummary(RunRecord):
    """The facts of a finished training that no other file holds: summary.json."""

    keylm: str
    torch: str
    python: str
    device: str
    device_name: str
    world_size: int
    parameters: int
    command: str
    date: str
    tokens_seen: int
    manifest: str
    """hash of the shards' manifest"""


def read_record(kind: type[Record], path: Path) -> Record | None:
    """Return the record in `path`, None where the file is missing or damaged: then its stage is done again."""
    return record_of(kind, read_table(path))


def record_of(kind: type[Record], value: object) -> Record | None:
    """Return the record in plain values, None where they do not form one."""
    try:
        return kind.model_validate(value)
    except ValidationError:
        return None
