"""Turn corpus text into plain ASCII paragraphs that a tiny vocabulary covers well."""

from __future__ import annotations

import re
import unicodedata

_CHARACTERS = {
    "\u2018": "'", "\u2019": "'", "\u201b": "'", "\u2032": "'", "\u02bc": "'", "\u00b4": "'",
    "\u201c": '"', "\u201d": '"', "\u2033": '"', "\u00ab": '"', "\u00bb": '"',
    "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2212": "-",
    "\u2013": " - ", "\u2014": " - ", "\u2015": " - ", "\u2e3a": " - ", "\u2e3b": " - ",
    "\u2026": "...", "\u00e6": "ae", "\u00c6": "Ae", "\u0153": "oe", "\u0152": "Oe",
    "\u00a0": " ", "\u2003": " ", "\u2009": " ", "\u200a": " ", "\u202f": " ",
    "\ufeff": "", "\u200b": "", "\u200e": "", "\u202c": "", "\u00ad": "", "\ufe0f": "",
    "\u00ae": "", "\u2122": "",
}  # fmt: skip
_TABLE = str.maketrans(_CHARACTERS)
_ROMAN_OR_STARS = re.compile(r"^(?:[IVXLC]+|\d+|[*\s.\-_#]+)\.?$")
_HEADING = re.compile(r"^(?:(?:chapter|part|book|scene|act)\b|[IVXLC]+\b\.?|\d+\b\.?)", re.IGNORECASE)


def to_ascii(text: str) -> str:
    """Return the text with typographic characters and accents replaced by plain ones."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_TABLE))
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def tidy_line(line: str) -> str:
    """Return one paragraph with even spaces and dashes, without emphasis and note marks."""
    line = re.sub(r"\[\d+\]|_(?=\w)|(?<=[\w.,!?;:'\"])_|\s\d{1,3}(?=\s+\u21a9)", "", line)
    line = re.sub(r"\s*-{2,}\s*|\s+-\s+", " - ", line)
    line = re.sub(r"\s*\.\s?\.\s?\.(?:\s?\.)?", "... ", line)
    line = re.sub(r"\.\.\. (?=[\"'!?,)])", "...", line)
    line = re.sub(r" - (?=[\"',.!?;])", " -", line)
    line = re.sub(r"(?<=[(\"]) - ", "- ", line)
    line = re.sub(r"(?<=\w) (?=[,;.!?](?:\s|$))", "", line)
    return re.sub(r"\s+", " ", line).strip()


def paragraphs(text: str) -> list[str]:
    """Return the cleaned paragraphs of a text, one for each non-empty line."""
    lines = (tidy_line(line) for line in to_ascii(text).splitlines())
    return [line for line in lines if line and not _ROMAN_OR_STARS.match(line)]


def split_heading(lines: list[str]) -> tuple[str, list[str]]:
    """Return the first line when it is a chapter heading (else "") and the other lines."""
    if lines and len(lines[0]) < 90 and (_HEADING.match(lines[0]) or lines[0][-1] not in '.!?"'):
        return _quiet(lines[0].rstrip(".")), lines[1:]
    return "", lines


def _quiet(heading: str) -> str:
    """Return a heading without words in capitals, except Roman numbers."""
    return re.sub(r"\b(?![IVXLC]+\b)[A-Z]{2,}\b", lambda match: match[0].capitalize(), heading)


def join(lines: list[str]) -> str:
    """Return the paragraphs as one text with an empty line between them."""
    return "\n\n".join(lines)
