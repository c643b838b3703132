"""Words, sentences, lines and paragraphs of a plain text, as the checkers count them.

Two ways of counting sentences frame what any reasonable splitter finds: `fewest_sentences` counts only ends that are
beyond doubt, `most_sentences` every terminator. A checker takes whichever is harder to satisfy.
"""

import re
import tomllib
from importlib.resources import files

_LISTS = tomllib.loads((files("keylm.text") / "words.toml").read_text(encoding="utf-8"))
_ABBREVIATIONS = frozenset(_LISTS["abbreviations"].split())
STOP_WORDS = frozenset(_LISTS["stop_words"].split())
_END = re.compile(r"[.!?]+[\"”’')\]*]*(?=\s)")
_OPENING = re.compile(r"[\"“‘'(\[*]*[A-Z0-9]")
_TERMINATOR = re.compile(r"[.!?]+[\"”’')\]*_>]*(?=\s|$)")
_WORD = re.compile(r"\w+")


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; abbreviations and initials end none."""
    found, start = [], 0
    for end in _END.finditer(text):
        before = text[start : end.start()].rsplit(None, 1)
        last = before[-1].lower().lstrip("(\"“‘'*") if before else ""
        if end[0].startswith(".") and len(end[0]) == 1 and (last in _ABBREVIATIONS or len(last) == 1):
            continue
        if not _OPENING.match(text[end.end() :].lstrip()):
            continue
        found.append(text[start : end.end()].strip())
        start = end.end()
    rest = text[start:].strip()
    return [*found, rest] if rest else found


def all_sentences(text: str) -> list[str]:
    """Return the sentences of a text of several lines; the end of a line ends one."""
    return [sentence for line in lines(text) for sentence in sentences(line)]


def fewest_sentences(text: str) -> int:
    """Return how many sentences there are at least."""
    return len(sentences(text))


def most_sentences(text: str) -> int:
    """Return how many sentences there are at most: every terminator ends one, and so does the text."""
    ends = list(_TERMINATOR.finditer(text.strip()))
    trailing = bool(text.strip()) and (not ends or ends[-1].end() < len(text.strip()))
    return len(ends) + trailing


def fewest_words(text: str) -> int:
    """Return the number of runs between spaces that contain a letter or digit."""
    return sum(1 for run in text.split() if run[0].isalnum() or _WORD.search(run))


def most_words(text: str) -> int:
    """Return the number of runs of letters and digits: “don't” and “well-known” count twice."""
    return len(_WORD.findall(text))


def paragraphs(text: str) -> list[str]:
    """Return what blank lines separate."""
    return [part.strip() for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def lines(text: str) -> list[str]:
    """Return the lines that are not blank."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def occurrences(word: str, text: str) -> int:
    """Return how often `word` occurs in the text as a whole word, whatever its case."""
    text, word = f" {text.lower()} ", word.lower()
    count, place = 0, text.find(word)
    while place >= 0:
        end = place + len(word)
        count += not (_in_word(text[place - 1]) or _in_word(text[end]))
        place = text.find(word, end)
    return count


def _in_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def bare(word: str) -> str:
    """Return a word in lower case without punctuation around it."""
    return word.strip("\"“”‘’'.,;:!?()[]*_<>-–—…").lower()


def content_words(text: str) -> list[str]:
    """Return the plain lower-case words of at least four letters that carry meaning, each once, in order."""
    found = (word for word in re.findall(r"(?<![\w'’-])[a-z]{4,14}(?![\w'’-])", text) if word not in STOP_WORDS)
    return list(dict.fromkeys(found))


def counted(number: int, *, spelt: bool = False) -> str:
    """Return a number in figures, or in words up to twelve."""
    return _NUMBERS[number] if spelt and number < len(_NUMBERS) else str(number)


def ordinal(number: int) -> str:
    """Return first, second and so on."""
    return _ORDINALS[number - 1] if number <= len(_ORDINALS) else f"{number}th"


_NUMBERS = _LISTS["numbers"].split()
_ORDINALS = _LISTS["ordinals"].split()
