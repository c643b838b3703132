"""Prediction as a keyboard's user experiences it: hits among the words shown, keystrokes saved, latency per key.

Protocol, after Trnka & McCoy, "Evaluating word prediction: framing keystroke savings", ACL 2008 (short papers):

- A key is a letter (in either case), a space, a punctuation mark or a line break. SHOWN words are always on screen.
- Choosing one costs a key and inserts a space after it; where the text has none there, the next mark replaces it.
- The user chooses the wanted word as soon as it is shown, even before its first letter, and makes no mistakes.
- Savings: (keys without suggestions - keys with them) / keys without suggestions.

Words are runs of letters with apostrophes inside, next to no digit, apostrophe or other letter; the rest is typed by
hand. The ceiling is a system that knows every word in advance: one key a word. Hits are of the exact word, capitals
included.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from keylm.base.machine import device_name
from keylm.evaluation.statistics import Tallies
from keylm.evaluation.typing_items import TypingItem
from keylm.keyboard.search import Suggester
from keylm.languages.language import ENGLISH, Language

SHOWN = 3
LETTERS = (1, 2, 3)
"""Numbers of letters after which completions are measured."""
PREDICTED = 10
"""Words of a passage that are predicted, evenly spread; the first ones of a document have little before them."""
TYPED = 120
"""Characters of a passage that are typed, at most."""
TIMED = 2
"""Passages that are typed against the clock."""
Suggest = Callable[[str, str], Sequence[str]]
"""Text up to where a word begins, and the typed letters of the word, to the words that are shown."""


def measure_prediction(
    systems: dict[str, Suggest], items: Iterable[TypingItem], tallies: Tallies, language: Language = ENGLISH
) -> Iterator[int]:
    """Add hits of the next word and of completions for each system; yield the number of items done."""
    for number, item in enumerate(items, 1):
        words = list(language.words.standing.finditer(item.clean))[1:]
        for word in words[:: max(1, len(words) // PREDICTED)]:
            for typed in (0, *(n for n in LETTERS if n < len(word[0]))):
                letters = f"after {typed} letter{'s' if typed > 1 else ''}"
                for name, suggest in systems.items():
                    shown = list(suggest(item.clean[: word.start()], word[0][:typed]))[:SHOWN]
                    for top in (1, SHOWN):
                        measure = f"completion top-{top} {letters}" if typed else f"next word top-{top}"
                        tallies.add(measure, name, item.document, word[0] in shown[:top], 1)
        yield number


def measure_keystrokes(
    systems: dict[str, Suggest], items: Iterable[TypingItem], tallies: Tallies, language: Language = ENGLISH
) -> Iterator[int]:
    """Add the keystroke savings of each system and the ceiling; yield the number of items done."""
    for number, item in enumerate(items, 1):
        text = beginning(item.clean)
        for name, suggest in systems.items():
            saved = len(text) - keystrokes(text, suggest, language)
            tallies.add("keystroke savings", name, item.document, saved, len(text))
        ceiling = len(text) - fewest_keystrokes(text, language)
        tallies.add("keystroke savings", "ceiling", item.document, ceiling, len(text))
        yield number


def keystrokes(text: str, suggest: Suggest, language: Language = ENGLISH) -> int:
    """Return the keys that `text` takes with suggestions, by the protocol above."""
    standing = language.words.standing
    keys = at = 0
    while at < len(text):
        word = standing.match(text, at)
        if not word:
            keys, at = keys + 1, at + 1
            continue
        letters, at = word[0], word.end()
        shown_after = (n for n in range(len(letters)) if letters in suggest(text[: word.start()], letters[:n]))
        typed = next(shown_after, None)
        keys += len(letters) if typed is None else typed + 1
        at += typed is not None and text[at : at + 1] == " "
    return keys


def fewest_keystrokes(text: str, language: Language = ENGLISH) -> int:
    """Return the keys that `text` takes where every word is shown before its first letter."""
    standing = language.words.standing
    return keystrokes(
        text, lambda before, _: [match[0] for match in [standing.match(text, len(before))] if match], language
    )


def beginning(text: str) -> str:
    """Return the first characters of a passage that are typed, up to a word's end."""
    return text if len(text) <= TYPED else text[: text.rfind(" ", 0, TYPED + 1)]


def measure_latency(suggester: Suggester, items: Sequence[TypingItem], language: Language = ENGLISH) -> dict[str, Any]:
    """Return {"p50_ms", "p95_ms", "keys", "machine", "threads"} of suggestions after each key, on one thread.

    The suggester has read other text before, as when a field is opened: the first key includes reading the context.
    """
    with one_thread():
        times = [taken for item in items[:TIMED] for taken in _times(suggester, beginning(item.clean), language)]
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    return {
        "p50_ms": round(statistics.median(times) * 1000, 3),
        "p95_ms": round(cuts[-1] * 1000, 3),
        "keys": len(times),
        "machine": device_name(torch.device("cpu")),
        "threads": 1,
    }


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: a word search runs a few tokens at a time, where threads cost more than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _times(suggester: Suggester, text: str, language: Language) -> Iterator[float]:
    """Yield the seconds that suggestions take after each character of `text` that words can follow."""
    for end in range(1, len(text) + 1):
        letters = language.words.typed.search(text[:end])
        if letters or not (text[end - 1].isalnum() or text[end - 1] == language.words.apostrophe):
            start = letters.start() if letters else end
            begun = time.perf_counter()
            suggester.suggest(text[:start], text[start:end], SHOWN)
            yield time.perf_counter() - begun
