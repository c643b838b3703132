"""Compose the chat file from the hand-written seeds in chat_seeds/."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SEEDS = Path(__file__).resolve().parent / "chat_seeds"
SEED = 20240501
CONVERSATIONS = 1600
MOST_EXCHANGES = 4
EDGE_TOPICS = ("greeting", "thanks", "goodbye")
FIRST_ONLY = ("how are you",)
TOPIC_WEIGHTS = {"story": 0.8, "who are you": 1.8, "sums": 1.0, "spelling": 1.3, "I do not know": 1.5}
NOT_FRAMED = ("spelling", "continue", "story", "how are you")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

Message = dict[str, str]


@dataclass(frozen=True)
class Exchange:
    """The phrasings of one user turn and of its answer."""

    asks: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Unit:
    """Exchanges that belong together."""

    topic: str
    exchanges: tuple[Exchange, ...]


@dataclass
class Deck:
    """The units of one topic, dealt in a shuffled order until all were used."""

    units: list[Unit]
    rng: random.Random
    waiting: list[Unit] = field(default_factory=list)

    def deal(self) -> Unit:
        """Return the next unit."""
        if not self.waiting:
            self.waiting = self.rng.sample(self.units, len(self.units))
        return self.waiting.pop()


def phrasings(line: str) -> tuple[str, ...]:
    """Return the phrasings that a seed line gives, parted by bars."""
    return tuple(part.strip() for part in line.split("|"))


def read_units(path: Path) -> Iterator[Unit]:
    """Yield the units of a seed file with lines of the forms "# topic", "U: ..." and "A: ..."."""
    topic = ""
    asks: tuple[str, ...] = ()
    exchanges: list[Exchange] = []
    for line in [*path.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("U: "):
            asks = phrasings(line[3:])
        elif line.startswith("A: "):
            exchanges.append(Exchange(asks, phrasings(line[3:])))
        else:
            if exchanges:
                yield Unit(topic, tuple(exchanges))
                exchanges = []
            topic = line[2:] if line.startswith("# ") else topic


def table_units(tables: dict[str, Any]) -> Iterator[Unit]:
    """Yield a unit for each row of each question table."""
    for topic, table in tables.items():
        rows = list(table.get("rows", ()))
        rows += [[b, a] for a, b in rows] if table.get("both_ways") else []
        for a, b in rows:
            asks = tuple(form.format(a=a, b=b) for form in table["ask"])
            answers = (capital(form.format(a=a, b=b)) for form in table["say"])
            yield Unit(topic, (Exchange(asks, tuple(answers)),))


def capital(text: str) -> str:
    """Return the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def sum_units() -> Iterator[Unit]:
    """Yield simple sums, differences and comparisons of small numbers."""
    for a in range(11):
        for b in range(11):
            yield _sum(f"{a} + {b}", f"{a} plus {b}", a + b)
            if a >= b:
                yield _sum(f"{a} - {b}", f"{a} minus {b}", a - b)
    for a in range(1, 20):
        asks = (f"What number comes after {a}?", f"Which number is next after {a}?")
        yield Unit("sums", (Exchange(asks, (f"{a + 1} comes after {a}.", f"It is {a + 1}.")),))
        b = a * 7 % 20
        if a != b:
            asks = (f"Which number is bigger, {a} or {b}?", f"Is {a} or {b} bigger?")
            yield Unit("sums", (Exchange(asks, (f"{max(a, b)} is bigger than {min(a, b)}.",)),))
    for number in range(3, 11):
        asks = (f"Count to {NUMBER_WORDS[number]}.", f"Can you count to {number}?")
        counted = ", ".join(str(i) for i in range(1, number + 1))
        yield Unit("sums", (Exchange(asks, (f"{counted}.",)),))


def _sum(signs: str, spoken: str, result: int) -> Unit:
    """Return one sum in several phrasings."""
    asks = (f"What is {signs}?", f"How much is {spoken}?", f"What is {spoken}?", f"{signs} = ?")
    answers = (f"{signs} = {result}.", f"{capital(spoken)} is {result}.", f"It is {result}.")
    return Unit("sums", (Exchange(asks, answers),))


def story_units(table: dict[str, Any]) -> Iterator[Unit]:
    """Yield the requests for the hand-written stories, some with a remark after the story."""
    blocks = (SEEDS / "stories.txt").read_text(encoding="utf-8").strip().split("\n\n")
    for block in blocks:
        subject, text = block.removeprefix("about: ").split("\n", 1)
        about = tuple(form.format(a=subject) for form in table["about"])
        yield Unit("story", (Exchange(about, (text,)),))
        yield Unit("story", (Exchange(tuple(table["ask"]), (text,)),))
        for remark, reply in table["after"]:
            after = Exchange(phrasings(remark), phrasings(reply))
            yield Unit("story", (Exchange(about + tuple(table["ask"]), (text,)), after))


class Composer:
    """Puts units together to conversations with a seeded generator."""

    def __init__(self, seed: int = SEED) -> None:
        """Read the seeds and shuffle nothing yet."""
        self.rng = random.Random(seed)
        with (SEEDS / "tables.toml").open("rb") as stream:
            self.tables: dict[str, Any] = tomllib.load(stream)
        units = [unit for path in sorted(SEEDS.glob("[0-9]*.txt")) for unit in read_units(path)]
        units += [*table_units(self.tables), *sum_units(), *story_units(self.tables["stories"])]
        self.units = units
        topics = dict.fromkeys(unit.topic for unit in units)
        self.decks = {topic: Deck([unit for unit in units if unit.topic == topic], self.rng) for topic in topics}
        self.main = [topic for topic in topics if topic not in EDGE_TOPICS]
        self.weights = [len(self.decks[t].units) ** 0.6 * TOPIC_WEIGHTS.get(t, 1.0) for t in self.main]

    def pick_topic(self, first: bool) -> str:
        """Return a topic for the next unit of a conversation."""
        topic = self.rng.choices(self.main, self.weights)[0]
        return topic if first or topic not in FIRST_ONLY else self.pick_topic(first)

    def plan(self) -> list[Unit]:
        """Return the units of one conversation, at most four exchanges in all."""
        rng, units = self.rng, []
        if rng.random() < 0.16:
            units.append(self.decks["greeting"].deal())
        topic = self.pick_topic(first=True)
        for _ in range(rng.choices((1, 2, 3), (0.62, 0.29, 0.09))[0]):
            units.append(self.decks[topic].deal())
            if topic in FIRST_ONLY or rng.random() < 0.4:
                topic = self.pick_topic(first=False)
        if rng.random() < 0.22:
            units.append(self.decks[rng.choice(("thanks", "goodbye"))].deal())
        while sum(len(unit.exchanges) for unit in units) > MOST_EXCHANGES:
            units.pop()
        return list(dict.fromkeys(units))

    def frame(self, ask: str, unit: Unit, first: bool) -> tuple[str, bool]:
        """Return a question with a lead, and whether it asks for a short answer."""
        if not ask.endswith("?") or unit.topic in (*EDGE_TOPICS, *NOT_FRAMED):
            return ask, False
        form = self.rng.choice(self.tables["frames"]["question" if first else "next_question"])
        return form.format(q=ask), "short" in form

    def casual(self, ask: str, unit: Unit) -> str:
        """Return a user turn, now and then written in the careless way of a chat."""
        if unit.topic in ("spelling", "spell_word") or self.rng.random() > 0.1:
            return ask
        return ask.lower().rstrip(".?!")

    def conversation(self) -> list[Message]:
        """Return the messages of one conversation."""
        rng, messages, short = self.rng, [], False
        units = self.plan()
        if rng.random() < 0.1 and not any(unit.topic == "story" for unit in units):
            short = rng.random() < 0.4
            system = rng.choice(self.tables["system"]["short" if short else "prompts"])
            messages.append({"role": "system", "content": system})
        for number, unit in enumerate(units):
            for step, exchange in enumerate(unit.exchanges):
                ask, brief = rng.choice(exchange.asks), False
                if step == 0 and not (number and units[number - 1].topic == "greeting"):
                    ask, brief = self.frame(ask, unit, first=number == 0)
                answers = exchange.answers
                answer = min(answers, key=len) if short or brief else rng.choice(answers)
                messages.append({"role": "user", "content": self.casual(ask, unit)})
                messages.append({"role": "assistant", "content": answer})
        return self.fill_slots(messages)

    def fill_slots(self, messages: list[Message]) -> list[Message]:
        """Return the messages with one drawn name and place in the {name} and {place} slots."""
        slots = {key: self.rng.choice(values) for key, values in self.tables["slots"].items()}
        for message in messages:
            for key, value in slots.items():
                message["content"] = message["content"].replace("{" + key + "}", value)
        return messages


def compose(count: int = CONVERSATIONS) -> list[list[Message]]:
    """Return distinct conversations."""
    composer = Composer()
    chats: dict[tuple[str, ...], list[Message]] = {}
    while len(chats) < count:
        messages = composer.conversation()
        chats.setdefault(tuple(message["content"] for message in messages), messages)
    return list(chats.values())


def seed_counts() -> dict[str, int]:
    """Return how much material was written by hand (sums are made by the program)."""
    written = [unit for path in SEEDS.glob("[0-9]*.txt") for unit in read_units(path)]
    with (SEEDS / "tables.toml").open("rb") as stream:
        rows = sum(len(table.get("rows", ())) for table in tomllib.load(stream).values())
    stories = (SEEDS / "stories.txt").read_text(encoding="utf-8").count("about: ")
    return {"units": len(written), "table rows": rows, "stories": stories}
