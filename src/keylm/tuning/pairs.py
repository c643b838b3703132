"""Preference pairs: read from files, or built by sampling answers that a checker rejects.

A line is {"prompt", "chosen", "rejected"} or {"prompt", "chosen", "constraints"}; a prompt is a text or messages, or
what chosen and rejected both begin with; an answer is a text or messages that end with it. For lines of the second kind
the model itself answers until an answer violates a constraint; that one is the rejected answer, so it is of the kind
that tuning has to move away from.

Invariants: every line gives a pair or a reason that is counted; what is found is written batch by batch, so that a
killed command resumes with the remaining lines; a chosen answer that violates its own constraints is never used.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

from pydantic import JsonValue

from keylm.base.console import Status
from keylm.base.json_lines import JsonLines, read_rows
from keylm.data.documents import Fault, value_types
from keylm.data.readers import FileRecords
from keylm.data.sources import row_of
from keylm.data.turns import (
    TurnError,
    as_messages,
    asked_messages,
    is_unicode,
    joined_turns,
    read_conversation,
    read_turns,
)
from keylm.runtimes.generation import Message

Constraint = dict[str, Any]
Checker = Callable[[str, Sequence[Constraint]], Sequence[object]]
"""(answer, constraints) → those that it violates."""
Answers = Callable[[Sequence[list[Message]], int], list[str]]
"""(conversations, seed) → an answer to each; the same seed gives the same answers."""
PROMPTS = ("prompt", "question", "instruction", "query", "input", "messages", "conversations", "conversation")
"""Columns that a prompt is looked for in, in this order."""
HUMAN = re.compile(r"\s*Human: ")
TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")
"""Dialogues as text, in the form of Anthropic's hh-rlhf."""


class PreferencePair(TypedDict):
    """A row of pairs.jsonl that tuning can use."""

    line: int
    prompt: list[Message]
    chosen: str
    rejected: str
    violated: list[JsonValue]


@dataclass(frozen=True)
class PairRequest:
    """A line of a file: a question, a good answer, and either a rejected answer or constraints."""

    line: int
    """number over all files"""
    prompt: list[Message]
    chosen: str
    rejected: str | None
    constraints: list[Constraint]


@dataclass(frozen=True)
class Search:
    """How rejected answers are searched for."""

    tries: int = 4
    """answers to a question at most"""
    batch: int = 16
    """questions at once"""
    seed: int = 0


def default_checker() -> Checker:
    """Return keylm's own checker of verifiable instructions."""
    from keylm.instructions import violations  # opened where it is needed alone

    return violations


def read_requests(files: Sequence[Path]) -> Iterator[PairRequest | Fault]:
    """Yield each line of JSON-lines or parquet files and folders. Raises KeylmError for a missing one."""
    for number, (row, file, line) in enumerate(read_mappings(files)):
        yield from [row] if isinstance(row, Fault) else _request(row, file, line, number)


def read_mappings(files: Sequence[Path]) -> Iterator[tuple[Mapping[str, Any] | Fault, str, int]]:
    """Yield each record of files and folders, or what is wrong with it, with its file and line. Raises KeylmError."""
    for path in files:
        for record in FileRecords(path):
            row = row_of(record)
            if not isinstance(row, Mapping | Fault):
                row = Fault(record.file, record.line, "not_a_record", type(row).__name__)
            yield row, record.file, record.line


def asked_turns(row: Mapping[str, Any]) -> list[Message]:
    """Return a row's question in the first of PROMPTS that has one, else none. Raises TurnError."""
    return next((_plain(found) for column in PROMPTS if (found := asked_messages(row, column))), [])


def _request(row: Mapping[str, Any], file: str, line: int, number: int) -> Iterator[PairRequest | Fault]:
    """Yield what one line asks for, after what of it was left out; or what is wrong with it."""
    try:
        prompt = asked_turns(row)
        chosen, rejected, constraints = _whole(prompt, row, "chosen"), _whole(prompt, row, "rejected"), None
        if chosen is None:
            raise TurnError("no_chosen", f"accepted: a text, or messages that end with an answer; {value_types(row)}")
        if rejected is None:
            constraints = asked_constraints(row)
            if not constraints:
                raise TurnError("no_rejected_or_constraints", value_types(row))
        if rejected is not None and rejected[:-1] != chosen[:-1]:
            raise TurnError("prompts_differ", "accepted: chosen and rejected that differ in their last turn alone")
        asked, notices = whole_prompt(chosen[:-1], row)
    except TurnError as error:
        yield Fault(file, line, error.kind, error.detail)
        return
    yield from (Fault(file, line, notice.kind, notice.detail) for notice in notices)
    answer = None if rejected is None else rejected[-1]["content"]
    yield PairRequest(number, asked, chosen[-1]["content"], answer, constraints or [])


def asked_constraints(row: Mapping[str, Any]) -> list[Constraint]:
    """Return a row's constraints; none where the column holds something else."""
    found = row.get("constraints")
    return found if isinstance(found, list) and all(isinstance(one, dict) for one in found) else []


def whole_prompt(prompt: list[Message], row: Mapping[str, Any]) -> tuple[list[Message], list[TurnError]]:
    """Return a prompt with the row's system turn and history, and what is left out. Raises TurnError without any."""
    asked, notices = read_conversation(prompt, row)
    if not asked or asked[-1]["role"] != "user":
        raise TurnError("no_prompt", f"accepted: a text, or messages that end with a user's; {value_types(row)}")
    return asked, notices


def _whole(prompt: list[Message], row: Mapping[str, Any], column: str) -> list[Message] | None:
    """Return the prompt and the answer in a column, which may begin with the prompt; None where there is no answer."""
    value = row.get(column)
    if isinstance(value, str) and HUMAN.match(value):
        _, *parts = TRANSCRIPT.split(value.strip())
        value = [{"role": role.lower(), "content": text} for role, text in zip(parts[::2], parts[1::2], strict=True)]
    messages = as_messages(value, "assistant")
    if messages is None or (isinstance(value, str) and not value.strip()):
        return None
    turns = joined_turns(prompt, _plain(messages))
    return turns if turns[-1]["role"] == "assistant" else None


def _plain(messages: list[Any]) -> list[Message]:
    """Return messages as role and content alone: which turns carry loss is not the messages' to say here."""
    return [{"role": turn["role"], "content": turn["content"]} for turn in read_turns(messages)]


def _is_text(value: str) -> bool:
    return is_unicode(value) and bool(value.strip())


def make_pairs(
    requests: Sequence[PairRequest],
    out: Path,
    answers: Callable[[], Answers],
    checker: Callable[[], Checker],
    search: Search,
    *,
    quiet: bool = False,
) -> Counter[str]:
    """Write a pair, or why there is none, for each of `requests` that `out` (JSON lines) does not have yet.

    Rows are {"line", "prompt", "chosen", "rejected", "violated"} or {"line", "skipped": reason}. `answers` and
    `checker` are built only if they are needed. Return how many rows there are of "pairs" and of each reason.
    """
    known = {row["line"] for row in read_rows(out) if isinstance(row.get("line"), int)}
    left = [one for one in requests if one.line not in known]
    rows = JsonLines(out, _whole_lines(out))
    for one in left:
        if one.rejected is not None:
            rows.write(_row(one, one.rejected, []))
    to_sample = [one for one in left if one.rejected is None]
    if to_sample:
        sample, check, done = answers(), checker(), 0
        with Status("pairs", len(to_sample), quiet=quiet) as status:
            for start in range(0, len(to_sample), search.batch):
                part = to_sample[start : start + search.batch]
                found = _sampled(part, sample, check, search)
                for row in found:
                    rows.write(row)
                done += sum("rejected" in row for row in found)
                status.update(start + len(part), f"{done:,} pairs of {start + len(part):,} lines")
    rows.length()  # all on the disk
    rows.close()
    return Counter(row.get("skipped", "pairs") for row in read_rows(out))


def _sampled(part: Sequence[PairRequest], sample: Answers, check: Checker, search: Search) -> list[dict[str, Any]]:
    """Return a row for each line of a batch, in order."""
    rows: dict[int, dict[str, Any]] = {}
    for one in part:
        if check(one.chosen, one.constraints):
            rows[one.line] = {"line": one.line, "skipped": "chosen_violates"}
    for attempt in range(search.tries):
        open_ = [one for one in part if one.line not in rows]
        if not open_:
            break
        texts = sample([one.prompt for one in open_], search.seed + search.tries * open_[0].line + attempt)
        for one, text in zip(open_, texts, strict=True):
            violated = check(text, one.constraints) if _is_text(text) else []
            if violated:
                rows[one.line] = _row(one, text, violated)
    return [rows.get(one.line, {"line": one.line, "skipped": "no_violation_found"}) for one in part]


def _row(one: PairRequest, rejected: str, violated: Sequence[object]) -> dict[str, Any]:
    if rejected.strip() == one.chosen.strip():
        return {"line": one.line, "skipped": "same_answers"}
    return {
        "line": one.line,
        "prompt": one.prompt,
        "chosen": one.chosen,
        "rejected": rejected,
        "violated": json.loads(json.dumps(list(violated), default=str)),
    }


def read_pairs(file: Path) -> list[PreferencePair]:
    """Return the pairs among the rows of a file that `make_pairs` wrote, in the order of their lines."""
    rows = {row["line"]: cast(PreferencePair, row) for row in read_rows(file) if "rejected" in row}
    return [rows[line] for line in sorted(rows)]


def _whole_lines(file: Path) -> int:
    """Return the length of a file up to the end of its last whole line, in bytes."""
    return file.read_bytes().rfind(b"\n") + 1 if file.is_file() else 0
