"""What each file of phrases/ may hold: one type a file, all of them in PhraseTables.

A phrase has `{slots}` for str.format, which differ from list to list; a template (templates.py) has `$slots` and
`{this|that}`. Lists are never empty, and unknown keys, slots or braces that are not closed are refused.
"""

import re
from collections.abc import Iterator
from string import Formatter
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _split(value: object) -> object:
    return tuple(value.split()) if isinstance(value, str) else value


def _pair(value: object) -> object:
    return tuple(value.split(": ", 1)) if isinstance(value, str) else value


def _closed(template: str) -> str:
    rest = template
    while (inner := re.sub(r"\{[^{}]*\}", "", rest)) != rest:
        rest = inner
    if re.search(r"[{}]", rest):
        raise ValueError(f"{template!a}: a brace without its other half")
    return template


def _slots(*names: str) -> AfterValidator:
    """Refuse phrases with slots other than `names`; "" is a plain {}."""

    def check(phrases: Any) -> Any:
        for phrase in (phrases,) if isinstance(phrases, str) else phrases:
            found = {name for _, name, _, _ in Formatter().parse(phrase) if name is not None}
            if unknown := sorted(found - set(names)):
                raise ValueError(f"{phrase!a}: slots {', '.join(unknown)}; accepted: {', '.join(names)}")
        return phrases

    return AfterValidator(check)


Phrase = Annotated[str, Field(min_length=1, strict=True)]
Phrases = Annotated[tuple[Phrase, ...], Field(min_length=1)]
Words = Annotated[Phrases, BeforeValidator(_split)]
"""Words; in a file also one text of them."""
Template = Annotated[Phrase, AfterValidator(_closed)]
Templates = Annotated[tuple[Template, ...], Field(min_length=1)]
Numbers = Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)]
Weight = Annotated[int | float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Kind = Literal["counting", "format", "position", "copying", "transformation", "choice", "combination", "wording"]
"""What a type of constraint is about."""
_Weights = Annotated[dict[str, Weight], Field(min_length=1)]
_Named = Annotated[Phrases, _slots("name")]
_OnSubject = Annotated[Phrases, _slots("name", "be")]
_OnTitle = Annotated[Phrases, _slots("title", "small", "lower", "rest")]
_OnText = Annotated[Phrases, _slots("text")]
_OnWord = Annotated[Phrases, _slots("w", "c", "s", "m")]
_OnPerson = Annotated[Phrases, _slots("name", "be", "date", "calling")]
_Listing = Annotated[Phrases, _slots("kind", "n", "thing", "capital", "things")]


class PhraseTable(BaseModel):
    """A table of a file: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Genre(PhraseTable):
    """A kind of text: how it is requested and how it is written."""

    requests: Templates
    body: Annotated[tuple[Templates, ...], Field(min_length=1)]
    """paragraphs of sentences"""
    title: Template | None = None
    head: Template | None = None
    tail: Template | None = None
    points: Templates | None = None
    fields: Phrase | None = None
    """a list of answers.toml: what is left to be filled in"""
    verse: bool = False
    whole: bool = True
    """the answer is all of the body; else as much of it as is wanted"""
    pick: Annotated[int, Field(ge=0)] = 0
    """with verse: so many of the body's stanzas, in any order"""

    def templates(self) -> Iterator[str]:
        """Yield every template."""
        yield from self.requests
        yield from (sentence for part in self.body for sentence in part)
        yield from self.points or ()
        yield from (text for text in (self.title, self.head, self.tail) if text)


class TalkExchange(PhraseTable):
    """What a person may say, and the answers that fit any of it."""

    says: Templates
    answers: Templates


_Exchanges = Annotated[tuple[TalkExchange, ...], Field(min_length=1)]


class TalkTable(PhraseTable):
    """talk.toml."""

    closing_questions: Phrases
    greetings: TalkExchange
    thanks: TalkExchange
    identity: _Exchanges
    small_talk: _Exchanges


class HarmfulRequests(PhraseTable):
    """Acts that are not helped with, how help is requested and how it is declined."""

    acts: Phrases
    says: Annotated[Phrases, _slots("harm")]
    answers: Templates


class RefusalTable(PhraseTable):
    """refusals.toml."""

    unable: _Exchanges
    harmful: HarmfulRequests


class WordingTable(PhraseTable):
    """wordings.toml."""

    part_names: Words
    keyword_names: Words
    units: dict[str, Phrase]
    relations: dict[str, Phrases]
    counts: dict[str, dict[str, Phrases]]
    plain: dict[str, Phrases]


class FactPairs(PhraseTable):
    """Things, each with what is asked of it."""

    pairs: Annotated[tuple[Annotated[tuple[Phrase, Phrase], BeforeValidator(_pair)], ...], Field(min_length=1)]
    asks: Annotated[Phrases, _slots("a", "b")]
    answers: Annotated[Phrases, _slots("a", "b")]


class ListRequests(PhraseTable):
    """How one or some things of a kind are requested and given."""

    one: _Listing
    one_answers: _Listing
    some: _Listing
    introduced: Annotated[Phrase, _slots("kind", "n", "things")]


class FactTable(PhraseTable):
    """facts.toml."""

    tables: Annotated[dict[str, FactPairs], Field(min_length=1)]
    listing: ListRequests
    lists: Annotated[dict[str, Annotated[Words, Field(min_length=6)]], Field(min_length=1)]


class BreakingTexts(PhraseTable):
    """What is added to an answer to break a constraint."""

    fillers: Phrases
    forbidden_word: Annotated[Phrase, _slots("word")]
    choices: Annotated[Phrases, _slots("answer")]
    before_json: Phrase
    before_repetition: Phrase
    start: Phrase
    language: Phrase


class AnswerTable(PhraseTable):
    """answers.toml."""

    end_phrases: Phrases
    start_phrases: Phrases
    postscripts: Annotated[Phrases, _slots("topic")]
    placeholder_sentences: Phrases
    form_fields: Phrases
    list_openings: Phrases
    section_words: Words
    openers: Words
    nouns: Words
    noun_sentences: Annotated[Phrases, _slots("noun")]
    json_title: Words
    json_text: Words
    json_list: Words
    json_first: Words
    json_rest: Words
    closing_questions: Phrases
    table_heads: Words
    separators: Phrases
    line_marks: Phrases
    dividers: Phrases
    wrappings: Annotated[tuple[tuple[Phrase, Phrase], ...], Field(min_length=1)]
    """before and after an answer"""
    conditions: Annotated[tuple[tuple[Phrase, Phrase], ...], Field(min_length=1)]
    """what to answer where a text has a word, and where it does not"""
    palindromes: Words
    joining_sentences: Annotated[tuple[Annotated[Phrases, _slots("")], ...], Field(min_length=3, max_length=3)]
    """for one, two and three nouns"""
    fields: dict[str, Phrases]
    broken: BreakingTexts


class EverydayTable(PhraseTable):
    """everyday.toml."""

    fix_requests: _OnText
    system_prompts: Phrases
    rewrite_upper: _OnText
    rewrite_lower: _OnText
    rewrite_punctuate: _OnText
    rewrite_quote: _OnText
    rewrite_repeat: _OnText
    rewrite_no_commas: _OnText
    rewrite_formal: _OnText
    word_example: _OnWord
    word_synonym: _OnWord
    word_synonym_answers: _OnWord
    word_reverse: _OnWord
    word_reverse_answers: _OnWord
    word_meaning: _OnWord
    word_meaning_answers: _OnWord
    person_born: _OnPerson
    person_born_answers: _OnPerson
    person_calling: _OnPerson
    person_calling_answers: _OnPerson
    person_died: _OnPerson
    person_died_answers: _OnPerson
    with_passage: Annotated[Phrases, _slots("passage", "ask")]


class DocumentTable(PhraseTable):
    """documents.toml."""

    about_person: _OnSubject
    about_thing: _OnSubject
    subject_advice: _Named
    subject: _Named
    howto_title: _OnTitle
    howto_steps: _OnTitle
    news: _OnTitle
    headline: Phrases
    summary: Phrases
    points: Phrases
    opening: Phrases
    tale_opening: _Named
    tale: _Named
    verdicts: Annotated[tuple[tuple[Phrase, Phrase, Phrase], ...], Field(min_length=1)]
    """yes, no, undecided"""


class PassageTable(PhraseTable):
    """passages.toml."""

    leaning: Phrases
    plain_starts: Words
    self_reference: Words
    self_reference_phrases: Phrases
    self_reference_starts: Words
    exercises: Words
    commands: Words
    no_subject: Words
    dull: Words
    function_words: Words
    uncounted: Words


class TaskSource(PhraseTable):
    """How often a task is drawn, and each file for it."""

    weight: Weight
    files: _Weights


class AnswerSource(PhraseTable):
    """Files that an everyday request comes from, and the lengths of its answer in words."""

    files: Words
    words: Numbers


class SourceTable(PhraseTable):
    """sources.toml."""

    files: Words
    prose: Words
    held_out: Share
    tasks: Annotated[dict[str, TaskSource], Field(min_length=1)]
    everyday: _Weights
    answers: Annotated[dict[str, AnswerSource], Field(min_length=1)]


class TextLengths(PhraseTable):
    """Lengths of prompts and answers, in words."""

    longest_prompt: int
    longest_answer: int
    usual: Numbers
    counted: Numbers
    counting: Phrases
    long: Numbers
    long_share: Share
    follow_ups: Numbers
    long_forms: Words
    shortest_long_form: int


class ConstraintTable(PhraseTable):
    """constraints.toml."""

    weights: _Weights
    aliases: dict[str, Phrase]
    exclusive: Annotated[tuple[Phrases, ...], Field(min_length=1)]
    unfit: dict[str, Phrases]
    fit: dict[str, Phrases]
    first_only: Phrases
    follow_ups: Annotated[Phrases, _slots("wish")]
    lengths: TextLengths

    @model_validator(mode="after")
    def _types_are_drawn(self) -> Self:
        named = {name for names in (*self.exclusive, *self.unfit.values(), *self.fit.values()) for name in names}
        if unknown := sorted({*named, *self.aliases, *self.first_only, *self.lengths.counting} - set(self.weights)):
            raise ValueError(f"types {', '.join(unknown)}; accepted: those in weights")
        return self


class ConstraintFamily(PhraseTable):
    """A type of constraint: a row of families.toml."""

    kind: Kind
    needs: Annotated[tuple[Phrase, ...], BeforeValidator(_split)] = ()
    """names of parameters; "words:number" where a name means a number here"""
    trained: bool = True
    """whether training data may have it"""


class PhraseTables(PhraseTable):
    """All files, by their names."""

    slots: dict[str, Words]
    letters: dict[str, Genre]
    articles: dict[str, Genre]
    stories: dict[str, Genre]
    ideas: dict[str, Genre]
    talk: TalkTable
    refusals: RefusalTable
    wordings: WordingTable
    facts: FactTable
    answers: AnswerTable
    everyday: EverydayTable
    documents: DocumentTable
    passages: PassageTable
    sources: SourceTable
    constraints: ConstraintTable
    families: dict[str, ConstraintFamily]

    @property
    def genres(self) -> dict[str, Genre]:
        """Return all genres, in the order of the files."""
        return {**self.letters, **self.articles, **self.stories, **self.ideas}

    @model_validator(mode="after")
    def _slots_are_filled(self) -> Self:
        exchanges = (self.talk.greetings, self.talk.thanks, *self.talk.identity, *self.talk.small_talk)
        spoken = [text for said in (*exchanges, *self.refusals.unable) for text in (*said.says, *said.answers)]
        written = [text for genre in self.genres.values() for text in genre.templates()]
        for template in (*spoken, *written, *self.refusals.harmful.answers):
            for name in re.findall(r"\$(\w+)", template):
                if name.rstrip("0123456789") not in self.slots:
                    raise ValueError(f"{template!a}: slot ${name}; accepted: {', '.join(self.slots)}")
        for name, genre in self.genres.items():
            if genre.fields is not None and genre.fields not in self.answers.fields:
                raise ValueError(f"{name}: fields {genre.fields!a}; accepted: {', '.join(self.answers.fields)}")
        return self

    @model_validator(mode="after")
    def _drawn_types_are_trained(self) -> Self:
        drawn = {self.constraints.aliases.get(name, name) for name in self.constraints.weights}
        trained = {name for name, family in self.families.items() if family.trained}
        if drawn != trained:
            raise ValueError(f"constraints.weights: {', '.join(sorted(drawn ^ trained))}; accepted: each trained type")
        return self

    @model_validator(mode="after")
    def _files_are_known(self) -> Self:
        used = [file for task in self.sources.tasks.values() for file in task.files]
        used += [file for answer in self.sources.answers.values() for file in answer.files]
        if unknown := sorted({*used, *self.sources.prose} - set(self.sources.files)):
            raise ValueError(f"sources: {', '.join(unknown)}; accepted: {', '.join(self.sources.files)}")
        return self
