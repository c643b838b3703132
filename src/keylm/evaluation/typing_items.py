"""The frozen test sets of the typing evaluation: where they come from, and the check that they are unchanged.

- `embedded`: passages of prose in the package's own corpus (public domain and CC0, corpus/PROVENANCE.md) that a recipe
  with `evaluation.holdout` of 0.05 or more, as nano, holds out of training; each also as typed with thumbs (touch.py).
- `git_fixes`: sentences with a typo that one person made and another fixed, from the histories of documentation; only
  the half that the typo statistics were not fitted to, and no repository whose text is also a training source.
- `casual`: passages of chats, comments and reviews that keylm-75m-hour (holdout 0.01) holds out; as they are, so only
  prediction is measured on them.

The last two are read from a corpus folder and are not part of the package. Invariant: `load_sets` returns exactly the
items whose hashes are in typing_sets/sets.json, or raises an error.

Other languages have no frozen sets: they are measured on a folder of theirs (`language_sets`), whose hashes are in the
result.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from keylm.base.errors import KeylmError
from keylm.base.files import read_json, sha256_json
from keylm.base.packed import json_rows
from keylm.data.documents import Document, content_hash, document_texts, is_held_out
from keylm.data.sources import read_source
from keylm.evaluation.touch import Typist
from keylm.languages.language import Language
from keylm.recipe.schema import Source

SEED = 20261125
"""Of the typists; no recipe's."""
PASSAGE = 480
"""Characters of a passage, at most; documents of less than half are left out."""
PASSAGES = 2
"""From each document of `embedded`, evenly spread."""
PAIRS, DOCUMENTS, DOCUMENTS_READ = 300, 4, 40
"""Pairs of a set, documents of each casual source, and of another language's text."""
EMBEDDED = ("fairy_tales", "short_stories", "public_service")
CASUAL = ("energy_forum", "lean_zulip", "reddit_comments", "sms", "stackexchange", "ubuntu_irc", "web_reviews")
TRAINED_ON = (
    "codespell-project/codespell",
    "crate-ci/typos",
    "GEM-benchmark/NL-Augmenter",
    "globalwordnet/english-wordnet",
    "ronaldl29/public-domain-recipes",
    "thechangelog/transcripts",
)
"""Repositories of git_fixes of which other files are training sources."""
LICENCES = {
    "embedded": "public domain, CC0-1.0",
    "git_fixes": "MIT, Apache-2.0 or CC, each pair's repository's",
    "casual": "CC BY, CC BY-SA, MIT, Apache-2.0, some unstated",
}
PAIRED = ("git_fixes", "typo_sentences")
"""Sets of pairs of sentences; the others are passages."""
_MASKED = re.compile(r"@\w|\d+\.\d+\.\d+\.\d+|\d{3}[ .-]\d{4}|\+\d")
"""What curation may mask in a document (addresses, phone numbers), which changes its hash."""
_QUOTES = str.maketrans("‘’“”", "''\"\"")
_BEGINNING = re.compile(r"(?<=[.!?] )[A-Z]|(?<=\n)\w")


class TypingItem(NamedTuple):
    """A passage or sentence: the number of its document or pair, the clean text, and the text as it was typed."""

    document: int
    clean: str
    typed: str


@dataclass(frozen=True)
class TypingSet:
    """Items of one origin, in a fixed order that mixes the origin's parts."""

    name: str
    items: tuple[TypingItem, ...]

    @property
    def digest(self) -> str:
        """The SHA-256 of all items."""
        return sha256_json(self.items)

    @property
    def documents(self) -> int:
        """How many documents or pairs it has."""
        return len({item.document for item in self.items})

    def first(self, documents: int | None) -> "TypingSet":
        """Return the items of the first `documents` documents or pairs (None: of all)."""
        if documents is None:
            return self
        wanted = set(islice(dict.fromkeys(item.document for item in self.items), documents))
        return TypingSet(self.name, tuple(item for item in self.items if item.document in wanted))


def load_sets(corpus: Path | None = None) -> dict[str, TypingSet]:
    """Return the sets by name; without `corpus` only `embedded`. Raises KeylmError for one that was altered."""
    recorded = read_json(Path(str(files("keylm.evaluation") / "typing_sets" / "sets.json")))
    sets = [embedded_set()] if corpus is None else [embedded_set(), git_fixes_set(corpus), casual_set(corpus)]
    for found in sets:
        wanted = recorded[found.name]
        if found.digest != wanted["hash"]:
            origin = "the package's corpus" if found.name == "embedded" else corpus
            raise KeylmError(
                f"{origin}: the typing set {found.name!r} built from it has hash {found.digest[:16]}… and "
                f"{found.documents} documents; accepted: {wanted['hash'][:16]}… with {wanted['documents']}, as frozen "
                "(docs/typing.md says from what)"
            )
    return {found.name: found for found in sets}


def language_sets(corpus: Path | None, language: Language) -> dict[str, TypingSet]:
    """Return sets of a language from text.jsonl.zst and typo_sentences.jsonl.zst in its folder, of those there.

    `text`: passages of documents that `evaluation.holdout` of 0.05 holds out, also as typed with thumbs;
    `typo_sentences`: the half that the error rates were not fitted to. Raises KeylmError where there is neither.
    """
    sets = []
    if corpus and (path := corpus / "text.jsonl.zst").is_file():
        found = sorted((_order(text), text) for text in _held_out("text", Source(path=str(path)), 0.05))[
            :DOCUMENTS_READ
        ]
        items = []
        for document, (key, text) in enumerate(found):
            typist = Typist(SEED + int(key[:8], 16), language=language)
            items += [TypingItem(document, passage, typist.type(passage)) for passage in _passages(text, 1)]
        sets.append(TypingSet("text", tuple(items)))
    if corpus and (path := corpus / "typo_sentences.jsonl.zst").is_file():
        pairs = {
            (_order(row["clean"]), _plain(row["clean"]), _plain(row["noisy"])) for row in _rows(path, "clean", "noisy")
        }
        kept = [pair for pair in sorted(pairs) if not int(pair[0][:2], 16) & 1][:PAIRS]
        sets.append(TypingSet("typo_sentences", tuple(TypingItem(n, *pair[1:]) for n, pair in enumerate(kept))))
    if not sets:
        raise KeylmError(
            f"typing in {language.code!r}: no set to measure it on; accepted: --corpus with a folder that has "
            "text.jsonl.zst or typo_sentences.jsonl.zst of the language"
        )
    return {found.name: found for found in sets}


def record(sets: Sequence[TypingSet]) -> dict[str, Any]:
    """Return the contents of sets.json for sets, to freeze them again."""
    return {
        found.name: {
            "documents": found.documents,
            "items": len(found.items),
            "characters": sum(len(item.clean) for item in found.items),
            "hash": found.digest,
            "licence": LICENCES[found.name],
        }
        for found in sets
    }


def embedded_set(noise: float = 1.0) -> TypingSet:
    """Return the packaged set; `noise` scales how unsteadily it is typed (the frozen set has 1)."""
    found = []
    for name in EMBEDDED:
        source = Source(path=f"embedded:{name}.jsonl.zst", register="formal", licence=LICENCES["embedded"])
        found += [(_order(text), text) for text in _held_out(name, source, 0.05)]
    items = []
    for document, (key, text) in enumerate(sorted(found)):
        typist = Typist(SEED + int(key[:8], 16), noise)
        items += [TypingItem(document, passage, typist.type(passage)) for passage in _passages(text, PASSAGES)]
    return TypingSet("embedded", tuple(items))


def git_fixes_set(corpus: Path) -> TypingSet:
    """Return pairs of real sentences, in the order of their hash. Raises KeylmError where the file is not there."""
    rows = [
        row
        for row in _rows(corpus / "typo" / "git_fixes.jsonl.zst", "repo", "clean", "noisy")
        if row["repo"] not in TRAINED_ON and not hashlib.sha256(row["clean"].encode()).digest()[0] & 1
    ]
    pairs = sorted({(_order(row["clean"]), row["clean"], row["noisy"]) for row in rows})
    # A sentence that was fixed twice is in the file twice; its second typo would have the same context.
    pairs = list({key: (key, clean, noisy) for key, clean, noisy in pairs}.values())[:PAIRS]
    items = (TypingItem(number, clean, noisy) for number, (_, clean, noisy) in enumerate(pairs))
    return TypingSet("git_fixes", tuple(TypingItem(i.document, _plain(i.clean), _plain(i.typed)) for i in items))


def casual_set(corpus: Path) -> TypingSet:
    """Return a passage of each of a few held-out documents of each casual source. Raises KeylmError."""
    found = []
    for name in CASUAL:
        source = Source(path=str(corpus / "casual" / f"{name}.jsonl.zst"), register="casual", licence="see corpus.json")
        _there(Path(str(source.path)))
        texts = (text for text in _held_out(name, source, 0.01) if not _MASKED.search(text))
        found += sorted((_order(text), text) for text in texts)[:DOCUMENTS]
    passages = [passage for _, text in sorted(found) for passage in _passages(text, 1)]
    return TypingSet("casual", tuple(TypingItem(number, text, text) for number, text in enumerate(passages)))


def _held_out(name: str, source: Source, holdout: float) -> Iterator[str]:
    """Yield the texts of a source's sufficiently long documents that `holdout` keeps for validation."""
    for item in read_source(name, source):
        if isinstance(item, Document) and is_held_out(content_hash(item), holdout):
            text = "\n".join(document_texts(item))
            if len(text) >= PASSAGE // 2:
                yield text


def _passages(text: str, most: int) -> Iterator[str]:
    """Yield up to `most` passages, evenly spread, each from the beginning of a sentence or line to a word's end."""
    text = _plain(text)
    most = min(most, max(1, len(text) // (2 * PASSAGE)))
    for number in range(most):
        start = number * len(text) // most
        begins = _BEGINNING.search(text, start) if number else None
        start = begins.start() if begins else start
        passage = text[start : start + PASSAGE + 1]
        yield passage[: passage.rfind(" ")] if len(passage) > PASSAGE else passage


def _plain(text: str) -> str:
    """Return `text` with straight quotation marks, as they are typed."""
    return text.translate(_QUOTES)


def _order(text: str) -> str:
    """Return the sort key of a text: pseudorandom, and the same everywhere."""
    return hashlib.sha256(text.encode()).hexdigest()


def _rows(path: Path, *needed: str) -> Iterator[dict[str, Any]]:
    _there(path)
    for place, row in json_rows(path, "the file that the typing set was frozen from (docs/typing.md)"):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in needed):
            raise KeylmError(f"{place}: no correction; accepted: an object with the texts {', '.join(needed)}")
        yield row


def _there(path: Path) -> None:
    if not path.is_file():
        raise KeylmError(
            f"{path}: is missing; accepted: a corpus folder with casual/ and typo/ that the typing sets were frozen "
            "from (docs/typing.md), or none for the packaged set alone"
        )
