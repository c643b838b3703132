"""Turns: a conversation in the forms that data sets give it, as messages of role and content.

Invariant: nothing of a conversation is left out in silence: what cannot be read raises TurnError, and what is read but
has no use here is among the notices.
"""

from collections.abc import Mapping
from typing import Any

Turn = dict[str, str]
"""{"role", "content"}, and {"weight": "0"} where it must carry no loss."""
ROLES = ("system", "user", "assistant")
NAMES = {role: role for role in ROLES} | {"developer": "system", "human": "user", "prompter": "user"}
NAMES |= dict.fromkeys(("gpt", "bot", "model"), "assistant")
"""Our roles by what data sets call them."""
MARKS = ("weight", "train", "trainable", "training", "loss_mask")
"""Keys of a message that say whether it is trained on."""
SYSTEM = ("system", "system_prompt", "system_message")
TOOLS = ("tools", "functions")
COLUMNS = (*SYSTEM, "history", *TOOLS)
"""Columns that belong to a conversation, beside the one that it is in."""
NOTHING = ("", "[]", "{}", "null", "None")


class TurnError(ValueError):
    """A conversation that cannot be read: the fault's kind, and what was found."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail[:200]


def read_conversation(messages: object, row: Mapping[str, Any]) -> tuple[list[Turn], list[TurnError]]:
    """Return `messages` as turns, after the system prompt and history in the row's other columns, and what is left out.

    Raises TurnError where a message cannot be read.
    """
    notices: list[TurnError] = []
    turns = read_turns(messages, notices)
    for name in filter(row.get, ("history", *SYSTEM)):
        try:
            if name == "history":
                turns = _with_history(turns, read_turns(row[name]))
            elif (content := content_text(row[name])).strip() != (turns[0]["content"].strip() if _led(turns) else ""):
                if _led(turns):
                    raise TurnError("", "the messages have another system turn")
                turns = [{"role": "system", "content": content}, *turns]
        except TurnError as error:
            notices.append(TurnError(f"{name if name == 'history' else 'system'}_not_used", f"{name}: {error.detail}"))
    notices += [TurnError("tools_not_used", f"{name}: no tools are trained") for name in TOOLS if _given(row.get(name))]
    return turns, notices


def _led(turns: list[Turn]) -> bool:
    return bool(turns) and turns[0]["role"] == "system"


def _with_history(turns: list[Turn], earlier: list[Turn]) -> list[Turn]:
    """Return `turns` after the `earlier` ones, unless they begin with them; a system turn stays in front."""
    lead, rest = (turns[:1], turns[1:]) if _led(turns) and not _led(earlier) else ([], turns)
    return turns if rest[: len(earlier)] == earlier else [*lead, *earlier, *rest]


def as_messages(value: object, role: str) -> list[Any] | None:
    """Return a column's text as one message of `role`, a message as a list, messages as they are; None for others."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    values = [value] if isinstance(value, Mapping) else value
    if isinstance(values, list | tuple) and values and all(isinstance(one, Mapping) and _role(one) for one in values):
        return list(values)
    return None


def asked_messages(row: Mapping[str, Any], column: str) -> list[Any] | None:
    """Return a row's question as messages, with what an "input" or "context" column adds to a text; or None."""
    question, extra = row.get(column), row.get("input") or row.get("context")
    if isinstance(question, str) and isinstance(extra, str) and extra.strip() and column != "input":
        question = f"{question}\n\n{extra}"
    return as_messages(question, "user")


def joined_turns(asked: list[Turn], answered: list[Turn]) -> list[Turn]:
    """Return a question's turns and an answer's, which may repeat the question's, or the last of them, in front."""
    for size in range(min(len(asked), len(answered)), 0, -1):
        if asked[-size:] == answered[:size]:
            return asked + answered[size:]
    repeats = bool(asked) and asked[-1]["role"] == "user" and answered[0]["role"] != "assistant"
    return answered if repeats else asked + answered  # repeats: the same question in another form


def read_turns(messages: object, notices: list[TurnError] | None = None) -> list[Turn]:
    """Return messages, or pairs of a question and its answer, as turns. Raises TurnError."""
    if not isinstance(messages, list | tuple):
        raise TurnError("no_text_or_messages", f"turns are {type(messages).__name__}")
    return [_turn(one, [] if notices is None else notices) for message in messages for one in _expanded(message)]


def _expanded(message: object) -> list[object]:
    """Return the messages in one entry of a list: itself, or the two of a pair."""
    pair: tuple[object, object] | None = None
    if isinstance(message, list | tuple) and len(message) == 2:
        if isinstance(message[0], str) and message[0] in NAMES:
            return [{"role": message[0], "content": message[1]}]
        pair = (message[0], message[1])
    elif isinstance(message, Mapping) and _role(message) is None:
        asked, answered = ([key for key in NAMES if key in message and NAMES[key] == role] for role in ROLES[1:])
        pair = (message[asked[0]], message[answered[0]]) if asked and answered else None
    return [{"role": role, "content": text} for role, text in zip(ROLES[1:], pair, strict=True)] if pair else [message]


def _role(message: Mapping[str, Any]) -> Any:
    return message["role"] if message.get("role") is not None else message.get("from")


def _turn(message: object, notices: list[TurnError]) -> Turn:
    role = _role(message) if isinstance(message, Mapping) else message
    if not isinstance(message, Mapping) or not isinstance(role, str) or role not in NAMES:
        raise TurnError("unknown_role", f"accepted: {', '.join(ROLES)}; got {role!a}")
    if _given(message.get("tool_calls")) or _given(message.get("function_call")):
        raise TurnError("tools", "a turn that calls tools")
    content = content_text(message["content"] if message.get("content") is not None else message.get("value"))
    turn = {"role": NAMES[role], "content": content}
    marks = [message[mark] for mark in MARKS if isinstance(message.get(mark), int | float | str)]
    weights = {{"false": 0.0, "true": 1.0}.get(str(mark).lower().strip(), mark) for mark in marks}
    if any(str(weight) in ("0", "0.0") for weight in weights):
        turn["weight"] = "0"
    elif any(str(weight) not in ("1", "1.0") for weight in weights):
        notices.append(TurnError("weight_not_used", f"accepted: 0 or 1; got {sorted(map(ascii, weights))}"))
    return turn


def content_text(content: object) -> str:
    """Return a message's text, also one that comes in parts. Raises TurnError where it is none, or blank."""
    if isinstance(content, list | tuple):
        content = "".join(map(_part, content))
    if not isinstance(content, str | None):
        raise TurnError("not_text", f"accepted: a text, or parts of type 'text'; got {type(content).__name__}")
    if content is None or not content.strip():
        raise TurnError("empty_turn")
    if not is_unicode(content):
        raise TurnError("lone_surrogate")
    return content


def _part(part: object) -> str:
    kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind in ("text", "input_text", "output_text") and isinstance(text, str):
        return text
    raise TurnError("not_text", f"accepted: a text, or parts of type 'text'; got a part of type {kind!a}")


def _given(value: object) -> bool:
    """Return whether a value says something; an empty list may be written as text."""
    return bool(value) and not (isinstance(value, str) and value.strip() in NOTHING)


def is_unicode(text: str) -> bool:
    """Return whether a text has no lone surrogates, and so can be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
