"""Documents split into headings and paragraphs, of sentences that are fit for answers.

Left out are lines that are no sentences (tables, formulas), sentences about the document itself ("in this article"),
and broken or overlong ones. A paragraph ends at the first sentence left out, so that what is kept is coherent; lists
stay lists.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

from keylm.instructions.drafts import Paragraph
from keylm.instructions.tables import phrase_tables
from keylm.text.sentences import fewest_words, sentences

READ_CHARACTERS = 4500
"""Length of the part of a document that is read."""
_WORDS = phrase_tables().passages
_SELF_REFERENCE, _SELF_REFERENCE_STARTS = frozenset(_WORDS.self_reference), frozenset(_WORDS.self_reference_starts)
_SELF_REFERENCE_PHRASES = re.compile(rf"(?i)\b({'|'.join(_WORDS.self_reference_phrases)})\b")
_EXERCISE = re.compile(rf"({'|'.join(word.capitalize() for word in _WORDS.exercises)})\b(?!ing)")
_NO_SUBJECT = frozenset((*_WORDS.no_subject, *_WORDS.exercises, *_WORDS.commands))
_DULL = frozenset(_WORDS.dull)
_BROKEN = re.compile(
    r"[\[\]{}<>|\\$=~^*_`#@•→]|https?:|www\.|\.\.\.|…|\(\s*[,;)]|\s[,;.:](?:\s|$)|\d{4}[A-Z]|[a-z]\.[A-Z]|"
    r"\b(?:of|the|in|by|and|a) [.,;)]|&[a-z#]+;|  |[\u0370-\u2010\u2030-\u20ff\u2100-\uffff]"
)
_SHARE = re.compile(r"[A-Za-z ,.'’“”\"()-]")
_RESOLVES = re.compile(r"[.!?][\"”’)]?$")
_LETTERS = re.compile(r"[a-z']+")
_INSIDE = re.compile(r"(?<=[a-z,;] )[A-Za-z][\w'-]*")
Forms = dict[str, Counter[str]]


@dataclass
class PassageSection:
    """A heading ("" for the lead) with the text beneath it."""

    heading: str
    paragraphs: list[Paragraph] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    """of a list beneath the heading"""

    @property
    def words(self) -> int:
        """Return how many words the paragraphs have."""
        return sum(fewest_words(sentence) for part in self.paragraphs for sentence in part)


def about_itself(sentence: str) -> bool:
    """Return whether a sentence is about its own document, author or reader."""
    words = set(_LETTERS.findall(sentence.lower()))
    return bool(
        words & _SELF_REFERENCE or (words & _SELF_REFERENCE_STARTS and _SELF_REFERENCE_PHRASES.search(sentence))
    )


def good_sentence(sentence: str, *, story: bool = False) -> bool:
    """Return whether a sentence is whole, plain prose and not about its own document."""
    count = fewest_words(sentence)
    return (
        3 <= count <= 45
        and sentence[0].isupper()
        and _RESOLVES.search(sentence) is not None
        and not _BROKEN.search(sentence)
        and (story or not about_itself(sentence))
        and not _EXERCISE.match(sentence)
        and len(_SHARE.findall(sentence)) > 0.93 * len(sentence)
        and sentence.count("(") == sentence.count(")")
        and sentence.count("“") == sentence.count("”")
        and sentence.count('"') % 2 == 0
    )


def tidy(text: str) -> str:
    """Return a line with plain quotation marks and apostrophes, and without empty brackets."""
    text = text.replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"').replace("\u00a0", " ")
    text = re.sub(r"\s*\(\s*(?:[;,]\s*)*\)", "", text)
    return re.sub(r"\(\s*[;,]\s*", "(", text).strip()


def good_paragraph(line: str, *, story: bool = False) -> Paragraph:
    """Return the sentences of a line up to the first that is left out; those about the document are skipped."""
    kept: Paragraph = []
    for sentence in sentences(re.sub(r"^A\d*[:.]\s+", "", tidy(line))):
        if good_sentence(sentence, story=story):
            kept.append(sentence)
        elif story or not about_itself(sentence):
            break
    return kept


def sections(text: str, *, untitled: bool = False) -> list[PassageSection]:
    """Return the sections of a document: headings are short lines that do not end like a sentence."""
    found = [PassageSection("")]
    for line in text[:READ_CHARACTERS].split("\n")[0 if untitled else 1 :]:
        line = line.strip()
        if not line:
            continue
        if match := re.match(r"(?:[-*•]|\d+[.)])\s+(\S.*)", line):
            found[-1].items.append(tidy(match[1]))
        elif _is_heading(line):
            found.append(PassageSection(re.sub(r"^Q?\d*[:.]\s*|\.$", "", tidy(line))))
        elif kept := good_paragraph(line):
            found[-1].paragraphs.append(kept)
    if len(text) > READ_CHARACTERS and found[-1].paragraphs:
        found[-1].paragraphs.pop()  # it may be truncated
    return [section for section in found if section.paragraphs or section.items]


def _is_heading(line: str) -> bool:
    return (len(line) < 90 and line[0].isupper()) or bool(re.match(r"Q\d*:", line)) if _heads(line) else False


def _heads(line: str) -> bool:
    """Return whether a line could be a heading: a question, or words without a full stop (Wikipedia's have one)."""
    words = fewest_words(line)
    if line.endswith("?"):
        return words <= 18
    if line.endswith("."):
        return words <= 4 and not re.search(r"\b(?:is|was|are|were|has|had)\b", line)
    return words <= 9 and not line.endswith(("!", ":", ",", ";"))


def good_heading(heading: str) -> bool:
    """Return whether a heading names a subject."""
    words = re.findall(r"[A-Za-z'-]+", heading)
    return (
        1 <= len(words) <= 7
        and not _BROKEN.search(heading)
        and not about_itself(heading)
        and not re.search(r"\d|:|\(|,|/", heading)
        and any(word.lower() not in _DULL and len(word) > 3 for word in words)
        and not all(word.lower() in _DULL or len(word) < 4 for word in words)
        and words[0].lower() not in _NO_SUBJECT
    )


def word_forms(title: str, body: str) -> Forms:
    """Return the forms that running text gives to each word of a title; first words of sentences do not count."""
    wanted = {word.strip("?,.'\"():").lower().removesuffix("'s") for word in title.split()}
    forms: Forms = {}
    for word in _INSIDE.findall(body):
        if (low := word.lower().removesuffix("'s")) in wanted:
            forms.setdefault(low, Counter())[word] += 1
    return forms


def sentence_case(title: str, body: str, *, cased: bool = False) -> str:
    """Return a title in the case of running text: words as they mostly are in the body; `cased` ones keep theirs."""
    words = title.split()
    if cased and any(word[0].isupper() for word in words[1:]):
        return title
    forms = word_forms(title, body)
    return " ".join(word if cased and place else _as_written(word, forms, cased) for place, word in enumerate(words))


def _as_written(word: str, forms: Forms, cased: bool) -> str:
    core = word.strip("?,.'\"():")
    found = forms.get(core.lower().removesuffix("'s"))
    if core == "I" or (core.isupper() and len(core) > 1):
        return word
    if not found:
        return word if cased else word.lower()
    best = found.most_common(1)[0][0]
    if core.lower() == best.lower():  # otherwise one of them is a possessive
        return word.replace(core, best)
    return word if best[0].isupper() else word.lower()
