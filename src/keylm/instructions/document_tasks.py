"""Tasks from documents: a request, and the passage that answers it.

Each maker takes a document and returns a task, or None where the document does not lend itself to it. sources.toml says
which files of a corpus each maker takes documents from.
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
from keylm.instructions.tables import phrase_tables
from keylm.text.sentences import fewest_words

_REQUESTS = phrase_tables().documents
_FUNCTION_WORDS = frozenset(phrase_tables().passages.function_words)
Maker = Callable[["SourceText", Random], WritingTask | None]


class SourceText:
    """A document of a corpus: its text, and its file's name; parsed on first use."""

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
        """Return its last sections, where articles have their questions."""
        return sections(self._rest.partition("\n")[2], untitled=True)

    @cached_property
    def prose(self) -> str:
        """Return its longer lines, which are not headings."""
        return "\n".join(line for line in self.text.split("\n") if len(line) > 100)

    def opens_whole(self) -> bool:
        """Return whether its first sentence was kept."""
        lines = [line for line in self.text.split("\n")[1:4] if line.strip()]
        kept = self.sections[0].paragraphs if self.sections and not self.sections[0].heading else []
        return bool(lines and kept) and tidy(lines[0]).startswith(kept[0][0][:30])

    def on_its_title(self, sentences: Sequence[str]) -> bool:
        """Return whether sentences are on the title's subject: they have half of its longer words."""
        words = _stems(self.title)
        body = " ".join(sentences).lower()
        return sum(word in body for word in words) * 2 >= len(words)


def _stems(title: str) -> set[str]:
    """Return the first five letters of a title's longer words."""
    return {word[:5] for word in re.findall(r"[a-z]{4,}", title.lower()) if word not in _FUNCTION_WORDS}


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
    be = past[0] if past else "is"
    if person and re.match(r"[A-Z]\w+ [A-Z]", title):
        requests, be = _REQUESTS.about_person, "was" if be == "was" else "is"
    else:
        requests = _REQUESTS.about_thing
    pool = [part for section in found[:8] for part in section.paragraphs]
    capital = random.random() < 0.95
    request = random.choice(requests).format(name=name, be=be)
    return WritingTask("about", capitalised(request) if capital else request, pool, subject_title, source=text.source)


def subject(text: SourceText, random: Random) -> WritingTask | None:
    """Ask for an explanation of a section's heading."""
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
        request = random.choice(_REQUESTS.subject_advice).format(name=topic)
    else:
        request = random.choice(_REQUESTS.subject).format(name=name)
    points = [item for item in section.items if good_sentence(item) and fewest_words(item) < 28]
    return WritingTask(
        "subject",
        request,
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
    query = _question(heading, text.prose)
    if query is None:
        return None
    yes_no = re.match(r"(Yes|No)\b", section.paragraphs[0][0])
    task = WritingTask("question", query, section.paragraphs, source=text.source)
    task.title = capitalised(_topic(query))
    if yes_no and random.random() < 0.5:
        yes, no, open_ = random.choice(_REQUESTS.verdicts)
        task = WritingTask("verdict", query, [[yes if yes_no[0] == "Yes" else no]], source=text.source, whole=True)
        task.options = [yes, no, open_] if random.random() < 0.6 else [yes, no]
    return task


def _question(heading: str, body: str) -> str | None:
    if named := re.search(r"What is \(are\) (.*)\?", heading):
        be = "are" if re.search(r"[^siu]s$", named[1]) else "is"
        heading = heading.replace(named[0], f"What {be} {named[1]}?")
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
    asking = r"^(What|How|Why|Who|When|Where|Which) (is|are|do|does|can|should|to|was|were) "
    return re.sub(asking, "", request.rstrip("?."))


def howto(text: SourceText, random: Random) -> WritingTask | None:
    """Ask what a how-to article's title asks; the lead and its key points answer."""
    found = text.sections
    title = text.title
    if not found or not re.match(r"(How|What|Why|Can|Is|Are|Do|Does|Should|When|Where|Which|Will)\b", title):
        return None
    body = [section for section in found[:6] if section.paragraphs and not section.heading.endswith("?")]
    pool = [[s for s in part if not s.endswith("?")] for section in body for part in section.paragraphs]
    pool = [part for part in pool if part and text.on_its_title(part)]
    pool.sort(key=lambda part: not _DIRECT.match(part[0]))  # direct answers first
    if not pool or LEANING.match(pool[0][0]):
        return None
    heading = capitalised(sentence_case(title, text.prose))
    if re.search(r"\b(don|doesn|can|isn|won|didn) t\b|\b[A-Z]$", heading, re.IGNORECASE):
        return None
    small = heading[0].lower() + heading[1:]
    requests = _REQUESTS.howto_steps if heading.startswith("How to ") else _REQUESTS.howto_title
    request = random.choice(requests).format(title=heading, small=small, lower=heading.lower(), rest=heading[7:])
    points = [
        item for section in found[:3] for item in section.items if good_sentence(item) and fewest_words(item) < 24
    ]
    return WritingTask(
        "howto", request, pool, heading, points=points[:10] if len(points) > 2 else [], source=text.source
    )


_DIRECT = re.compile(r"(To|Yes|No|You can|You should|Use|Start by|Begin by|The best)\b")


def news(text: SourceText, random: Random) -> WritingTask | None:
    """Ask for the news story of a headline."""
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
    request = random.choice(_REQUESTS.news).format(title=title)
    return WritingTask("news", request, found[0].paragraphs, title, source=text.source)


def headline(text: SourceText, random: Random) -> WritingTask | None:
    """Ask for a headline to a news story."""
    found = text.sections
    title = text.title
    if not found or not found[0].paragraphs or not 3 <= fewest_words(title) <= 13 or "Wikinews" in title:
        return None
    passage = " ".join(found[0].paragraphs[0][:4])
    if fewest_words(passage) < 25 or not text.on_its_title([passage]):
        return None
    request = random.choice(_REQUESTS.headline)
    return WritingTask("headline", request, [[title]], context=passage, source=text.source, whole=True)


def summary(text: SourceText, random: Random) -> WritingTask | None:
    """Ask for a summary of a passage; its first sentence answers."""
    found = text.sections
    if not text.opens_whole() or (len(found[0].paragraphs[0]) < 2 and len(found[0].paragraphs) < 2):
        return None
    lines = [sentence for part in found[0].paragraphs[:3] for sentence in part][: random.randint(3, 7)]
    passage = " ".join(lines)
    if len(lines) < 3 or not 50 <= fewest_words(passage) <= 220 or LEANING.match(lines[0]):
        return None
    request = random.choice(_REQUESTS.summary)
    gist = re.sub(r"\s*\([^()]*\)", "", lines[0])
    if not good_sentence(gist) or re.search(r", (is|was|are|were|has) ", gist):
        return None
    return WritingTask("summary", request, [[gist]], title=text.title, context=passage, source=text.source, whole=True)


def main_points(text: SourceText, random: Random) -> WritingTask | None:
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
    task.request = random.choice(_REQUESTS.points)
    return task


def tale(text: SourceText, random: Random) -> WritingTask | None:
    """Ask for a story by its title: whole where it is short, else its beginning."""
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
    if all(len(part) == 1 for part in pool):  # one sentence a line: join them in threes
        lines = [part[0] for part in pool]
        pool = [lines[place : place + 3] for place in range(0, len(lines), 3)]
    name = title.strip().strip('"“”')
    requests = _REQUESTS.tale_opening if len(rest) > 2500 else _REQUESTS.tale
    request = random.choice(requests).format(name=name)
    return WritingTask("tale", request, pool, name, source=text.source)


def opening(text: SourceText, random: Random) -> WritingTask | None:
    """Ask for the continuation of a text's first sentences."""
    parts = [part for section in text.sections[:2] for part in section.paragraphs if len(part) > 2]
    if not parts:
        return None
    part = random.choice(parts)
    if LEANING.match(part[0]):
        return None
    cut = random.randint(1, len(part) - 1)
    request = random.choice(_REQUESTS.opening)
    return WritingTask("opening", request, [part[cut:]], context=" ".join(part[:cut]), source=text.source)


def chat(text: SourceText, random: Random) -> WritingTask | None:
    """Repeat a question to an assistant and its answer, from a set of single exchanges."""
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


TASK_MAKERS: dict[str, Maker] = {
    "about": about,
    "subject": subject,
    "question": question,
    "howto": howto,
    "news": news,
    "headline": headline,
    "summary": summary,
    "points": main_points,
    "tale": tale,
    "chat": chat,
    "opening": opening,
}
"""By their names in sources.toml."""
