"""The table of words gives what the tokenizers library gives, for every text there is."""

import argparse
import typing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from keylm.text import pretokens
from keylm.text.pretokens import WHITE_SPACE, WordTable
from keylm.text.tokenizer import IM_END, IM_START, SPECIAL_TOKENS, DocumentTokenizer, train_tokenizer

SPACES = [chr(code) for code in range(0x3001) if chr(code).isspace()]
UNASSIGNED = ["\u0378", "\u2fff", "\uffff", "\U0001f8ff", "\U000e0080", "\U0010ffff"]
# Unicode has changed its mind on these, or ranges of Python's and the library's versions part here.
DOUBTFUL = ["\u10d0", "\u1c80", "\u1c8a", "\ua7dc", "\u0c5d", "\u19da", "\u2183", "\u3007", "\u180e", "\u200b", "\x1c"]
SNIPPETS = [
    *("'s", "'ll", "'re", "'S", "''", "n't", "’s", " '", "don't", "I'd've", "'tis"),
    *("\r\n", "\r", "\n\n\n", "\t", "    ", " " * 40, "\u00a0", "\u2003 ", "\x85", "\u2028"),
    *("word", " word", "WORD", "x1", "12", " 345", "٣", "²", "Ⅷ", "½", "日本語", "Привет", "ﬁ", "ß"),
    *(
        "e\u0301",
        "\u0301",
        "ก\u0e33",
        "\u200d",
        "👋🏽",
        "👩\u200d🚀",
        "🫠",
        "\U0001f900",
        "$",
        "...",
        "_",
        "<|im_end|>",
    ),
    *UNASSIGNED,
    *DOUBTFUL,
]
unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
texts = st.lists(st.sampled_from(SNIPPETS) | st.sampled_from(SPACES) | unicode, max_size=12).map("".join)


def corpus() -> Iterator[str]:
    """Yield code and English with runs of spaces, and enough of other scripts to merge across their bytes."""
    for module in (argparse, typing):
        yield Path(str(module.__file__)).read_text(encoding="utf-8")  # whole, so that runs of line ends are merged
    yield from [
        "Žluťoučký kůň pěl ódy.",
        "日本語の文章です。",
        "Привет, мир! 👋🏽 👩\u200d🚀",
        "it's 12 o'clock, we'll go",
    ] * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "tokenizer"
    train_tokenizer(corpus(), 900, folder, context=64)
    return folder


@pytest.fixture(scope="module")
def library(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.fixture(scope="module")
def table(library: Tokenizer) -> WordTable:
    """A table that several tests fill, as a build's does."""
    return WordTable(library)


def expected(library: Tokenizer, given: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in library.encode_batch(given, add_special_tokens=False)]


@settings(max_examples=400)
@given(st.lists(texts, min_size=1, max_size=4))
@example([""])
@example(["a" * 5000 + " " * 5000 + "b"])
@example(["\r\n\r\n  x\r\n", "\n x", " \n", "x \u3000 y"])
def test_any_text_gives_the_librarys_ids(library: Tokenizer, table: WordTable, given: list[str]) -> None:
    found = table.encode(given)
    assert all(ids.dtype == np.uint16 for ids in found)
    assert [ids.tolist() for ids in found] == expected(library, given)


def test_every_character_of_the_basic_plane_gives_the_librarys_ids(library: Tokenizer, table: WordTable) -> None:
    characters = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    characters += [chr(code) for code in range(0x1F000, 0x1FB80)]
    wrong = []
    for start in range(0, len(characters), 4096):
        part = characters[start : start + 4096]
        # Beside a letter, a digit, punctuation, spaces and itself, and at both ends of a text.
        given = [f"{c}a{c}1 {c}{c}. {c}  {c}" for c in part]
        wrong += [
            f"U+{ord(character):04X}"
            for character, ids, other in zip(part, table.encode(given), expected(library, given), strict=True)
            if ids.tolist() != other
        ]
    assert wrong == []


@settings(max_examples=60)
@given(st.lists(texts, min_size=1, max_size=8))
def test_a_table_that_overflows_again_and_again_gives_the_same_ids(library: Tokenizer, given: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretokens, "MOST_WORDS", 3)
        small = WordTable(library)
        for _ in range(2):
            assert [ids.tolist() for ids in small.encode(given)] == expected(library, given)
            for text in given:
                assert small.encode_words(text)[0].tolist() == expected(library, [text])[0]


def test_a_table_holds_no_more_words_than_it_may(library: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretokens, "MOST_WORDS", 50)
    small = WordTable(library)
    filled = 0
    for number in range(200):
        small.encode([f"w{number} x{number}", "long" * pretokens.LONGEST_WORD])
        assert len(small._ids) <= 50
        assert all(len(word) <= pretokens.LONGEST_WORD for word in small._ids)
        filled = max(filled, len(small._ids))
    assert filled > 40


@settings(max_examples=300)
@given(texts)
@example("")
@example("\u0378 don't\r\n  stop\u0301 ")
def test_the_ends_of_words_part_the_text_and_its_ids_alike(library: Tokenizer, table: WordTable, text: str) -> None:
    ids, characters, tokens = table.encode_words(text)
    assert ids.tolist() == expected(library, [text])[0]
    assert len(characters) == len(tokens)
    assert [int(ends[-1]) if len(ends) else 0 for ends in (characters, tokens)] == [len(text), len(ids)]
    starts = zip([0, *characters[:-1]], [0, *tokens[:-1]], strict=True) if len(tokens) else []
    for (character, token), end, last in zip(starts, characters, tokens, strict=True):
        assert character < end
        assert token < last
        assert library.decode(ids[token:last].tolist(), skip_special_tokens=False) == text[character:end]


@settings(max_examples=200)
@given(st.sampled_from(["user", "assistant", "system"]), st.sampled_from(SPACES) | st.just(""), texts)
@example("user", "\r\n", "x")
@example("assistant", "\x1c", "x")
@example("user", "\n", "\n\nx")
@example("assistant", " ", "       x")
@example("assistant", "\n", "")
def test_a_turn_that_begins_with_white_space_is_encoded_with_its_header_as_one_text(
    library: Tokenizer, folder: Path, role: str, space: str, text: str
) -> None:
    ids, answer, ends = DocumentTokenizer(folder).encode_chat([{"role": role, "content": space + text}])
    [body] = expected(library, [f"{role}\n{space}{text}"])
    [newline] = expected(library, ["\n"])
    assert ids.tolist() == [IM_START, *body, IM_END, *newline]
    assert ends == [len(ids)]
    assert answer.any() == (role == "assistant")
    assert all(id_ >= len(SPECIAL_TOKENS) for id_ in body)


def test_python_has_no_white_space_that_the_table_does_not_know() -> None:
    known = "".join(SPACES)
    missing = [space for space in known if space not in WHITE_SPACE and not "\u2000" <= space <= "\u200a"]
    assert missing == ["\x1c", "\x1d", "\x1e", "\x1f"], "Python's own four; Unicode does not count them"
