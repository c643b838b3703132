"""Preference pairs: read from files, or built by sampling answers that a checker rejects.

A line is {"prompt", "chosen", "rejected"} or {"prompt", "chosen", "constraints"}; a prompt is a text or messages, an
answer a text or messages that end with it. For lines of the second kind the model itself answers until an answer
violates a constraint; that one is the rejected answer, so it is of the kind that tuning has to move away from.

Invariants: every line gives a pair or a reason that is counted; what is found is written batch by batch, so that a
killed command resumes with the remaining lines; a chosen answer that violates its own constraints is never used.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

from pydantic import JsonValue

from keylm.base.console import Status
from keylm.base.errors import KeylmError
from keylm.base.json_lines import JsonLines, read_rows
from keylm.data.documents import ROLES, Fault
from keylm.data.readers import FileRecords
from keylm.data.sources import row_of
from keylm.runtimes.generation import Message, check_unicode

Constraint = dict[str, Any]
Checker = Callable[[str, Sequence[Constraint]], Sequence[object]]
"""(answer, constraints) → those that it violates."""
Answers = Callable[[Sequence[list[Message]], int], list[str]]
"""(conversations, seed) → an answer to each; the same seed gives the same answers."""


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
    number = 0
    for path in files:
        for record in FileRecords(path):
            row = row_of(record)
            yield row if isinstance(row, Fault) else _request(row, record.file, record.line, number)
            number += 1


def _request(content: object, file: str, line: int, number: int) -> PairRequest | Fault:
    if not isinstance(content, Mapping):
        return Fault(file, line, "not_a_record", type(content).__name__)
    prompt, chosen = _messages(content.get("prompt")), _answer(content.get("chosen"))
    rejected, constraints = _answer(content.get("rejected")), content.get("constraints")
    if not prompt or prompt[-1]["role"] != "user":
        return Fault(file, line, "no_prompt", "accepted: a text, or messages that end with the user's")
    if chosen is None:
        return Fault(file, line, "no_chosen", "accepted: a text, or messages that end with the assistant's")
    if rejected is not None:
        return PairRequest(number, prompt, chosen, rejected, [])
    if isinstance(constraints, list) and constraints and all(isinstance(one, dict) for one in constraints):
        return PairRequest(number, prompt, chosen, None, constraints)
    return Fault(file, line, "no_rejected_or_constraints", f"keys: {list(content)[:8]!a}"[:200])


def _messages(value: object) -> list[Message]:
    """Return a prompt as messages; none where it is neither a text nor sound messages."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        return []
    messages = []
    for turn in value:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str) or not _is_text(content):
            return []
        messages.append({"role": role, "content": content})
    return messages


def _answer(value: object) -> str | None:
    """Return an answer's text, or None."""
    if isinstance(value, list) and value and isinstance(value[-1], dict) and value[-1].get("role") == "assistant":
        value = value[-1].get("content")
    return value if isinstance(value, str) and _is_text(value) else None


def _is_text(value: str) -> bool:
    try:
        check_unicode(value)
    except KeylmError:
        return False
    return bool(value.strip())


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
