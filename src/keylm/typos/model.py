"""Human-like noise: a clean text with some words mistyped, and where.

Invariant: `corrupt` is a pure function of (settings, language, text, seed, document, epoch, rate), and `fingerprint`
covers all of the first two and every constant of this package. Outside the edits both texts are the same; an edit
covers whole words (two where a space is missing); replacing it by its clean words restores the clean text exactly.

How a text gets its errors, for all draws of many texts at once, as arrays:
1. the number of errors is the rate times the number of words, rounded at random;
2. a place in the text is drawn from an endless sequence that the text's key alone decides; its word is the candidate,
   so long words are drawn more often;
3. a look-up by the word's length gives a kind of error, or none, at rates fitted to real errors (docs/typos.md);
   where the word offers no such error, another kind is drawn, once;
4. the kind's slip (finger_slips.py, word_slips.py) says which letters change, or that the word offers no such error;
5. again from 2. until there are enough, or a text with few plain words has been tried often enough.

Only plain words are changed: the language's letters and apostrophes, lower case or with one initial capital, with or
without punctuation around them. Code, numbers, URLs, markup, acronyms and other scripts stay as they are.
"""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from keylm.base.constants import constants_of
from keylm.languages.language import ENGLISH, Language
from keylm.recipe.schema import Typos
from keylm.typos.edits import Edit as Edit
from keylm.typos.edits import Errors, spliced
from keylm.typos.edits import Noisy as Noisy
from keylm.typos.finger_slips import FINGER_KINDS, FingerSlips, Splices, Struck, joined, strings_of
from keylm.typos.lists import Listed, read_lists
from keylm.typos.word_slips import KINDS_MADE, WordSlips, respelled
from keylm.typos.words import GOLDEN, LONGEST, Bits, Bools, Ints, PlainWords, alphabet_of, mixed

VERSION = 2
"""Of the algorithm: increased when the same input gives another output."""
LENGTH_CLASSES = 13
"""Lengths of words, with punctuation, that have hazards of their own; longer ones share the last."""
CALM_SHARE = 0.6
"""Share of documents whose rate is at most CALM_FACTOR times the highest."""
CALM_FACTOR = 0.25
HAZARD_SLOTS = 1 << 12
BATCH = 1 << 19
"""Characters processed at once: enough to hide the overhead of NumPy calls, few enough for the processor's cache."""
UNDECISIVE = ("BATCH", "ENGLISH", "PAIR", "UNDECISIVE")
"""Constants of this package that no noise depends on; the language that is used has a digest of its own."""
_DRAWS, _MORE_DRAWS, _ROUNDS = 5, 4, 3
"""Places drawn for each missing error, and in addition for each text; rounds at most."""
_SLOT_BITS = np.uint64(HAZARD_SLOTS - 1)
_Table = npt.NDArray[np.int8]
_MASK = (1 << 64) - 1
_NO_SPLICES = Splices(*[np.zeros(0, np.int64)] * 5)


class TypoModel:
    """Turns clean texts into noisy ones; pickled as its settings and language."""

    def __init__(self, settings: Typos, language: Language = ENGLISH) -> None:
        """Read word lists, the language's and those of `settings`; make tables. Raises KeylmError for a damaged one."""
        self._settings, self.language = settings, language
        self._highest = settings.highest_rate
        own = [language.typo_words.path] if language.typo_words else []
        self._listed, self._lists_digest = read_lists([*own, *settings.word_lists], language)
        self._fingers, self._word_slips = FingerSlips(language), WordSlips(language)
        self._alphabet, self._strings = alphabet_of(language.words), strings_of(language)
        self._hazards, self._others = _hazard_tables(language.typo_rates.hazards)

    def corrupt(self, text: str, seed: int, document: int, epoch: int, rate: float | None = None) -> Noisy:
        """Return `text` with errors in a share `rate` of its words.

        `document` is the hash of its content (64 bits). Without `rate` the document draws its own: 60 % of documents
        uniformly up to a quarter of the highest rate, as in what people write, the others up to the highest.
        """
        [noisy] = self._batch([text], seed, [document], [epoch], rate)
        return noisy

    def corrupt_many(
        self,
        texts: Sequence[str],
        seed: int,
        documents: Sequence[int],
        epochs: Sequence[int],
        rate: float | None = None,
    ) -> list[Noisy]:
        """Return the result of `corrupt` for each text with its document and epoch; faster than text by text."""
        made: list[Noisy] = []
        first = size = 0
        for last, text in enumerate(texts, 1):
            size += len(text)
            if size >= BATCH or last == len(texts):
                made += self._batch(texts[first:last], seed, documents[first:last], epochs[first:last], rate)
                first, size = last, 0
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return TypoModel, (self._settings, self.language)

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that decides the noise: language, the package's constants, settings, word lists."""
        decisive = {
            "language": self.language.noise_digest,
            "constants": constants_of("keylm.typos", apart=UNDECISIVE),
            "highest_rate": self._highest,
            "word_lists": self._lists_digest,
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def _batch(
        self, texts: Sequence[str], seed: int, documents: Sequence[int], epochs: Sequence[int], rate: float | None
    ) -> list[Noisy]:
        words = PlainWords(texts, self._alphabet)
        counts = words.counts()
        plans = [
            self._plan(seed, document, epoch, rate, count)
            for document, epoch, count in zip(documents, epochs, counts, strict=True)
        ]
        wanted, keys = zip(*plans, strict=True)
        errors, splices, made = self._find(words, np.array(wanted, np.int64), np.array(keys, np.uint64))
        return spliced(words, texts, errors, splices, self._strings, made)

    def _plan(self, seed: int, document: int, epoch: int, rate: float | None, words: int) -> tuple[int, int]:
        """Return the number of errors of a document, and the key of its draws."""
        message = struct.pack("<3Q", seed & _MASK, document & _MASK, epoch & _MASK)
        state = hashlib.blake2b(message, digest_size=32, person=b"keylm typos").digest()
        first, second, third, key = struct.unpack("<4Q", state)
        if rate is None:
            rate = self._highest * (second / 2**64) * (CALM_FACTOR if first < CALM_SHARE * 2**64 else 1.0)
        return int(rate * words + third / 2**64), key

    def _find(self, words: PlainWords, wanted: Ints, keys: Bits) -> tuple[Errors, Splices, list[str]]:
        """Draw places in each text until it has as many errors as wanted, or for _ROUNDS rounds."""
        missing, drawn = wanted.copy(), np.zeros_like(wanted)
        taken = np.zeros(len(words.row) + 1, np.bool_)
        errors, splices, made = [Errors(*_NO_SPLICES[:3])], [_NO_SPLICES], list[str]()
        count = 0
        for _ in range(_ROUNDS):
            short = np.flatnonzero(missing)
            if not len(short):
                break
            draws = missing[short] * _DRAWS + _MORE_DRAWS
            text, struck, first, second = self._candidates(words, short, keys[short], drawn[short], draws, taken)
            drawn[short] += draws
            kind, changes = self._slipped(words, struck, first, second, made)
            kept = np.zeros(len(kind), np.bool_)
            kept[changes.word] = True
            kept = _first(kept, text, missing)
            missing -= np.bincount(text[kept], minlength=len(missing))
            taken[struck.start[kept]] = True
            end = np.zeros_like(kind)
            end[changes.word] = changes.end
            errors.append(Errors(struck.start[kept], end[kept], kind[kept]))
            changes = changes.only(kept[changes.word])
            splices.append(changes._replace(word=(np.cumsum(kept) - 1 + count)[changes.word]))
            count += int(np.count_nonzero(kept))
        return Errors(*map(np.concatenate, zip(*errors, strict=True))), joined(splices), made

    def _candidates(
        self, words: PlainWords, texts: Ints, keys: Bits, first: Ints, draws: Ints, taken: Bools
    ) -> tuple[Ints, Struck, Ints, Ints]:
        """Return plain words that are to get an error, each once, and in the order of the draws within each text.

        Their texts, the words, and for each the numbers of two kinds: the second replaces a first that does not fit.
        """
        text, start, length, bits = words.draw(texts, keys, first, draws)
        length[length > LONGEST] = 0
        kind = self._hazards[length, (bits & _SLOT_BITS).astype(np.int64)]
        drawn = np.flatnonzero(kind >= 0)
        plain = words.plain(start[drawn], length[drawn])
        once = np.zeros(len(plain.start), np.bool_)
        once[np.unique(plain.start, return_index=True)[1]] = True
        once &= ~taken[plain.start]
        drawn = drawn[plain.token[once]]
        bits = bits[drawn]
        other = self._others[length[drawn], (bits >> np.uint64(12) & _SLOT_BITS).astype(np.int64)]
        slips = (mixed(bits + GOLDEN) >> np.uint64(12)).astype(np.int64)
        start, length = plain.start[once], plain.length[once]
        doubled = words.doubled(start, length)
        struck = Struck(start, length, plain.capital[once], plain.apostrophe[once], doubled, slips)
        return text[drawn], struck, kind[drawn].astype(np.int64), other.astype(np.int64)

    def _slipped(
        self, words: PlainWords, struck: Struck, first: Ints, second: Ints, made: list[str]
    ) -> tuple[Ints, Splices]:
        """Return each word's kind of error, the second where it does not offer the first, and the changes it offers."""
        offers = self._word_slips.offers(words, struck)
        kinds = np.where(offers >> first & 1, first, second)
        listed = _NO_SPLICES
        if self._listed:
            listed = _from_lists(self._listed, words, struck, first, made)
            kinds[listed.word] = first[listed.word]
            more = _from_lists(self._listed, words, struck, np.where(kinds == first, -1, kinds), made)
            listed = joined([listed, more])
        open_kinds = np.where(offers >> kinds & 1, kinds, -1)
        open_kinds[listed.word] = -1
        order = np.argsort(open_kinds, kind="stable")
        bounds = np.searchsorted(open_kinds[order], np.arange(len(KINDS_MADE) + 1))
        rows = [order[first:last] for first, last in pairwise(bounds.tolist())]
        of_fingers = self._fingers.splices(words, struck, rows[: len(FINGER_KINDS)])
        of_words = self._word_slips.splices(words, struck, rows[len(FINGER_KINDS) :], made)
        return kinds, joined([listed, of_fingers, of_words])


def _from_lists(lists: Listed, words: PlainWords, struck: Struck, kinds: Ints, made: list[str]) -> Splices:
    """Return the word lists' errors for words and kinds (-1: none), half of the time."""
    parts = [_NO_SPLICES]
    for number, kind in enumerate(KINDS_MADE):
        rows = ((kinds == number) & (struck.bits & 1 > 0)).nonzero()[0]
        parts.append(respelled(partial(lists.pick, kind), words, struck, rows, made))
    return joined(parts)


def _first(good: Bools, text: Ints, most: Ints) -> Bools:
    """Return those of `good` that are among the first `most` of their text; texts are in order."""
    rank = np.cumsum(good)
    before = np.concatenate(([0], rank))[np.searchsorted(text, np.arange(len(most)))]
    return good & (rank - before[text] <= most[text])


def _hazard_tables(hazards: Mapping[str, Sequence[float]]) -> tuple[_Table, _Table]:
    """Return two tables int8 [LONGEST + 1, HAZARD_SLOTS]: for each length of token the kinds' numbers, as slots.

    In the first, -1 is no error; the second has only errors, in the same proportions.
    """
    struck = np.full((LONGEST + 1, HAZARD_SLOTS), -1, dtype=np.int8)
    others = np.full_like(struck, -1)
    numbers = np.array([KINDS_MADE.index(kind) for kind in hazards], dtype=np.int8)
    for length in range(1, LONGEST + 1):
        slots = [round(shares[min(length, LENGTH_CLASSES) - 1] * HAZARD_SLOTS) for shares in hazards.values()]
        filled = np.repeat(numbers, slots)[:HAZARD_SLOTS]
        struck[length, : len(filled)] = filled
        # Evenly spread, so that each kind keeps its share to a slot.
        others[length] = filled[np.arange(HAZARD_SLOTS) * len(filled) // HAZARD_SLOTS]
    return struck, others
