"""Words of many texts at once: the same as a regular expression finds, one text after the other."""

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keylm.typos.words import LONGEST, PlainWords, mixed

PLAIN = re.compile(r"[\"'(\[“‘]*([A-Za-z][a-z]*(?:['’][a-z]+)*)[\"')\]”’.,;:!?…]*")
CHARACTERS = [*"aabcdxyzABZ'’`~\"()[]“”‘….,;:!?-_/@0 \t\r\n\x00\x80\x92\xa0é", "日", "🙂", "\ud800", "\u0301"]
texts_of = st.lists(st.lists(st.sampled_from(CHARACTERS), max_size=40).map("".join), min_size=1, max_size=6)


def tokens_of(texts: list[str]) -> list[tuple[int, int]]:
    """Return start and length of all that stands between blanks, in the row of the texts."""
    return [(m.start(), len(m[0])) for m in re.finditer(r"[^ \t\r\n]+", "\n".join(texts))]


@settings(max_examples=500)
@given(texts_of)
@example(
    ["don't o''er it’s 'tis dogs' (so) “So,” “yes”? a`b word日 日word x?y ?word word? USA iPhone McDo Rock'n'roll"]
)
@example(["I", "", "a" * 24, "a" * 25 + " b", "'" * 30, "b" * 70, "\ud800word \ud800 word\udfff"])
def test_plain_words_are_those_of_the_regular_expression(texts: list[str]):
    words, row = PlainWords(texts), "\n".join(texts)
    tokens = [(start, length) for start, length in tokens_of(texts) if length <= LONGEST]
    expected = []
    for number, (start, length) in enumerate(tokens):
        if match := PLAIN.fullmatch(row, start, start + length):
            word = match[1]
            apostrophe = re.search("['’]", word)
            expected.append(
                (number, match.start(1), len(word), word[0].isupper(), apostrophe.start() if apostrophe else 0)
            )
    starts, lengths = np.array(tokens, np.int64).reshape(-1, 2).T
    plain = words.plain(starts, lengths)
    assert list(zip(*(column.tolist() for column in plain), strict=True)) == expected
    doubled = words.doubled(plain.start, plain.length).tolist()
    for (_, start, length, _, _), mask in zip(expected, doubled, strict=True):
        word = row[start : start + length].lower()
        assert mask == sum(1 << n for n in range(length - 1) if word[n] == word[n + 1])


@settings(max_examples=300)
@given(texts_of)
def test_words_are_counted_and_found_from_each_of_their_characters(texts: list[str]):
    words, tokens = PlainWords(texts), tokens_of(texts)
    assert words.counts() == [len(tokens_of([text])) for text in texts]
    for start, length in tokens:
        for place in range(start, start + length + 1):  # the blank after it counts too
            [[found], [size]] = words.tokens(np.array([place]))
            assert (found, size) == (start, length) if length <= LONGEST else size > LONGEST


def test_draws_are_the_same_however_many_texts_are_beside():
    texts = ["one two three four", "", "five six", "seven " * 50]
    keys, none = np.array([5, 6, 7, 2**64 - 1], np.uint64), np.zeros(4, np.int64)
    counts = np.array([3, 2, 9, 4])
    words = PlainWords(texts)
    text, start, length, bits = words.draw(np.arange(4), keys, none, counts)
    assert text.tolist() == np.repeat(np.arange(4), counts).tolist()
    for number, alone in enumerate(texts):
        for first in (0, counts[number] // 2):  # a sequence goes on where it was left
            rest = counts[number] - first
            drawn = PlainWords([alone]).draw(np.array([0]), keys[[number]], np.array([first]), np.array([rest]))
            rows = np.flatnonzero(text == number)[first:]
            assert (drawn[1] + words.begins[number]).tolist() == start[rows].tolist()
            assert drawn[2].tolist() == length[rows].tolist()
            assert drawn[3].tolist() == bits[rows].tolist()


def test_places_are_drawn_evenly():
    word = "abcdefgh"
    words = PlainWords([" ".join([word] * 100)])
    _, start, _, _ = words.draw(np.array([0]), np.array([1], np.uint64), np.array([0]), np.array([90_000]))
    counts = np.bincount(start // (len(word) + 1))
    assert counts.mean() == pytest.approx(900)
    assert 0.8 * 100 < (((counts - 900) ** 2) / 900).sum() < 1.5 * 100  # chi square of 99 degrees of freedom


def test_mixing_is_that_of_splitmix64():
    """The first draws of its reference implementation (prng.di.unimi.it/splitmix64.c) from the seed 1234567."""
    seed, step = np.uint64(1234567), np.uint64(0x9E3779B97F4A7C15)
    drawn = mixed(seed + np.arange(1, 4, dtype=np.uint64) * step)
    assert drawn.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
