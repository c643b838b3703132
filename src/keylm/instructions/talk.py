"""What an assistant says of itself, in small talk, and when it has to decline."""

from collections.abc import Sequence
from random import Random

from keylm.instructions.table_schema import TalkExchange
from keylm.instructions.tables import phrase_tables
from keylm.instructions.templates import expand

_TALK, _REFUSALS = phrase_tables().talk, phrase_tables().refusals
GREETINGS, THANKS, IDENTITY = _TALK.greetings, _TALK.thanks, _TALK.identity
SMALL_TALK: Sequence[TalkExchange] = (GREETINGS, THANKS, *_TALK.small_talk)


def speak(exchange: TalkExchange, random: Random, name: str) -> tuple[str, str]:
    """Return what a person says, and an answer; `name` is the assistant's."""
    slots: dict[str, str] = {}
    says = random.choice(exchange.says)
    says = expand(says, slots, random) if "$" in says else says
    answer = expand(random.choice(exchange.answers), slots, random)
    return says, _with_question_mark(answer).replace("@NAME", name)


def refusal(random: Random, name: str) -> tuple[str, str]:
    """Return a request that an assistant should not or cannot fulfil, and a polite refusal."""
    if random.random() < 0.5:
        return speak(random.choice(_REFUSALS.unable), random, name)
    harmful = _REFUSALS.harmful
    says = random.choice(harmful.says).format(harm=random.choice(harmful.acts))
    return says, _with_question_mark(expand(random.choice(harmful.answers), {}, random))


def _with_question_mark(answer: str) -> str:
    """Return an answer with a question mark where its last sentence is a question."""
    parts = answer.split(". ")
    if parts[-1].startswith(_TALK.closing_questions) and parts[-1].endswith("."):
        parts[-1] = parts[-1][:-1] + "?"
    return ". ".join(parts)
