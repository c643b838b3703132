"""How a constraint is worded: a sentence or two from wordings.toml, in any of many phrasings.

`{amount}` is a number with its unit ("three sentences", "120 words"); `{below}` and `{above}` are the numbers on either
side, for "fewer than" and "more than". Wordings are whole sentences, so constraints can be given in any order.
"""

from random import Random
from typing import Any

from keylm.instructions.checks import Constraint
from keylm.instructions.tables import phrase_tables
from keylm.instructions.word_lists import PROPERTIES
from keylm.text.sentences import counted, ordinal

_WORDINGS = phrase_tables().wordings
_QUOTES = ('"{}"', "'{}'", "{}")
_BARE_WORDS = ("repeat_word", "replace_word", "condition")
"""Types whose wordings quote words themselves."""


def wordings(constraint: Constraint) -> tuple[str, ...]:
    """Return the templates that suit a constraint."""
    kind, relation = constraint["type"], constraint.get("relation", "")
    if kind in _WORDINGS.units:
        found = _WORDINGS.relations[relation]
        if kind == "sentences" or relation != "at_least":
            found = tuple(wording for wording in found if kind == "words" or "long" not in wording)
        return found
    return _WORDINGS.counts[kind][relation] if kind in _WORDINGS.counts else _WORDINGS.plain[kind]


def describe(constraint: Constraint, random: Random) -> str:
    """Return a sentence or two that ask for what `constraint` says."""
    return random.choice(wordings(constraint)).format(**_slots(constraint, random))


def _slots(constraint: Constraint, random: Random) -> dict[str, Any]:
    slots: dict[str, Any] = {key: value for key, value in constraint.items() if key != "type"}
    kind, spelt = constraint["type"], random.random() < 0.4
    if isinstance(count := constraint.get("count"), int):
        slots["figure"], slots["more"] = count, count + 1
        slots["count"] = counted(count, spelt=spelt)
        slots["times"] = ("once" if spelt else "1 time") if count == 1 else f"{slots['count']} times"
        slots["parts"] = f"{slots['count']} {random.choice(_WORDINGS.part_names)}{'s' * (count != 1)}"
        slots["places"] = f"{slots['count']} placeholder{'s' * (count != 1)}"
        things = {"rows": "row", "figures": "number", "exclamations": "exclamation mark"}
        slots.update({slot: _amount(count, thing, spelt) for slot, thing in things.items()})
        unit = _WORDINGS.units.get(kind, "line" if kind == "lines" else "word")
        slots["amount"] = _amount(count, unit, spelt)
        slots["below"], slots["above"] = _amount(count - 1, unit, spelt), _amount(count + 1, unit, spelt)
        if constraint.get("relation") == "between":
            slots["amount"] = f"{count} and {_amount(constraint['most'], unit, False)}"
    if kind in ("keywords", "forbidden"):
        slots.update(_word_slots(constraint["words"], random))
    elif kind == "pick":
        slots["plain"] = ", ".join(constraint["words"])
    elif "word" in constraint and kind not in _BARE_WORDS:
        slots["word"] = constraint["word"] if kind == "sections" else random.choice(_QUOTES).format(constraint["word"])
    if "letter" in constraint and kind not in PROPERTIES:
        slots["letter"] = constraint["letter"] if random.random() < 0.7 else f'"{constraint["letter"]}"'
    if place := constraint.get("paragraph", constraint.get("place")):
        slots["nth"] = ordinal(place)
    if kind == "in_turn":
        wishes = (" ".join(describe(inner, random) for inner in part) for part in constraint["parts"])
        slots["first"], slots["second"] = wishes
    if "options" in constraint:
        slots["options"] = _joined([f'"{option}"' for option in constraint["options"]], "or")
    if "phrase" in constraint:
        slots["quoted"] = f'"{constraint["phrase"]}"'
    return slots


def _amount(number: int, unit: str, spelt: bool) -> str:
    return f"{counted(number, spelt=spelt)} {unit}{'s' * (number != 1)}"


def _word_slots(words: list[str], random: Random) -> dict[str, str]:
    mark = random.choice(("", '"', "'"))
    quoted = [f"{mark}{word}{mark}" for word in words]
    return {
        "noun": "word" if len(words) == 1 else random.choice(_WORDINGS.keyword_names),
        "verb": "appears" if len(words) == 1 else "appear",
        "words": _joined(quoted, "and"),
        "any_words": _joined(quoted, "or"),
        "plain": ", ".join(words),
    }


def _joined(parts: list[str], conjunction: str) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {conjunction} {parts[-1]}"
