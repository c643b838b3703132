"""The manifest of a build: which shards there are, what they were made from and what decides their order.

Invariant: a manifest is read only if its own hash holds and every field that its readers rely on is there; its bytes
depend on the build alone.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from keylm.base.errors import KeylmError
from keylm.base.files import read_object, read_table, sha256_json, write_json
from keylm.base.shapes import explain

FORMAT = 3
"""Of manifest and shards; raised when the same documents give other shards."""
Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")
Settings = dict[str, JsonValue]
"""Plain values that decide a result, by name."""


class _Record(BaseModel):
    """A table of the manifest; keys that it does not know are left out."""

    model_config = ConfigDict(frozen=True, strict=True)


class ShardRecord(_Record):
    """A shard: its file, and how much it holds."""

    file: str
    sha256: str
    size: int
    """bytes of the file"""
    windows: int
    tokens: int
    trained_tokens: int
    documents: int
    bytes: int
    """UTF-8 bytes of the text that its tokens stand for"""


class SplitRecord(_Record):
    """The shards of a source for training, or for validation, and their totals."""

    windows: int
    tokens: int
    trained_tokens: int
    documents: int
    bytes: int
    shards: list[ShardRecord]

    @classmethod
    def of(cls, records: list[ShardRecord]) -> "SplitRecord":
        """Return the split that consists of these shards."""
        totals = {key: sum(getattr(record, key) for record in records) for key in cls.model_fields if key != "shards"}
        return cls(**totals, shards=records)


class SourceRecord(_Record):
    """What was built of a source."""

    settings: Settings
    """what decides its shards besides its files and the settings of the build"""
    train: SplitRecord
    validation: SplitRecord
    exhausted: bool
    """whether the source has no more"""
    files: list[str]
    """names of the files that documents come from; shards refer to them by index"""
    faults: dict[str, int]
    """rejected records by kind"""

    def split(self, split: Split) -> SplitRecord:
        """Return the shards for training or for validation."""
        return self.train if split == "train" else self.validation


class StageOrder(_Record):
    """A stage as far as it decides the order of windows."""

    name: str
    steps: int
    weights: dict[str, float]


class WindowOrder(_Record):
    """What decides, besides the shards, which window is where in the run."""

    batch_windows: int
    sources: list[str]
    stages: list[StageOrder]
    repack: bool = False
    """whether epochs after the first pack a shard's documents in another order"""


class CurationRecord(_Record):
    """The curation that the shards' documents went through."""

    hash: str
    """of its settings and of the curated files"""
    settings: Settings


class BuildSettings(_Record):
    """What decides the shards of every source."""

    format: int
    seed: int
    context: int
    """tokens in a window"""
    shard_tokens: int
    holdout: float
    tokenizer_sha256: str
    curation: CurationRecord | None


class ShardManifest(BuildSettings):
    """All that a build consists of: shards/manifest.json, where a field at its default is left out.

    So a build without `order.repack` has the manifest, and the hash, that it had before there was the field.
    """

    order: WindowOrder
    origins: dict[str, Settings]
    """what each source comes from, before any curation"""
    sources: dict[str, SourceRecord]
    hash: str = ""
    """SHA-256 of everything else"""

    def sealed(self) -> "ShardManifest":
        """Return the manifest with its hash."""
        return self.model_copy(update={"hash": manifest_hash(self.model_dump(exclude_defaults=True))})

    def write(self, folder: Path) -> None:
        """Write `folder/manifest.json`, whole or not at all."""
        write_json(folder / "manifest.json", self.model_dump(exclude_defaults=True))


class BuildProgress(_Record):
    """How far the build of a source has come: source.json beside its shards."""

    model_config = ConfigDict(frozen=False)

    fingerprint: str
    """hash of everything that decides the source's shards"""
    shards: dict[Split, list[ShardRecord]]
    files: list[str] = []
    faults: dict[str, int] = {}
    faults_bytes: int = 0
    """length of faults.jsonl"""
    faults_sha256: str | None = None
    """of so much of it; None in builds of earlier versions"""
    text_bytes: int = 0
    documents: int = 0
    exhausted: bool = False
    cut: bool = False
    """whether `max_bytes` ended the source"""
    state: dict[str, Any] | None = None
    """the reader's, at the beginning of the batch in which the next shard begins"""
    skip: int = 0
    """records of that batch that are built"""


def read_progress(folder: Path) -> BuildProgress | None:
    """Return the progress of the source in `folder`, None where it is missing or damaged: it is then rebuilt."""
    try:
        return BuildProgress.model_validate(read_table(folder / "source.json"))
    except ValidationError:
        return None


def read_manifest(folder: Path) -> ShardManifest:
    """Return `folder/manifest.json`. Raises KeylmError where it is missing, damaged or of another format."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise KeylmError(f"{path}: no such file; accepted: the shards folder of a run whose data were built")
    return load_manifest(path, str(path), "delete it, and the build makes it again")


def load_manifest(path: Path, name: str, fix: str) -> ShardManifest:
    """Return the manifest in the file `path`; errors call it `name` and say how to `fix` it. Raises KeylmError."""
    try:
        manifest = read_object(path)
    except ValueError as error:
        raise KeylmError(f"{name}: is damaged: {error}; {fix}") from None
    if manifest_hash(manifest) != manifest.get("hash"):
        raise KeylmError(f"{name}: its content does not have the hash it states; it was altered since; {fix}")
    if manifest.get("format") != FORMAT:
        raise KeylmError(
            f"{name}: is of format {manifest.get('format')}; accepted: format {FORMAT}, which this keylm builds; "
            "build the data anew, or use the keylm that built them"
        )
    try:
        return ShardManifest.model_validate(manifest)
    except ValidationError as error:
        raise KeylmError(
            f"{name}: is not a manifest of this keylm: {explain(error.errors()[0], ShardManifest)}; {fix}"
        ) from None


def manifest_hash(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of everything in a manifest but its own hash."""
    return sha256_json({key: value for key, value in manifest.items() if key != "hash"})
