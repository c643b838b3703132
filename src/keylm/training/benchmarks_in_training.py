"""Multiple-choice benchmarks measured on the model that is being trained.

Prompts, choices, their encoding and the figures are those of lm-evaluation-harness 0.4.13 without examples, except that
only the first items of a fixed permutation are used, and the context is that of training. Each prompt with one choice
is a document; documents are packed into windows and go through the model like those of validation.

Invariant: the items and their windows depend on recipe, files and tokenizer alone, so all measurements of a run, and
of runs with the same tokenizer, compare; nothing is random, so training continues as if there were no benchmarks.
Cost: one forward pass over each prompt and choice; 200 items of HellaSwag fill 36 windows of 2,048 tokens (measured).
"""

import contextlib
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from keylm.base.console import say
from keylm.base.errors import KeylmError
from keylm.base.files import parse_json
from keylm.curate.evaluation_items import SUFFIXES, open_lines, read_choices, without_marks
from keylm.data.curriculum import permute
from keylm.data.hub import HubRows
from keylm.data.readers import DAMAGE
from keylm.data.shards import Window
from keylm.recipe.benchmark_table import TRAINING, BenchmarkSpec, InTraining
from keylm.recipe.load import Recipe
from keylm.recipe.schema import Benchmark, Source, Training
from keylm.training.distributed import Ranks
from keylm.training.validation import TokenLosses, window_losses

Record = Mapping[str, Any]
Row = tuple[int, npt.NDArray[np.int64], int]
"""A prompt with one choice: the choice's number among all, the ids of both, how many of them are the choice's."""
Results = dict[str, dict[str, float]]
"""{benchmark: {"acc", "acc_norm": shares of right answers, "n": items}}"""


@dataclass(frozen=True)
class ChoiceItem:
    """A question: which of `choices` is the most likely after `prompt` and a space."""

    prompt: str
    choices: tuple[str, ...]
    gold: int
    """index into `choices`"""


class _Prompt(string.Formatter):
    """Format strings with one more conversion, `!c`: a field capitalised as the harness does."""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        """Return a field's value, converted."""
        return value.capitalize() if conversion == "c" else super().convert_field(value, conversion)

    def fields(self, text: str) -> list[str]:
        """Return the names of the fields in a format string."""
        return [field for _, field, _, _ in self.parse(text) if field]


def choice_item(record: Record, row: BenchmarkSpec) -> ChoiceItem:
    """Return the item of a benchmark's record; raises LookupError, ValueError, … for a record of another form."""
    assert row.item
    assert row.training
    prompt = _Prompt().vformat(row.training.prompt, (), record)
    choices, gold = read_choices(record, row.item)
    if gold is None or not all(isinstance(choice, str) for choice in choices):
        raise ValueError
    return ChoiceItem(without_marks(prompt) if row.item.marks else prompt, tuple(choices), gold)


def draw_items(recipe: Recipe, *, quiet: bool = False) -> dict[str, list[ChoiceItem]]:
    """Return the items of each of the recipe's benchmarks.

    They come from NAME/SPLIT.jsonl (or .jsonl.gz, .jsonl.zst) in `paths.evaluation` or its folder data, else from the
    hub. Raises KeylmError where they are in neither place, and for a record that is not an item.
    """
    return {name: _draw(name, recipe, quiet=quiet) for name in recipe.evaluation.benchmarks}


def _draw(name: Benchmark, recipe: Recipe, *, quiet: bool) -> list[ChoiceItem]:
    task, folder = _settings(name), recipe.paths.get("evaluation")
    file = None if folder is None else _find(Path(folder), name, task.split)
    read = _lines(file) if file is not None else _hub_rows(name, folder, quiet=quiet)
    records = list(read)
    if not records:
        raise KeylmError(f"evaluation.benchmarks: {file or task.hub}: no record; accepted: an item of {name} a line")
    count = min(recipe.evaluation.benchmark_items, len(records))
    return [_read(*records[permute(number, len(records), f"benchmark/{name}")], name) for number in range(count)]


def _settings(name: Benchmark) -> InTraining:
    task = TRAINING[name].training
    assert task
    return task


def _find(folder: Path, name: str, split: str) -> Path | None:
    """Return the file of a benchmark's split in `folder`, if there is one."""
    files = [place / name / f"{split}{suffix}" for place in (folder, folder / "data") for suffix in SUFFIXES]
    return next((file for file in files if file.is_file()), None)


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, record) of a file of JSON lines; record is None where a line is not JSON."""
    try:
        with open_lines(file) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    record = None
                    with contextlib.suppress(ValueError):
                        record = parse_json(line)
                    yield f"{file}, line {number}", record
    except DAMAGE as error:
        raise KeylmError(f"evaluation.benchmarks: {file}: cannot be read: {error}; accepted: JSON lines") from None


def _hub_rows(name: Benchmark, folder: str | None, *, quiet: bool) -> Iterator[tuple[str, Any]]:
    """Yield (where, record) of a benchmark's split on the hub."""
    task = _settings(name)
    say(f"bench  {name} is read from the hub ({task.hub})", quiet=quiet)
    try:
        for file, line, row in HubRows(name, Source(hub=task.hub, config=task.config, split=task.split)):
            yield f"{file}, row {line}", row
    except KeylmError as error:
        wanted = f"{name}/{task.split}.jsonl"
        absent = f"{folder} has no {wanted}" if folder else f"[paths] has no evaluation, a folder with {wanted}"
        raise KeylmError(f"evaluation.benchmarks: {absent}, and from the hub: {error}") from None


def _read(where: str, record: Any, name: Benchmark) -> ChoiceItem:
    """Return a record's item. Raises KeylmError where it is none."""
    try:
        return choice_item(record, TRAINING[name])
    except (AttributeError, LookupError, TypeError, ValueError):
        raise KeylmError(
            f"evaluation.benchmarks: {where}: not an item of {name} with its answer; accepted: records with "
            f"{', '.join(_columns(TRAINING[name]))}"
        ) from None


def _columns(row: BenchmarkSpec) -> list[str]:
    """Return the fields that a record must have."""
    assert row.item
    assert row.training
    return [*_Prompt().fields(row.training.prompt), *row.item.choices, str(row.item.gold)]


@dataclass(frozen=True)
class PackedWindow:
    """A window with several prompts and their choices."""

    window: Window
    choices: npt.NDArray[np.int64]
    """int64 [context]: which choice, numbered over all items, a label belongs to; -1: none"""


@dataclass(frozen=True)
class PackedItems:
    """The items of all benchmarks, ready for the model."""

    items: Mapping[str, Sequence[ChoiceItem]]
    windows: list[PackedWindow]


def pack_items(items: Mapping[str, Sequence[ChoiceItem]], tokenizer: Path, context: int) -> PackedItems:
    """Return items encoded with the tokenizer in a folder and packed, in their order, into windows of `context` tokens.

    Raises KeylmError where a choice has more tokens than a window: the harness could not measure it either.
    """
    encode = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    bins: list[list[Row]] = []
    room = number = 0
    for name, some in items.items():
        for item in some:
            for ids, scored in _encode(encode, item, context, name):
                if room < len(ids) - 1:  # the last token is only predicted
                    bins.append([])
                    room = context
                bins[-1].append((number, ids, scored))
                room, number = room - len(ids) + 1, number + 1
    return PackedItems(items, [_window(rows, context) for rows in bins])


def _encode(
    tokenizer: Tokenizer, item: ChoiceItem, context: int, name: str
) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """Yield the ids of the prompt with each choice, int64 [at most context + 1], and how many are the choice's.

    As in the harness (TemplateLM._encode_pair, HFLM._loglikelihood_tokens): spaces at the prompt's end go to the
    continuation, whose tokens are those of both together after as many as the prompt has alone; a prompt that is too
    long loses its beginning.
    """
    before = tokenizer.encode(item.prompt.rstrip(), add_special_tokens=False).ids
    texts = [f"{item.prompt} {choice}" for choice in item.choices]
    for text, both in zip(texts, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
        after = both.ids[len(before) :]
        if not (before and 0 < len(after) <= context):
            raise KeylmError(
                f"evaluation.benchmarks: {name}: an answer has {len(after)} tokens after a prompt of {len(before)}, "
                f"{text[-60:]!r}; accepted: 1 to training.context = {context}, after at least one"
            )
        yield np.array([*before, *after][-(context + 1) :], dtype=np.int64), len(after)


def _window(rows: Sequence[Row], context: int) -> PackedWindow:
    """Return a window of rows, each a document of its own; the padding is one as well."""
    tokens = np.zeros(context, dtype=np.uint16)
    labels, choices = (np.full(context, fill, dtype=np.int64) for fill in (-100, -1))
    documents = np.full(context, len(rows), dtype=np.int32)
    start = 0
    for document, (number, ids, scored) in enumerate(rows):
        end = start + len(ids) - 1
        tokens[start:end], documents[start:end] = ids[:-1], document
        labels[end - scored : end], choices[end - scored : end] = ids[-scored:], number
        start = end
    return PackedWindow(Window(tokens, labels, documents), choices)


@torch.no_grad()
def measure(losses: TokenLosses, packed: PackedItems, settings: Training, ranks: Ranks) -> Results:
    """Return the figures of each benchmark, the same on all ranks, which share the windows among them.

    Every rank computes the same number of micro-batches, all of one size, as in `validate`; documents are always
    hidden from each other, whatever the recipe says.
    """
    settings, size = settings.model_copy(update={"document_masks": True}), settings.micro_batch_windows
    nats = np.zeros(sum(len(item.choices) for some in packed.items.values() for item in some))
    for start in range(ranks.rank * size, len(packed.windows) + ranks.rank * size, ranks.world_size * size):
        some = packed.windows[start : start + size]
        found = window_losses(losses, [one.window for one in some], settings, ranks.device)
        for one, values in zip(some, found, strict=True):
            np.add.at(nats, one.choices[one.choices >= 0], values[one.choices >= 0])
    scores = iter(-ranks.sum(torch.from_numpy(nats)).numpy())
    return {
        name: _figures(some, [np.array([next(scores) for _ in item.choices]) for item in some])
        for name, some in packed.items.items()
    }


def _figures(items: Sequence[ChoiceItem], scores: Sequence[npt.NDArray[np.float64]]) -> dict[str, float]:
    """Return a benchmark's figures; scores: the log-likelihood of each choice, in nats, fp64 [choices] for each item.

    acc takes the most likely choice, acc_norm the one most likely per character.
    """
    right, right_by_length = 0, 0
    for item, likelihoods in zip(items, scores, strict=True):
        lengths = np.array([len(choice) for choice in item.choices])
        with np.errstate(divide="ignore"):  # an empty choice is the least likely per character
            by_length = likelihoods / lengths
        right += int(likelihoods.argmax()) == item.gold
        right_by_length += int(by_length.argmax()) == item.gold
    return {"acc": right / len(items), "acc_norm": right_by_length / len(items), "n": len(items)}
