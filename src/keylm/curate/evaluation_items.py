"""Evaluation items: what one line of a benchmark's file asks, and which answer is right.

Invariant: every line of every file named becomes an item or stops the reading with its file and line; an item that
was skipped in silence would be one that no training text is checked against.

The kind of benchmark is told from a record's fields, so it does not matter what a user's copy is called:
- HellaSwag: `ctx` and the right one of `endings`, without WikiHow's marks such as "[step]";
- PIQA: `goal` and the right one of `sol1`, `sol2`;
- WinoGrande: `sentence` with the right option in place of "_";
- BLiMP: `sentence_good` (`sentence_bad` differs from it in a word or two);
- BoolQ: `question` alone. Its `passage` is an ordinary paragraph of Wikipedia, which says nothing of the question;
- IFEval: `prompt`, which has no right answer;
- SciQ: `question` and `correct_answer`;
- MMLU, ARC, OpenBookQA, CommonsenseQA: the question and the right one of `choices`;
- LAMBADA: `text`, of which the last word is the answer;
- other sets: `question` or `prompt`, with `answer` if it is a string.
"""

import gzip
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from keylm.base.errors import KeylmError
from keylm.data.readers import DAMAGE, ZstdReader

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
PLAIN_NAMES = {"test", "tests", "validation", "valid", "val", "dev", "train", "data", "eval", "questions", "main"}
"""Names of files and folders that say which split they are and not which set."""
WIKIHOW_MARK = re.compile(r"\[\w+\]")


@dataclass(frozen=True)
class EvaluationItem:
    """One question of an evaluation set: `stem`, then one of `choices`, then `tail`."""

    stem: str
    choices: tuple[str, ...] = ()
    gold: int | None = None
    """index into `choices`; None where there is no right answer"""
    tail: str = ""
    inside: bool = False
    """whether the answer is a part of the running text (WinoGrande, LAMBADA)"""

    @property
    def answer(self) -> str:
        """The right choice, or nothing."""
        return "" if self.gold is None else self.choices[self.gold]


def read_items(paths: Sequence[Path]) -> dict[str, list[EvaluationItem]]:
    """Return the items of files and folders (.jsonl, .jsonl.gz, .jsonl.zst) by set, in the order of file names.

    A set is named after the first sub-folder or file whose name says more than "test" or "validation"; where none
    does, after the folder it lies in. Raises KeylmError for a path without such a file, a file that is damaged or holds
    no item, and a line that is none.
    """
    sets: dict[str, list[EvaluationItem]] = {}
    for path in paths:
        for file in evaluation_files(path):
            items = list(_read_file(file))
            if not items:
                raise KeylmError(f"{file}: no evaluation item; accepted: a record a line (delete it if it has no use)")
            sets.setdefault(_set_name(path, file), []).extend(items)
    if not sets:
        raise KeylmError(
            f"no path given: no evaluation item; accepted: {', '.join(SUFFIXES)} files, or folders of them"
        )
    return sets


def evaluation_files(path: Path) -> list[Path]:
    """Return `path`, or the files below it in the order of their names; raises KeylmError where there is none."""
    files = [file for file in _files(path) if file.name.endswith(SUFFIXES)]
    if not files:
        raise KeylmError(f"{path}: no evaluation file; accepted: {', '.join(SUFFIXES)}, or a folder of such files")
    return files


def unread_files(path: Path) -> list[str]:
    """Return the names of the files below `path` that are no evaluation files, and so protect nothing."""
    return [file.relative_to(path).as_posix() for file in _files(path) if not file.name.endswith(SUFFIXES)]


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _set_name(path: Path, file: Path) -> str:
    stem = file.name.split(".jsonl")[0]
    parts = [*file.relative_to(path).parts[:-1], stem] if path.is_dir() else [stem]
    home = path.resolve() if path.is_dir() else file.resolve().parent
    return next((part for part in parts if part.lower() not in PLAIN_NAMES), home.name)


def _read_file(file: Path) -> Iterator[EvaluationItem]:
    try:
        with open_lines(file) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _read_line(line, file, number)
    except DAMAGE as error:
        raise KeylmError(f"{file}: not a readable evaluation file: {error}") from None


def open_lines(file: Path) -> IO[str]:
    """Open a file for reading lines of UTF-8: gzip or zstandard by its ending. A stream cut short raises EOFError."""
    if file.name.endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8-sig")
    if file.name.endswith(".zst"):
        return io.TextIOWrapper(io.BufferedReader(ZstdReader(file), 1 << 16), encoding="utf-8-sig")
    return file.open(encoding="utf-8-sig")


def _read_line(line: str, file: Path, number: int) -> EvaluationItem:
    try:
        return _item(json.loads(line))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise KeylmError(
            f"{file}, line {number}: not an evaluation item; accepted: records of ARC, BLiMP, BoolQ, CommonsenseQA, "
            "HellaSwag, IFEval, LAMBADA, MMLU, OpenBookQA, PIQA, SciQ and WinoGrande, or with `question`, `prompt` "
            "or `text`"
        ) from None


def _item(record: Mapping[str, Any]) -> EvaluationItem:
    """Return what a record asks; raises ValueError, LookupError, TypeError or AttributeError for anything else."""
    if "sentence_good" in record:
        return _checked(record["sentence_good"])
    if "endings" in record:
        context = WIKIHOW_MARK.sub(" ", record["ctx"])
        return _checked(context, [WIKIHOW_MARK.sub(" ", ending) for ending in record["endings"]], record["label"])
    if "goal" in record:
        return _checked(record["goal"], [record["sol1"], record["sol2"]], record["label"])
    if "option1" in record:
        before, _, after = record["sentence"].partition("_")
        gold = {"1": 0, "2": 1}.get(str(record["answer"]))
        return EvaluationItem(before, (record["option1"], record["option2"]), gold, after, inside=True)
    if "passage" in record:
        return _checked(record["question"])
    if "correct_answer" in record:
        wrong = [record[name] for name in ("distractor1", "distractor2", "distractor3") if record.get(name)]
        return _checked(record["question"], [record["correct_answer"], *wrong], 0)
    if "choices" in record or isinstance(record.get("question"), Mapping):
        return _multiple_choice(record)
    if "question" in record or "prompt" in record:
        answer = record.get("answer")
        stem = record["question"] if "question" in record else record["prompt"]
        return _checked(stem, [answer], 0) if isinstance(answer, str) else _checked(stem)
    before, _, last = record["text"].strip().rpartition(" ")
    return EvaluationItem(before, (last,), 0, inside=True)


def _multiple_choice(record: Mapping[str, Any]) -> EvaluationItem:
    """Return the item of a record whose choices are strings, {"text", "label"} lists, or {"text", "label"} pairs."""
    question = record.get("question", record.get("question_stem"))
    stem = question["stem"] if isinstance(question, Mapping) else question
    choices = question["choices"] if isinstance(question, Mapping) else record["choices"]
    if isinstance(choices, Mapping):
        choices = [
            {"text": text, "label": label} for text, label in zip(choices["text"], choices["label"], strict=True)
        ]
    if all(isinstance(choice, str) for choice in choices):
        return _checked(stem, choices, record.get("answer"))
    labels = [choice["label"] for choice in choices]
    key = record.get("answerKey")
    return _checked(stem, [choice["text"] for choice in choices], labels.index(key) if key else None)


def _checked(stem: str, choices: Sequence[str] = (), gold: object = None) -> EvaluationItem:
    """Return an item of `stem` and `choices`; `gold` is an index, a letter, or nothing."""
    if not isinstance(stem, str) or not stem.strip() or not all(isinstance(choice, str) for choice in choices):
        raise ValueError
    if gold is None or gold in ("", -1, "-1"):  # the labels of test splits that are kept back
        return EvaluationItem(stem, tuple(choices))
    index = "ABCDEFGHIJ".index(gold) if isinstance(gold, str) and gold.isalpha() else int(str(gold))
    if not 0 <= index < len(choices):
        raise ValueError
    return EvaluationItem(stem, tuple(choices), index)
