import math
from dataclasses import replace

import pytest

from keylm.evaluation.correction import TypedWord, measure_correction, typed_words
from keylm.evaluation.statistics import Tallies
from keylm.evaluation.typing_items import TypingItem, embedded_set
from keylm.keyboard.corrector import MIXED, Candidates, Corrector
from keylm.keyboard.edit_model import EditModel
from keylm.keyboard.lexicon import cased, hunspell
from keylm.keyboard.lexicon import lexicon as read_lexicon
from keylm.languages.language import ENGLISH

symspellpy = pytest.importorskip("symspellpy", reason="symspellpy is not installed")


@pytest.fixture(scope="module")
def lexicon():
    return read_lexicon()


@pytest.fixture(scope="module")
def edits():
    return EditModel()


class Frequencies:
    """In a language model's place: words by their frequency, and those after "the" as given."""

    def __init__(self, lexicon, **behind_the):
        self._counts, self._total = lexicon.counts, sum(lexicon.counts.values())
        self._behind_the = behind_the

    def log_probabilities(self, text, words, least=()):
        if text.endswith("the ") and self._behind_the:
            return [math.log(self._behind_the.get(word.lower(), 1e-9)) for word in words]
        found = [math.log((self._counts.get(word.lower(), 0) + 0.1) / self._total) for word in words]
        return [value if not least or value > least[n] else -math.inf for n, value in enumerate(found)]


def corrector(lexicon, edits, share=1.0, **behind_the):
    return Corrector(Candidates(Frequencies(lexicon, **behind_the), lexicon, edits), share)


def test_each_way_of_writing_a_word_has_a_probability_and_together_no_more_than_one(edits):
    letters = "abcdefghijklmnopqrstuvwxyz"
    word = "there"
    ways = {word}
    ways |= {word[:n] + word[n + 1 :] for n in range(5)}
    ways |= {word[:n] + c + word[n + 1 :] for n in range(5) for c in letters}
    ways |= {word[:n] + c + word[n:] for n in range(6) for c in letters}
    ways |= {word[:n] + word[n + 1] + word[n] + word[n + 2 :] for n in range(4)}
    ways |= {"their", "they're"}
    total = sum(math.exp(edits.log_probability(way, word)) for way in ways)
    assert 1 - EditModel().error_rate(word) < total <= 1


def test_likelier_slips_are_likelier(edits):
    def p(typed, meant):
        return edits.log_probability(typed, meant)

    assert p("the", "the") > p("thr", "the") > p("thp", "the")  # a neighbouring key, a far one
    assert p("freind", "friend") > p("frirnx", "friend")  # one slip, two
    assert p("teh", "the") > p("eht", "the")
    assert p("abc", "xyzw") == -math.inf
    assert edits.error_rate("a") < edits.error_rate("organization") <= 0.5


def test_a_higher_rate_makes_every_error_likelier(edits):
    often = EditModel(replace(ENGLISH, channel=replace(ENGLISH.channel, mistyped=0.1)))
    assert often.log_probability("teh", "the") > edits.log_probability("teh", "the")


def test_the_word_that_fits_the_context_is_chosen(lexicon, edits):
    cat = corrector(lexicon, edits, cat=0.2, cut=0.001)
    cut = corrector(lexicon, edits, cat=0.001, cut=0.2)
    assert (cat("the ", "cst"), cut("the ", "cyt")) == ("cat", "cut")
    assert cat("the ", "Cst") == "Cat"


def test_an_expected_word_stays_and_a_wrong_one_goes(lexicon, edits):
    assert corrector(lexicon, edits, form=0.2, **{"from": 0.01})("the ", "form") == "form"
    assert corrector(lexicon, edits, form=1e-8, **{"from": 0.3})("the ", "form") == "from"


def test_frequencies_help_where_the_model_knows_neither_word(lexicon, edits):
    both = {"langauge": 1e-8, "language": 1e-12}
    assert corrector(lexicon, edits, 1.0, **both)("the ", "langauge") == "langauge"
    assert corrector(lexicon, edits, MIXED, **both)("the ", "langauge") == "language"


def test_candidates_that_are_left_out_early_would_not_have_won(lexicon, edits, monkeypatch):
    words = sorted({word for item in embedded_set().first(1).items for word in item.typed.split() if word.isalpha()})
    shares = (1.0, MIXED)
    quick = [[corrector(lexicon, edits, share)("a ", word) for word in words] for share in shares]
    monkeypatch.setattr(Candidates, "_least", lambda *_: -math.inf)
    slow = [[corrector(lexicon, edits, share)("a ", word) for word in words] for share in shares]
    assert quick == slow


@pytest.mark.parametrize("typed", ["NASA", "x1", "", "a-b"])
def test_what_is_no_plain_word_is_left_alone(lexicon, edits, typed):
    assert corrector(lexicon, edits, nasal=0.9)("the ", typed) == typed


def test_baselines_correct_what_they_do_not_know_and_nothing_else(lexicon):
    assert [lexicon.corrected(word) for word in ("langauge", "Recieve", "form", "qqqqqqqq")] == [
        "language",
        "Receive",
        "form",
        "qqqqqqqq",
    ]
    pytest.importorskip("spylls", reason="spylls is not installed")
    assert [hunspell().corrected(word) for word in ("langauge", "Recieve", "form")] == ["language", "Receive", "form"]


def test_frequent_words_complete_a_beginning(lexicon):
    assert lexicon.completions("th", 3) == ("the", "that", "this")
    assert lexicon.completions("Th", 1) == ("The",)
    assert "the" not in lexicon.completions("the", 3)
    assert cased("word", "") == "word"


def test_words_are_paired_with_what_was_meant_behind_the_text_as_typed():
    item = TypingItem(
        0, clean='He said: "definitely, not the 2nd NASA man."', typed='He siad: "definately, not teh 2nd NASA man."'
    )
    assert list(typed_words(item)) == [
        TypedWord("", "He", "He"),
        TypedWord("He ", "siad", "said"),
        TypedWord('He siad: "', "definately", "definitely"),
        TypedWord('He siad: "definately, ', "not", "not"),
        TypedWord('He siad: "definately, not ', "teh", "the"),
        TypedWord('He siad: "definately, not teh 2nd NASA ', "man", "man"),
    ]


def test_words_too_many_or_too_few_are_left_out():
    found = list(
        typed_words(TypingItem(0, clean="he went in to the house of stone", typed="he went into the house stone"))
    )
    assert [(word.typed, word.meant) for word in found if word.typed != word.meant] == []
    assert "stone" in [word.typed for word in found]


def test_repairs_and_harm_are_counted():
    items = [TypingItem(0, "one two three", "one tow three"), TypingItem(1, "four five", "four fiev")]
    answers = {"tow": "two", "three": "tree", "fiev": "fief"}
    systems = {"some": lambda _, typed: answers.get(typed, typed), "typed text": lambda _, typed: typed}
    tallies = Tallies()
    assert list(measure_correction(systems, items, {"tow"}.__contains__, tallies)) == [1, 2]
    rows = {(row["measure"], row["system"]): row["value"] for row in tallies.rows("set", 0)}
    assert rows == {
        ("error reduction", "some"): 0.0,  # one repaired, one spoilt
        ("wrong words left", "some"): pytest.approx(2 / 5),
        ("false corrections", "some"): pytest.approx(1 / 3),
        ("typos repaired: real words", "some"): 1.0,
        ("typos repaired: non-words", "some"): 0.0,
        ("error reduction", "typed text"): 0.0,
        ("wrong words left", "typed text"): pytest.approx(2 / 5),
        ("false corrections", "typed text"): 0.0,
        ("typos repaired: real words", "typed text"): 0.0,
        ("typos repaired: non-words", "typed text"): 0.0,
    }


def test_an_unsteadier_hand_leaves_more_unrepaired(lexicon, edits):
    systems = {
        "model": corrector(lexicon, edits),
        "symspell": lambda _, typed: lexicon.corrected(typed),
    }
    found = {}
    for noise in (0.9, 1.5):
        tallies = Tallies()
        items = embedded_set(noise).first(4).items
        list(measure_correction(systems, items, lexicon.counts.__contains__, tallies))
        for row in tallies.rows("embedded", 0):
            found[noise, row["measure"], row["system"]] = row["value"]
    for system in systems:
        assert found[1.5, "typos repaired: non-words", system] < found[0.9, "typos repaired: non-words", system]
        assert found[1.5, "wrong words left", system] > found[0.9, "wrong words left", system]
