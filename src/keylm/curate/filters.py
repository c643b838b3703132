# mypy: disable-error-code="misc, import-untyped, no-untyped-call"
"""The filters of curation: language, quality, length and decontamination, as datatrove's steps.

Invariant: a filter judges a document by its text alone and never changes it, so the order of documents, their
distribution over tasks and the machine make no difference.

The quality rules are datatrove's: Gopher's (Rae et al. 2021, arXiv:2112.11446, table A1 and section A.1.1), C4's
(Raffel et al. 2020, JMLR 21:140) and FineWeb's (Penedo et al. 2024, arXiv:2406.17557, section 3.6). They were written
for web pages; docs/curation.md says which register gets which, and why.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.filters.gopher_repetition_filter import find_all_duplicate
from datatrove.utils.word_tokenizers import WordTokenizer

from keylm.base.errors import KeylmError
from keylm.curate.decontamination import Decontaminator
from keylm.languages.about import identifier_of
from keylm.recipe.schema import Curation, Register

JUDGED_CHARACTERS = 500
"""Language is identified from a document's first characters: the classifier is slow, and these suffice."""
SHORT_CHARACTERS = 100
SHORT_THRESHOLD = 0.05
"""Shorter texts give flat probabilities, so they are dropped only where these are clearly against them."""
GOPHER_WORDS = 50
"""Gopher drops shorter documents first: shares of repeated n-grams mean nothing for a few words."""
CHECKED_TOGETHER = 64
"""Documents searched for evaluation items in one batch, which makes short ones cheaper."""
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)")
_ODD = np.uint64(0x9E3779B97F4A7C15)
"""Multiplier of the n-grams' rolling hash: odd, so that no word drops out modulo 2 ** 64."""

Verdict = bool | tuple[bool, str]


class WordCounts(WordTokenizer):
    """Splits words at white space, as in Gopher's paper, and sentences after punctuation.

    datatrove's own tokenizer (spaCy, a large dependency) counts punctuation marks as words, so that Gopher's "80 % of
    words have a letter" drops ordinary dialogue.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WordCounts)

    def __hash__(self) -> int:
        return hash(WordCounts)

    def word_tokenize(self, text: str) -> list[str]:
        """Return a text's words."""
        return text.split()

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Return the bounds of the sentences, which together cover the text."""
        ends = [match.end() for match in _SENTENCE_END.finditer(text)]
        if not ends or ends[-1] < len(text):
            ends.append(len(text))
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def sent_tokenize(self, text: str) -> list[str]:
        """Return a text's sentences."""
        return [text[start:end].strip() for start, end in self.span_tokenize(text) if text[start:end].strip()]


WORDS = WordCounts("any")


def quality_filters(curation: Curation, register: Register) -> list[tuple[str, BaseFilter]]:
    """Return the named quality filters that a register gets, in the recipe's order."""
    return [(name, _QUALITY[name]()) for name in curation.filters[register]]


def filter_settings(curation: Curation) -> dict[str, dict[str, Any]]:
    """Return all limits and lists of the quality filters of `curation`, for the report."""
    names = sorted({name for filters in curation.filters.values() for name in filters})
    return {name: _limits(_QUALITY[name]()) for name in names}


def _limits(judge: BaseFilter) -> dict[str, Any]:
    """Return a filter's settings as JSON values, without datatrove's long list of closing punctuation."""
    hidden = ("stats", "exclusion_writer", "batch_size", "language", "stop_chars")
    # Subclasses keep the limits that they take over from datatrove under the same name with an underscore.
    known = {name.lstrip("_"): value for name, value in vars(judge).items() if name not in hidden}
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in known.items()}
    limits = {name: value for name, value in plain.items() if not isinstance(value, re.Pattern)}
    return dict(json.loads(json.dumps(limits)))


class LanguageFilter(BaseFilter):
    """Drops documents that py3langid (a fork of Lui and Baldwin's langid.py, ACL 2012) takes for another language.

    Probabilities are normalised over all of its languages; those of the accepted ones are summed.
    """

    name = "language"

    def __init__(self, languages: tuple[str, ...], threshold: float) -> None:
        """Accept `languages` where their probabilities sum to `threshold`. Raises KeylmError.

        They are codes of ISO 639-1, or of languages that come with keylm.
        """
        super().__init__()
        labels = _identifier().nb_classes
        languages = tuple(map(identifier_of, languages))
        unknown = [language for language in languages if language not in labels]
        if unknown:
            raise KeylmError(f"curation.languages: got {unknown[0]!r}; accepted: {', '.join(sorted(set(labels)))}")
        self._columns = [index for index, label in enumerate(labels) if label in languages]
        self._threshold = threshold

    def filter(self, doc: Document) -> Verdict:
        """Return whether the document is in an accepted language, or its likeliest language."""
        identifier = _identifier()
        text = doc.text[:JUDGED_CHARACTERS]
        probabilities = identifier._decide(text)
        threshold = self._threshold if len(text) >= SHORT_CHARACTERS else min(self._threshold, SHORT_THRESHOLD)
        if float(probabilities[self._columns].sum()) >= threshold:
            return True
        return False, f"looks like {identifier.nb_classes[int(probabilities.argmax())]}"


@cache
def _identifier() -> Any:
    """Return py3langid's identifier, loaded once a process (1 s, 60 MB), never pickled with a step."""
    from py3langid import langid

    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


class LengthFilter(BaseFilter):
    """Drops documents outside the recipe's bounds, in characters."""

    name = "length"

    def __init__(self, minimum: int, maximum: int) -> None:
        super().__init__()
        self._minimum, self._maximum = minimum, maximum

    def filter(self, doc: Document) -> Verdict:
        """Return whether the document's length is within the bounds."""
        if len(doc.text) < self._minimum:
            return False, "too short"
        return (False, "too long") if len(doc.text) > self._maximum else True


class RepetitionFilter(GopherRepetitionFilter):
    """Gopher's limits on repeated lines, paragraphs and n-grams, for documents of Gopher's minimum length.

    Same verdicts as datatrove's filter, more than twice as fast: n-grams are compared as 64-bit numbers, and
    datatrove's own count, word by word, runs only where the characters of all repeated n-grams exceed a limit.
    """

    def __init__(self) -> None:
        super().__init__(language=WORDS)
        self._top_n_grams: dict[int, float] = dict(vars(self)["top_n_grams"])
        self._dup_n_grams: dict[int, float] = dict(vars(self)["dup_n_grams"])
        self.top_n_grams = self.dup_n_grams = ()  # leaves lines and paragraphs to datatrove's filter

    def filter(self, doc: Document) -> Verdict:
        """Return whether the document is within the limits, or too short for them."""
        if len(doc.text.split(maxsplit=GOPHER_WORDS)) < GOPHER_WORDS:
            return True
        verdict: Verdict = super().filter(doc)  # lines and paragraphs
        return verdict if verdict is not True else self._by_n_grams(doc.text)

    def _by_n_grams(self, text: str) -> Verdict:
        words = WORDS.word_tokenize(text)
        numbers: dict[str, int] = {}
        ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], np.uint64) + np.uint64(1)
        ends = np.cumsum([0, *map(len, words)])
        keys = ids
        shares, limits = self._top_n_grams, self._dup_n_grams
        for size in range(2, max([*shares, *limits]) + 1):
            keys = keys[:-1] * _ODD + ids[size - 1 :]
            if not len(keys):
                break
            characters = ends[size:] - ends[:-size]
            _, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
            if size in shares:
                top = first[counts == counts.max()].min()
                if (characters[top] + size - 1) * counts.max() / len(text) > shares[size]:
                    return False, f"top_{size}_gram"
            if size in limits and len(first) < len(keys):
                again = first[inverse] < np.arange(len(keys))
                over = characters[again].sum() / len(text) > limits[size]
                if over and find_all_duplicate(words, size) / len(text) > limits[size]:
                    return False, f"duplicated_{size}_n_grams"
        return True


class PageFilter(C4QualityFilter):
    """C4's rules for whole pages: "lorem ipsum" and curly brackets, the signs of templates and code.

    C4's rules for lines would also remove headings, lists and blank lines; FineWeb too omits the one on closing
    punctuation. datatrove's filter edits the text; here it is restored.
    """

    def __init__(self) -> None:
        super().__init__(
            filter_no_terminal_punct=False,
            min_num_sentences=-1,
            min_words_per_line=-1,
            remove_citations=False,
            language=WORDS,
        )

    def filter(self, doc: Document) -> Verdict:
        """Return whether the document passes, its text untouched."""
        text = doc.text
        verdict: Verdict = super().filter(doc)
        doc.text = text
        return verdict


class DecontaminationFilter(BaseFilter):
    """Drops documents that contain evaluation items; the reason names the sets, the document's `detail` the items."""

    name = "decontamination"

    def __init__(self, index: Path) -> None:
        """Search for the items of an `index` saved by a Decontaminator."""
        super().__init__(batch_size=CHECKED_TOGETHER)
        self._index = index

    def filter(self, doc: Document) -> Verdict:
        """Return whether the document is free of evaluation items, or the sets of those it contains."""
        return self.filter_batch([doc])[0]

    def filter_batch(self, batch: list[Document]) -> list[Verdict]:
        """Return the verdict on each document, as `filter` does."""
        verdicts: list[Verdict] = []
        for doc, found in zip(batch, _decontaminator(self._index).check_many(doc.text for doc in batch), strict=True):
            doc.metadata |= {"detail": found.detail, "items": found.items}
            sets = sorted({match.set for match in found.matches})
            verdicts.append((False, ", ".join(sets)) if found.hit else True)
        return verdicts


@cache
def _decontaminator(index: Path) -> Decontaminator:
    """Return the decontaminator, loaded once a process."""
    return Decontaminator.load(index)


_QUALITY = {
    # Length has its own step: Gopher's 100,000 words would drop whole books.
    "gopher_quality": lambda: GopherQualityFilter(max_doc_words=None, language=WORDS),
    "gopher_repetition": RepetitionFilter,
    "c4": PageFilter,
    "fineweb": lambda: FineWebQualityFilter(language=WORDS),
}
