# mypy: disable-error-code="misc, import-untyped"
"""The curation steps that are neither readers nor filters: counting, masking, deduplication, writing.

Invariant: a task's output depends on its rank's input alone; of equal documents the first in rank order is kept.
"""

import hashlib
import re
import struct
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import TextNormConfig, simplify_text

from keylm.base.files import write_json
from keylm.curate.filters import WORDS, quality_filters
from keylm.curate.reading import Unit, joined, stored_hashes
from keylm.curate.tally import Tally
from keylm.data.documents import Document as Read
from keylm.data.documents import content_hash
from keylm.recipe.schema import MINHASH, Curation

SHINGLES_AT_ONCE = 512
"""Word n-grams hashed at once: as many as fit into the processor's cache."""
MOST_WORDS = 300_000
"""Word hashes that are cached, about 40 MB; a full cache is cleared."""
_ODD, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)
EMAIL, ADDRESS, PHONE = "email@example.com", "192.0.2.1", "555-0100"
"""Replacements: names and numbers reserved for examples (RFC 2606, RFC 5737, NANPA)."""

_PHONE_END = re.compile(r"\d{3}[ .-]\d{4}")
_INTERNATIONAL_PHONE = re.compile(
    r"(?<![\w.+-])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){2,3}(?![\w-])"
)
_AMERICAN_PHONE = re.compile(r"(?<![\w.+/-])(?:1[ .-])?(?:\(\d{3}\) ?\d{3}[ .-]|\d{3}([.-])\d{3}\1)\d{4}(?![\w-])")


class Counted(PipelineStep):
    """Runs one of datatrove's filters and writes a tally of what it received and dropped."""

    type = "COUNTED"

    def __init__(self, step: str, inner: Any, tallies: Path) -> None:
        super().__init__()
        self.name, self._inner, self._tallies = step, inner, tallies
        self.stats = inner.stats

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield what the filter keeps."""
        tally = Tally()

        def counted() -> Iterator[Document]:
            for doc in data:
                tally.take(doc.metadata["bytes"])
                yield doc

        self._inner.exclusion_writer = Exclusions(tally)
        yield from self._inner.run(counted(), rank, world_size)
        tally.seconds = self._inner.stats.time_stats.total
        write_json(self._tallies / f"{rank:05d}-{self.name}.json", tally.plain())


class QualityFilters(PipelineStep):
    """Runs the quality filters of the unit's register."""

    type, name = "FILTER", "quality"

    def __init__(self, units: list[Unit], curation: Curation, tallies: Path) -> None:
        super().__init__()
        self._units, self._curation, self._tallies = units, curation, tallies

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield what all filters of the register keep."""
        for name, inner in quality_filters(self._curation, self._units[rank].source.text_register):
            data = Counted(name, inner, self._tallies).run(data, rank, world_size)
        yield from data


class Exclusions:
    """Counts what a filter drops, in place of datatrove's writer of excluded documents."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def __enter__(self) -> "Exclusions":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, doc: Document, rank: int = 0) -> None:
        """Count a dropped document."""
        facts = doc.metadata
        file, line = facts["origin"]
        self._tally.find(facts.get("items", {}))
        self._tally.drop(
            file, line, facts["bytes"], facts.get("filter_reason", "duplicate"), doc.text, facts.get("detail", "")
        )


class MaskPii(PIIFormatter):
    """Replaces e-mail addresses, public IP addresses (both datatrove's rules) and phone numbers.

    International numbers need a plus sign, North American ones dots, dashes or brackets: figures have spaces alone.
    """

    name = "mask_pii"

    def __init__(self, tallies: Path) -> None:
        super().__init__(email_replacement=(EMAIL,), ip_replacement=(ADDRESS,))
        self._tallies = tallies

    def format(self, text: str) -> str:
        """Return `text` masked; cheap tests skip the expressions that cannot match."""
        if "@" in text:
            text = self.emails_replacer.replace(text)
        if text.count(".") > 2:
            text = self.ip_replacer.replace(text)
        if "+" in text:
            text = _INTERNATIONAL_PHONE.sub(PHONE, text)
        return _AMERICAN_PHONE.sub(PHONE, text) if _PHONE_END.search(text) else text

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield every document, masked in its text and in each message."""
        tally = Tally()
        for doc in data:
            tally.take(doc.metadata["bytes"])
            with self.track_time():
                tally.changed += self._mask(doc)
            yield doc
        tally.seconds = self.stats.time_stats.total
        write_json(self._tallies / f"{rank:05d}-{self.name}.json", tally.plain())

    def _mask(self, doc: Document) -> bool:
        messages = doc.metadata.get("messages", [])
        before = doc.text
        for turn in messages:
            turn["content"] = self.format(turn["content"])
        doc.text = joined(messages) if messages else self.format(doc.text)
        if doc.text != before:
            doc.metadata["bytes"] += len(doc.text.encode()) - len(before.encode())
        return bool(doc.text != before)


class HashRecorder(PipelineStep):
    """Records every document's content hash, with white space and Unicode normalised."""

    type, name = "DEDUP", "content hashes"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield every document, then write uint64 [documents] to the rank's file."""
        hashes = []
        for doc in data:
            turns = tuple({**turn, "content": plain(turn["content"])} for turn in doc.metadata.get("messages", ()))
            same = Read("", 0, messages=turns) if turns else Read("", 0, text=plain(doc.text))
            hashes.append(content_hash(same))
            yield doc
        self._folder.mkdir(parents=True, exist_ok=True)
        np.save(self._folder / f"{rank:05d}.npy", np.array(hashes, np.uint64))


def plain(text: str) -> str:
    """Return `text` in Unicode's composed form, with white space collapsed to single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


class FindExact(PipelineStep):
    """Finds documents whose hash occurred before, and writes their places for datatrove's MinhashDedupFilter."""

    type, name = "DEDUP", "exact duplicates"

    def __init__(self, hashes: Path, folder: Path, ranks: int) -> None:
        super().__init__()
        self._hashes, self._folder, self._ranks = hashes, folder, ranks

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Write RANK.remove, ascending uint32 places, for every rank (16 bytes of memory a document)."""
        parts = [stored_hashes(self._hashes, number) for number in range(self._ranks)]
        every = np.concatenate(parts)
        first = np.zeros(len(every), np.bool_)
        first[np.unique(every, return_index=True)[1]] = True
        self._folder.mkdir(parents=True, exist_ok=True)
        start = 0
        for number, part in enumerate(parts):
            again = np.flatnonzero(~first[start : start + len(part)])
            again.astype("<u4").tofile(self._folder / f"{number:06d}.remove")
            start += len(part)


class KeepFirst(PipelineStep):
    """Keeps the first document of each cluster; datatrove itself keeps whichever became the root of the union-find.

    datatrove numbers clusters in the order of their first documents, so each new number marks a first document.
    """

    type, name = "DEDUP", "first of each cluster"

    def __init__(self, clusters: Path, folder: Path, ranks: int) -> None:
        super().__init__()
        self._clusters, self._folder, self._ranks = clusters, folder, ranks

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Write RANK.remove, ascending uint32 places, for every rank."""
        self._folder.mkdir(parents=True, exist_ok=True)
        following = 0
        for number in range(self._ranks):
            file = self._clusters / f"{number:06d}.clusters"
            removed = b""
            for place, cluster in struct.iter_unpack("<2I", file.read_bytes() if file.exists() else b""):
                if cluster == following:
                    following += 1
                else:
                    removed += struct.pack("<I", place)
            (self._folder / f"{number:06d}.remove").write_bytes(removed)


class Signature(MinhashDedupSignature):
    """datatrove's MinHash signatures in less time and memory: an n-gram's hash combines its words' hashes."""

    _ASCII = TextNormConfig(norm_unicode_diacritics=False)

    def __init__(self, folder: Path, config: MinhashConfig) -> None:
        super().__init__(str(folder), config=config, language=WORDS)
        self._words: dict[str, int] = {}

    def get_shingles(self, text: str) -> npt.NDArray[np.uint64]:
        """Return the hashes of a text's word n-grams, uint64 [n-grams, 1]; a shorter text is one n-gram."""
        words = simplify_text(text, self._ASCII if text.isascii() else self.config.norm_config).split()
        hashes = np.array([self._words.get(word) or self._remember(word) for word in words], np.uint64)
        size = min(self.config.n_grams, len(words))
        grams = np.zeros(max(0, len(words) - size + 1) if size else 0, np.uint64)
        for place in range(size):
            grams = (grams ^ hashes[place : place + len(grams)]) * _ODD
            grams ^= grams >> _HALF
        return grams.reshape(-1, 1)

    def _remember(self, word: str) -> int:
        if len(self._words) >= MOST_WORDS:
            self._words.clear()
        number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        self._words[word] = number
        return number

    def get_signature(self, shingles: npt.NDArray[np.uint64]) -> list[list[int]]:
        """Return a list of hashes for each bucket; in pieces, as a long text would take 500 MB at once."""
        pieces = range(0, len(shingles), SHINGLES_AT_ONCE)
        minima = [super(Signature, self).get_signature(shingles[at : at + SHINGLES_AT_ONCE]) for at in pieces]
        return [np.min(bucket, axis=0).tolist() for bucket in zip(*minima, strict=True)]


def minhash_config() -> MinhashConfig:
    """Return datatrove's settings; its default hash needs xxhash below 4 (Signature computes its own)."""
    return MinhashConfig(
        n_grams=MINHASH["minhash_words"],
        num_buckets=MINHASH["minhash_buckets"],
        hashes_per_bucket=MINHASH["minhash_hashes"],
        hash_config=HashConfig(precision=64, hash_fc="sha1"),
    )


def clean_writer(folder: Path) -> JsonlWriter:
    """Return the writer of the first stage: whole documents with their metadata, a file a rank."""

    def whole(_writer: JsonlWriter, doc: Document) -> dict[str, Any]:
        return {"text": doc.text, "id": doc.id, "metadata": doc.metadata}

    return JsonlWriter(str(folder), output_filename="${rank}.jsonl.zst", compression="zstd", adapter=whole)


def record_writer(folder: Path) -> JsonlWriter:
    """Return the writer of curated records: `{"text": …}` or `{"messages": […]}` and `"origin": [file, line]`."""
    return JsonlWriter(
        str(folder), output_filename="${source}/${part}.jsonl.zst", compression="zstd", adapter=_curated_record
    )


def _curated_record(_writer: JsonlWriter, doc: Document) -> dict[str, Any]:
    facts = doc.metadata
    content = {"messages": facts["messages"]} if "messages" in facts else {"text": doc.text}
    return {**content, "origin": facts["origin"]}
