"""The index of evaluation items: which of them share a run of words with a text, at one look-up per word.

Invariant: every form of MATCHABLE_WORDS words or more has a seed in the index, and its file holds numbers alone: no
word of an evaluation set can be read from it.

A form is a sequence of words in which a training text could contain an item: its question with the right answer; where
the question alone is too short to stand out, also with each wrong answer, and with all of them as on an exam sheet. A
seed is a run of SHORT_SEED or LONG_SEED words of a form. A form with one word in ten changed keeps at least one: of 8
words 4 on one side of the change, of 13 words 6.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keylm.base.errors import KeylmError
from keylm.base.files import atomic_path
from keylm.curate.evaluation_items import EvaluationItem
from keylm.curate.evaluation_words import Hashes, hash_words

Integers = npt.NDArray[np.int64]

VERSION = 2
MATCHABLE_WORDS = 8
"""Fewest words of a form: GPT-3's lower bound for n, below which ordinary language repeats."""
SHORT_FORM = 12
"""Most words of a form, or of its question, that is looked for by SHORT_SEED."""
SHORT_SEED, LONG_SEED = 4, 6
"""Words of a seed."""
COMMON_SEED = 64
"""A seed in more forms than this is the benchmark's own phrasing; it is kept only where a form has no other."""
BIT_PARTS = 8
"""Units of `word_bits` per bit."""
PLACES_AT_ONCE = 1 << 16
"""Positions of seeds that are compared together."""
NO_NGRAM = 1 << 30
"""Stands for n in forms no part of which is proof."""
_PAIR, _QUAD, _SIX = (np.uint64(odd) for odd in (0xD6E8FEB86659FD93, 0xA0761D6478BD642F, 0xE7037ED1A0B428DB))
_FILTER_BITS = 26


@dataclass(frozen=True)
class EvaluationIndex:
    """The words of all forms, the items they come from, and where each seed occurs."""

    meta: npt.NDArray[np.uint8]
    """JSON as UTF-8: version, fingerprint, and for each set its name and numbers of items"""
    words: npt.NDArray[np.uint32]
    """[words of all forms]"""
    word_bits: npt.NDArray[np.uint8]
    """[words of all forms]: information of a word, -log2 of its share of all of them, in 1 / BIT_PARTS"""
    form_starts: Integers
    """[forms + 1]: form f has the words form_starts[f] … form_starts[f + 1] - 1"""
    form_item: npt.NDArray[np.int32]
    form_stem: npt.NDArray[np.int32]
    """[forms]: how many of its first words are proof of the item by themselves"""
    form_ngram: npt.NDArray[np.int32]
    """[forms]: how many words in a row are proof of the item"""
    item_set: npt.NDArray[np.int32]
    item_number: npt.NDArray[np.int32]
    item_inside: npt.NDArray[np.int32]
    """[items]: position of the answer in its form if it is part of the running text, else -1"""
    answers: npt.NDArray[np.uint32]
    answer_starts: Integers
    """[items + 1]: item i has the right answer answers[answer_starts[i]] … answers[answer_starts[i + 1] - 1]"""
    seeds: Hashes
    """[seeds]: sorted"""
    seed_starts: Integers
    """[seeds + 1]: where a seed's places begin"""
    place_form: npt.NDArray[np.int32]
    place_offset: npt.NDArray[np.int32]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Return what `meta` says."""
        return dict(json.loads(self.meta.tobytes()))

    @cached_property
    def _filter(self) -> npt.NDArray[np.uint8]:
        """Return one bit for each value that a seed's first bits can have: most words of a text stop here."""
        bits = np.zeros(1 << _FILTER_BITS, dtype=bool)
        bits[self.seeds >> np.uint64(64 - _FILTER_BITS)] = True
        return np.packbits(bits, bitorder="little")

    def find_seeds(self, hashes: Hashes) -> Iterator[tuple[Integers, Integers, Integers]]:
        """Yield (place among `hashes`, form, place in the form) of the seeds that occur in a row of words.

        They come PLACES_AT_ONCE or so at a time: a text that repeats itself can have very many.
        """
        found = [self._look_up(keys) for keys in seed_keys(hashes)]
        at = np.concatenate([place for place, _ in found])
        seed = np.concatenate([number for _, number in found])
        counts = self.seed_starts[seed + 1] - self.seed_starts[seed]
        ends = np.cumsum(counts)
        cuts = np.flatnonzero(np.diff(ends // PLACES_AT_ONCE)) + 1
        for part in np.split(np.arange(len(seed)), cuts):
            size = counts[part]
            firsts = np.repeat(self.seed_starts[seed[part]] - (np.cumsum(size) - size), size)
            places = firsts + np.arange(len(firsts))
            form, offset = self.place_form[places], self.place_offset[places]
            yield np.repeat(at[part], size), form.astype(np.int64), offset.astype(np.int64)

    def _look_up(self, keys: Hashes) -> tuple[Integers, Integers]:
        """Return which of `keys` are seeds, and which seeds they are."""
        bits = keys >> np.uint64(64 - _FILTER_BITS)
        at = np.flatnonzero(self._filter[bits >> np.uint64(3)] >> (bits & np.uint64(7)).astype(np.uint8) & np.uint8(1))
        number = np.searchsorted(self.seeds, keys[at])
        number[number == len(self.seeds)] = 0
        same = self.seeds[number] == keys[at] if len(self.seeds) else np.zeros(0, dtype=bool)
        return at[same], number[same]

    def save(self, path: Path) -> None:
        """Write the index to `path`, whole or not at all."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "EvaluationIndex":
        """Return the index that `save` wrote; raises KeylmError where the file is damaged or of another version."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                index = cls(**{field.name: arrays[field.name] for field in fields(cls)})
            if index.facts["version"] != VERSION:
                raise ValueError(f"version {index.facts['version']}, not {VERSION}")
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise KeylmError(f"{path}: not an index of evaluation items: {error}; delete it to rebuild it") from None
        return index


def seed_keys(hashes: Hashes) -> tuple[Hashes, Hashes]:
    """Return the keys of all runs of SHORT_SEED and of LONG_SEED words (each None where there are too few words)."""
    pairs = hashes[:-1] * _PAIR + hashes[1:]
    quads = pairs[:-2] * _QUAD + pairs[2:]
    return quads, quads[:-2] * _SIX + pairs[4:]


def build_index(sets: Mapping[str, Sequence[EvaluationItem]], ngram: int, fingerprint: str) -> EvaluationIndex:
    """Return the index of `sets`, where `ngram` words in a row are proof of an item (fewer in sets of short items).

    A set's n is the 5th percentile of its items' lengths in words, but 8 … `ngram` (Brown et al. 2020, appendix C).
    """
    items = [(number, place, item) for number, name in enumerate(sets) for place, item in enumerate(sets[name])]
    forms, answers, inside = _forms([item for _, _, item in items])
    lengths = np.array([len(form.words) for form in forms], dtype=np.int64)
    of_item = np.array([form.item for form in forms], dtype=np.int32)
    item_set = np.array([number for number, _, _ in items], dtype=np.int32)
    ngrams = np.array([_set_ngram(forms, item_set, number, ngram) for number in range(len(sets))], dtype=np.int32)
    answered = np.array([form.parts for form in forms], dtype=bool) & (lengths >= MATCHABLE_WORDS)
    matchable = np.bincount(of_item[answered], minlength=len(items)) > 0
    facts = {"version": VERSION, "fingerprint": fingerprint, "sets": _counts(sets, item_set, matchable, ngrams)}
    kept = [form for form in forms if len(form.words) >= MATCHABLE_WORDS]
    hashes = np.concatenate([form.words for form in kept]) if kept else np.zeros(0, dtype=np.uint64)
    form_starts = np.cumsum([0, *(len(form.words) for form in kept)])
    return EvaluationIndex(
        meta=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8),
        words=hashes.astype(np.uint32),
        word_bits=_word_bits(hashes),
        form_starts=form_starts,
        form_item=np.array([form.item for form in kept], dtype=np.int32),
        form_stem=np.array([form.stem for form in kept], dtype=np.int32),
        form_ngram=np.array([ngrams[item_set[form.item]] if form.parts else NO_NGRAM for form in kept], dtype=np.int32),
        item_set=item_set,
        item_number=np.array([place for _, place, _ in items], dtype=np.int32),
        item_inside=inside,
        answers=np.concatenate([np.zeros(0, dtype=np.uint32), *answers]),
        answer_starts=np.cumsum([0, *map(len, answers)]),
        **_seed_table(hashes, form_starts, np.array([form.stem for form in kept], dtype=np.int64)),
    )


@dataclass(frozen=True)
class _Form:
    words: Hashes
    item: int
    stem: int
    parts: bool
    """whether a run of n of its words is proof of the item"""


def _forms(items: Sequence[EvaluationItem]) -> tuple[list[_Form], list[npt.NDArray[np.uint32]], npt.NDArray[np.int32]]:
    """Return all forms of `items`, and for each item its answer's words and where in the text that stands, or -1."""
    texts: list[str] = []
    for item in items:
        texts += [item.stem, item.tail, item.answer, *item.choices]
    hashed = hash_words(texts)
    rows = (hashed.hashes[first:last] for first, last in pairwise(hashed.bounds.tolist()))
    forms, answers, inside = [], [], []
    for number, item in enumerate(items):
        stem, tail, answer = next(rows), next(rows), next(rows)
        choices = [next(rows) for _ in item.choices]
        whole = np.concatenate([stem, answer, tail])
        forms.append(_Form(whole, number, len(whole) if item.inside else len(stem), parts=True))
        if len(stem) < MATCHABLE_WORDS and not item.inside:
            others = [choice for place, choice in enumerate(choices) if place != item.gold]
            forms += [_Form(np.concatenate([stem, other]), number, len(stem), parts=False) for other in others]
            if choices:
                forms.append(_Form(_sheet(stem, choices), number, len(stem), parts=False))
        answers.append(answer.astype(np.uint32))
        inside.append(len(stem) if item.inside else -1)
    return forms, answers, np.array(inside, dtype=np.int32)


def _sheet(stem: Hashes, choices: Sequence[Hashes]) -> Hashes:
    """Return a question and its lettered choices, as on an examination sheet."""
    lettered = [part for choice, letter in zip(choices, _LETTERS, strict=False) for part in (letter, choice)]
    return np.concatenate([stem, *lettered])


_LETTERS = np.split(hash_words(list("abcdefghij")).hashes, 10)


def _set_ngram(forms: Sequence[_Form], item_set: npt.NDArray[np.int32], number: int, ngram: int) -> int:
    lengths = [len(form.words) for form in forms if form.parts and item_set[form.item] == number]
    return int(min(ngram, max(MATCHABLE_WORDS, np.percentile(lengths, 5)))) if lengths else ngram


def _counts(
    sets: Mapping[str, Sequence[EvaluationItem]],
    item_set: npt.NDArray[np.int32],
    matchable: npt.NDArray[np.bool_],
    ngrams: Any,
) -> list[dict[str, Any]]:
    found = np.bincount(item_set[matchable], minlength=len(sets))
    return [
        {"name": name, "items": len(sets[name]), "matchable": int(found[n]), "ngram": int(ngrams[n])}
        for n, name in enumerate(sets)
    ]


def _word_bits(hashes: Hashes) -> npt.NDArray[np.uint8]:
    _, which, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    bits: npt.NDArray[np.uint8] = np.round(-np.log2(counts / max(1, len(hashes))) * BIT_PARTS).astype(np.uint8)[which]
    return bits


def _seed_table(hashes: Hashes, form_starts: Integers, stems: Integers) -> dict[str, Any]:
    """Return the seeds of all forms, sorted, and their places; common ones only where a form has no other."""
    lengths = np.diff(form_starts)
    form = np.repeat(np.arange(len(lengths)), lengths)
    offset = np.arange(len(hashes)) - form_starts[form]
    short_stem = (stems >= MATCHABLE_WORDS) & (stems <= SHORT_FORM)
    short = (lengths[form] <= SHORT_FORM) | (short_stem[form] & (offset <= stems[form] - SHORT_SEED))
    quads, sixes = (np.append(keys, np.zeros(len(hashes) - len(keys), np.uint64)) for keys in seed_keys(hashes))
    keys = np.where(short, quads, sixes)
    fits = offset + np.where(short, SHORT_SEED, LONG_SEED) <= lengths[form]
    keys, form, offset = keys[fits], form[fits], offset[fits]
    _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
    frequency = counts[which]
    rarest = np.full(len(lengths), len(keys))
    np.minimum.at(rarest, form, frequency)
    kept = (frequency <= COMMON_SEED) | (frequency == rarest[form])
    keys, form, offset = keys[kept], form[kept], offset[kept]
    order = np.argsort(keys, kind="stable")
    seeds, counts = np.unique(keys, return_counts=True)
    return {
        "seeds": seeds,
        "seed_starts": np.cumsum([0, *counts.tolist()]),
        "place_form": form[order].astype(np.int32),
        "place_offset": offset[order].astype(np.int32),
    }
