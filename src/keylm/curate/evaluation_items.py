"""Evaluation items: the question in one line of a benchmark's file, and which answer is right.

Invariant: every line of every given file becomes an item, or reading stops with its file and line: an item skipped
silently would be one that no training text is checked against.

A record's fields decide how it is read, so the name of a user's copy does not matter: as the row of
recipe/benchmarks.toml says whose `known_by` field it has (HellaSwag, PIQA, WinoGrande, BLiMP, SciQ, BoolQ), else in one
of the common forms: a question and the right one of `choices` (MMLU, ARC, OpenBookQA, CommonsenseQA); `question` or
`prompt`, with `answer` if it is a string (IFEval); `text`, whose last word is the answer (LAMBADA).
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from keylm.base.errors import KeylmError
from keylm.base.files import parse_json, visible_files
from keylm.base.packed import open_packed
from keylm.data.readers import DAMAGE
from keylm.recipe.benchmark_table import BENCHMARKS, ItemFields, titles

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
PLAIN_NAMES = {"test", "tests", "validation", "valid", "val", "dev", "train", "data", "eval", "questions", "main"}
"""File and folder names that say which split they are, not which set."""
WIKIHOW_MARK = re.compile(r"\[.*?\]")
"""As in lm_eval's task hellaswag; of 50,210 texts of its validation split, 12 have other words in brackets."""


@dataclass(frozen=True)
class EvaluationItem:
    """One question of an evaluation set: `stem`, then one of `choices`, then `tail`."""

    stem: str
    choices: tuple[str, ...] = ()
    gold: int | None = None
    """index into `choices`; None where there is no right answer"""
    tail: str = ""
    inside: bool = False
    """whether the answer is part of the running text (WinoGrande, LAMBADA)"""

    @property
    def answer(self) -> str:
        """The right choice, or nothing."""
        return "" if self.gold is None else self.choices[self.gold]


def read_items(paths: Sequence[Path]) -> dict[str, list[EvaluationItem]]:
    """Return the items of files and folders (.jsonl, .jsonl.gz, .jsonl.zst) by set, in the order of file names.

    A set is named after the first sub-folder or file whose name says more than "test" or "validation", else after its
    folder. Raises KeylmError for a path without such a file, a damaged or empty file, and a line that is no item.
    """
    sets: dict[str, list[EvaluationItem]] = {}
    for path in paths:
        for file in evaluation_files(path):
            items = list(_read_file(file))
            if not items:
                raise KeylmError(f"{file}: no evaluation item; accepted: a record a line (delete it if it has no use)")
            sets.setdefault(_set_name(path, file), []).extend(items)
    if not sets:
        raise KeylmError(f"no path of evaluation items; accepted: {', '.join(SUFFIXES)} files, or folders of them")
    return sets


def evaluation_files(path: Path) -> list[Path]:
    """Return `path`, or the files below it in the order of their names; raises KeylmError where there is none."""
    files = [file for file in _files(path) if file.name.endswith(SUFFIXES)]
    if not files:
        raise KeylmError(f"{path}: no evaluation file; accepted: {', '.join(SUFFIXES)}, or a folder of such files")
    return files


def unread_files(path: Path) -> list[str]:
    """Return the names of the files below `path` that are not evaluation files and so protect nothing."""
    return [file.relative_to(path).as_posix() for file in _files(path) if not file.name.endswith(SUFFIXES)]


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else visible_files(path)


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
    return io.TextIOWrapper(open_packed(file), encoding="utf-8-sig")


def _read_line(line: str, file: Path, number: int) -> EvaluationItem:
    try:
        return _item(parse_json(line))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise KeylmError(
            f"{file}, line {number}: not an evaluation item; accepted: records of {titles()}, or with `question`, "
            "`prompt` or `text`"
        ) from None


def _item(record: Mapping[str, Any]) -> EvaluationItem:
    """Return a record's item; raises ValueError, LookupError, TypeError or AttributeError for anything else."""
    for known_by, fields in ITEM_FIELDS.items():
        if known_by in record:
            return read_item(record, fields)
    if "choices" in record or isinstance(record.get("question"), Mapping):
        return _multiple_choice(record)
    if "question" in record or "prompt" in record:
        answer = record.get("answer")
        stem = record["question"] if "question" in record else record["prompt"]
        return _checked(stem, [answer], 0) if isinstance(answer, str) else _checked(stem)
    before, _, last = record["text"].strip().rpartition(" ")
    return EvaluationItem(before, (last,), 0, inside=True)


ITEM_FIELDS = {row.item.known_by: row.item for row in BENCHMARKS.values() if row.item and row.item.known_by}


def read_item(record: Mapping[str, Any], fields: ItemFields) -> EvaluationItem:
    """Return the item of a record that has `fields`; raises what `_item` raises where it does not."""
    stem = record[fields.stem]
    choices, gold = read_choices(record, fields)
    if fields.blank:
        before, _, after = stem.partition(fields.blank)
        return EvaluationItem(before, tuple(choices), gold, after, inside=True)
    return _checked(without_marks(stem) if fields.marks else stem, choices, gold)


def read_choices(record: Mapping[str, Any], fields: ItemFields) -> tuple[list[str], int | None]:
    """Return a record's choices and the index of the right one, None where it is withheld; raises what `_item` does."""
    if isinstance(fields.gold, int):
        plain = [record[name] for place, name in enumerate(fields.choices) if not place or record.get(name)]
    elif len(fields.choices) == 1:
        plain = _labelled(record[fields.choices[0]])
    else:
        plain = [record[name] for name in fields.choices]
    gold = record[fields.gold] if isinstance(fields.gold, str) else fields.gold
    texts = [choice if isinstance(choice, str) else choice["text"] for choice in plain]
    if any(text is not choice for text, choice in zip(texts, plain, strict=True)):
        gold = [choice["label"] for choice in plain].index(gold) if gold else None
    texts = [without_marks(text) for text in texts] if fields.marks else texts
    return texts, _index(gold, fields.gold_from, len(texts))


def _labelled(choices: Any) -> list[Any]:
    """Return a field of choices as a list of strings, or of {"text", "label"}."""
    if isinstance(choices, Mapping):
        return [{"text": text, "label": label} for text, label in zip(choices["text"], choices["label"], strict=True)]
    return list(choices)


def without_marks(text: str) -> str:
    """Return a text of HellaSwag without WikiHow's marks such as "[step]", exactly as the harness removes them."""
    return WIKIHOW_MARK.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _multiple_choice(record: Mapping[str, Any]) -> EvaluationItem:
    """Return the item of a record whose choices are strings, {"text", "label"} lists, or {"text", "label"} pairs."""
    stem = record.get("question", record.get("question_stem"))
    if isinstance(stem, Mapping):
        record, stem = {**record, "choices": stem["choices"]}, stem["stem"]
    plain = all(isinstance(choice, str) for choice in _labelled(record["choices"]))
    gold = "answer" if plain else "answerKey"
    return _checked(stem, *read_choices(record, COMMON_FIELDS[gold if gold in record else None]))


COMMON_FIELDS = {
    gold: ItemFields(stem="question", choices=("choices",), gold=gold) for gold in ("answer", "answerKey", None)
}


def _checked(stem: object, choices: Sequence[str] = (), gold: int | None = None) -> EvaluationItem:
    """Return an item of `stem` and `choices`. Raises ValueError where they are no texts."""
    if not isinstance(stem, str) or not stem.strip() or not all(isinstance(choice, str) for choice in choices):
        raise ValueError
    return EvaluationItem(stem, tuple(choices), gold)


def _index(gold: object, first: int, count: int) -> int | None:
    """Return the index that `gold` stands for: a number that counts from `first`, a letter, or nothing."""
    if gold is None or gold in ("", -1, "-1"):  # the labels of test splits that are withheld
        return None
    index = "ABCDEFGHIJ".index(gold) if isinstance(gold, str) and gold.isalpha() else int(str(gold)) - first
    if not 0 <= index < count:
        raise ValueError
    return index
