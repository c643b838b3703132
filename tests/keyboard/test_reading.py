"""What typed text is, without any model; tests/keyboard/cases.toml has the cases that the page must share."""

import time
from dataclasses import replace

import pytest

from keylm.keyboard.edit_model import EditModel
from keylm.keyboard.lexicon import lexicon
from keylm.keyboard.reading import Reading, one_slip
from keylm.languages.language import ENGLISH, language_of

READING = Reading()


@pytest.mark.parametrize(
    ("typed", "straight", "used"),
    [
        ("I don’t", "I don't", "’"),
        ("I donʼ", "I don'", "ʼ"),
        ("don´t or can't", "don't or can't", "'"),
        ("can't or don´t", "can't or don't", "´"),
        ("‘so’ he said", "‘so’ he said", "’"),
        ("“so” he said", "“so” he said", "'"),
        ("’tis", "’tis", "'"),
        ("", "", "'"),
    ],
)
def test_apostrophes_in_words_are_straightened_and_the_last_is_known(typed: str, straight: str, used: str):
    assert READING.straight(typed) == (straight, used)


def test_a_contraction_is_found_however_its_apostrophe_is_missing():
    for word in ENGLISH.contractions.certain:
        bare = word.replace("'", "")
        assert READING.contraction(bare) == word
        assert READING.contraction(bare.capitalize()) == word[0].upper() + word[1:]
        assert READING.contraction(word) is None
        assert READING.alternative(bare) is None
    for word in ENGLISH.contractions.also_words:
        bare = word.replace("'", "").lower()
        assert (READING.contraction(bare), READING.contraction(word), READING.alternative(bare)) == (None, None, word)
        assert not READING.keeps(bare, word)


def test_no_word_drops_a_negation():
    negations = [word for word in (*ENGLISH.contractions.certain, *ENGLISH.contractions.also_words) if "n't" in word]
    assert len(negations) > 20
    for word in negations:
        for typed in (word, word.replace("'", ""), word.replace("n't", "'nt"), word.capitalize()):
            assert not READING.keeps(typed, "now"), typed
            assert not READING.keeps(typed, word.removesuffix("n't")), typed
            assert READING.keeps(typed, typed)
    assert READING.keeps("havnt", "haven't")
    assert not READING.keeps("havnt", "haunt")
    assert READING.keeps("goverment", "government")
    assert READING.keeps("wnat", "want")


def test_a_slip_beside_the_missing_apostrophe_has_a_probability():
    """That of the bare form mistyped, times the share of contractions that are typed bare."""
    edits = EditModel()
    assert ("havent", "haven't") in READING.near("havnt")
    assert edits.log_probability("havnt", "havent") > edits.log_probability("hxvnt", "havent")
    assert READING.near("wasnt") == [("hasnt", "hasn't")]
    assert READING.near("elephant") == []


@pytest.mark.parametrize(
    ("left", "right", "near"),
    [
        *(("ab", "ba", True), ("ab", "b", True), ("ab", "abc", True), ("ab", "cd", False), ("ab", "ab", False)),
        *(("abcd", "badc", False), ("aab", "ab", True), ("", "a", True), ("abc", "cba", False)),
    ],
)
def test_one_slip(left: str, right: str, near: bool):
    assert one_slip(left, right) == near == one_slip(right, left)


@pytest.mark.parametrize(
    "piece", ["a-", "a'-", "'a'", '"', "a,“", "(", "a(", "*", "—", "a...", "`", "--a ", "{", "<a", "é-’"]
)
def test_text_without_end_takes_no_time_without_end(piece: str):
    begun = time.perf_counter()
    for end in ("@", "teh", " teh"):
        READING.is_prose(piece * 4_000 + end)
        READING.straight(piece * 4_000 + end)
    assert time.perf_counter() - begun < 2


def test_another_language_has_other_contractions():
    table = replace(ENGLISH.contractions, certain=("d'accord",), also_words=("l'as",))
    reading = Reading(replace(ENGLISH, contractions=table))
    assert (reading.contraction("daccord"), reading.contraction("dont")) == ("d'accord", None)
    assert (reading.alternative("las"), reading.alternative("its")) == ("l'as", None)


def test_a_negations_ending_by_ear_is_no_other_word():
    """A vowel more or less before it; with "i", "havint" would be meant for "having"."""
    pytest.importorskip("symspellpy")
    for word in ENGLISH.contractions.certain:
        stem = word.removesuffix("n't")
        if stem != word and stem[-1] not in "aeiou":
            assert READING.contraction(f"{stem}ent") == word
    assert [READING.contraction(typed) for typed in ("havnt", "arnt", "wernt", "darnt")] == [
        *("haven't", "aren't", "weren't", "daren't")
    ]
    others = "havint needint doint parent absent dent dint ant ent nt wasentt cant wont"
    for other in others.split():
        assert READING.contraction(other) is None, other
    bare = {word.replace("'", "").lower() for word in ENGLISH.contractions.certain}
    assert [word for word in lexicon().counts if READING.contraction(word) and word not in bare] == []


def test_other_letters_are_prose_in_their_language_alone():
    greek = Reading(language_of("el"))
    for text in ("η ώρ", "Ελλάδα—ώρα", "(«Ώρα", "Κύπρος, ώρα", "Ἀθήν"):
        assert greek.is_prose(text), text
        assert not READING.is_prose(text), text
    for text in ("a/ώρα", "x = ώρα", "ώΡα", "@ώρα", "the"):
        assert not greek.is_prose(text), text
    assert Reading(language_of("de")).is_prose("Über—größ")
    assert not READING.is_prose("größ")
