"""Decontamination: which evaluation items a training text holds, word for word or with some words changed.

Invariant: a verdict depends on the text and the evaluation items alone, not on the texts before it; and an item that
with its right answer has eight words or more, and occurs in a text word for word, is always found.

Seed and verify, as in sequence search (Altschul et al., "Basic Local Alignment Search Tool", 1990):
1. runs of four or six words that also occur in an item are looked up for the whole text at once;
2. around each the neighbouring words are compared, which leaves hardly any of those that occurred by chance;
3. what is left is compared over the item's whole length; words in runs of SHIFTED_RUN up to MAX_SHIFT places away
   count too. It is a hit where
   - all words of the item or of its question are there ("whole"),
   - or n words of it in a row: 13, or fewer in sets of short items (Brown et al. 2020, appendix C; "ngram"), where
     fewer than 13 must be half of the item and not all of them common,
   - or FUZZY_SHARE of its words or of its question's, each in its place, not all of them common ("fuzzy").
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from keylm.base.constants import constants_of
from keylm.base.errors import KeylmError
from keylm.base.files import sha256_json
from keylm.curate.evaluation_index import BIT_PARTS, LONG_SEED, MATCHABLE_WORDS, EvaluationIndex, Integers, build_index
from keylm.curate.evaluation_items import read_items
from keylm.curate.evaluation_words import HashedWords, hash_words, word_spans

FUZZY_SHARE = 0.8
"""Share of a question's or an item's words that must occur in a text."""
NGRAM_SHARE = 0.5
"""The same share where fewer than LONGEST_NGRAM words in a row are to be proof: most runs of 8 are stock phrases."""
PROOF_BITS = 60
"""Information that the words of a match must have unless it is whole or has LONGEST_NGRAM words in a row. "Is made up
of a series of" occurs in texts that are unrelated to the item that it is most of."""
ANSWER_CHARACTERS = 200
"""How far from a match, in characters, the right answer counts as given away (GPT-3's margin)."""
LONGEST_NGRAM = 13
BATCH_CHARACTERS = 1 << 17
"""Texts are compared together up to this length: more words at once than in a short text, and still in the cache."""
MAX_SHIFT, SHIFTED_RUN = 2, 3
_BEFORE, _AFTER = LONGEST_NGRAM - LONG_SEED, LONGEST_NGRAM
"""Words of an item around a seed's first word that step 2 compares: any 13 in a row that hold the seed."""
_PASSING_SHARE = 0.6
_DECIDING = tuple(f"keylm.curate.{module}" for module in ("decontamination", "evaluation_index", "evaluation_words"))
"""Modules whose constants decide a verdict."""

Row = npt.NDArray[np.uint32]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Match:
    """An evaluation item in a text."""

    set: str
    item: int
    """its number in the set, from 0"""
    how: Literal["whole", "ngram", "fuzzy"]
    start: int
    end: int
    """characters of the text: start … end - 1"""
    words: int
    """how many of the item's words are there; for an n-gram, how many in a row"""
    share: float
    """share of the item's words, or of its question's if that is greater, that are there"""
    answer_leaks: bool
    """whether the right answer occurs in the match or within ANSWER_CHARACTERS of it"""

    def __str__(self) -> str:
        how = f"{self.words}-gram" if self.how == "ngram" else f"{self.how} {self.share:.2f}"
        return f"{self.set}:{self.item} {how}{', answer' if self.answer_leaks else ''}"


@dataclass(frozen=True)
class Verdict:
    """Whether a text holds evaluation items, and which; one match an item."""

    matches: tuple[Match, ...] = ()

    @property
    def hit(self) -> bool:
        """Whether the text holds any."""
        return bool(self.matches)

    @property
    def items(self) -> dict[str, dict[str, int]]:
        """By set and number of the item, in digits, how many words prove it: those in a row, or all; 0 if fuzzy."""
        found: dict[str, dict[str, int]] = {}
        for match in self.matches:
            found.setdefault(match.set, {})[str(match.item)] = 0 if match.how == "fuzzy" else match.words
        return found

    @property
    def detail(self) -> str:
        """The first three matches in words."""
        more = f"; and {len(self.matches) - 3} more" if len(self.matches) > 3 else ""
        return "; ".join(map(str, self.matches[:3])) + more


class Decontaminator:
    """Finds evaluation items in training texts; can be pickled, so that worker processes get it ready-made."""

    def __init__(self, index: EvaluationIndex) -> None:
        """Look for the items of `index`."""
        self._index = index
        self._names = [facts["name"] for facts in index.facts["sets"]]

    @classmethod
    def from_paths(cls, paths: Sequence[Path], *, ngram: int = 13, cache: Path | None = None) -> "Decontaminator":
        """Return a decontaminator for the items of `paths`: files or folders of .jsonl, .jsonl.gz, .jsonl.zst.

        With `cache`, a folder, the index is kept there under its fingerprint and read back the next time. Raises
        KeylmError for paths without items, lines that are no item, and an `ngram` that is not 8 … 13.
        """
        if not MATCHABLE_WORDS <= ngram <= LONGEST_NGRAM:
            raise KeylmError(f"decontamination: got ngram = {ngram}; accepted: {MATCHABLE_WORDS} … {LONGEST_NGRAM}")
        sets = read_items(paths)
        settings = [ngram, constants_of(*_DECIDING, apart=("BATCH_CHARACTERS", "PLACES_AT_ONCE"))]
        items = {name: [[i.stem, i.choices, i.gold, i.tail, i.inside] for i in sets[name]] for name in sets}
        fingerprint = sha256_json([settings, list(sets), items])
        kept = cache / f"evaluation-{fingerprint[:16]}.npz" if cache else None
        if kept and kept.is_file():
            return cls.load(kept)
        index = build_index(sets, ngram, fingerprint)
        if kept:
            index.save(kept)
        return cls(index)

    def save(self, path: Path) -> None:
        """Write the index to `path`, as numpy arrays of numbers."""
        self._index.save(path)

    @classmethod
    def load(cls, path: Path) -> "Decontaminator":
        """Return what `save` wrote; raises KeylmError where the file is damaged or of another version."""
        return cls(EvaluationIndex.load(path))

    @property
    def sets(self) -> dict[str, int]:
        """Items of each set."""
        return {facts["name"]: facts["items"] for facts in self._index.facts["sets"]}

    @property
    def matchable(self) -> dict[str, int]:
        """Items of each set that with the right answer have enough words to stand out from ordinary language.

        The others are found at most with a longer wrong answer, or as on an examination sheet.
        """
        return {facts["name"]: facts["matchable"] for facts in self._index.facts["sets"]}

    def fingerprint(self) -> str:
        """Return the SHA-256 of the items and the settings, in hexadecimal."""
        return str(self._index.facts["fingerprint"])

    def check(self, text: str) -> Verdict:
        """Return which items `text` holds."""
        return self.check_many([text])[0]

    def check_many(self, texts: Iterable[str]) -> list[Verdict]:
        """Return a verdict for each text: the same as `check` gives, but sooner where texts are short."""
        return [verdict for batch in batches(texts, str) for verdict in self._check_batch(batch)]

    def _check_batch(self, texts: Sequence[str]) -> list[Verdict]:
        hashed = hash_words(texts)
        row = hashed.hashes.astype(np.uint32)
        found: list[dict[int, _Alignment]] = [{} for _ in texts]
        for text, form, start in self._candidates(hashed, row):
            first, last = hashed.bounds[text], hashed.bounds[text + 1]
            alignment = self._align(row[first:last], form, start - int(first))
            item = int(self._index.form_item[form])
            if alignment and (item not in found[text] or alignment.rank > found[text][item].rank):
                found[text][item] = alignment
        return [self._verdict(text, alignments) for text, alignments in zip(texts, found, strict=True)]

    def _candidates(self, hashed: HashedWords, row: Row) -> Iterator[tuple[int, int, int]]:
        """Yield (text, form, place of the form's first word) where a seed and the words around it are alike, once."""
        if len(row) < MATCHABLE_WORDS:
            return
        places = [self._survivors(row, hashed.bounds, *seeds) for seeds in self._index.find_seeds(hashed.hashes)]
        yield from ((int(n), int(f), int(p)) for n, f, p in np.unique(np.concatenate(places), axis=0))

    def _survivors(self, row: Row, bounds: Integers, at: Integers, form: Integers, offset: Integers) -> Integers:
        """Return [candidates, 3]: text, form and place of the form's first word where enough words are alike."""
        index = self._index
        text = np.searchsorted(bounds, at, side="right") - 1
        around = np.arange(-_BEFORE, _AFTER)
        in_form = offset[:, None] + around
        in_row = at[:, None] + around
        held = (in_form >= 0) & (in_form < np.diff(index.form_starts)[form][:, None])
        inside = held & (in_row >= bounds[text][:, None]) & (in_row < bounds[text + 1][:, None])
        wanted = index.words[np.clip(index.form_starts[form][:, None] + in_form, 0, len(index.words) - 1)]
        same = inside & (row[np.clip(in_row, 0, len(row) - 1)] == wanted)
        stem = index.form_stem[form][:, None]
        of_stem = held & (in_form < stem) & (stem >= MATCHABLE_WORDS)
        passing = same.sum(axis=1) >= _PASSING_SHARE * held.sum(axis=1)
        passing |= (same & of_stem).sum(axis=1) >= np.maximum(1, _PASSING_SHARE * of_stem.sum(axis=1))
        passing |= _longest_runs(same) >= index.form_ngram[form]
        survivors: Integers = np.stack([text, form, at - offset], axis=1)[passing]
        return survivors

    def _align(self, row: Row, form: int, start: int) -> "_Alignment | None":
        """Compare a form, from `start` on in a text's words, over its whole length; None where it is no hit."""
        index = self._index
        span = slice(index.form_starts[form], index.form_starts[form + 1])
        words, stem, ngram = index.words[span], int(index.form_stem[form]), int(index.form_ngram[form])
        straight = _same(row, words, start)
        there = straight | _shifted(row, words, start)
        parts = [there, there[:stem]] if stem >= MATCHABLE_WORDS else [there]
        best = max(parts, key=lambda part: float(part.mean()))
        share, longest = float(best.mean()), max((last - first for first, last in _runs(straight)), default=0)
        if share == 1.0:
            how: Literal["whole", "ngram", "fuzzy"] = "whole"
        elif ngram <= longest >= LONGEST_NGRAM:
            how = "ngram"
        elif index.word_bits[span][there].sum(dtype=np.int64) < PROOF_BITS * BIT_PARTS:
            return None
        elif longest >= ngram and share >= NGRAM_SHARE:
            how = "ngram"
        elif share >= FUZZY_SHARE:
            how = "fuzzy"
        else:
            return None
        places = np.flatnonzero(straight)
        answer = int(index.item_inside[index.form_item[form]])
        return _Alignment(
            how=how,
            first=start + int(places[0]),
            last=start + int(places[-1]),
            words=longest if how == "ngram" else int(there.sum()),
            share=share,
            answer=start + answer if answer >= 0 else -1,
        )

    def _verdict(self, text: str, alignments: dict[int, "_Alignment"]) -> Verdict:
        if not alignments:
            return Verdict()
        spans = word_spans(text)
        matches = [self._match(text, spans, item, alignment) for item, alignment in alignments.items()]
        return Verdict(tuple(sorted(matches, key=lambda match: (match.start, match.set, match.item))))

    def _match(self, text: str, spans: list[tuple[int, int]], item: int, alignment: "_Alignment") -> Match:
        start, end = spans[alignment.first][0], spans[alignment.last][1]
        return Match(
            set=self._names[self._index.item_set[item]],
            item=int(self._index.item_number[item]),
            how=alignment.how,
            start=start,
            end=end,
            words=alignment.words,
            share=alignment.share,
            answer_leaks=self._answer_leaks(text, spans, start, end, item, alignment.answer),
        )

    def _answer_leaks(self, text: str, spans: list[tuple[int, int]], start: int, end: int, item: int, at: int) -> bool:
        """Return whether an item's answer occurs at word `at`, or, where that is -1, near the match."""
        answer = self._index.answers[self._index.answer_starts[item] : self._index.answer_starts[item + 1]]
        if not len(answer):
            return False
        if at >= 0:
            if at + len(answer) > len(spans):
                return False
            near = text[spans[at][0] : spans[at + len(answer) - 1][1]]
        else:
            near = text[max(0, start - ANSWER_CHARACTERS) : end + ANSWER_CHARACTERS]
        row = hash_words([near]).hashes.astype(np.uint32)
        starts = np.flatnonzero(row[: len(row) - len(answer) + 1] == answer[0]) if len(row) >= len(answer) else ()
        return any(np.array_equal(row[n : n + len(answer)], answer) for n in starts)


@dataclass(frozen=True)
class _Alignment:
    how: Literal["whole", "ngram", "fuzzy"]
    first: int
    last: int
    """words of the text"""
    words: int
    share: float
    answer: int
    """the word of the text at which the answer would begin, or -1"""

    @property
    def rank(self) -> tuple[float, int]:
        return self.share, self.words


def batches(items: Iterable[Item], text: Callable[[Item], str]) -> Iterator[list[Item]]:
    """Yield items in lists whose texts have together BATCH_CHARACTERS, or end."""
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(text(item))
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _longest_runs(same: npt.NDArray[np.bool_]) -> Integers:
    """Return the length of the longest run of true values in each row."""
    longest = run = np.zeros(len(same), dtype=np.int64)
    for column in same.T:
        run = (run + 1) * column
        longest = np.maximum(longest, run)
    return longest


def _same(row: Row, words: Row, start: int) -> npt.NDArray[np.bool_]:
    """Return which of `words` are in their place in `row` if the first belongs at `start`."""
    same = np.zeros(len(words), dtype=bool)
    first, last = max(0, -start), min(len(words), len(row) - start)
    if first < last:
        same[first:last] = row[start + first : start + last] == words[first:last]
    return same


def _shifted(row: Row, words: Row, start: int) -> npt.NDArray[np.bool_]:
    """Return which of `words` are in runs of SHIFTED_RUN up to MAX_SHIFT places from where they belong."""
    there = np.zeros(len(words), dtype=bool)
    for shift in (*range(-MAX_SHIFT, 0), *range(1, MAX_SHIFT + 1)):
        same = _same(row, words, start + shift)
        for first, last in _runs(same):
            if last - first >= SHIFTED_RUN:
                there[first:last] = True
    return there


def _runs(same: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the runs of true values: first place and the place after the last."""
    edges = np.flatnonzero(np.diff(same, prepend=False, append=False))
    return [(int(first), int(last)) for first, last in zip(edges[0::2], edges[1::2], strict=True)]
