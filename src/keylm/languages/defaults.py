"""What a language's folder need not say: parts that are computed from its letters, or borrowed from another layout."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from keylm.base.errors import KeylmError
from keylm.languages.words import Words, ranges

NEVER = "(?!)"
"""A pattern that nothing matches, in Python and in JavaScript."""
LATIN = "ɏ"
"""The last letter that prose.toml names itself."""
OMITTED = 0.5
"""As in en/contractions.toml."""


def no_contractions(words: Words) -> dict[str, Any]:
    """Return the table of a language without contractions."""
    return {
        "apostrophes": words.other_apostrophes,
        **{"certain": [], "also_words": [], "omitted": OMITTED},
        **{"negation": NEVER, "negation_by_ear": NEVER, "negation_mistyped": NEVER},
    }


def prose(table: Mapping[str, Any], words: Words) -> dict[str, Any]:
    """Return the rules of prose for a language's letters, which {capital}, {small} and {others} stand for."""
    beyond = "".join(letter for letter in words.capitals + words.letters if letter > LATIN)
    classes = {
        "{capital}": ranges(words.capitals) + words.also,
        "{small}": ranges(words.letters) + words.also,
        "{others}": ranges(beyond) + words.also * bool(beyond),
    }
    token = str(table["token"])
    for name, letters in classes.items():
        token = token.replace(name, letters)
    return {**table, "token": token}


def without_words(rates: dict[str, Any], code: str, words: Words) -> dict[str, Any]:
    """Return another language's error rates without what its words, endings, spellings and other letters show."""
    letters = set(words.letters)
    pairs = {
        name: {pair: count for pair, count in rates[name].items() if set(pair) - {">"} <= letters}
        for name in ("inserted", "vowels", "neighbours", "substitutions")
    }
    return {
        **rates,
        **pairs,
        **{"confusions": {}, "endings": {}, "rules": {}},
        "about": f"borrowed from {code!r}, whose layout is nearest: {rates['about']}",
    }


def with_letters(tables: Sequence[dict[str, Any]], words: Words) -> dict[str, Any]:
    """Return that of some layouts which types most of a language's letters; others are held keys, by their base letter.

    Raises KeylmError for a letter that is no key with an accent.
    """
    best = max(tables, key=lambda table: len(set(words.letters) & set(_typed(table))))
    keys = "".join(row["keys"] for row in best["rows"])
    if extra := set(keys) - set(words.letters):
        raise KeylmError(f"no layout: keys {sorted(extra)} are no letters; accepted: a layout.toml of its own")
    own = {key: "".join(c for c in held if c in words.letters) for key, held in best.get("long_press", {}).items()}
    held = {key: letters for key, letters in own.items() if letters}
    for letter in words.letters:
        base = unicodedata.normalize("NFD", letter)[0]
        if letter in keys or any(letter in letters for letters in held.values()):
            continue
        if base not in keys:
            raise KeylmError(f"no layout: no key for the letter {letter!r}; accepted: a layout.toml that types it")
        held[base] = held.get(base, "") + letter
    return {**best, "long_press": held}


def _typed(table: Mapping[str, Any]) -> str:
    """Return the letters that a layout types."""
    return "".join([*(row["keys"] for row in table["rows"]), *table.get("long_press", {}).values()])
