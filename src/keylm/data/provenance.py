"""What decides a recipe's tokenizer and shards: computed once, handed on, recorded in the manifest and in run folders.

Invariants: whatever changes a document, its noise, its tokens or its place in a shard changes a hash here; where,
when and by how many workers the data are built does not. Hashes are the same on every machine, but for the times of
files, which decide only whether a source is read again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from keylm.base.files import sha256_file, sha256_json
from keylm.data.adapters import HUB_ADAPTERS
from keylm.data.manifest import FORMAT, BuildSettings, CurationRecord, Settings, StageOrder, WindowOrder
from keylm.data.readers import name_within
from keylm.data.sources import list_files, source_adapter, source_path
from keylm.languages.language import language_of
from keylm.recipe.load import Recipe, stage_steps
from keylm.recipe.schema import Source
from keylm.recipe.shares import sample_shares, token_shares
from keylm.typos.model import TypoModel

BYTES_PER_TOKEN = 4.0
"""Of English text under a vocabulary of 12,000, about; assumed where nothing is encoded yet."""
COMPRESSED = (".zst", ".gz", ".parquet")
"""Endings of files that hold about four times their size in text."""


class FileStamp(NamedTuple):
    """What shows whether a file must be read again."""

    name: str
    size: int
    """bytes"""
    stamp: int | str
    """time of the last change in ns; of embedded files, whose times the installer sets, the SHA-256"""


@dataclass(frozen=True)
class CurationFacts:
    """What of a finished curation decides the shards; the same wherever it was done."""

    record: CurationRecord
    origins: Mapping[str, Settings]
    """what each curated source was read from and how, before it was curated"""


@dataclass(frozen=True)
class SourceProvenance:
    """What decides a source's shards, besides the settings of the whole build."""

    settings: Settings
    """as in the manifest"""
    stamps: list[list[FileStamp]]
    """of each source that it reads: one, or those that a typo source is made from"""


@dataclass(frozen=True)
class DataProvenance:
    """What decides the tokenizer and the shards of a recipe, as its sources were when this was computed."""

    stamps: Mapping[str, list[FileStamp]]
    """by source that is read"""
    sources: Mapping[str, SourceProvenance]
    """by used source"""
    curation: CurationFacts | None

    @classmethod
    def of(cls, recipe: Recipe, curation: CurationFacts | None = None) -> "DataProvenance":
        """Return what decides the data of `recipe`, which reads the curated files where there is a `curation`.

        Raises KeylmError where a source's files are missing or a word list cannot be read.
        """
        stamps = {name: source_stamps(name, source) for name, source in recipe.read_sources.items()}
        spoken = dict.fromkeys(recipe.language_of(name) for name, s in recipe.used_sources.items() if s.typos_of)
        noise = {name: TypoModel(recipe.typos, language_of(name)).fingerprint() for name in spoken}
        sources = {
            name: SourceProvenance(
                _own_settings(recipe, name, noise.get(recipe.language_of(name), "")),
                [stamps[one] for one in source.typos_of or [name]],
            )
            for name, source in recipe.used_sources.items()
        }
        return cls(stamps, sources, curation)

    def tokenizer_inputs(self, recipe: Recipe) -> str:
        """Return the hash of everything that the tokenizer's folder is made from."""
        shape = [recipe.tokenizer.vocab_size, recipe.model.max_position_embeddings]
        if recipe.given_tokenizer is not None:
            return sha256_json([*shape, sha256_file(Path(recipe.given_tokenizer) / "tokenizer.json")])
        sampled = {name: recipe.sources[name] for name in sample_shares(recipe)}
        sources = {
            name: [str(source.path), source_settings(source) | {"loss": ""}, self.stamps[name]]
            for name, source in sampled.items()
        }
        sample = [recipe.tokenizer.sample_bytes, sources, token_shares(recipe), recipe.evaluation.holdout]
        return sha256_json([*shape, *sample])

    def settings(self, recipe: Recipe, tokenizer: Path) -> BuildSettings:
        """Return what, besides the sources, decides the shards built with the tokenizer in this folder."""
        return build_settings(recipe, tokenizer, self.curation.record if self.curation else None)

    def fingerprint(self, name: str, settings: BuildSettings) -> str:
        """Return the hash of everything that decides the shards of the source `name`."""
        shared = settings.model_dump(exclude={"seed"})  # only noise depends on it: it is among a typo source's settings
        source = self.sources[name]
        return sha256_json([shared, source.settings, source.stamps])


def build_settings(recipe: Recipe, tokenizer: Path, curation: CurationRecord | None) -> BuildSettings:
    """Return what, besides the sources, decides the shards built with the tokenizer in this folder."""
    return BuildSettings(
        format=FORMAT,
        seed=recipe.seed,
        context=recipe.training.context,
        shard_tokens=recipe.data.shard_tokens,
        holdout=recipe.evaluation.holdout,
        tokenizer_sha256=sha256_file(tokenizer / "tokenizer.json"),
        curation=curation,
    )


def window_order(recipe: Recipe) -> WindowOrder:
    """Return what, besides the shards, decides which window is where in the run."""
    steps = stage_steps(recipe)
    stages = [StageOrder(name=name, steps=steps[name], weights=stage.weights) for name, stage in recipe.stages.items()]
    batch_windows, sources = recipe.training.batch_windows, list(recipe.used_sources)
    return WindowOrder(batch_windows=batch_windows, sources=sources, stages=stages, repack=recipe.data.repack)


def curation_inputs(settings: Mapping[str, object], sources: Mapping[str, Source]) -> str:
    """Return the hash of what decides a curation: its settings, and the sources with their files' stamps."""
    inputs = {name: [_dumped(source), source_stamps(name, source)] for name, source in sources.items()}
    return sha256_json([settings, inputs])


def _dumped(source: Source) -> dict[str, JsonValue]:
    """Return a source's fields; not its language, which decides no clean text: curation keeps those of the recipe."""
    return source.model_dump(mode="json", exclude={"language"})


def source_stamps(name: str, source: Source) -> list[FileStamp]:
    """Return what shows whether a source must be read again, file by file.

    Of a data set on the hub that is its name, with the revision in the recipe as its stamp; a typo source has no files
    of its own. Raises KeylmError where files are missing.
    """
    if source.hub:
        return [FileStamp(f"hub:{source.hub}/{source.config or ''}/{source.split}", 0, source.revision or "")]
    if source.typos_of:
        return []
    path = source_path(source)
    stamps = []
    for file in list_files(name, source).files:
        facts = file.stat()
        stamp = sha256_file(file) if source.is_embedded else facts.st_mtime_ns
        stamps.append(FileStamp(name_within(path, file), facts.st_size, stamp))
    return stamps


def input_bytes(name: str, source: Source) -> int:
    """Return about how many bytes of text a source's files hold, `max_bytes` or not; 0 where that is not known."""
    return sum(file.size * (4 if file.name.lower().endswith(COMPRESSED) else 1) for file in source_stamps(name, source))


def bytes_read(sources: Mapping[str, Source], name: str) -> int | None:
    """Return about how many bytes of text a source gives within its `max_bytes`; None where nobody knows.

    A typo source gives those of its origins, within theirs, in each of its passes. Raises KeylmError.
    """
    source = sources[name]
    size: int | None
    if source.typos_of:
        parts = [bytes_read(sources, origin) for origin in source.typos_of]
        known = [part for part in parts if part is not None]
        size = source.passes * sum(known) if len(known) == len(parts) else None
    else:
        size = None if source.hub else input_bytes(name, source)
    limits = [limit for limit in (size, source.max_bytes) if limit is not None]
    return min(limits, default=None)


def source_settings(source: Source) -> Settings:
    """Return what decides, besides its origin, which documents and trained tokens a source gives. Raises KeylmError."""
    limits: Settings = {"max_bytes": source.max_bytes, "loss": source.loss}
    if source.typos_of:
        return {**limits, "forms": dict(source.forms.items()), "passes": source.passes}
    columns: list[JsonValue] = [*source_adapter(source).columns]
    return {**limits, "adapter": source.adapter or HUB_ADAPTERS.get(source.hub or "", "auto"), "columns": columns}


def source_origin(name: str, source: Source, revision: str | None = None) -> Settings:
    """Return what a source is, in terms that are the same on every machine.

    Of files name, bytes and SHA-256; of a data set on the hub its name and `revision` (else the recipe's); of a typo
    source the names of its origins. Raises KeylmError where files are missing.
    """
    if source.typos_of:
        return {"typos_of": list(source.typos_of)}
    if source.hub:
        commit = revision or source.revision
        return {"hub": source.hub, "config": source.config, "split": source.split, "revision": commit}
    path = source_path(source)
    return {
        "files": [
            {"name": name_within(path, file), "bytes": file.stat().st_size, "sha256": sha256_file(file)}
            for file in list_files(name, source).files
        ]
    }


def _own_settings(recipe: Recipe, name: str, noise: str) -> Settings:
    """Return what decides a source's shards besides its files; `noise` is the typo model's fingerprint."""
    source = recipe.sources[name]
    origins: Settings = {origin: source_settings(recipe.sources[origin]) for origin in source.typos_of}
    of_typos: Settings = {"typos_of": origins, "noise": noise, "seed": recipe.seed} if origins else {}
    return source_settings(source) | of_typos
