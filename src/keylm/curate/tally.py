"""What one curation step received, dropped and changed, with samples; tallies add up to the same in any order."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SAMPLES = 20
"""Dropped documents in a report for each source and step."""
SAMPLE_CHARACTERS = 300
Items = dict[str, dict[str, int]]
"""By set and number of an evaluation item, in digits: the most words of it found (in a row, or all), 0 if fuzzy."""


@dataclass
class Tally:
    """One step's figures for one source; bytes are the UTF-8 bytes of the documents' text."""

    documents: int = 0
    bytes: int = 0
    dropped: int = 0
    dropped_bytes: int = 0
    changed: int = 0
    """documents that stayed with another text (masked ones)"""
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    """documents dropped, by reason"""
    items: Items = field(default_factory=dict)
    """evaluation items in the dropped documents"""
    samples: list[list[Any]] = field(default_factory=list)
    """[digest, file, line, reason, text] of the dropped documents with the lowest digests: a random sample"""

    def take(self, size: int) -> None:
        """Count a received document of `size` bytes."""
        self.documents += 1
        self.bytes += size

    def drop(self, file: str, line: int, size: int, reason: str, text: str, detail: str = "") -> None:
        """Count a dropped document; `detail` replaces the reason in the sample."""
        self.dropped += 1
        self.dropped_bytes += size
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        shown = text[:SAMPLE_CHARACTERS]
        digest = hashlib.sha256(f"{file}\0{line}\0{shown}".encode()).hexdigest()[:16]
        self.samples.append([digest, file, line, detail or reason, shown])
        if len(self.samples) > 4 * SAMPLES:
            self._trim()

    def find(self, items: Mapping[str, Mapping[str, int]]) -> None:
        """Add evaluation items, {set: {number: words}}."""
        merge_items(self.items, items)

    def add(self, other: "Tally") -> None:
        """Add another task's figures."""
        for name in ("documents", "bytes", "dropped", "dropped_bytes", "changed", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count
        self.find(other.items)
        self.samples += other.samples
        self._trim()

    def plain(self) -> dict[str, Any]:
        """Return the tally as plain values, for another process to read back."""
        self._trim()
        return asdict(self)

    def summary(self, step: str) -> dict[str, Any]:
        """Return the tally for a report, without what depends on the clock."""
        self._trim()
        return {
            "step": step,
            "documents": self.documents,
            "bytes": self.bytes,
            "dropped": self.dropped,
            "dropped_bytes": self.dropped_bytes,
            "changed": self.changed,
            "reasons": dict(sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))),
            **({"items": ordered_items(self.items)} if self.items else {}),
            "samples": [
                {"file": file, "line": line, "reason": reason, "text": text}
                for _, file, line, reason, text in self.samples
            ],
        }

    def _trim(self) -> None:
        self.samples = sorted(self.samples)[:SAMPLES]


def merge_items(items: Items, more: Mapping[str, Mapping[str, int]]) -> None:
    """Add `more` to `items`; of an item in both, the larger number of words counts."""
    for name, numbers in more.items():
        known = items.setdefault(name, {})
        known.update({number: max(words, known.get(number, 0)) for number, words in numbers.items()})


def ordered_items(items: Items) -> Items:
    """Return `items` by set, and in each by number."""
    return {name: {number: items[name][number] for number in sorted(items[name], key=int)} for name in sorted(items)}
