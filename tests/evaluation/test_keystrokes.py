import pytest

from keylm.evaluation.keystrokes import (
    TYPED,
    beginning,
    fewest_keystrokes,
    keystrokes,
    measure_keystrokes,
    measure_latency,
    measure_prediction,
)
from keylm.evaluation.statistics import Tallies
from keylm.evaluation.typing_items import TypingItem


def nothing(before, partial):
    return []


def after(letters):
    """Suggestions that hold the word of these texts once so many letters are typed."""

    def suggest(before, partial):
        return ["hello", "there"] if len(partial) >= letters else ["no"]

    return suggest


def test_without_suggestions_every_character_is_a_key():
    assert keystrokes("Hello, 3rd man.\nIt's o'clock", nothing) == len("Hello, 3rd man.\nIt's o'clock")


@pytest.mark.parametrize(
    ("text", "letters", "keys"),
    [
        ("hello there", 0, 2),  # a choice a word; the space comes with it
        ("hello there", 1, 4),  # a letter and a choice a word
        ("hello there", 4, 10),
        ("hello there", 5, 11),  # a word that is typed to its end has nothing left to choose
        ("hello, there.", 0, 5),  # a sign takes the space's place, the next space is typed
        ("hello\nthere", 0, 3),
        ("hello 5there", 0, 7),  # after a digit there is no word
    ],
)
def test_keys_by_the_protocol(text, letters, keys):
    assert keystrokes(text, after(letters)) == keys


def test_only_the_word_itself_is_chosen():
    assert keystrokes("hell there", after(0)) == len("hell ") + 1
    assert keystrokes("Hello there", after(0)) == len("Hello ") + 1


def test_the_ceiling_is_one_key_a_word():
    assert fewest_keystrokes("Don't go, said the 2 men.") == 5 + 1 + 3 + 1  # words; ", "; "2 " and "."; no more spaces


def test_words_are_looked_up_with_what_stands_before_them():
    asked = []
    keystrokes("one it's", lambda before, partial: asked.append((before, partial)) or [])
    assert asked == [("", ""), ("", "o"), ("", "on"), *[("one ", "it's"[:n]) for n in range(4)]]


def test_savings_and_the_ceiling_are_counted_in_keys():
    tallies = Tallies()
    list(measure_keystrokes({"model": after(1)}, [TypingItem(0, "hello there", "")], tallies))
    assert [(row["system"], row["value"]) for row in tallies.rows("set", 0)] == [
        ("model", pytest.approx(7 / 11)),
        ("ceiling", pytest.approx(9 / 11)),
    ]


def test_hits_are_counted_by_place_and_by_letters_typed():
    def suggest(before, partial):
        return {"": ["no", "there"], "t": ["there"], "th": ["three", "then", "no", "there"], "the": []}[partial]

    tallies = Tallies()
    list(measure_prediction({"model": suggest}, [TypingItem(0, "hello there", "")], tallies))
    assert {row["measure"]: row["value"] for row in tallies.rows("set", 0)} == {
        "next word top-1": 0,
        "next word top-3": 1,
        "completion top-1 after 1 letter": 1,
        "completion top-3 after 1 letter": 1,
        "completion top-1 after 2 letters": 0,
        "completion top-3 after 2 letters": 0,
        "completion top-1 after 3 letters": 0,
        "completion top-3 after 3 letters": 0,
    }


def test_what_is_typed_ends_with_a_word():
    text = "some words " * 60
    assert len(beginning(text)) <= TYPED
    assert beginning(text).split()[-1] in ("some", "words")
    assert beginning("short") == "short"


def test_latency_times_each_key_that_can_be_followed_by_suggestions():
    class Clockwork:
        def __init__(self):
            self.asked = []

        def suggest(self, text, partial, k):
            self.asked.append((text, partial, k))

    clockwork = Clockwork()
    found = measure_latency(clockwork, [TypingItem(0, "hi you 2b. go", "")])
    assert [(text, partial) for text, partial, _ in clockwork.asked] == [
        ("", "h"),
        ("", "hi"),
        ("hi ", ""),
        *[("hi ", "you"[:n]) for n in (1, 2, 3)],
        ("hi you ", ""),
        ("hi you 2b.", ""),
        ("hi you 2b. ", ""),
        ("hi you 2b. ", "g"),
        ("hi you 2b. ", "go"),
    ]
    assert found["keys"] == 11
    assert found["threads"] == 1
    assert 0 <= found["p50_ms"] <= found["p95_ms"]
