"""What people ask an assistant day by day, without constraints: facts, words, corrections, rewriting, small talk.

Each maker returns one exchange (question, answer), or None where its sentence or document does not lend itself to it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from keylm.instructions import facts, sourced, talk
from keylm.instructions.drafts import Draft, WritingTask, capitalised
from keylm.instructions.grammar import write
from keylm.instructions.sourced import SourceText
from keylm.instructions.stories import GENRES
from keylm.text.sentences import fewest_words
from keylm.typos.model import TypoModel

FIX_REQUESTS = (
    "Fix the spelling: {text}",
    "Correct the typos in this sentence: {text}",
    "Fix the typos.\n\n{text}",
    "Please correct this: {text}",
    "Correct the spelling mistakes: {text}",
    "Rewrite this without typos: {text}",
    "{text}\n\nFix the mistakes in the text above.",
    "Proofread this sentence: {text}",
    "Clean up my typing: {text}",
    'Can you correct "{text}"?',
    "fix typos: {text}",
    "I typed this too fast. Please correct it: {text}",
    "Spell-check the following: {text}",
    "Write this again with correct spelling: {text}",
    "What should this say? {text}",
    "autocorrect this: {text}",
)


@dataclass
class Supplies:
    """What exchanges are made from."""

    name: str
    """the assistant's"""
    documents: dict[str, Sequence[SourceText]]
    """by file name"""
    typos: TypoModel
    seed: int


Exchange = tuple[str, str, str]
"""question, answer, source"""


def _sentence(supplies: Supplies, random: Random, fewest: int = 5, most: int = 30) -> tuple[str, str] | None:
    """Return a sentence of a document, and where it is from."""
    names = [name for name in _PROSE if supplies.documents.get(name)]
    if not names:
        return None
    text = random.choice(supplies.documents[random.choice(names)])
    found = [
        sentence
        for section in text.sections
        for part in section.paragraphs
        for sentence in part
        if fewest <= fewest_words(sentence) <= most
    ]
    return (random.choice(found), text.source) if found else None


_PROSE = ("wikipedia", "howto", "openstax", "textbooks", "wikinews", "us_gov", "children")


def mistyped(supplies: Supplies, random: Random) -> Exchange | None:
    """Return (noisy sentence, clean sentence, source); one in twenty has no mistake."""
    found = _sentence(supplies, random)
    if found is None:
        return None
    clean, source = found
    rate = 0.0 if random.random() < 0.05 else random.choice((0.05, 0.1, 0.15, 0.2, 0.3))
    noisy = supplies.typos.corrupt(clean, supplies.seed, random.getrandbits(63), 0, rate).text if rate else clean
    return None if rate and noisy == clean else (noisy, clean, source)


def typo_fix(supplies: Supplies, random: Random) -> Exchange | None:
    """Return a mistyped sentence to be corrected."""
    found = mistyped(supplies, random)
    if found is None:
        return None
    noisy, clean, source = found
    return random.choice(FIX_REQUESTS).format(text=noisy), clean, source


def _rewrite(supplies: Supplies, random: Random) -> Exchange | None:
    found = _sentence(supplies, random, 4, 24)
    if found is None:
        return None
    sentence, source = found
    ways: list[tuple[tuple[str, ...], str, str]] = [
        (
            ("Write this in capital letters: {text}", "Make this all caps: {text}", "Convert to upper case: {text}"),
            sentence,
            sentence.upper(),
        ),
        (
            ("Write this in small letters: {text}", "Make this lowercase: {text}", "Convert to lower case: {text}"),
            sentence,
            sentence.lower(),
        ),
        (
            (
                "Add capitals and punctuation: {text}",
                "Punctuate this: {text}",
                "Write this properly: {text}",
                "Fix the capitals and full stops: {text}",
            ),
            re.sub(r"[.,;:!?\"()]", "", sentence).lower(),
            sentence,
        ),
        (
            ("Put this in quotation marks: {text}", "Quote this sentence: {text}"),
            sentence,
            '"' + sentence.replace('"', "'") + '"',
        ),
        (("Repeat after me: {text}", "Say this: {text}", "Copy this sentence: {text}"), sentence, sentence),
        (("Remove the commas: {text}", "Write this without commas: {text}"), sentence, sentence.replace(",", "")),
    ]
    if long_forms(sentence) != sentence:
        formal = (
            "Make this more formal: {text}",
            "Write this without short forms: {text}",
            "Spell out the contractions: {text}",
        )
        ways += [(formal, sentence, long_forms(sentence))] * 6
    asks, shown, answer = random.choice(ways)
    if shown == answer and not asks[0].startswith("Repeat"):
        return None
    return random.choice(asks).format(text=shown), answer, source


_CONTRACTIONS = {
    "n't": " not", "'re": " are", "'ve": " have", "'ll": " will", "'m": " am",
}  # fmt: skip


def long_forms(text: str) -> str:
    """Return a text with contractions spelt out (those in 's are left: they may be possessives)."""
    text = re.sub(r"\b([Cc])an't\b", r"\1annot", text)
    text = re.sub(r"\b([Ww])on't\b", r"\1ill not", text)
    return re.sub(r"(?<=[a-zA-Z])(n't|'re|'ve|'ll|'m)\b", lambda match: _CONTRACTIONS[match[1]], text)


_ENTRY = re.compile(r"^([a-z][a-z ,'-]{2,40}): ([a-z][^\"]{8,140}?)\.?(?: \"(.+)\")?$")


def _word(supplies: Supplies, random: Random) -> Exchange | None:
    if not supplies.documents.get("wordnet"):
        return None
    text = random.choice(supplies.documents["wordnet"])
    entry = _ENTRY.match(random.choice(text.text.split("\n")))
    if entry is None:
        return None
    words, meaning, examples = [word.strip() for word in entry[1].split(",")], entry[2].strip(), entry[3]
    word = words[0]
    if examples and random.random() < 0.35:
        example = capitalised(examples.split('" "')[0].strip())
        if word in example.lower() and fewest_words(example) > 3:
            ask = random.choice(
                (
                    'Use the word "{w}" in a sentence.',
                    "Make a sentence with {w}.",
                    'Give me an example of how to use "{w}".',
                    "Show me {w} in a sentence.",
                )
            )
            return ask.format(w=word), example if example.endswith((".", "!", "?")) else example + ".", "wordnet"
    if len(words) > 1 and random.random() < 0.35:
        ask = random.choice(
            (
                'What is another word for "{w}"?',
                "Give me a synonym of {w}.",
                "Find a synonym for {w}.",
                "synonym for {w}",
                "Which word means the same as {w}?",
            )
        )
        answer = random.choice(
            ("{s}", "Another word for {w} is {s}.", 'You could say "{s}".', 'A synonym of {w} is "{s}".')
        )
        return ask.format(w=word), answer.format(w=word, s=words[1]), "wordnet"
    if random.random() < 0.15:
        ask = random.choice(
            ("Which word means this: {m}?", "What is the word for: {m}?", "I am looking for a word that means: {m}")
        )
        return ask.format(m=meaning), random.choice((word, f"The word is {word}.", f'You mean "{word}".')), "wordnet"
    ask = random.choice(
        (
            'What does "{w}" mean?',
            "Define {w}.",
            "What is the meaning of {w}?",
            "Explain the word {w}.",
            "define: {w}",
            "What is meant by {w}?",
            'Give a definition of the word "{w}".',
        )
    )
    answer = random.choice(("{m}.", '"{w}" means: {m}.', "{c}: {m}.", "It means: {m}."))
    return ask.format(w=word), capitalised(answer.format(w=word, c=capitalised(word), m=meaning)), "wordnet"


_DATE = r"((?:\d{1,2} )?[A-Z][a-z]+ (?:\d{1,2}, )?\d{4})"
_BORN = re.compile(
    rf"^([A-Z][^()]{{3,50}}?) \((?:born )?{_DATE}(?: ?[–-] ?{_DATE})?\) (?:was|is) (an? [^.;]{{10,160}})\."
)


def _person(supplies: Supplies, random: Random) -> Exchange | None:
    """Return a question on a person's dates or calling, with or without the passage that says it."""
    if not supplies.documents.get("wikipedia"):
        return None
    text = random.choice(supplies.documents["wikipedia"])
    lead = text.sections[0] if text.sections else None
    if lead is None or lead.heading or not lead.paragraphs or not (found := _BORN.match(lead.paragraphs[0][0])):
        return None
    name, born, died, calling = found.groups()
    questions: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
        (
            (f"When was {name} born?", f"On what date was {name} born?", f"What is the birth date of {name}?"),
            (f"{name} was born on {born}.", f"{born}", f"On {born}."),
        ),
        (
            (f"Who {'was' if died else 'is'} {name}?", f"What {'was' if died else 'is'} {name} known as?"),
            (f"{name} {'was' if died else 'is'} {calling}.",),
        ),
    ]
    if died:
        questions.append(
            (
                (f"When did {name} die?", f"On what date did {name} die?"),
                (f"{name} died on {died}.", f"{died}", f"On {died}."),
            )
        )
    asks, answers = random.choice(questions)
    ask = random.choice(asks)
    if random.random() < 0.6:
        passage = " ".join(lead.paragraphs[0][:3])
        ask = random.choice((f"{passage}\n\n{ask}", f"{ask}\n\n{passage}", f"Text: {passage}\nQuestion: {ask}"))
    return ask, random.choice(answers), "wikipedia"


def _sourced(maker: sourced.Maker, names: Sequence[str], words: tuple[int, ...]) -> "Maker":
    def make(supplies: Supplies, random: Random) -> Exchange | None:
        open_names = [name for name in names if supplies.documents.get(name)]
        if not open_names:
            return None
        text = random.choice(supplies.documents[random.choice(open_names)])
        task = maker(text, random)
        if task is None or task.options:
            return None
        return asked(task, random), Draft(task, random.choice(words)).render(), text.source

    return make


def asked(task: WritingTask, random: Random) -> str:
    """Return a task's request with the passage that it speaks of."""
    if not task.context:
        return task.request
    if "below" in task.request or "following" in task.request or random.random() < 0.7:
        return f"{task.request}\n\n{task.context}"
    return f"{task.context}\n\n{task.request}"


def _creative(supplies: Supplies, random: Random) -> Exchange | None:
    name = random.choice(list(GENRES))
    task = write(name, GENRES[name], random)
    if task.points and random.random() < 0.3:
        points = task.points[: random.randint(3, 6)]
        return task.request, "\n".join(f"* {point}" for point in points), ""
    return task.request, Draft(task, random.choice((30, 60, 100, 160))).render(), ""


def _own(make: Callable[[Random], tuple[str, str]]) -> "Maker":
    return lambda supplies, random: (*make(random), "")


def _talk(exchanges: Sequence[talk.Exchange]) -> "Maker":
    return lambda supplies, random: (*talk.said(random.choice(exchanges), random, supplies.name), "")


Maker = Callable[[Supplies, Random], Exchange | None]
MAKERS: dict[str, tuple[float, Maker]] = {
    "typo_fix": (18, typo_fix),
    "rewrite": (7, _rewrite),
    "word": (9, _word),
    "person": (4, _person),
    "about": (8, _sourced(sourced.about, ("wikipedia",), (20, 40, 60, 90))),
    "question": (10, _sourced(sourced.question, ("howto", "medquad"), (20, 40, 60))),
    "howto": (5, _sourced(sourced.howto, ("howto",), (40, 70, 110))),
    "subject": (5, _sourced(sourced.subject, ("openstax", "textbooks", "howto"), (30, 60, 100))),
    "summary": (5, _sourced(sourced.summary, ("wikipedia", "wikinews"), (30,))),
    "headline": (3, _sourced(sourced.headline, ("wikinews",), (20,))),
    "opening": (4, _sourced(sourced.opening, ("wikipedia", "howto", "openstax"), (20, 40, 70))),
    "tale": (2, _sourced(sourced.tale, ("children",), (80, 150, 300))),
    "chat": (4, _sourced(sourced.chat, ("gpteacher",), (60, 120, 250))),
    "creative": (5, _creative),
    "fact": (4, _own(facts.fact)),
    "list": (3, _own(facts.listing)),
    "identity": (1.2, _talk(talk.IDENTITY)),
    "small_talk": (1.5, _talk(talk.SMALL_TALK)),
    "refusal": (1.5, lambda supplies, random: (*talk.refusal(random, supplies.name), "")),
}
"""How often each kind is taken, in per cent or so, and what makes it."""
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are @NAME, a helpful assistant.",
    "Answer briefly and politely.",
    "You are a friendly writing assistant.",
    "You help people with short texts.",
    "Be helpful and honest.",
    "You are an assistant on a phone's keyboard.",
)


def conversation(supplies: Supplies, random: Random) -> tuple[list[dict[str, str]], str, str] | None:
    """Return the messages of one conversation, the kind of its main exchange, and its source."""
    kind = random.choices(list(MAKERS), [weight for weight, _ in MAKERS.values()])[0]
    exchange = None
    for _ in range(40):  # so that kinds come as weighed, whatever share of documents suits them
        exchange = exchange or MAKERS[kind][1](supplies, random)
    if exchange is None or not exchange[0].strip() or not exchange[1].strip():
        return None
    ask, answer, source = exchange
    turns = [(ask, answer)]
    if kind != "small_talk" and random.random() < 0.08:
        turns.insert(0, talk.said(talk.GREETINGS, random, supplies.name))
    if kind != "small_talk" and random.random() < 0.08:
        turns.append(talk.said(talk.THANKS, random, supplies.name))
    messages: list[dict[str, str]] = []
    if random.random() < 0.12:
        messages.append({"role": "system", "content": random.choice(SYSTEM_PROMPTS).replace("@NAME", supplies.name)})
    for question, reply in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return messages, kind, source
