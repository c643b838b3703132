"""Tasks made from documents: what is asked, and the passage that answers it.

Each maker takes a document and returns a task, or None where the document does not lend itself to it. SOURCES says
which files of a corpus each maker can take documents from.
"""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from random import Random

from keylm.instructions.drafts import LEANING, WritingTask, capitalised
from keylm.instructions.passages import (
    READ_CHARACTERS,
    PassageSection,
    good_heading,
    good_paragraph,
    good_sentence,
    sections,
    sentence_case,
    tidy,
)
from keylm.text.sentences import fewest_words, listed


class SourceText:
    """A document of a corpus: its text, and the name of the file that it comes from; parsed when first asked."""

    def __init__(self, source: str, text: str) -> None:
        self.source, self.text = source, text[:READ_CHARACTERS]
        self._rest = text[READ_CHARACTERS:][-READ_CHARACTERS:]

    @cached_property
    def title(self) -> str:
        """Return its first line."""
        return tidy(self.text.split("\n", 1)[0])

    @cached_property
    def sections(self) -> list[PassageSection]:
        """Return its first sections."""
        return sections(self.text)

    @cached_property
    def ending(self) -> list[PassageSection]:
        """Return its last sections, where articles put questions."""
        return sections(self._rest.partition("\n")[2], untitled=True)

    @cached_property
    def prose(self) -> str:
        """Return its longer lines, which are no headings."""
        return "\n".join(line for line in self.text.split("\n") if len(line) > 100)

    def opens_whole(self) -> bool:
        """Return whether its first sentence is among what was kept of it."""
        lines = [line for line in self.text.split("\n")[1:4] if line.strip()]
        kept = self.sections[0].paragraphs if self.sections and not self.sections[0].heading else []
        return bool(lines and kept) and tidy(lines[0]).startswith(kept[0][0][:30])

    def on_its_title(self, sentences: Sequence[str]) -> bool:
        """Return whether sentences speak of what the title says: half of its longer words are in them."""
        words = _stems(self.title)
        body = " ".join(sentences).lower()
        return sum(word in body for word in words) * 2 >= len(words)


def _stems(title: str) -> set[str]:
    """Return how the longer words of a title begin."""
    return {word[:5] for word in re.findall(r"[a-z]{4,}", title.lower()) if word not in _ASKING}


_ASKING = frozenset(listed("does what with your should when where which that have there from this"))


def about(text: SourceText, random: Random) -> WritingTask | None:
    """Ask about the subject of an encyclopedia's article, whose lead answers."""
    found = text.sections
    title = re.sub(r" \(.*\)$", "", text.title)
    if not text.opens_whole() or re.search(r"\d|[^\w '.-]|^(List|History|Economy|Politics|Timeline)\b", title):
        return None
    first = found[0].paragraphs[0][0]
    place = first.lower().find(title.split()[-1].lower())
    if not 0 <= place < 60 or not re.search(r"\b(is|was|are|were)\b", first):
        return None
    name = sentence_case(title, text.prose, cased=True)
    subject_title = capitalised(name)
    if re.match(rf"The {re.escape(title)}", first, re.IGNORECASE):
        name = f"the {name}"
    person = re.search(r"\((?:born )?.{0,40}\d{3,4}", first) or re.search(r"\b(he|she|his|her)\b", text.text[:900])
    past = re.search(r"\b(was|were|is|are)\b", first)
    if person and re.match(r"[A-Z]\w+ [A-Z]", title):
        requests: tuple[str, ...] = (
            f"Who {'was' if past and past[0] == 'was' else 'is'} {name}?",
            f"Tell me about {name}.",
            f"Write a short biography of {name}.",
            f"What is {name} known for?",
            f"Introduce {name} to a school class.",
            f"Write a few facts about the life of {name}.",
            f"I have never heard of {name}. Who is that?",
        )
    else:
        verb = past[0] if past else "is"
        requests = (
            f"What {verb} {name}?",
            f"Tell me about {name}.",
            f"Explain {name} to me.",
            f"Write about {name}.",
            f"Give me a short introduction to {name}.",
            f"What do you know about {name}?",
            f"Describe {name}.",
            f"Write an encyclopedia entry for {name}.",
            f"I need information on {name}.",
            f"Summarise what {name} {verb}.",
            f"I am writing a school report on {name}. What should I say?",
            f"can you tell me what {name} {verb}",
        )
    pool = [part for section in found[:8] for part in section.paragraphs]
    return WritingTask(
        "about",
        capitalised(random.choice(requests)) if random.random() < 0.95 else random.choice(requests),
        pool,
        subject_title,
        source=text.source,
    )


def subject(text: SourceText, random: Random) -> WritingTask | None:
    """Ask for an explanation of what a section is headed."""
    found = [section for section in text.sections if section.heading and good_heading(section.heading)]
    title = text.title
    if good_heading(title):
        found += [PassageSection(title, section.paragraphs, section.items) for section in text.sections[:1]]
    found = [part for part in found if part.words >= 25 and not part.heading.endswith("?") and _opens(part)]
    if text.source == "howto":  # there a heading alone may not say what it is about
        found = [part for part in found if _stems(part.heading) & _stems(title)]
    if not found:
        return None
    section = random.choice(found)
    name = sentence_case(section.heading, text.prose)
    verb_first = re.match(
        r"(Understanding|Choosing|Using|Creating|Preparing|Cleaning|Making|Building|Finding|Keeping)\b", section.heading
    )
    if verb_first and text.source == "howto":
        topic = sentence_case(re.sub(r"^Understanding ", "", section.heading), text.prose)
        requests: tuple[str, ...] = (
            f"Tell me about {topic}.",
            f"What should I know about {topic}?",
            f"Give me advice on {topic}.",
        )
    else:
        requests = (
            f"Explain {name}.",
            f"Write about {name}.",
            f"Tell me something about {name}.",
            f"Describe {name} briefly.",
            f"What should I know about {name}?",
            f"Write a textbook passage on {name}.",
            f"Give a short account of {name}.",
            f"Write an explanation of {name} for students.",
            f"Teach me about {name}.",
            f"Write a paragraph on {name}.",
            f"I have a test on {name}. What do I need to know?",
            f"Please write a short text about {name}.",
            f"Write an essay on {name}.",
            f"Write a blog post about {name}.",
            f"Summarise the topic: {name}",
        )
    points = [item for item in section.items if good_sentence(item) and fewest_words(item) < 28]
    return WritingTask(
        "subject",
        random.choice(requests),
        section.paragraphs,
        capitalised(name),
        points=points if len(points) > 2 else [],
        source=text.source,
    )


def question(text: SourceText, random: Random) -> WritingTask | None:
    """Ask a question that a document asks and answers itself."""
    found = [
        (section.heading, section)
        for section in (*text.sections, *text.ending)
        if section.heading.endswith("?") and section.words >= 8 and _opens(section, leaning=True)
    ]
    if not found:
        return None
    heading, section = random.choice(found)
    asked = _question(heading, text.prose)
    if asked is None:
        return None
    yes_no = re.match(r"(Yes|No)\b", section.paragraphs[0][0])
    task = WritingTask("question", asked, section.paragraphs, source=text.source)
    task.title = capitalised(_topic(asked))
    if yes_no and random.random() < 0.5:
        yes, no, open_ = random.choice(_VERDICTS)
        task = WritingTask("verdict", asked, [[yes if yes_no[0] == "Yes" else no]], source=text.source, whole=True)
        task.options = [yes, no, open_] if random.random() < 0.6 else [yes, no]
    return task


_VERDICTS = (
    ("Yes.", "No.", "It depends."),
    ("yes", "no", "maybe"),
    ("Yes, it does.", "No, it does not.", "I do not know."),
    ("The reply is yes.", "The reply is no.", "The reply is unclear."),
    ("True", "False", "Unknown"),
    ("I would say yes.", "I would say no.", "I would say perhaps."),
    ("Agreed.", "Not agreed.", "Undecided."),
)


def _be(name: str) -> str:
    return "are" if re.search(r"[^siu]s$", name) else "is"


def _question(heading: str, body: str) -> str | None:
    heading = re.sub(r"What is \(are\) (.*)\?", lambda match: f"What {_be(match[1])} {match[1]}?", heading)
    if not re.match(
        r"(What|How|Why|Can|Could|Is|Are|Do|Does|Did|Should|When|Where|Which|Who|Will|Would|May)\b", heading
    ):
        return None
    if heading.count("?") > 1 or re.search(
        r"[:(]|\b(I|my) (have|found|use)\b|this (article|guide)|below|following", heading
    ):
        return None
    first, rest = heading.split(" ", 1)
    return f"{first} {sentence_case(rest, body)}" if " " in rest else heading


def _topic(request: str) -> str:
    """Return what a question is about, as a title."""
    plain = re.sub(
        r"^(What|How|Why|Who|When|Where|Which) (is|are|do|does|can|should|to|was|were) ", "", request.rstrip("?.")
    )
    return plain if plain != request.rstrip("?.") else request.rstrip("?.")


def howto(text: SourceText, random: Random) -> WritingTask | None:
    """Ask what a how-to article's title asks; the lead and its key points answer."""
    found = text.sections
    title = text.title
    if not found or not re.match(r"(How|What|Why|Can|Is|Are|Do|Does|Should|When|Where|Which|Will)\b", title):
        return None
    body = [section for section in found[:6] if section.paragraphs and not section.heading.endswith("?")]
    pool = [[s for s in part if not s.endswith("?")] for section in body for part in section.paragraphs]
    pool = [part for part in pool if part]
    pool = [part for part in pool if text.on_its_title(part)]
    pool.sort(key=lambda part: not _DIRECT.match(part[0]))  # what answers at once comes first
    if not pool or LEANING.match(pool[0][0]):
        return None
    asked = sentence_case(title, text.prose)
    asked = asked[0].upper() + asked[1:]
    if re.search(r"\b(don|doesn|can|isn|won|didn) t\b|\b[A-Z]$", asked, re.IGNORECASE):
        return None
    requests: tuple[str, ...] = (f"{asked}?",) * 4 + (
        asked.lower(),
        f"{asked}? Please explain.",
        f"I want to know: {asked[0].lower()}{asked[1:]}?",
    )
    if asked.startswith("How to "):
        rest = asked[7:]
        requests = (
            f"How do I {rest}?",
            f"How can I {rest}?",
            f"Explain how to {rest}.",
            f"Tell me how to {rest}.",
            f"how to {rest}",
            f"Write a short guide on how to {rest}.",
            f"What is the best way to {rest}?",
            f"Give me instructions to {rest}.",
            f"Write a blog post on how to {rest}.",
        )
    points = [
        item for section in found[:3] for item in section.items if good_sentence(item) and fewest_words(item) < 24
    ]
    return WritingTask(
        "howto", random.choice(requests), pool, asked, points=points[:10] if len(points) > 2 else [], source=text.source
    )


_DIRECT = re.compile(r"(To|Yes|No|You can|You should|Use|Start by|Begin by|The best)\b")


def news(text: SourceText, random: Random) -> WritingTask | None:
    """Ask for the news story that stands under a headline."""
    found = text.sections
    title = text.title
    if (
        not text.opens_whole()
        or found[0].words < 25
        or not 3 <= fewest_words(title) <= 13
        or re.search(r"[:;\"]|Wikinews", title)
    ):
        return None
    if LEANING.match(found[0].paragraphs[0][0]) or not text.on_its_title(found[0].paragraphs[0]):
        return None
    requests = (
        f"Write a news story with the headline: {title}",
        f'Write a short newspaper article. The headline is "{title}".',
        f"Report on this: {title}",
        f"What happened here? {title}",
        f"Write the news item that belongs to this headline: {title}",
        f"Draft a press report: {title}",
    )
    return WritingTask("news", random.choice(requests), found[0].paragraphs, title, source=text.source)


def headline(text: SourceText, random: Random) -> WritingTask | None:
    """Ask for a headline to a news story."""
    found = text.sections
    title = text.title
    if not found or not found[0].paragraphs or not 3 <= fewest_words(title) <= 13 or "Wikinews" in title:
        return None
    passage = " ".join(found[0].paragraphs[0][:4])
    if fewest_words(passage) < 25 or not text.on_its_title([passage]):
        return None
    ask = random.choice(
        (
            "Write a headline for this news story.",
            "Give this text a title.",
            "What would be a good headline for the text below?",
            "Find a title for the following text.",
            "Suggest a headline.",
            "Sum up this news item in a headline.",
        )
    )
    return WritingTask("headline", ask, [[title]], context=passage, source=text.source, whole=True)


def summary(text: SourceText, random: Random) -> WritingTask | None:
    """Ask for a summary of a passage; its first sentence, which says the most, answers."""
    found = text.sections
    if not text.opens_whole() or (len(found[0].paragraphs[0]) < 2 and len(found[0].paragraphs) < 2):
        return None
    lines = [sentence for part in found[0].paragraphs[:3] for sentence in part][: random.randint(3, 7)]
    passage = " ".join(lines)
    if len(lines) < 3 or not 50 <= fewest_words(passage) <= 220 or LEANING.match(lines[0]):
        return None
    ask = random.choice(
        (
            "Summarise this text in one sentence.",
            "What is the main point of this text?",
            "Sum this up for me.",
            "Give me the gist of the following passage.",
            "Summarize the passage below briefly.",
            "TL;DR of this?",
            "Shorten this text to its most important sentence.",
            "Write a one-sentence summary.",
            "In short, what does this say?",
        )
    )
    gist = re.sub(r"\s*\([^()]*\)", "", lines[0])
    if not good_sentence(gist) or re.search(r", (is|was|are|were|has) ", gist):
        return None
    return WritingTask("summary", ask, [[gist]], title=text.title, context=passage, source=text.source, whole=True)


def bulleted(text: SourceText, random: Random) -> WritingTask | None:
    """Ask for the main points of a passage, which are its sentences that can stand alone."""
    found = [part for section in text.sections[:3] for part in section.paragraphs if 4 <= len(part) <= 9]
    if not found:
        return None
    lines = random.choice(found)
    if LEANING.match(lines[0]):
        return None
    task = WritingTask("points", "", [lines], title=text.title, context=" ".join(lines), source=text.source)
    if len(task.standing()) < 3:
        return None
    task.request = random.choice(
        (
            "List the main points of this text.",
            "What are the key facts in this passage?",
            "Turn this text into a list.",
            "Extract the facts from the text below.",
            "Rewrite the following paragraph as a list of points.",
        )
    )
    return task


def tale(text: SourceText, random: Random) -> WritingTask | None:
    """Ask for a story by its title: a whole one where it is short, else how it begins."""
    title, _, rest = text.text.partition("\n")
    if not 1 <= fewest_words(title) <= 8 or re.search(r"[.:!,]$", title):
        return None
    pool: list[list[str]] = []
    for line in rest[:3600].split("\n"):
        kept = good_paragraph(line, story=True)
        if kept:
            pool.append(kept)
        elif pool and line.strip():
            break
    if sum(len(part) for part in pool) < 4:
        return None
    if all(len(part) == 1 for part in pool):  # one sentence a line: put them together by threes
        lines = [part[0] for part in pool]
        pool = [lines[place : place + 3] for place in range(0, len(lines), 3)]
    name = title.strip().strip('"“”')
    if len(rest) > 2500:
        requests: tuple[str, ...] = (
            f'Write the beginning of a story with the title "{name}".',
            f'How might a story called "{name}" begin?',
            f'Write the opening of a story called "{name}".',
            f'Start a story for me. Its title is "{name}".',
        )
    else:
        requests = (
            f'Write a story called "{name}".',
            f'Tell me a story. The title is "{name}".',
            f"Write a short story named {name}.",
            f'I want to hear the story "{name}".',
            f'Write a children\'s story with the title "{name}".',
        )
    return WritingTask("tale", random.choice(requests), pool, name, source=text.source)


def opening(text: SourceText, random: Random) -> WritingTask | None:
    """Ask to go on with a text of which the first sentences are given."""
    parts = [part for section in text.sections[:2] for part in section.paragraphs if len(part) > 2]
    if not parts:
        return None
    part = random.choice(parts)
    if LEANING.match(part[0]):
        return None
    cut = random.randint(1, len(part) - 1)
    ask = random.choice(
        (
            "Continue this text.",
            "Go on with this text.",
            "How could this go on?",
            "Finish this paragraph.",
            "What comes next?",
            "Write the next sentences.",
        )
    )
    return WritingTask("opening", ask, [part[cut:]], context=" ".join(part[:cut]), source=text.source)


def chat(text: SourceText, random: Random) -> WritingTask | None:
    """Ask what a person asked an assistant in a chat set of single questions."""
    request, _, answer = text.text.partition("\x00")
    if re.search(r"[{}<>=;|]|```|def |import |\b(code|function|Python|SQL|C\+\+|Java)", request + answer):
        return None
    if not 4 <= fewest_words(request) <= 70 or len(answer) > READ_CHARACTERS - 1000:
        return None
    pool = [good_paragraph(line, story=True) for line in answer.split("\n") if line.strip()]
    kept = [part for part in pool if part]
    if not kept or sum(map(len, kept)) < 2 or not pool[0]:
        return None
    return WritingTask("chat", tidy(request), kept, source=text.source)


def _opens(section: PassageSection, *, leaning: bool = False) -> bool:
    if not section.paragraphs:
        return False
    first = section.paragraphs[0][0]
    return (leaning or not LEANING.match(first)) and not first.endswith("?")


Maker = Callable[[SourceText, Random], WritingTask | None]
SOURCES: tuple[tuple[Maker, float, dict[str, float]], ...] = (
    (about, 3.0, {"wikipedia": 1}),
    (subject, 3.0, {"openstax": 2, "textbooks": 3, "howto": 1}),
    (question, 4.0, {"howto": 4, "medquad": 1}),
    (howto, 2.0, {"howto": 1}),
    (news, 1.2, {"wikinews": 1}),
    (headline, 0.7, {"wikinews": 1}),
    (summary, 1.2, {"wikinews": 1, "wikipedia": 2}),
    (bulleted, 0.8, {"wikipedia": 1, "textbooks": 1, "openstax": 1, "howto": 1}),
    (tale, 1.0, {"children": 3, "short_fiction": 1}),
    (chat, 1.0, {"gpteacher": 1}),
    (opening, 0.7, {"wikipedia": 1, "howto": 1, "openstax": 1}),
)
"""Makers with how often each is taken, and from which files of a corpus."""
