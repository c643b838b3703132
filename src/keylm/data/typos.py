"""Noise as people make it: a clean text with some words mistyped, and where.

Invariant: `corrupt` is a pure function of (settings, figures, text, seed, document, epoch, rate). What lies outside
the edits is the same in both texts; an edit covers whole words (two where a space went missing); putting each edit's
clean words back in its place gives the clean text again, to the character.

How a text gets its errors, without looking at every word:
1. the rate times the number of words, rounded by chance, is the number of errors;
2. a place in the text is drawn; the word there is the candidate, so long words come up more often;
3. one look-up by the length of the word gives a kind of error, or none: how prone words of each length are to each
   kind is fitted to real errors (scripts/fit_typos.py wrote typo_rates.json; docs/typos.md shows how well it fits);
4. the kind's slip (typo_slips.py) makes the noisy word; where it finds nothing to do, another kind may try once;
5. from 2. again until there are enough, or a text with few plain words has been tried long enough.

Only plain words are touched: ASCII letters and apostrophes, lower case or with one capital in front, with or without
punctuation around them. Code, numbers, URLs, markup, acronyms and other scripts stay as they are.

Cost: per error, not per word; docs/typos.md has the figures.
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from random import Random
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from keylm.data.confusions import CONFUSIONS, ENDINGS, PHONETIC_RULES
from keylm.data.typo_lists import read_lists
from keylm.data.typo_slips import LONGEST, Slip, Slips
from keylm.recipe_sections import Typos

VERSION = 1
"""Of the algorithm: goes up when the same input gives another output."""
LENGTH_CLASSES = 13
"""Lengths of words, with punctuation, that have figures of their own; longer ones share the last."""
CALM_SHARE = 0.6
"""Share of documents whose rate is at most a quarter of the highest."""
HAZARD_SLOTS = 1 << 12
_DRAWS, _ROUNDS = 2, 3
"""Places drawn for each error wanted: in one go, and how often at most."""
_DRAW = np.dtype([("place", "<u4"), ("bits", "<u8")])
_MASK = (1 << 64) - 1
_WORD = re.compile(r"[\"'(\[“‘]*([A-Za-z]+(?:['’][A-Za-z]+)*)[\"')\]”’.,;:!?…]*(?= )")
_FOLLOWING = re.compile(r" ([a-z]+(?:['’][a-z]+)*)(?=[\"')\]”’.,;:!?…]* )")


class Edit(NamedTuple):
    """One error: noisy text [start:end] stands for clean text [clean_start:clean_end], in characters."""

    start: int
    end: int
    clean_start: int
    clean_end: int
    kind: str


@dataclass(frozen=True)
class Noisy:
    """A text with errors; its edits are in order and do not overlap."""

    text: str
    edits: tuple[Edit, ...]


# A tuple made directly: the generated __new__ of a named tuple costs twice as much, and there is one for each error.
_edit = partial(tuple.__new__, Edit)
_Error = tuple[int, int, str, str]
"""(start and end in the clean text, noisy text, kind)"""
_Found = dict[int, _Error]
_Hazard = tuple[str, Slip | None]
"""A kind and its slip; none for the kinds that need the text around the word."""


class TypoModel:
    """Makes noisy texts of clean ones; made again from its settings where it is pickled."""

    def __init__(self, settings: Typos, figures: Mapping[str, Any] | None = None) -> None:
        """Read the word lists of `settings` and make the tables from `figures` (by default typo_rates.json).

        Raises KeylmError where a word list cannot be read or holds anything but pairs.
        """
        self._figures = packaged_figures() if figures is None else figures
        self._settings = settings
        self._highest = settings.highest_rate
        self._listed, self._lists_digest = read_lists(settings.word_lists)
        slips = Slips(self._figures)
        self._hazards = [(kind, slips.by_kind.get(kind)) for kind in self._figures["hazards"]]
        self._table = _hazard_table(self._figures["hazards"])
        self._kinds = [[self._hazards[number] for number in row if number >= 0] for row in self._table]

    def corrupt(self, text: str, seed: int, document: int, epoch: int, rate: float | None = None) -> Noisy:
        """Return `text` with errors in a share `rate` of its words.

        `document` is the hash of its content (64 bits). Without `rate` the document draws its own: 60 % of documents
        uniformly up to a quarter of the highest rate, as people leave in what they write, the others up to the highest.
        """
        message = struct.pack("<3Q", seed & _MASK, document & _MASK, epoch & _MASK)
        state = hashlib.blake2b(message, digest_size=32, person=b"keylm typos").digest()
        first, second, third, key = struct.unpack("<4Q", state)
        if rate is None:
            rate = self._highest * (second / 2**64) * (0.25 if first < CALM_SHARE * 2**64 else 1.0)
        flat = _flatten(text)
        words = flat.count(" ") - flat.count("  ")
        wanted = int(rate * words + third / 2**64)
        if not wanted:
            return Noisy(text, ())
        return _spliced(text, self._find(wanted, flat, Random(key)))

    def __reduce__(self) -> tuple[Any, ...]:
        return TypoModel, (self._settings, self._figures)

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that decides the output: algorithm, figures, tables, settings, word lists."""
        decisive = {
            "version": VERSION,
            "figures": self._figures,
            "confusions": CONFUSIONS,
            "rules": PHONETIC_RULES,
            "endings": ENDINGS,
            "highest_rate": self._highest,
            "word_lists": self._lists_digest,
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def _find(self, wanted: int, flat: str, random: Random) -> _Found:
        """Draw places until `wanted` words have an error. `flat` is the text with all blanks as " ", and one more."""
        found: _Found = {}
        hazards, slipped = self._hazards, self._slipped
        for start, end, number, bits in self._candidates(wanted, flat, random):
            made = slipped(flat, start, end, hazards[number], bits)
            if made is not None and made[0] not in found:
                found[made[0]] = made
                if len(found) == wanted:
                    break
        return found

    def _candidates(self, wanted: int, flat: str, random: Random) -> Iterator[tuple[int, int, int, int]]:
        """Yield start and end of a token, the number of the hazard that strikes it, and 52 random bits."""
        codes = np.frombuffer(flat.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        edges = np.concatenate(([-1], np.flatnonzero(codes == ord(" "))))
        for _ in range(_ROUNDS):
            draws = np.frombuffer(random.randbytes(_DRAW.itemsize * _DRAWS * (wanted + 4)), dtype=_DRAW)
            at = draws["place"].astype(np.int64) * (len(flat) - 1) >> 32
            number = np.searchsorted(edges[1:], at)
            start, end = edges[number] + 1, edges[number + 1]
            span = end - start
            span[span > LONGEST] = 0
            hazard = self._table[span, (draws["bits"] & (HAZARD_SLOTS - 1)).astype(np.int64)]
            kept = np.flatnonzero(hazard >= 0)
            bits = draws["bits"][kept] >> 12
            yield from zip(start[kept].tolist(), end[kept].tolist(), hazard[kept].tolist(), bits.tolist(), strict=True)

    def _slipped(self, flat: str, start: int, end: int, hazard: _Hazard, bits: int) -> _Error | None:
        """Return the error that `hazard` makes of the token at [start:end], or None where it is no plain word.

        Where the word offers no occasion for that kind, another kind is drawn for it, once.
        """
        word, others = flat[start:end], self._kinds[end - start]
        if not word.isalpha():
            match = _WORD.match(flat, start)
            if match is None:
                return None
            start, end = match.span(1)
            word = match[1]
        elif not word.isascii():
            return None
        lower = word.lower()
        if word != lower and word[1:] != lower[1:]:
            return None
        for kind, slip in (hazard, others[(bits >> 28) % len(others)]):
            if slip is None:
                made = _joined(flat, start, end, word) if kind == "space_missing" else _recased(word, start, end, bits)
                if made:
                    return made
                continue
            noisy = self._listed.pick(kind, lower, bits) if self._listed else None
            if noisy is None:
                noisy = slip(lower, bits)
            if noisy is not None:
                return start, end, noisy if word == lower else noisy[0].upper() + noisy[1:], kind
        return None


def _joined(flat: str, start: int, end: int, word: str) -> _Error | None:
    """Return the word and the next one without the space between them."""
    match = _FOLLOWING.match(flat, end)
    return (start, match.end(1), word + match[1], "space_missing") if match else None


def _recased(word: str, start: int, end: int, bits: int) -> _Error:
    """Return the word with a capital it should not have, without the one it should have, or with two."""
    if word[0].islower():
        noisy = word[0].upper() + word[1:]
    elif bits & 3 or len(word) < 3 or not word[1].isalpha():
        noisy = word[0].lower() + word[1:]
    else:
        noisy = word[:2].upper() + word[2:]
    return start, end, noisy, "case"


def _spliced(text: str, found: _Found) -> Noisy:
    """Put the errors into the text; one that begins within the span of another is left out."""
    pieces: list[str] = []
    edits: list[Edit] = []
    done = shift = 0
    for start, (_, end, noisy, kind) in sorted(found.items()):
        if start < done:
            continue
        pieces += (text[done:start], noisy)
        begin = start + shift
        shift += len(noisy) - (end - start)
        edits.append(_edit((begin, end + shift, start, end, kind)))
        done = end
    pieces.append(text[done:])
    return Noisy("".join(pieces), tuple(edits))


def _flatten(text: str) -> str:
    """Return `text` with all line ends and tabs as spaces, and a space more."""
    return text.replace("\n", " ").replace("\t", " ").replace("\r", " ") + " "


def _hazard_table(hazards: Mapping[str, list[float]]) -> npt.NDArray[np.int8]:
    """Return int8 [LONGEST + 1, HAZARD_SLOTS]: for a token's length the kinds' numbers, as slots; -1 is no error."""
    table = np.full((LONGEST + 1, HAZARD_SLOTS), -1, dtype=np.int8)
    for length in range(1, LONGEST + 1):
        slots = [round(shares[min(length, LENGTH_CLASSES) - 1] * HAZARD_SLOTS) for shares in hazards.values()]
        numbers = np.repeat(np.arange(len(slots), dtype=np.int8), slots)[:HAZARD_SLOTS]
        table[length, : len(numbers)] = numbers
    return table


def packaged_figures() -> dict[str, Any]:
    """Return the fitted figures that come with the package."""
    figures: dict[str, Any] = json.loads((files("keylm.data") / "typo_rates.json").read_text(encoding="utf-8"))
    return figures
