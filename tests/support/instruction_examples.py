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
    ({"type": "lines", "relation": "exactly", "count": 2}, "One.\n\nTwo.", "One. Two."),
    ({"type": "lines", "relation": "at_most", "count": 1}, "One.", "One.\nTwo."),
    ({"type": "vowels", "relation": "at_most", "count": 3}, "An ox, dry.", "An ox and a hen."),
    ({"type": "vowels", "relation": "at_least", "count": 3}, "An old ox.", "An ox."),
    ({"type": "characters", "relation": "at_most", "count": 8}, "It rains", "It rains."),
    ({"type": "numbers", "relation": "exactly", "count": 2}, "12 of 1,000.", "12 of a thousand."),
    ({"type": "numbers", "relation": "at_most", "count": 1}, "In 1999, Sk8 and B2.", "In 1999 and 2000."),
    ({"type": "different_words", "relation": "at_most", "count": 2}, "Rain, rain and rain.", "Rain and snow."),
    ({"type": "different_words", "relation": "at_least", "count": 3}, "Rain and snow.", "Rain and rain."),
    ({"type": "exclamation_marks", "count": 2}, "Oh! No!", "Oh! No."),
    ({"type": "lettered_list", "count": 2}, "a) Sun\nb) Rain", "a) Sun\nc) Rain"),
    ({"type": "headings", "count": 2}, "# Sun\nIt shines.\n\n## Rain\nIt falls.", "# Sun\n#Rain"),
    ({"type": "table", "count": 1, "columns": 2}, "| A | B |\n|---|:-:|\n| 1 | 2 |", "| A | B |\n| 1 | 2 |\n| 3 | 4 |"),
    ({"type": "wrapped", "opening": "<a>", "closing": "</a>"}, "<a>Rain</a>", "<a></a>"),
    ({"type": "separated", "mark": ";", "count": 3}, "sun; rain; snow", "sun; rain, snow"),
    ({"type": "line_prefix", "mark": ">"}, "> Sun\n> Rain", "> Sun\nRain"),
    ({"type": "sentence_lines"}, "It rains.\nWe stay.", "It rains. We stay.\nWe wait."),
    ({"type": "nth_word", "word": "fox", "place": 3}, 'The red "Fox" ran.', "The fox ran."),
    ({"type": "sentence_keyword", "word": "fox", "place": 2}, "It rains. A fox ran.", "A fox ran. It rains."),
    ({"type": "sentence_letter", "letter": "T", "count": 2}, "The sun. Two men.", "The sun. A man."),
    ({"type": "request_last", "text": "Say it."}, "It.\n\nSay it.", "Say it.\n\nIt."),
    ({"type": "repeat_word", "word": "sun", "count": 3}, "Sun, sun, sun.", "Sun, sun."),
    ({"type": "copy_text", "text": "The sun is out."}, '"The sun is out."', "The Sun is out."),
    ({"type": "copy_words", "text": "The sun is out.", "count": 2}, "The sun", "The sun is"),
    ({"type": "quote_sentence", "text": "It rains. We stay.", "place": 2}, "We stay.", "It rains."),
    ({"type": "reverse_words", "text": "the sun is out"}, "Out is sun the", "the sun is out"),
    ({"type": "reverse_letters", "text": "sun"}, "nus", "sun"),
    ({"type": "sort_words", "text": "sun, ox, ant"}, "ant\nox\nsun", "ant, sun, ox"),
    ({"type": "sort_numbers", "text": "12, 5, 101"}, "5 12 101", "101, 12, 5"),
    ({"type": "alternate_capitals", "text": "the sun is out"}, "the SUN is OUT", "THE sun IS out"),
    ({"type": "replace_word", "text": "A fox ran.", "word": "fox", "new": "dog"}, "A dog ran.", "A fox ran."),
    ({"type": "spell_out", "text": "sun"}, "s-u-n", "s u n"),
    ({"type": "first_letters", "text": "the sun is out"}, "tsio", "t s i o"),
    ({"type": "iso_date", "text": "3 March 1998"}, "1998-03-03", "1998-3-3"),
    ({"type": "no_vowels", "text": "the sun"}, "th sn", "th sun"),
    ({"type": "choice_letter", "options": ["A", "B"]}, "B.", "B, the sun."),
    ({"type": "choice_number", "options": ["1", "2"]}, "(2)", "3"),
    ({"type": "pick", "words": ["ox", "sun", "horse"], "relation": "longest"}, "Horse", "horse, sun"),
    ({"type": "pick", "words": ["ox", "ant"], "relation": "first"}, "ant", "ox"),
    ({"type": "condition", "text": "A fox ran.", "word": "fox", "yes": "in", "no": "out"}, "In.", "out"),
    ({"type": "several_answers", "count": 3, "mark": "---"}, "Sun\n---\nRain\n---\nSnow", "Sun\n---\nRain"),
    (
        {"type": "in_turn", "parts": [[{"type": "upper_case"}], [{"type": "bullets", "count": 2}]]},
        "A LIST\n\n* Sun\n* Rain", "A list\n\n* Sun\n* Rain",
    ),
    ({"type": "refrain"}, "It rains. We stay. It rains!", "It rains. We stay."),
    ({"type": "title_case"}, "The Sun Isn't Out, 2 Of 3.", "The Sun isn't Out."),
    ({"type": "absent_letter", "letter": "e"}, "A fox ran.", "The fox ran."),
    ({"type": "sentence_mark", "mark": "!", "count": 2}, "It rains! We stay!", "It rains! We stay."),
    ({"type": "alliteration", "letter": "s", "count": 2}, "Sun, snow", "sun, rain"),
    ({"type": "letter_in_words", "letter": "o", "count": 2}, "fox; snow", "fox; hen"),
    ({"type": "suffix", "ending": "ing", "count": 2}, "* ring\n* sing", "ring, song"),
    ({"type": "long_words", "letters": 4, "count": 2}, "rain, snow", "rain, sun"),
    ({"type": "same_length", "letters": 3, "count": 2}, "sun, fox", "sun, sun"),
    ({"type": "growing_words", "count": 3}, "ox, sun, rain", "ox, sun, fox"),
    ({"type": "palindromes", "count": 2}, "level, noon", "level, moon"),
]  # fmt: skip


def documents() -> dict[str, list[SourceText]]:
    towns = ("Almar", "Bergen", "Corvin", "Delmo", "Estrin", "Fandor", "Gilmar", "Holten")
    animals = ("Fox", "Hen", "Frog", "Goat", "Duck", "Bear", "Hare", "Mole")
    return {
        "wikipedia": [SourceText("wikipedia", ARTICLE.format(name=name)) for name in towns],
        "children": [SourceText("children", TALE.format(name=name)) for name in animals],
        "wikinews": [SourceText("wikinews", NEWS.format(name=name)) for name in towns],
    }
