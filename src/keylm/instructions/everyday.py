"""Everyday conversations without constraints: facts, words, corrections, rewriting, small talk.

Each maker returns one exchange (question, answer), or None where its sentence or document does not lend itself to it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from keylm.instructions import facts, talk
from keylm.instructions.document_tasks import TASK_MAKERS, SourceText
from keylm.instructions.drafts import Draft, WritingTask, capitalised
from keylm.instructions.table_schema import TalkExchange
from keylm.instructions.tables import phrase_tables
from keylm.instructions.templates import GENRES, write_genre
from keylm.text.sentences import fewest_words
from keylm.typos.model import TypoModel

_REQUESTS, _SOURCES = phrase_tables().everyday, phrase_tables().sources
FIX_REQUESTS = _REQUESTS.fix_requests


@dataclass
class GeneratorInputs:
    """What exchanges are made from."""

    name: str
    """the assistant's"""
    documents: dict[str, Sequence[SourceText]]
    """by file name"""
    typos: TypoModel
    seed: int


Exchange = tuple[str, str, str]
"""question, answer, source"""


def document_sentence(
    inputs: GeneratorInputs, random: Random, fewest: int = 5, most: int = 30
) -> tuple[str, str] | None:
    """Return a sentence of a document, and the document's file."""
    names = [name for name in _SOURCES.prose if inputs.documents.get(name)]
    if not names:
        return None
    text = random.choice(inputs.documents[random.choice(names)])
    found = [
        sentence
        for section in text.sections
        for part in section.paragraphs
        for sentence in part
        if fewest <= fewest_words(sentence) <= most
    ]
    return (random.choice(found), text.source) if found else None


def mistyped(inputs: GeneratorInputs, random: Random) -> Exchange | None:
    """Return (noisy sentence, clean sentence, source); one in twenty has no typo."""
    found = document_sentence(inputs, random)
    if found is None:
        return None
    clean, source = found
    rate = 0.0 if random.random() < 0.05 else random.choice((0.05, 0.1, 0.15, 0.2, 0.3))
    noisy = inputs.typos.corrupt(clean, inputs.seed, random.getrandbits(63), 0, rate).text if rate else clean
    return None if rate and noisy == clean else (noisy, clean, source)


def typo_fix(inputs: GeneratorInputs, random: Random) -> Exchange | None:
    """Return a mistyped sentence to be corrected."""
    found = mistyped(inputs, random)
    if found is None:
        return None
    noisy, clean, source = found
    return random.choice(FIX_REQUESTS).format(text=noisy), clean, source


def _rewrite(inputs: GeneratorInputs, random: Random) -> Exchange | None:
    found = document_sentence(inputs, random, 4, 24)
    if found is None:
        return None
    sentence, source = found
    plain = re.sub(r"[.,;:!?\"()]", "", sentence).lower()
    quoted = '"' + sentence.replace('"', "'") + '"'
    ways = [
        (_REQUESTS.rewrite_upper, sentence, sentence.upper()),
        (_REQUESTS.rewrite_lower, sentence, sentence.lower()),
        (_REQUESTS.rewrite_punctuate, plain, sentence),
        (_REQUESTS.rewrite_quote, sentence, quoted),
        (_REQUESTS.rewrite_repeat, sentence, sentence),
        (_REQUESTS.rewrite_no_commas, sentence, sentence.replace(",", "")),
    ]
    if (formal := long_forms(sentence)) != sentence:
        ways += [(_REQUESTS.rewrite_formal, sentence, formal)] * 6
    requests, shown, answer = random.choice(ways)
    if shown == answer and requests is not _REQUESTS.rewrite_repeat:
        return None
    return random.choice(requests).format(text=shown), answer, source


_CONTRACTIONS = {"n't": " not", "'re": " are", "'ve": " have", "'ll": " will", "'m": " am"}


def long_forms(text: str) -> str:
    """Return a text with contractions spelt out (but for 's, which may be a possessive)."""
    text = re.sub(r"\b([Cc])an't\b", r"\1annot", text)
    text = re.sub(r"\b([Ww])on't\b", r"\1ill not", text)
    return re.sub(r"(?<=[a-zA-Z])(n't|'re|'ve|'ll|'m)\b", lambda match: _CONTRACTIONS[match[1]], text)


_ENTRY = re.compile(r"^([a-z][a-z ,'-]{2,40}): ([a-z][^\"]{8,140}?)\.?(?: \"(.+)\")?$")


def _word(inputs: GeneratorInputs, random: Random) -> Exchange | None:
    if not inputs.documents.get("wordnet"):
        return None
    text = random.choice(inputs.documents["wordnet"])
    entry = _ENTRY.match(random.choice(text.text.split("\n")))
    if entry is None:
        return None
    words, meaning, examples = [word.strip() for word in entry[1].split(",")], entry[2].strip(), entry[3]
    word = words[0]
    if examples and random.random() < 0.35:
        example = capitalised(examples.split('" "')[0].strip())
        if word in example.lower() and fewest_words(example) > 3:
            answer = example if example.endswith((".", "!", "?")) else example + "."
            return random.choice(_REQUESTS.word_example).format(w=word), answer, "wordnet"
    slots = {"w": word, "c": capitalised(word), "m": meaning}
    if len(words) > 1 and random.random() < 0.35:
        slots["s"] = words[1]
        return _filled(_REQUESTS.word_synonym, _REQUESTS.word_synonym_answers, slots, random)
    if random.random() < 0.15:
        return _filled(_REQUESTS.word_reverse, _REQUESTS.word_reverse_answers, slots, random)
    question, answer, source = _filled(_REQUESTS.word_meaning, _REQUESTS.word_meaning_answers, slots, random)
    return question, capitalised(answer), source


def _filled(asks: Sequence[str], answers: Sequence[str], slots: dict[str, str], random: Random) -> Exchange:
    return random.choice(asks).format(**slots), random.choice(answers).format(**slots), "wordnet"


_DATE = r"((?:\d{1,2} )?[A-Z][a-z]+ (?:\d{1,2}, )?\d{4})"
_BORN = re.compile(
    rf"^([A-Z][^()]{{3,50}}?) \((?:born )?{_DATE}(?: ?[–-] ?{_DATE})?\) (?:was|is) (an? [^.;]{{10,160}})\."
)


def _person(inputs: GeneratorInputs, random: Random) -> Exchange | None:
    """Return a question on a person's dates or calling, with or without the passage that answers it."""
    if not inputs.documents.get("wikipedia"):
        return None
    text = random.choice(inputs.documents["wikipedia"])
    lead = text.sections[0] if text.sections else None
    if lead is None or lead.heading or not lead.paragraphs or not (found := _BORN.match(lead.paragraphs[0][0])):
        return None
    name, born, died, calling = found.groups()
    slots = {"name": name, "be": "was" if died else "is", "date": born, "calling": calling}
    questions = [
        (_REQUESTS.person_born, _REQUESTS.person_born_answers),
        (_REQUESTS.person_calling, _REQUESTS.person_calling_answers),
    ]
    if died:
        questions.append((_REQUESTS.person_died, _REQUESTS.person_died_answers))
    asks, answers = random.choice(questions)
    if asks is _REQUESTS.person_died:
        slots["date"] = died
    question = random.choice(asks).format(**slots)
    if random.random() < 0.6:
        passage = " ".join(lead.paragraphs[0][:3])
        question = random.choice(_REQUESTS.with_passage).format(passage=passage, ask=question)
    return question, random.choice(answers).format(**slots), "wikipedia"


def _from_document(kind: str) -> "Maker":
    source, make_task = _SOURCES.answers[kind], TASK_MAKERS[kind]

    def make(inputs: GeneratorInputs, random: Random) -> Exchange | None:
        names = [name for name in source.files if inputs.documents.get(name)]
        if not names:
            return None
        text = random.choice(inputs.documents[random.choice(names)])
        task = make_task(text, random)
        if task is None or task.options:
            return None
        return with_passage(task, random), Draft(task, random.choice(source.words)).render(), text.source

    return make


def with_passage(task: WritingTask, random: Random) -> str:
    """Return a task's request with its passage."""
    if not task.context:
        return task.request
    if "below" in task.request or "following" in task.request or random.random() < 0.7:
        return f"{task.request}\n\n{task.context}"
    return f"{task.context}\n\n{task.request}"


def _creative(inputs: GeneratorInputs, random: Random) -> Exchange | None:
    task = write_genre(random.choice(list(GENRES)), random)
    if task.points and random.random() < 0.3:
        points = task.points[: random.randint(3, 6)]
        return task.request, "\n".join(f"* {point}" for point in points), ""
    return task.request, Draft(task, random.choice((30, 60, 100, 160))).render(), ""


def _talk(exchanges: Sequence[TalkExchange]) -> "Maker":
    return lambda inputs, random: (*talk.speak(random.choice(exchanges), random, inputs.name), "")


Maker = Callable[[GeneratorInputs, Random], Exchange | None]
MAKERS: dict[str, Maker] = {
    "typo_fix": typo_fix,
    "rewrite": _rewrite,
    "word": _word,
    "person": _person,
    "creative": _creative,
    "fact": lambda inputs, random: (*facts.fact(random), ""),
    "list": lambda inputs, random: (*facts.listing(random), ""),
    "identity": _talk(talk.IDENTITY),
    "small_talk": _talk(talk.SMALL_TALK),
    "refusal": lambda inputs, random: (*talk.refusal(random, inputs.name), ""),
    **{kind: _from_document(kind) for kind in _SOURCES.answers},
}
"""By their names in sources.toml, which says how often each is drawn."""


def conversation(inputs: GeneratorInputs, random: Random) -> tuple[list[dict[str, str]], str, str] | None:
    """Return the messages of one conversation, the kind of its main exchange, and its source."""
    kind = random.choices(list(_SOURCES.everyday), list(_SOURCES.everyday.values()))[0]
    exchange = None
    for _ in range(40):  # so that kinds keep their weights, whatever share of documents suits them
        exchange = exchange or MAKERS[kind](inputs, random)
    if exchange is None or not exchange[0].strip() or not exchange[1].strip():
        return None
    ask, answer, source = exchange
    turns = [(ask, answer)]
    if kind != "small_talk" and random.random() < 0.08:
        turns.insert(0, talk.speak(talk.GREETINGS, random, inputs.name))
    if kind != "small_talk" and random.random() < 0.08:
        turns.append(talk.speak(talk.THANKS, random, inputs.name))
    messages: list[dict[str, str]] = []
    if random.random() < 0.12:
        messages.append(
            {"role": "system", "content": random.choice(_REQUESTS.system_prompts).replace("@NAME", inputs.name)}
        )
    for question, reply in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return messages, kind, source
