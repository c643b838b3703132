"""Tallies: what one step of curation was given, what it dropped or changed, and samples of that.

Invariant: tallies of several tasks add up to the same figures and the same samples in whatever order they are added.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SAMPLES = 20
"""Dropped documents that a report shows of each source and step."""
SAMPLE_CHARACTERS = 300


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
    items: dict[str, dict[str, int]] = field(default_factory=dict)
    """evaluation items in the dropped documents: by set and number, the most words of the item that prove it"""
    samples: list[list[Any]] = field(default_factory=list)
    """[digest, file, line, reason, text] of the dropped documents with the least digests: a random draw of them"""

    def take(self, size: int) -> None:
        """Count a document of `size` bytes that the step was given."""
        self.documents += 1
        self.bytes += size

    def drop(self, file: str, line: int, size: int, reason: str, text: str, detail: str = "") -> None:
        """Count a document that the step dropped; `detail` goes with the sample alone."""
        self.dropped += 1
        self.dropped_bytes += size
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        shown = text[:SAMPLE_CHARACTERS]
        digest = hashlib.sha256(f"{file}\0{line}\0{shown}".encode()).hexdigest()[:16]
        self.samples.append([digest, file, line, detail or reason, shown])
        if len(self.samples) > 4 * SAMPLES:
            self._draw()

    def find(self, items: Mapping[str, Mapping[str, int]]) -> None:
        """Take down evaluation items, {set: {number: words}}."""
        for name, numbers in items.items():
            known = self.items.setdefault(name, {})
            known.update({number: max(words, known.get(number, 0)) for number, words in numbers.items()})

    def add(self, other: "Tally") -> None:
        """Add another task's figures."""
        for name in ("documents", "bytes", "dropped", "dropped_bytes", "changed", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count
        self.find(other.items)
        self.samples += other.samples
        self._draw()

    def plain(self) -> dict[str, Any]:
        """Return the tally as plain values, for another process to read back."""
        self._draw()
        return asdict(self)

    def told(self, step: str) -> dict[str, Any]:
        """Return the tally as a report has it: nothing that depends on the clock."""
        self._draw()
        return {
            "step": step,
            "documents": self.documents,
            "bytes": self.bytes,
            "dropped": self.dropped,
            "dropped_bytes": self.dropped_bytes,
            "changed": self.changed,
            "reasons": dict(sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))),
            **({"items": {name: _in_order(self.items[name]) for name in sorted(self.items)}} if self.items else {}),
            "samples": [
                {"file": file, "line": line, "reason": reason, "text": text}
                for _, file, line, reason, text in self.samples
            ],
        }

    def _draw(self) -> None:
        self.samples = sorted(self.samples)[:SAMPLES]


def _in_order(numbers: Mapping[str, int]) -> dict[str, int]:
    return {number: numbers[number] for number in sorted(numbers, key=int)}
