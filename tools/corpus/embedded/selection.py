"""Choose the simplest public-domain documents of the corpus folder."""

from __future__ import annotations

import html
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.corpus.embedded import clean, measure
from tools.records import read_records

HERE = Path(__file__).resolve().parent
_NOT_PROSE = re.compile(r"https?:|www\.|[{}|<>=@#*^~\\]|\.(?:gov|com|org)\b|[Ee]ditor|\bposts?\b|\(PDF")
_SPEAKER = re.compile(r"^(?:[A-Z][\w.]*\s?){1,3}: ", re.MULTILINE)
SHORT_WORDS = frozenset(
    (
        "a",
        "an",
        "and",
        "at",
        "but",
        "by",
        "for",
        "from",
        "in",
        "of",
        "on",
        "or",
        "the",
        "to",
        "up",
        "was",
        "with",
    )
)


@dataclass
class Document:
    """One candidate text with what is known about it."""

    text: str
    title: str
    source: str
    author: str = ""
    year: int | None = None
    group: str = ""
    died: str = ""
    score: float = 0.0

    def record(self) -> dict[str, Any]:
        """Return the JSON object that is written to the data file."""
        fields: dict[str, Any] = {"text": self.text, "title": self.title}
        if self.author:
            fields["author"] = self.author
        if self.year:
            fields["year"] = self.year
        return {**fields, "source": self.source}


@dataclass
class Choice:
    """The chosen documents and a count of why others were left out."""

    documents: list[Document] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def size(self) -> int:
        """Return the bytes of all chosen texts."""
        return sum(len(document.text) for document in self.documents)


def load_toml(name: str) -> dict[str, Any]:
    """Return a TOML file that lies beside this script."""
    with (HERE / name).open("rb") as stream:
        return tomllib.load(stream)


def make_filters(limits: dict[str, Any]) -> measure.Filters:
    """Return the filters of one kind of text."""
    lists = load_toml("word_lists.toml")
    blocked, dialect = (frozenset(lists[name].split()) for name in ("blocked", "dialect"))
    phrases = tuple(lists["blocked_phrases"])
    return measure.Filters(blocked, dialect, phrases, limits["shortest"], limits["longest"])


def first_words_lower(text: str) -> str:
    """Return a text whose opening word or words in capitals are written as usual."""
    match = re.match(r"(?:[A-Z]{2,}\b[ ,]*|I (?=[A-Z]{2,}))+", text)
    if not match or len(match[0]) > 40:
        return text
    opening = match[0].capitalize()
    return re.sub(r"\bi\b", "I", opening) + text[match.end() :]


def slug_title(slug: str) -> str:
    """Return a readable title made from a file name."""
    parts = re.split(r"[-.]+", slug)
    named = [part if i and part in SHORT_WORDS else part.capitalize() for i, part in enumerate(parts)]
    return re.sub(r"\b(Mr|Mrs)\b", r"\1.", " ".join(named))


def fairy_tales(corpus: Path, rules: dict[str, Any]) -> Iterator[Document]:
    """Yield the old fairy tales whose text is in the public domain."""
    folder_of = {slug: folder for folder, slugs in rules["folders"].items() for slug in slugs.split()}
    for record in read_records(corpus / "formal" / "children.jsonl.zst"):
        slug = record["source"].removeprefix("fairytaleqa:").removesuffix("-story")
        if record.get("licence") != "PD text; dataset Apache-2.0" or slug not in folder_of:
            continue
        folder = folder_of[slug]
        author = rules["tale_authors"].get(slug, rules["authors"].get(folder, ""))
        text = first_words_lower(clean.join(clean.paragraphs(record["text"])))
        yield Document(text, slug_title(slug), f"FairytaleQAData:{folder}/{slug}", author, group=folder)


def ebook_stories(corpus: Path, rules: dict[str, Any]) -> Iterator[Document]:
    """Yield the short stories of the named Standard Ebooks collections."""
    collections = {entry["folder"]: entry for entry in rules["collections"]}
    for record in read_records(corpus / "formal" / "short_fiction.jsonl.zst"):
        entry = collections.get(record["source"].split(":")[1])
        lines = clean.paragraphs(record["text"])
        if entry is None or len(lines) < 3:
            continue
        text = clean.join(lines[1:])
        yield Document(text, lines[0], record["source"], entry["author"], group=entry["author"], died=entry["died"])


def book_chapters(corpus: Path, rules: dict[str, Any]) -> Iterator[Document]:
    """Yield the chapters of the named public-domain books."""
    entry_of = {(entry["author"], book): entry for entry in rules["authors"] for book in entry["books"]}
    for record in read_records(corpus / "formal" / "books.jsonl.zst"):
        entry = entry_of.get((record["author"], record["title"]))
        if entry is None:
            continue
        heading, lines = clean.split_heading(clean.paragraphs(record["text"]))
        title = clean.to_ascii(record["title"]) + (f", {heading}" if heading else "")
        text = first_words_lower(clean.join(lines))
        author, year = record["author"], record["year"]
        yield Document(text, title, record["source"], author, year, group=author, died=entry["died"])


def is_prose(line: str) -> bool:
    """Return whether a paragraph of an article is plain running text."""
    if len(line) < 60 or line[-1] not in ".!?\"'" or not (line[0].isupper() or line[0] in "\"'"):
        return False
    return not _NOT_PROSE.search(line)


def articles(corpus: Path, rules: dict[str, Any]) -> Iterator[Document]:
    """Yield the plain prose of articles by United States public servants."""
    for record in read_records(corpus / "formal" / "us_gov.jsonl.zst"):
        if any(part in record["source"] for part in rules["skipped_paths"]):
            continue
        title, *lines = clean.paragraphs(html.unescape(record["text"]))
        title = title.strip('" ')
        if len(title) < 8 or any(part in title.lower() for part in rules["skipped_titles"]):
            continue
        prose = [line for line in lines if is_prose(line)]
        text = clean.join(prose)
        lowered = text.lower()
        acronyms = len(re.findall(r"\b[A-Z]{2,}s?\b|\b\w*\d\w*\b", text))
        if any(phrase in lowered for phrase in rules["skipped_phrases"]) or len(_SPEAKER.findall(text)) > 1:
            continue
        if acronyms > rules["acronym_share"] * len(text.split()):
            continue
        if len(text) >= rules["kept_share"] * len(clean.join(lines)):
            yield Document(text, title, record["source"])


def choose(candidates: list[Document], common: frozenset[str], rules: dict[str, Any], caps: dict[str, int]) -> Choice:
    """Return the simplest documents that pass the filters, within the size limits."""
    filters, result = make_filters(rules), Choice()
    for document in candidates:
        document.score = measure.simplicity(document.text, common)
    seen: set[str] = set()
    used: Counter[str] = Counter()
    for document in sorted(candidates, key=lambda item: (-item.score, item.source, item.text)):
        reason = filters.reason(document.text)
        if not reason and used[document.group] + len(document.text) > caps.get(document.group, 10**9):
            reason = "enough of this author"
        if not reason and result.size + len(document.text) > rules["largest_total"]:
            reason = "enough text"
        if not reason and measure.is_duplicate(document.text, seen):
            reason = "near-duplicate"
        if reason:
            result.left_out[reason] += 1
            continue
        used[document.group] += len(document.text)
        result.documents.append(document)
    result.documents.sort(key=lambda item: (item.author, item.source, item.title, item.text))
    return result


def author_caps(rules: dict[str, Any]) -> dict[str, int]:
    """Return the most bytes to take from each author of short stories."""
    caps = {entry["author"]: rules["books"]["largest_per_author"] for entry in rules["authors"]}
    return caps | {entry["author"]: entry["largest"] for entry in rules["collections"]}


def choose_all(corpus: Path) -> dict[str, Choice]:
    """Return the choice for each of the three text files."""
    rules = load_toml("sources.toml")
    tales, stories, service = (rules[name] for name in ("fairy_tales", "short_stories", "public_service"))
    tale_pool = list(fairy_tales(corpus, tales))
    story_pool = [*ebook_stories(corpus, stories), *book_chapters(corpus, stories)]
    service_pool = list(articles(corpus, service))
    narrative = measure.common_words(document.text for document in [*tale_pool, *story_pool])
    plain = measure.common_words(document.text for document in [*tale_pool, *story_pool, *service_pool])
    return {
        "fairy_tales": choose(tale_pool, narrative, tales, {}),
        "short_stories": choose(story_pool, narrative, stories, author_caps(stories)),
        "public_service": choose(service_pool, plain, service, {}),
    }
