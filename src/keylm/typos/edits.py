"""Noisy texts, and where in them and in the clean texts the errors are."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keylm.typos.finger_slips import Splices
from keylm.typos.word_slips import KINDS_MADE
from keylm.typos.words import Ints, PlainWords


class Edit(NamedTuple):
    """One error: noisy text [start:end] replaces clean text [clean_start:clean_end], in characters."""

    start: int
    end: int
    clean_start: int
    clean_end: int
    kind: str


# A tuple built directly: the generated __new__ of a named tuple costs twice as much.
_edit = partial(tuple.__new__, Edit)


class Noisy:
    """A text with errors; its edits are in order and do not overlap."""

    def __init__(self, text: str, spans: npt.ArrayLike) -> None:
        """Take the text and int64 [edits, 5]: the fields of `Edit`, the kind as its index in KINDS_MADE."""
        self.text = text
        self.spans: Ints = np.asarray(spans, dtype=np.int64).reshape(-1, len(Edit._fields))

    @cached_property
    def edits(self) -> tuple[Edit, ...]:
        """The errors one by one, built on first access from `spans`."""
        *places, kinds = self.spans.T.tolist()
        return tuple(map(_edit, zip(*places, map(KINDS_MADE.__getitem__, kinds), strict=True)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Noisy) and self.text == other.text and np.array_equal(self.spans, other.spans)

    def __repr__(self) -> str:
        return f"Noisy({self.text!r}, {self.edits})"


class Errors(NamedTuple):
    """Errors [n] in the row of `PlainWords`: clean words [start:end] and the index in KINDS_MADE, in any order."""

    start: Ints
    end: Ints
    kind: Ints


def spliced(
    words: PlainWords,
    texts: Sequence[str],
    errors: Errors,
    splices: Splices,
    strings: Sequence[str],
    made: Sequence[str],
) -> list[Noisy]:
    """Put the errors into the texts.

    `splices.new` are indices in `strings`; negative ones are of the words in `made`, -1 being the first. An error that
    begins within the span of the one before it is left out.
    """
    order = np.argsort(errors.start)
    apart = np.ones(len(order), np.bool_)
    apart[1:] = errors.start[order][1:] >= errors.end[order][:-1]
    order = order[apart]
    errors = Errors(*(column[order] for column in errors))
    left = np.zeros(len(apart), np.bool_)
    left[order] = True
    splices = splices.only(left[splices.word])
    splices = splices.only(np.argsort(splices.at))
    new = [strings[number] if number >= 0 else made[~number] for number in splices.new.tolist()]
    grown = np.fromiter(map(len, new), np.int64, len(new)) - splices.cut
    spans, bounds = _spans(words, errors, splices.at, grown)
    noisy = _texts(words, texts, splices.at, splices.at + splices.cut, new)
    return [Noisy(text, spans[low:high]) for text, (low, high) in zip(noisy, pairwise(bounds), strict=True)]


def _spans(words: PlainWords, errors: Errors, at: Ints, grown: Ints) -> tuple[Ints, list[int]]:
    """Return all texts' spans and the bounds of each text's; at each place `at` the text grows by `grown` letters."""
    text = np.searchsorted(words.begins, errors.start, side="right") - 1
    shifts = np.concatenate(([0], np.cumsum(grown)))
    shifts_before = shifts[np.searchsorted(at, words.begins)][text]  # in the texts before this one
    before = shifts[np.searchsorted(at, errors.start)] - shifts_before
    after = shifts[np.searchsorted(at, errors.end, side="right")] - shifts_before  # a letter may follow the word
    start, end = errors.start - words.begins[text], errors.end - words.begins[text]
    spans = np.stack((start + before, end + after, start, end, errors.kind), axis=1)
    bounds: list[int] = np.searchsorted(text, np.arange(len(words.begins) + 1)).tolist()
    return spans, bounds


def _texts(words: PlainWords, texts: Sequence[str], at: Ints, to: Ints, new: Sequence[str]) -> Iterator[str]:
    """Yield each text with `new` in place of its characters [at:to], which are in order."""
    row, begins = words.row, words.begins
    text = np.searchsorted(begins, at, side="right") - 1
    done = begins[text]
    done[1:] = np.maximum(done[1:], to[:-1])
    pieces = [row[a:b] + word for a, b, word in zip(done.tolist(), at.tolist(), new, strict=True)]
    bounds = np.searchsorted(text, np.arange(len(texts) + 1)).tolist()
    ends, limits = to.tolist(), (begins + words.sizes).tolist()
    for clean, limit, (first, last) in zip(texts, limits, pairwise(bounds), strict=True):
        yield "".join(pieces[first:last]) + row[ends[last - 1] : limit] if last > first else clean
