"""How well typed words are corrected.

Invariant: only plain words are tested (letters, apostrophes inside, not all capitals), the same ones for every system,
each after the text as it was typed, mistakes included.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from keylm.evaluation.statistics import Tallies
from keylm.evaluation.typing_items import TypingItem
from keylm.keyboard.corrector import Correct
from keylm.languages.language import ENGLISH, Language
from keylm.languages.words import Words


class TypedWord(NamedTuple):
    """A word as it was typed and as it was meant, and the typed text before it."""

    context: str
    typed: str
    meant: str


@lru_cache(maxsize=8)
def _plain(words: Words) -> re.Pattern[str]:
    """Return the pattern of a token with one word, after marks and clitics and before marks."""
    clitics = f"(?:(?:{'|'.join(words.clitic)})+(?={words.letter}))?" if words.clitics else ""
    return re.compile(rf"[^\w{words.apostrophe}]*{clitics}({words.part}*{words.letter})[^\w]*")


def typed_words(item: TypingItem, language: Language = ENGLISH) -> Iterator[TypedWord]:
    """Yield the plain words of an item; where words are missing or superfluous, those in that place are left out."""
    words = language.words
    left, right = list(re.finditer(r"\S+", item.typed)), item.clean.split()
    matcher = difflib.SequenceMatcher(None, [token[0] for token in left], right, autojunk=False)
    for _, i, i_end, j, j_end in matcher.get_opcodes():
        if i_end - i != j_end - j:
            continue
        for token, clean in zip(left[i:i_end], right[j:j_end], strict=True):
            typed, meant = _plain(words).fullmatch(token[0]), _plain(words).fullmatch(clean)
            if typed and meant and _tested(typed[1], words) and _tested(meant[1], words):
                yield TypedWord(item.typed[: token.start() + typed.start(1)], typed[1], meant[1])


def measure_correction(
    systems: dict[str, Correct],
    items: Iterable[TypingItem],
    known: Callable[[str], bool],
    tallies: Tallies,
    language: Language = ENGLISH,
) -> Iterator[int]:
    """Add error reduction, repaired typos and false corrections of each system; yield the number of items done.

    `known` says whether a typed word is a word, to separate real-word errors from the others. "error reduction": typos
    repaired minus correct words spoilt, over typos; at most 1, below 0 where a system does harm. "wrong words left" is
    the share of all words that are wrong after the system.
    """
    for number, item in enumerate(items, 1):
        for word in typed_words(item, language):
            wrong = word.typed != word.meant
            kind = "typos repaired: real words" if known(word.typed.lower()) else "typos repaired: non-words"
            for name, correct in systems.items():
                good = correct(word.context, word.typed) == word.meant
                tallies.add("wrong words left", name, item.document, not good, 1)
                if wrong:
                    tallies.add("error reduction", name, item.document, good, 1)
                    tallies.add(kind, name, item.document, good, 1)
                else:
                    tallies.add("error reduction", name, item.document, good - 1, 0)
                    tallies.add("false corrections", name, item.document, not good, 1)
        yield number


def _tested(word: str, words: Words) -> bool:
    return words.whole.fullmatch(word) is not None and (len(word) == 1 or not word.isupper())
