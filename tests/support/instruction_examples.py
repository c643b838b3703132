"""Documents to make instructions from, and for each type of constraint answers that keep and break it."""

from pathlib import Path

from keylm.instructions.document_tasks import SourceText

SHARED = Path(__file__).parents[2].parent / "shared"
ARTICLE = """{name}
{name} is a small town on the river Alm. It was founded long ago. The old harbour lies in the middle. Visitors like it.
The market of {name} takes place twice a week. Farmers sell bread and cheese there. Children like the stall with honey.
A narrow bridge leads to the other bank, where the mill stands. The mill was rebuilt after a fire.
The winters are cold and windy. Snow falls from December on, and the river often freezes.
"""
TALE = """The {name} and the Well
Once there was a {name} who lived beside a well. Every morning it looked down and saw another one just like it.
"Who are you?" it asked, but nobody answered. So it brought a flower and let it fall. The flower came up again.
The {name} was happy and brought a flower every day. In the end there was a garden beside the well.
"""
NEWS = """{name} opens new library
The town of {name} opened a new library on Friday. It has forty thousand books and a room for children.
The mayor said that the building had taken three years. Readers waited in a long line before the doors opened.
"""

GOOD_AND_BAD = [
    ({"type": "words", "relation": "at_least", "count": 4}, "One two three four.", "One two three."),
    ({"type": "words", "relation": "at_most", "count": 4}, "One two don't.", "A well-known man came here."),
    ({"type": "words", "relation": "between", "count": 2, "most": 3}, "One two three.", "One."),
    ({"type": "sentences", "relation": "exactly", "count": 2}, "It rains. We stay.", "It rains and we stay."),
    ({"type": "sentences", "relation": "at_most", "count": 1}, "It rains", "It rains. We stay."),
    ({"type": "sentences", "relation": "at_least", "count": 2}, "It rains. We stay.", "Mr. Fox left at 3 p.m. today."),
    ({"type": "paragraphs", "count": 2}, "One.\n\nTwo.", "One.\nTwo."),
    ({"type": "divided_paragraphs", "count": 2}, "One.\n***\nTwo.", "One.\n\nTwo."),
    ({"type": "paragraph_start", "count": 2, "paragraph": 2, "word": "Two"}, "One.\n\nTwo, yes.", "One.\n\nThe two."),
    ({"type": "bullets", "count": 2}, "List:\n* a\n* b", "* a\n* b\n* c"),
    ({"type": "numbered_list", "count": 2}, "1. a\n2. b", "1. a\n3. b"),
    ({"type": "sections", "word": "Part", "count": 2}, "Part 1\nA.\n\nPart 2\nB.", "Part 1\nA."),
    ({"type": "json"}, '```json\n{"a": 1}\n```', '{"a": 1'),
    ({"type": "json", "keys": ["a"]}, '{"a": 1}', '{"b": 1}'),
    ({"type": "choice", "options": ["Yes.", "No."]}, "Yes.", "Yes, it does."),
    ({"type": "two_answers"}, "One.\n******\nTwo.", "One.\n***\nTwo."),
    ({"type": "keywords", "words": ["cat"]}, "A Cat.", "Concatenate."),
    ({"type": "forbidden", "words": ["cat"]}, "Concatenate.", "A cat."),
    ({"type": "keyword_count", "word": "cat", "relation": "at_least", "count": 2}, "Cat, cat.", "Cat, cats."),
    ({"type": "keyword_count", "word": "cat", "relation": "at_most", "count": 1}, "Cat.", "Cat, cats."),
    ({"type": "letter_count", "letter": "a", "relation": "at_most", "count": 1}, "An egg.", "A banana."),
    ({"type": "capital_words", "relation": "at_least", "count": 1}, "It is BIG.", "I am big."),
    ({"type": "capital_words", "relation": "at_most", "count": 1}, "I am big.", "I am BIG."),
    ({"type": "lower_case"}, "small, 2.", "Small."),
    ({"type": "upper_case"}, "BIG, 2.", "BIg."),
    ({"type": "no_comma"}, "a b", "a, b"),
    ({"type": "title"}, "<<A title>>\n\nText.", "<< >> Text."),
    ({"type": "highlights", "count": 2}, "*One* and **two parts**.", "* One\n* Two"),
    ({"type": "placeholders", "count": 1}, "Dear [name],", "Dear [],"),
    ({"type": "postscript", "marker": "P.S."}, "Text.\n\nP.S. More.", "Text. P.S. More."),
    ({"type": "quotation"}, '"All of it."', '"All" of it.'),
    ({"type": "end_phrase", "phrase": "The end."}, "Text. The end.", "The end. Text."),
    ({"type": "start_phrase", "phrase": "Well,"}, "Well, text.", "Text. Well,"),
    ({"type": "first_word", "word": "Rain"}, '"Rain" falls.', "The rain falls."),
    ({"type": "last_word", "word": "rain"}, "It is rain.", "It rains."),
    ({"type": "repeat_request", "text": "Say it."}, "Say it.\n\nIt.", "It. Say it."),
    ({"type": "english"}, "A café is a place where people sit and drink their coffee.", "Это не английский."),
    ({"type": "no_digits"}, "two", "2"),
    ({"type": "line_letter", "letter": "s", "count": 2}, "Sun.\nSnow.", "Sun.\nRain."),
    ({"type": "alphabetical_bullets", "count": 2}, "* ant\n* Bee", "* bee\n* ant"),
    ({"type": "question_marks", "count": 1}, "Why?", "Why? How?"),
    ({"type": "short_sentences", "count": 3, "sentences": 2}, "It rains. We stay.", "It rains on us all. We stay."),
    ({"type": "ends_with_question"}, "It rains. Why?", "Why? It rains."),
    ({"type": "roman_list", "count": 2}, "I. Sun\nII. Rain", "1. Sun\n2. Rain"),
    ({"type": "short_words", "count": 4, "words": 2}, "It is cold.", "It is raining."),
    ({"type": "distinct_starts", "count": 2}, "It rains. We stay.", "It rains. It snows."),
]  # fmt: skip


def documents() -> dict[str, list[SourceText]]:
    towns = ("Almar", "Bergen", "Corvin", "Delmo", "Estrin", "Fandor", "Gilmar", "Holten")
    animals = ("Fox", "Hen", "Frog", "Goat", "Duck", "Bear", "Hare", "Mole")
    return {
        "wikipedia": [SourceText("wikipedia", ARTICLE.format(name=name)) for name in towns],
        "children": [SourceText("children", TALE.format(name=name)) for name in animals],
        "wikinews": [SourceText("wikinews", NEWS.format(name=name)) for name in towns],
    }
