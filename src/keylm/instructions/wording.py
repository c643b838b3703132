"""How a constraint is asked for in words: many phrasings a type, written from what the constraint means.

`{amount}` is a number with its unit ("three sentences", "120 words"), `{below}` and `{above}` the numbers beside it for
"fewer than" and "more than". Every phrasing is a whole sentence, so that constraints can stand in any order.
"""

from random import Random
from typing import Any

from keylm.instructions.checks import Constraint
from keylm.text.sentences import counted, ordinal

_RELATIONS: dict[str, tuple[str, ...]] = {
    "at_least": (
        "Use at least {amount}.",
        "Write at least {amount}.",
        "Give me {amount} or more.",
        "I want no fewer than {amount}.",
        "Make it at least {amount} long.",
        "It should have {amount} at the minimum.",
        "Write more than {below}.",
        "The answer must be {amount} or longer.",
        "Please do not write less than {amount}.",
        "There should be at least {amount} in the answer.",
        "Minimum: {amount}.",
        "Go on for {amount} or more.",
        "Length: {amount} or more.",
    ),
    "at_most": (
        "Use at most {amount}.",
        "Keep it to {amount} or fewer.",
        "Write fewer than {above}.",
        "Stay under {above}.",
        "No more than {amount}, please.",
        "The answer must not be longer than {amount}.",
        "Limit yourself to {amount}.",
        "Make it {amount} at most.",
        "Keep it short: {amount} at the very most.",
        "It should have less than {above}.",
        "Maximum: {amount}.",
        "Do not go over {amount}.",
    ),
    "exactly": (
        "Use exactly {amount}.",
        "Write exactly {amount}.",
        "Your answer should have {amount}, no more and no less.",
        "Answer in exactly {amount}.",
        "I want precisely {amount}.",
        "Make it {amount} long, neither more nor less.",
        "The answer should be {amount}.",
    ),
    "between": (
        "Write between {amount}.",
        "Keep the length between {amount}.",
        "Aim for something between {amount}.",
        "The answer should have between {amount}.",
        "Anywhere between {amount} is fine, but not outside of that.",
    ),
}
_UNITS = {"words": "word", "sentences": "sentence"}
_COUNTS: dict[str, dict[str, tuple[str, ...]]] = {
    "keyword_count": {
        "at_least": (
            "Use the word {word} at least {times}.",
            "The word {word} should come up {times} or more.",
            "Let the word {word} appear at least {times}.",
            "Say {word} no fewer than {times}.",
            "Mention {word} at least {times} in your answer.",
            "Work in the word {word} at least {times}.",
        ),
        "at_most": (
            "Use the word {word} at most {times}.",
            "The word {word} may come up no more than {times}.",
            "Do not write {word} more than {times}.",
            "Keep the word {word} to {times} or fewer.",
            "Let {word} appear {times} at the most.",
        ),
        "exactly": (
            "Use the word {word} exactly {times}.",
            "The word {word} should appear exactly {times}.",
            "Write {word} {times}, no more and no less.",
        ),
    },
    "letter_count": {
        "at_least": (
            "Use the letter {letter} at least {times}.",
            "The letter {letter} should appear {times} or more.",
            "Let the letter {letter} occur at least {times}.",
            "There must be no fewer than {count} letters {letter} in the answer.",
            "Have the letter {letter} turn up at least {times}.",
        ),
        "at_most": (
            "Use the letter {letter} at most {times}.",
            "The letter {letter} should appear less than {more} times.",
            "Let the letter {letter} occur fewer than {more} times.",
            "The letter {letter} may not come up more than {times}.",
            "Keep the letter {letter} to {times} or fewer.",
        ),
    },
    "capital_words": {
        "at_least": (
            "Put at least {amount} in all capitals.",
            "Write {amount} or more in capital letters for emphasis.",
            "Use capital letters throughout for at least {amount}.",
            "Have at least {amount} written ENTIRELY in capitals.",
            "Shout at least {amount}, that is, write them in capital letters only.",
            "Stress no fewer than {amount} by putting them in full capitals.",
        ),
        "at_most": (
            "Use no more than {amount} in all capitals.",
            "Write at most {amount} in capital letters.",
            "Words in full capitals should come up fewer than {more} times.",
            "Do not put more than {amount} in all capital letters.",
            "Keep words in capital letters to {count} or fewer.",
        ),
    },
}
PHRASINGS: dict[str, tuple[str, ...]] = {
    "paragraphs": (
        "Write exactly {count} paragraphs with a blank line between them.",
        "Split the answer into {count} paragraphs, with an empty line between each two.",
        "The answer should have {count} paragraphs, parted by blank lines.",
        "Use {count} paragraphs. Leave an empty line between paragraphs.",
        "Give me {count} paragraphs, set apart by two line breaks.",
        "I would like {count} paragraphs, one blank line between each.",
    ),
    "divided_paragraphs": (
        "Write {count} paragraphs and put *** between them.",
        "There should be {count} paragraphs, parted by the markdown divider ***.",
        "Divide your answer into {count} paragraphs with three asterisks (***) between them.",
        "Use {count} paragraphs and separate them with: ***",
        "Give me exactly {count} paragraphs; set *** between each two.",
        "Part the {count} paragraphs of your answer with ***",
        "Write {count} paragraphs, with a line of three asterisks, ***, after each but the last.",
    ),
    "paragraph_start": (
        "Write {count} paragraphs with blank lines between them; the {nth} must begin with the word {word}.",
        "Use {count} paragraphs, parted by an empty line. Paragraph {paragraph} begins with {word}.",
        "I want {count} paragraphs set apart by two line breaks, and paragraph number {paragraph} opens with {word}.",
        "There should be {count} paragraphs, with a blank line between each two. Start the {nth} one with {word}.",
        "Give the answer {count} paragraphs (one empty line between them) and let {word} be the first word of the {nth}.",
    ),
    "bullets": (
        "Use exactly {count} bullet points.",
        "Give the answer as {count} bullet points that start with an asterisk.",
        "Put it in a markdown list of {count} bullets, like this:\n* one point\n* another point",
        "I want {count} bullets in markdown, each on a line of its own.",
        "Your answer should contain {count} bullet points. Use the markdown form, such as:\n* A point.",
        "List {count} points with bullets (* in front of each).",
        "Make it a bulleted list with {count} items.",
        "Answer with {count} bullet points, no more and no fewer.",
        "Include {count} bullets, written as * followed by the point.",
    ),
    "numbered_list": (
        "Give the answer as a numbered list of {count} items.",
        "Number your points from 1 to {figure}.",
        "Use a numbered list with {count} entries.",
        "List {count} points, numbered 1., 2., 3. and so on.",
        "Make a numbered list that has exactly {count} points.",
    ),
    "sections": (
        "Write {count} sections, and begin each with {word} X, where X is its number.",
        "Divide the answer into {count} sections named {word} 1, {word} 2 and so on.",
        "Use {count} parts. Head each one with {word} and its number.",
        "Your answer needs {count} sections. Mark them {word} 1, {word} 2 …",
        "Split it into {count} parts that start with {word} 1, {word} 2 etc.",
        "Let it have {count} sections; the heading of each is {word} with its number.",
    ),
    "json": (
        "Give the whole answer as JSON.",
        "Answer in JSON only.",
        "Put everything into one JSON object.",
        "Format your reply as valid JSON.",
        "Reply with JSON and nothing else.",
        "I need the output in JSON format.",
        "Wrap all of the output in JSON. Markdown ticks (```) are fine.",
        "The answer has to be a JSON object that a program can read.",
    ),
    "choice": (
        "Answer with one of these: {options}.",
        "Pick one of these answers: {options}.",
        "Choose from the following: {options}.",
        "Reply with exactly one of: {options}.",
        "Your reply must be one of these: {options}",
        "The only replies allowed are {options}.",
        "Say just one of {options}, nothing more.",
    ),
    "two_answers": (
        "Give two different answers, with ****** between them.",
        "Write two different versions and part them with six asterisks: ******",
        "I want two different replies. Put ****** (six asterisks) between the two.",
        "Answer twice, in two different ways, and separate the answers with ******",
        "Offer two versions that are not the same, set apart by six asterisks (******).",
        "Provide a pair of different answers. Only ****** should stand between them.",
    ),
    "keywords": (
        "Use the {noun} {words}.",
        "Include the {noun} {words} in your answer.",
        "Make sure to mention {words}.",
        "The answer must contain the {noun} {words}.",
        "Work in the {noun} {words}.",
        "Be sure that {words} {verb} in the answer.",
        "Have the {noun} {words} somewhere in it.",
        "Somewhere in your answer, use {words}.",
        "Keywords that have to appear: {plain}.",
        "Please include: {plain}.",
    ),
    "forbidden": (
        "Do not use the {noun} {any_words}.",
        "Avoid the {noun} {words}.",
        "Leave out the {noun} {words}.",
        "The {noun} {words} must not appear in your answer.",
        "Answer without the {noun} {words}.",
        "You may not say {any_words}.",
        "Never mention {any_words}.",
        "Stay away from the {noun} {words}.",
        "Forbidden words: {plain}.",
        "Don't include {any_words} in the answer.",
    ),
    "lower_case": (
        "Write everything in lower case.",
        "Use only small letters.",
        "No capital letters, please.",
        "Use lowercase letters only.",
        "Do not use any capital letters.",
        "Everything should be in lower case letters.",
        "Keep all of it lowercase, names as well.",
        "Answer in English and in small letters throughout.",
        "Capital letters are not allowed.",
        "all lowercase please.",
    ),
    "upper_case": (
        "Write everything in capital letters.",
        "Use only capitals.",
        "Answer in all caps.",
        "Put the whole answer in upper case.",
        "Use uppercase letters only.",
        "No small letters: everything in capitals.",
        "Answer in English, using nothing but capital letters.",
        "I want the answer in full capitals.",
        "Lowercase letters are not allowed.",
        "ALL CAPS PLEASE.",
    ),
    "no_comma": (
        "Do not use commas.",
        "Leave out all commas.",
        "Avoid commas altogether.",
        "Your answer should be free of commas.",
        "No commas, please.",
        "Write it without a single comma.",
        "Don't use any comma in your answer.",
        "Commas are not allowed.",
        "Write without commas.",
        "You must not use commas anywhere.",
        "I don't want to see any commas.",
        "Refrain from using commas.",
    ),
    "title": (
        "Give it a title in double angle brackets, like <<this>>.",
        "Add a title wrapped in << and >>.",
        "Put a title on top, in double angular brackets such as <<a title>>.",
        "It needs a title, written as <<title>>.",
        "Include a title between << and >>.",
        "Start with a title that stands in <<double angle brackets>>.",
        "The answer must have a title inside double angle brackets, that is <<title>>.",
    ),
    "highlights": (
        "Set off {parts} or more with asterisks, like *this*.",
        "Put at least {parts} in *asterisks* to highlight them.",
        "Mark {parts} or more in markdown, such as *an important part*.",
        "With markdown asterisks, mark {parts} at the least, such as *marked words*.",
        "At least {parts} should be highlighted with *asterisks*.",
        "Emphasise no fewer than {parts}, as in *these words*.",
    ),
    "placeholders": (
        "Include at least {places} in square brackets, such as [name].",
        "Use at least {places}, written in square brackets, for example [address].",
        "Leave {places} or more to be filled in, like [date].",
        "There should be no fewer than {places} in square brackets, like [city].",
        "Put in at least {places} shown by square brackets, such as [phone number].",
        "It needs {places} at least, each in square brackets: [like this].",
    ),
    "postscript": (
        "Add a last line, a postscript, that begins with {marker}",
        "Finish with a postscript beginning with {marker}",
        "Close with a postscript, marked {marker}",
        "Let the very end be a postscript, marked {marker}",
        "End it with a {marker} note.",
        "After the answer, add a line starting with {marker}",
        "There should be a postscript in the end. Begin it with {marker}",
    ),
    "quotation": (
        "Put the whole answer in double quotation marks.",
        "Wrap your entire reply in double quotes.",
        "Begin and end the answer with a double quotation mark.",
        "Enclose everything in double quotes.",
        "The full answer should stand between double quotation marks.",
        'Surround all of your answer with " marks.',
        "Everything you write should be inside double quotation marks.",
    ),
    "end_phrase": (
        "End with exactly this: {quoted}",
        "Finish your answer with the phrase {quoted}",
        "The last words must be {quoted}",
        "Close with {quoted} and write nothing after it.",
        "Your answer should end with {quoted}, word for word.",
        "Make {quoted} the very end of the answer; no other words should follow.",
        "At the very end say: {quoted}",
    ),
    "start_phrase": (
        "Start with exactly this: {quoted}",
        "Begin your answer with the phrase {quoted}",
        "The answer must open with {quoted}",
        "Your first words should be {quoted}",
        "Let the answer start with {quoted}",
    ),
    "first_word": (
        "Begin with the word {word}.",
        "The first word of your answer must be {word}.",
        "Start your answer with {word}.",
        "Let {word} be the first word.",
    ),
    "last_word": (
        "End with the word {word}.",
        "The last word of your answer must be {word}.",
        "Let the answer end on the word {word}.",
        "Make {word} the final word.",
    ),
    "repeat_request": (
        "Before you answer, repeat the request above word for word. Do not repeat this sentence.",
        "First copy my request exactly as it is, then answer it. (Leave out this last part when you copy.)",
        "Say the request again without changing it, and only then give your answer. Nothing may come before the repetition.",
        "Start by repeating what I asked above, unchanged. After that, answer. What you repeat does not include this line.",
        "Repeat the text above exactly, and then reply to it. The request to copy is everything before this sentence.",
        "Copy the request first, with no change and nothing in front of it; then write the answer. Skip these two sentences.",
    ),
    "english": (
        "Answer in English, and in no other language.",
        "Use English only.",
        "The whole answer should be in English.",
        "Reply in English; other languages are not allowed.",
    ),
    "no_digits": (
        "Do not use any digits.",
        "Leave out all figures (0 to 9).",
        "No digits, please.",
        "Write it without numerals.",
    ),
    "line_letter": (
        "Write at least {count} lines, each of which starts with the letter {letter}.",
        "Every line must begin with {letter}, and there should be {count} lines or more.",
    ),
    "alphabetical_bullets": (
        "Give {count} bullet points (with *) in alphabetical order.",
        "List {count} points with * in front, sorted from A to Z.",
    ),
    "question_marks": (
        "Use exactly {count} question marks.",
        "There should be {count} question marks in the answer, no more and no fewer.",
    ),
    "short_sentences": (
        "Write at least {sentences} sentences, none of them longer than {count} words.",
        "Use {sentences} or more sentences, each with at most {count} words.",
    ),
    "ends_with_question": ("End your answer with a question.", "The last sentence must be a question."),
    "roman_list": (
        "Make a list of {count} items, numbered with Roman numerals (I., II., …).",
        "Number your {count} points I., II., III. and so on, one a line.",
    ),
    "short_words": (
        "Write at least {words} words, none of them longer than {count} letters.",
        "Use only words of at most {count} letters, and at least {words} of them.",
    ),
    "distinct_starts": (
        "Write at least {count} sentences, no two of which begin with the same word.",
        "Each sentence must start with another word; write {count} of them or more.",
    ),
}


def describe(constraint: Constraint, random: Random) -> str:
    """Return a sentence or two that ask for what `constraint` says."""
    kind = constraint["type"]
    if kind in _UNITS:
        templates = _RELATIONS[constraint["relation"]]
        if kind == "sentences" or constraint["relation"] != "at_least":
            templates = tuple(t for t in templates if kind == "words" or "long" not in t)
    elif kind in _COUNTS:
        templates = _COUNTS[kind][constraint["relation"]]
    else:
        templates = PHRASINGS[kind]
    return random.choice(templates).format(**_slots(constraint, random))


def _slots(constraint: Constraint, random: Random) -> dict[str, Any]:
    slots: dict[str, Any] = {key: value for key, value in constraint.items() if key != "type"}
    kind, spelt = constraint["type"], random.random() < 0.4
    if isinstance(count := constraint.get("count"), int):
        slots["figure"], slots["more"] = count, count + 1
        slots["count"] = counted(count, spelt=spelt)
        slots["times"] = ("once" if spelt else "1 time") if count == 1 else f"{slots['count']} times"
        slots["parts"] = f"{slots['count']} {random.choice(('part', 'phrase', 'section'))}{'s' * (count != 1)}"
        slots["places"] = f"{slots['count']} placeholder{'s' * (count != 1)}"
        unit = _UNITS.get(kind, "word")
        slots["amount"] = _amount(count, unit, spelt)
        slots["below"], slots["above"] = _amount(count - 1, unit, spelt), _amount(count + 1, unit, spelt)
        if constraint.get("relation") == "between":
            slots["amount"] = f"{count} and {_amount(constraint['most'], unit, False)}"
    if kind in ("keywords", "forbidden"):
        slots.update(_word_slots(constraint["words"], random))
    elif "word" in constraint:
        slots["word"] = constraint["word"] if kind in ("sections",) else _quoted(constraint["word"], random)
    if "letter" in constraint:
        slots["letter"] = constraint["letter"] if random.random() < 0.7 else f'"{constraint["letter"]}"'
    if "paragraph" in constraint:
        slots["nth"] = ordinal(constraint["paragraph"])
    if "options" in constraint:
        slots["options"] = _joined([f'"{option}"' for option in constraint["options"]], "or")
    if "phrase" in constraint:
        slots["quoted"] = f'"{constraint["phrase"]}"'
    return slots


def _amount(number: int, unit: str, spelt: bool) -> str:
    return f"{counted(number, spelt=spelt)} {unit}{'s' * (number != 1)}"


def _word_slots(words: list[str], random: Random) -> dict[str, str]:
    mark = random.choice(("", '"', "'"))
    quoted = [f"{mark}{word}{mark}" for word in words]
    return {
        "noun": "word" if len(words) == 1 else random.choice(("words", "keywords")),
        "verb": "appears" if len(words) == 1 else "appear",
        "words": _joined(quoted, "and"),
        "any_words": _joined(quoted, "or"),
        "plain": ", ".join(words),
    }


def _joined(parts: list[str], conjunction: str) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {conjunction} {parts[-1]}"


def _quoted(word: str, random: Random) -> str:
    return random.choice(('"{}"', "'{}'", "{}")).format(word)
