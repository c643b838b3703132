"""Word lists: what people are known to write for a word, by kind of error.

Invariant: a list is read whole or rejected; pairs that are no plain words (several words, characters other than letters
and apostrophes, equal words) are skipped. The order of files and lines decides, never a hash.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from keylm.base.errors import KeylmError
from keylm.base.files import sha256_file
from keylm.base.packed import json_rows
from keylm.languages.language import ENGLISH, Language
from keylm.typos.kinds import classify

PAIR = '{"noisy": "teh", "clean": "the"}'


class Listed:
    """Known errors: for a kind and a word, what is written for it."""

    def __init__(self, language: Language = ENGLISH) -> None:
        self._language = language
        self._by_kind: dict[str, dict[str, list[str]]] = {}

    def add(self, noisy: str, clean: str) -> None:
        """Add a pair of words if both are plain and differ."""
        noisy, clean, word = noisy.lower(), clean.lower(), self._language.words.whole
        if noisy != clean and word.fullmatch(noisy) and word.fullmatch(clean):
            kind = classify(noisy, clean, self._language).kind
            kind = kind.replace("other", "multiple")  # on a list even the oddest error is a known one
            known = self._by_kind.setdefault(kind, {}).setdefault(clean, [])
            if noisy not in known:
                known.append(noisy)

    def pick(self, kind: str, clean: str, bits: int) -> str | None:
        """Return one of the known errors of that kind for `clean`, half of the time; else None."""
        known = self._by_kind.get(kind, {}).get(clean)
        return known[(bits >> 1) % len(known)] if known and bits & 1 else None


def read_lists(paths: Sequence[str], language: Language = ENGLISH) -> tuple[Listed | None, list[str]]:
    """Return all lists together (None without any) and each file's SHA-256. Raises KeylmError for a damaged one."""
    if not paths:
        return None, []
    listed = Listed(language)
    for path in map(Path, paths):
        for noisy, clean in read_pairs(path):
            listed.add(noisy, clean)
    return listed, [sha256_file(Path(path)) for path in paths]


def read_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the (noisy, clean) pairs of a .jsonl, .jsonl.zst or .jsonl.gz file. Raises KeylmError."""
    found = False
    for place, record in json_rows(path, f".jsonl, .jsonl.gz or .jsonl.zst with lines such as {PAIR}"):
        if not _is_pair(record):
            raise KeylmError(f"{place}: no pair; accepted: {PAIR}")
        found = True
        yield record["noisy"], record["clean"]
    if not found:
        raise KeylmError(f"{path}: holds no word pairs; accepted: JSON lines with noisy and clean")


def _is_pair(record: object) -> bool:
    return isinstance(record, dict) and all(isinstance(record.get(key), str) for key in ("noisy", "clean"))
