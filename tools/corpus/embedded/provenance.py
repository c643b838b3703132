"""Write src/keylm/corpus/PROVENANCE.md from what was chosen."""

from __future__ import annotations

from dataclasses import dataclass

from tools.corpus.embedded.selection import Choice, Document

HEAD = """# Where the embedded corpus comes from

Four small English data sets ship inside the package, so that a 1-3 M parameter model can be trained
offline. This page is written by `tools/corpus/embedded/build.py`; change the script, not the page.

All text is plain ASCII. Each line of a file is one JSON object: `{"text", "title", "author"?, "year"?,
"source"}`, and in the chat file `{"messages": [{"role", "content"}, ...], "source": "keylm"}`. The files
are compressed with zstd at level 19.

"""

RULES = """
## How the texts were chosen

1. Only the sources named in `tools/corpus/embedded/sources.toml` are read.
2. Curly quotes, long dashes, ellipses, accents and odd spaces become plain ASCII. Emphasis marks, chapter
   numbers and headings are taken out of the text (headings go to the title). Paragraph breaks are kept.
3. A document is dropped when a word of `tools/corpus/embedded/word_lists.toml` (slurs and other words
   about groups of people, coarse or cruel words) is in it, when it has much dialect or very old grammar,
   when it looks like verse or has odd characters or addresses, and when it is too short or too long.
4. The rest is ranked by simplicity: the share of words among the 3,000 most frequent words of the pool,
   less 0.004 for each word of the mean sentence length. The simplest documents are taken up to the size
   limit (with a limit for each author of stories), except near-duplicates (a fifth of the runs of eight
   words seen before).
5. The old stories are of their time. The filters and samples read by eye removed what was noticed; a trace
   of old views may remain.

## How to rebuild

    python -m tools.corpus.embedded.build --corpus ../shared/corpus

The corpus folder holds zstd-compressed JSON lines in `formal/children`, `formal/short_fiction`,
`formal/books` and `formal/us_gov`, gathered from the repositories below. The same folder and the same
zstandard release give the same bytes; `--check` says whether the files in the package are what the script
makes. The chat file needs no corpus.
"""

TALES = """
## fairy_tales.jsonl.zst

- **From:** the story texts of FairytaleQA, <https://github.com/uci-soe/FairytaleQAData> at commit a24ddc1,
  which took them from Project Gutenberg. The folder in the table is that repository's name for the book,
  not always exact.
- **Licence:** public-domain text; dataset Apache-2.0 (the record says "PD text; dataset Apache-2.0"). None
  of its questions or annotations is used.
- **Not used:** the tales of that data set's validation and test splits, and one tale that is a modern
  summary (ali-baba-and-forty-thieves). Titles are made from file names; an author or teller is named only
  where it is certain.

| title | author | folder | bytes |
|---|---|---|--:|
"""

STORIES = """
## short_stories.jsonl.zst

- **From:** short stories of Standard Ebooks, <https://github.com/standardebooks> (the repositories
  `anton-chekhov_short-fiction_constance-garnett`, `o-henry_short-fiction` and
  `f-scott-fitzgerald_short-fiction`; the corpus records no commit for them), and whole chapters of books
  from <https://github.com/mlschmitt/classic-books-markdown> at commit 9448827.
- **Licence:** the Standard Ebooks editions are dedicated to the public domain (CC0); the books of 1880-1928
  are in the public domain in the United States. Every author and translator here died before 1955, so the
  works are also free where protection lasts 70 years after the author's death.

| author | died | documents | bytes |
|---|---|--:|--:|
"""

TITLES = """
| title | author | year | bytes |
|---|---|---|--:|
"""

SERVICE = """
## public_service.jsonl.zst

- **From:** articles of <https://github.com/GSA/digitalgov.gov> at commit 4979583 and
  <https://github.com/18F/18f.gsa.gov> at commit 0a55c75, written by United States public servants.
- **Licence:** public domain in the United States, CC0 elsewhere.
- **Kept:** running prose only. Headings, lists, tables and lines with addresses are taken out, and an
  article is dropped when that takes much of it, when it has many abbreviations or numbers, or when it is an
  announcement, an event, an interview or is about social networks or politics. So an article can lack a
  list that it had.

| title | path in the repository | bytes |
|---|---|--:|
"""

CHAT = """
## chat.jsonl.zst

- **From:** written for keylm. The hand-written seeds are in `tools/corpus/embedded/chat_seeds/` ({units}
  question-and-answer units with several phrasings each, {rows} rows of question tables and {stories} very
  short stories), written for this project by an AI model; the program `chat.py` beside them makes the sums
  and puts all together with a fixed seed. Nothing was copied from a data set or a benchmark.
- **Licence:** dedicated to the public domain under CC0 1.0 by the keylm project.
- **What it teaches:** the form of a helpful chat in simple English. In it the assistant is called KeyLM.
"""


@dataclass(frozen=True)
class FileFacts:
    """The size of one data file."""

    name: str
    documents: int
    raw_bytes: int
    packed_bytes: int
    licence: str


def cell(text: str) -> str:
    """Return text that is safe inside a table."""
    return text.replace("|", "/").replace("\n", " ")


def overview(facts: list[FileFacts]) -> str:
    """Return the table of the four files."""
    lines = ["| file | documents | bytes, plain | bytes, compressed | licence |", "|---|--:|--:|--:|---|"]
    lines += [f"| {f.name} | {f.documents:,} | {f.raw_bytes:,} | {f.packed_bytes:,} | {f.licence} |" for f in facts]
    return "\n".join(lines) + "\n"


def tale_rows(documents: list[Document]) -> str:
    """Return the table rows of the fairy tales."""
    return "".join(f"| {cell(d.title)} | {d.author} | {d.group} | {len(d.text):,} |\n" for d in documents)


def author_rows(documents: list[Document]) -> str:
    """Return the table rows that sum up each author of stories."""
    rows = []
    for author, died in sorted({(d.author, d.died) for d in documents}):
        sizes = [len(d.text) for d in documents if d.author == author]
        rows.append(f"| {author} | {died} | {len(sizes)} | {sum(sizes):,} |\n")
    return "".join(rows)


def title_rows(documents: list[Document]) -> str:
    """Return the table rows of the short stories and chapters."""
    return "".join(f"| {cell(d.title)} | {d.author} | {d.year or ''} | {len(d.text):,} |\n" for d in documents)


def service_rows(documents: list[Document]) -> str:
    """Return the table rows of the public-service articles."""
    return "".join(f"| {cell(d.title)} | {cell(d.source)} | {len(d.text):,} |\n" for d in documents)


def page(facts: list[FileFacts], choices: dict[str, Choice], seeds: dict[str, int]) -> str:
    """Return the whole page."""
    tales, stories, service = (choices[name].documents for name in ("fairy_tales", "short_stories", "public_service"))
    chat = CHAT.format(units=seeds["units"], rows=seeds["table rows"], stories=seeds["stories"])
    parts = [HEAD, overview(facts), RULES, TALES, tale_rows(tales), STORIES, author_rows(stories)]
    parts += [TITLES, title_rows(stories), SERVICE, service_rows(service), chat]
    return "".join(parts)
