"""Adapters: from one row of a known data set, in its own columns, to documents.

Invariant: every row becomes documents or a fault, whatever its values are; none is lost in silence, none raises.
Where each data set's columns were looked up, and what is dropped and why, is in docs/hub_datasets.md.
"""

import html
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby, pairwise
from typing import Any

from keylm.base.errors import KeylmError
from keylm.data.documents import Document, Fault, read_record, split_text
from keylm.text.sentences import sentences

Row = Mapping[str, Any]
Items = Iterator[Document | Fault]


@dataclass(frozen=True)
class Adapter:
    """How a data set's rows are read.

    `documents` takes a row, its file and its line (from 1); `columns` are those it reads, () for all of them;
    `group` comes first where a document spans several rows, and joins them into one.
    """

    documents: Callable[[Row, str, int], Items]
    columns: tuple[str, ...]
    group: Callable[[Iterator[Row]], Iterator[Row]] | None = None


def adapter_for(hub: str | None, name: str | None) -> Adapter:
    """Return the adapter called `name`, else the one for the data set `hub`, else "auto". Raises KeylmError."""
    chosen = name or HUB_ADAPTERS.get(hub or "", "auto")
    if chosen not in ADAPTERS:
        raise KeylmError(f"adapter = {chosen!r} is not known; accepted: {', '.join(sorted(ADAPTERS))}")
    return ADAPTERS[chosen]


def _text(row: Row, file: str, line: int) -> Items:
    yield from read_record({"text": row.get("text")}, file, line)


def _messages(row: Row, file: str, line: int) -> Items:
    yield from _turns(row.get("messages"), file, line)


def _wikipedia(row: Row, file: str, line: int) -> Items:
    """Yield an article below its title: the text itself starts without it."""
    title, text = row.get("title"), row.get("text")
    if isinstance(title, str) and isinstance(text, str) and title.strip() and text.strip():
        yield from split_text(f"{title.strip()}\n\n{text}", file, line)
    else:
        yield from _text(row, file, line)


BOT_AUTHOR = re.compile(r"^automoderator$|bot$", re.IGNORECASE)
BOT_BODY = re.compile(r"\bI(?:'m|\^? \^?am) \^?a \^?bot\b", re.IGNORECASE)


def _reddit(row: Row, file: str, line: int) -> Items:
    """Yield a person's comment; faults are deleted ones, bots' and those voted below 1. Threads stay apart."""
    body, author = row.get("body"), row.get("author")
    if not isinstance(body, str):
        yield Fault(file, line, "no_text_or_messages", f"body is {type(body).__name__}")
    elif body.strip() in ("[deleted]", "[removed]"):
        yield Fault(file, line, "deleted")
    elif (isinstance(author, str) and BOT_AUTHOR.search(author)) or BOT_BODY.search(body):
        yield Fault(file, line, "bot")
    elif _below_one(row.get("score")):
        yield Fault(file, line, "low_score")
    else:
        # The dump escapes &, < and >, once.
        yield from split_text(html.unescape(body), file, line)


def _below_one(score: object) -> bool:
    """Return whether a score, which the data set keeps as text, is known and below 1."""
    try:
        return float(score) < 1  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


QUESTION = re.compile(r"\A# Question\nTitle: ")
ANSWER = re.compile(r"^# Answer$(?:\n> -?\d+ votes$)?", re.MULTILINE)
VOTES = re.compile(r"\n> -?\d+ votes(?=\n\n## Answer$|\n\n---\nTags: |\s*\Z)", re.MULTILINE)
TAGS = re.compile(r"\n---\nTags: [^\n]*\n---\s*\Z")


def _stackexchange(row: Row, file: str, line: int) -> Items:
    """Yield a question with its answers, without the template's frame: vote counts and tags go, headings stay."""
    text = row.get("text")
    if isinstance(text, str):
        text = ANSWER.sub("## Answer", QUESTION.sub("# ", text))
        text = TAGS.sub("", VOTES.sub("", text))
    yield from read_record({"text": text}, file, line)


MARKER = re.compile(r"\A(?:[QA]\d*[.:]|\d+[.)]|#+)\s*")
SHORT_ANSWER = 300
"""Characters that an answer's sentences may have together; the first one may be longer."""


def _questions(row: Row, file: str, line: int) -> Items:
    """Yield what a text asks and answers at once, each as a document "Question: …", "Answer: …".

    A question is a line of its own whose next line answers it, or a title "How to …" with a list of points below.
    Of an answer its first sentences are kept. Everything else of the text is left to other sources.
    """
    text, found = row.get("text"), False
    if isinstance(text, str):
        lines = [stripped for part in text.split("\n") if (stripped := part.strip())]
        for question, answer in [*_asked_and_answered(lines), *_title_and_points(lines)]:
            found = True
            yield from split_text(f"Question: {question}\nAnswer: {answer}", file, line)
    if not found:
        yield Fault(file, line, "no_question")


def _asked_and_answered(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield lines that end with a question mark with the beginning of the next one, where that states something."""
    for asked, answered in pairwise(lines):
        question, answer = MARKER.sub("", asked), MARKER.sub("", answered)
        if question.endswith("?") and 12 <= len(question) <= 200 and answer[:1].isupper() and answer[-1] in ".!":
            answer = _first_sentences(answer)
            if len(answer) >= 30 and "?" not in answer:
                yield question, answer


def _title_and_points(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield a title "How to …" with the first points of the text's first list."""
    points = [line for line in lines[:20] if line.startswith("- ")][:3]
    if lines and lines[0].lower().startswith("how to ") and points:
        yield lines[0], " ".join(point[2:].strip() for point in points)


def _first_sentences(text: str) -> str:
    """Return as many whole sentences as fit into SHORT_ANSWER characters, at least one."""
    first, *others = sentences(text)
    for sentence in others:
        if len(first) + 1 + len(sentence) > SHORT_ANSWER:
            break
        first = f"{first} {sentence}"
    return first


def _open_chat(row: Row, file: str, line: int) -> Items:
    """Yield a conversation of WildChat or LMSYS-Chat: English, not flagged, nothing in it redacted."""
    moderation = row.get("openai_moderation")
    marks = moderation if isinstance(moderation, list | tuple) else ()
    if row.get("language") != "English":
        yield Fault(file, line, "other_language", f"{row.get('language')!a}"[:200])
    elif row.get("toxic") is True or any(isinstance(mark, Mapping) and mark.get("flagged") is True for mark in marks):
        yield Fault(file, line, "flagged")
    elif row.get("redacted") is True:
        yield Fault(file, line, "redacted")
    else:
        yield from _turns(row.get("conversation"), file, line)


def _smoltalk2(row: Row, file: str, line: int) -> Items:
    """Yield a conversation without its reasoning; custom instructions lead as the system's turn; no tool use."""
    messages, options = row.get("messages"), row.get("chat_template_kwargs")
    options = options if isinstance(options, Mapping) else {}
    if options.get("python_tools") or options.get("xml_tools"):
        yield Fault(file, line, "tools")
        return
    if not isinstance(messages, list | tuple):
        yield from _turns(messages, file, line)
        return
    turns = [_without_thought(turn) for turn in messages]
    if any(turn is None for turn in turns):
        yield Fault(file, line, "unfinished_thinking")
        return
    instructions = options.get("custom_instructions")
    leads = bool(turns) and isinstance(turns[0], Mapping) and turns[0].get("role") == "system"
    if isinstance(instructions, str) and instructions.strip() and not leads:
        turns.insert(0, {"role": "system", "content": instructions})
    yield from _turns(turns, file, line)


def _without_thought(turn: object) -> object:
    """Return a turn without what is between <think> and </think>; None where that does not end."""
    if not (isinstance(turn, Mapping) and turn.get("role") == "assistant" and isinstance(turn.get("content"), str)):
        return turn if turn is not None else ""
    text, kept, start = turn["content"], [], 0
    while (opening := text.find("<think>", start)) >= 0:
        kept.append(text[start:opening])
        closing = text.find("</think>", opening)
        if closing < 0:
            return None
        start = closing + len("</think>")
        while text[start : start + 1].isspace():
            start += 1
    return {"role": "assistant", "content": "".join(kept) + text[start:]}


def _trees(rows: Iterator[Row]) -> Iterator[Row]:
    """Join adjacent messages of one message_tree_id into a row {"tree": [message, …]}."""
    for _, messages in groupby(rows, key=lambda row: row.get("message_tree_id")):
        yield {"tree": list(messages)}


def _oasst(row: Row, file: str, line: int) -> Items:
    """Yield a tree's best conversation: from the prompt down, the best-ranked reply each time, to an assistant's."""
    tree = row.get("tree")
    messages = [message for message in tree if isinstance(message, Mapping)] if isinstance(tree, list | tuple) else []
    roots = [message for message in messages if message.get("parent_id") is None and message.get("message_id")]
    if not roots:
        yield Fault(file, line, "no_prompt", f"{len(messages)} messages, none of them without parent_id")
    elif roots[0].get("deleted") is True:
        yield Fault(file, line, "deleted")
    elif roots[0].get("lang") != "en":
        yield Fault(file, line, "other_language", f"{roots[0].get('lang')!a}"[:200])
    else:
        path = _best_path(roots[0], messages)
        while path and path[-1].get("role") != "assistant":
            path.pop()
        if path:
            yield from _turns([{"role": node.get("role"), "content": node.get("text")} for node in path], file, line)
        else:
            yield Fault(file, line, "no_reply")


def _best_path(root: Row, messages: list[Row]) -> list[Row]:
    """Return `root` and below it, level by level, the reply of lowest rank (0 is best; the first of equals)."""
    path = [root]
    left = [
        message
        for message in messages
        if message is not root
        and message.get("lang") == "en"
        and message.get("deleted") is not True
        and message.get("review_result") is not False
    ]
    while replies := [message for message in left if message.get("parent_id") == path[-1].get("message_id")]:
        best = min(replies, key=_rank)
        path.append(best)
        left = [message for message in left if message is not best]  # so that a circle of parents ends, too
    return path


def _rank(message: Row) -> float:
    rank = message.get("rank")
    return rank if isinstance(rank, int) else float("inf")


PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
)
"""Columns of data sets with one question and one answer a row; an "input" column belongs to the question."""


def _auto(row: Row, file: str, line: int) -> Items:
    """Yield what the columns' names suggest: messages, text, conversations, conversation, or one of PAIRS."""
    if isinstance(row, Mapping) and not isinstance(row.get("text"), str) and not row.get("messages"):
        for column in ("conversations", "conversation"):
            if isinstance(row.get(column), list | tuple) and len(row[column]):
                yield from _turns(row[column], file, line)
                return
        for asked, answered in PAIRS:
            question, answer, extra = row.get(asked), row.get(answered), row.get("input")
            if isinstance(question, str) and isinstance(answer, str):
                question = f"{question}\n\n{extra}" if isinstance(extra, str) and extra.strip() else question
                pair = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                yield from _turns(pair, file, line)
                return
    yield from read_record(row, file, line)


NAMES = {"human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant"}
"""Other data sets' names for our roles."""


def _turns(turns: object, file: str, line: int) -> Items:
    """Yield a conversation whose turns say role and content, or from and value."""
    if not isinstance(turns, list | tuple):
        yield Fault(file, line, "no_text_or_messages", f"turns are {type(turns).__name__}")
    elif not turns:
        yield Fault(file, line, "empty")
    else:
        yield from read_record({"messages": [_turn(turn) for turn in turns]}, file, line)


def _turn(turn: object) -> object:
    if not isinstance(turn, Mapping):
        return turn
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    return {"role": NAMES.get(role, role) if isinstance(role, str) else role, "content": content}


_CHAT = ("conversation", "language", "redacted")
_OASST = ("message_id", "parent_id", "text", "role", "lang", "review_result", "deleted", "rank", "message_tree_id")

ADAPTERS: dict[str, Adapter] = {
    "auto": Adapter(_auto, ()),
    "cosmopedia": Adapter(_text, ("text",)),
    "fineweb_edu": Adapter(_text, ("text",)),
    "lmsys": Adapter(_open_chat, (*_CHAT, "openai_moderation")),
    "oasst2": Adapter(_oasst, _OASST, _trees),
    "questions": Adapter(_questions, ("text",)),
    "reddit": Adapter(_reddit, ("body", "author", "score")),
    "smol_smoltalk": Adapter(_messages, ("messages",)),
    "smoltalk2": Adapter(_smoltalk2, ("messages", "chat_template_kwargs")),
    "stackexchange": Adapter(_stackexchange, ("text",)),
    "ultrachat": Adapter(_messages, ("messages",)),
    "wikipedia": Adapter(_wikipedia, ("title", "text")),
    "wildchat": Adapter(_open_chat, (*_CHAT, "toxic")),
}
"""Adapters by the name that a recipe's `adapter` gives."""

HUB_ADAPTERS: dict[str, str] = tomllib.loads((files("keylm.data") / "hub_adapters.toml").read_text(encoding="utf-8"))
"""The adapter of each data set on the hub that has one of its own."""
