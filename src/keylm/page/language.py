"""A language as the page reads it: language_table.js, served by `keylm serve` and exported with the web folder.

Invariant: the page has no layout, word pattern or rate of its own; everything comes from the language's folder or from
the modules that Python itself computes with. Probabilities of taps are computed here, as JavaScript has no error
function. The table is a module, not JSON to fetch, so that the page works from its first key on.
"""

import json
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from keylm.keyboard.edit_model import HIGHEST_RATE, SMOOTHING
from keylm.languages.language import ENGLISH, Language
from keylm.typos.keys import keys_of
from keylm.typos.kinds import POSITIONS, STEM

_PARTIAL = ("beginnings", "ends")
LANGUAGE_FILE = "language_table.js"


def language_script(language: Language = ENGLISH) -> bytes:
    """Return language_table.js, which page/language.js imports."""
    table = json.dumps(language_table(language), ensure_ascii=False, separators=(",", ":"))
    return f"export default {table};\n".encode()


def language_table(language: Language = ENGLISH) -> dict[str, Any]:
    """Return the page's table of a language, ready for JSON."""
    words, layout = language.words, language.layout
    return {
        "code": language.code,
        "words": {
            "apostrophe": words.apostrophe,
            **{name: getattr(words, name) for name in ("letter", "word", "unfinished", "part", "inner")},
            **{"clitics": words.clitic, "listed_capitals": words.listed_capitals},
            **{f"letter_{name}": _bytes(found) for name, found in zip(_PARTIAL, words.letter_bytes, strict=True)},
        },
        "layout": {
            "rows": [row.keys + row.signs for row in layout.rows],
            **asdict(layout.page),
            "long_press": layout.long_press,
        },
        "mistakes": _mistakes(language),
        "contractions": asdict(language.contractions),
        "prose": asdict(language.prose),
    }


def _bytes(found: Collection[bytes]) -> list[str]:
    """Return bytes as spelling.js has them, a character for each."""
    return sorted(one.decode("latin-1") for one in found)


def _mistakes(language: Language) -> dict[str, Any]:
    """Return what page/channel.js computes with: the tables of typos/kinds.py and keyboard/edit_model.py."""
    keys, letters = keys_of(language.layout), language.words.letters
    wrong = {
        letter: {
            key: share / keys.miss_share(letter)
            for key, share in keys.tap_shares(letter).items()
            if key not in (letter, " ")
        }
        for letter in letters
    }
    return {
        "letters": letters,
        "vowels": language.words.vowels,
        "apostrophe": language.words.apostrophe,
        "neighbours": {letter: keys.neighbours(letter) for letter in letters},
        "wrong_taps": wrong,
        "held": language.layout.held,
        "confusions": language.confusions,
        "spellings": language.spellings,
        "endings": language.endings,
        "channel": asdict(language.channel),
        "rates": {name: value for name, value in asdict(language.typo_rates).items() if name not in ("about", "rules")},
        "constants": {"smoothing": SMOOTHING, "highest_rate": HIGHEST_RATE, "positions": POSITIONS, "stem": STEM},
    }
