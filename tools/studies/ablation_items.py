"""What the variants of an ablation are scored on: prefixes and continuations, as JSON lines.

    pip install textnoisr && pip install --no-deps multypo    # which would bring stanza, and with it CUDA
    python -m tools.studies.ablation_items RUN ITEMS.jsonl --corpus ../shared/corpus --evaluation ../shared/eval/data

RUN is a run folder with curated sources; the passages come from documents that training leaves out. Sets:

- `clean`, `fitted_05` … `fitted_20`: 240 characters, mistyped by our generator in that share of the words, and the
  160 characters after them, clean. `textnoisr`, `multypo`: the same with other makers' noise, in 2 % of the
  characters, in 10 % of the words.
- `git_clean`, `git_noisy`: sentences up to an error that somebody mended, without and with it, and what follows it.
- `correction`: `<|typo|>noisy<|fix|>`, and the clean passage.
- `hellaswag`, `arc_easy`, `arc_challenge`, `piqa`, `openbookqa`: a benchmark's question and its right answer.
"""

import json
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from multypo import MultiTypoGenerator
from textnoisr.noise import CharNoiseAugmenter

from keylm.data.curated import curated_recipe
from keylm.data.documents import Document, content_hash, document_texts, is_held_out
from keylm.data.sources import read_source
from keylm.recipe.run_folder import RunFolder
from keylm.recipe.schema import Typos
from keylm.typos.model import TypoModel
from tools.command import run_script, script_parser
from tools.records import read_records

SEED = 20261124
"""Of the noise; no recipe's."""
SOURCES = ("wikipedia", "us_gov", "short_fiction", "energy_forum", "reddit_comments", "self_dialogue")
PASSAGES, BENCHMARK_ITEMS = 250, 500
"""For each source; of each benchmark."""
BEFORE, AFTER = 240, 160
RATES = {"fitted_05": 0.05, "fitted_10": 0.1, "fitted_20": 0.2}

Item = dict[str, str]


def passages(run: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (number, prefix, continuation) from held-out documents, cut between words."""
    folder = RunFolder(run)
    recipe = curated_recipe(folder.saved_recipe(), folder.curated)
    for name in SOURCES:
        documents = (item for item in read_source(name, recipe.sources[name]) if isinstance(item, Document))
        held_out = (item for item in documents if is_held_out(content_hash(item), recipe.evaluation.holdout))
        texts = ("\n".join(document_texts(item)) for item in held_out)
        cut = (pair for text in texts for pair in islice(cuts(text), 8))
        for number, (prefix, continuation) in enumerate(islice(cut, PASSAGES)):
            yield number, prefix, continuation


def cuts(text: str) -> Iterator[tuple[str, str]]:
    """Yield a text's passages as (prefix, continuation); a continuation begins with a space and a letter."""
    for start in range(0, len(text) - BEFORE - AFTER, 2 * (BEFORE + AFTER)):
        middle, end = text.find(" ", start + BEFORE), text.find(" ", start + BEFORE + AFTER)
        if start < middle < end and text[middle + 1].isalpha():
            yield text[text.find(" ", start) + 1 : middle], text[middle:end]


def noisy_items(run: Path) -> Iterator[Item]:
    """Yield the sets made of passages."""
    model, uniform, keys = TypoModel(Typos()), CharNoiseAugmenter(0.02, seed=SEED), MultiTypoGenerator("english")
    random.seed(SEED)  # multypo draws from Python's own
    for number, prefix, continuation in passages(run):
        yield {"set": "clean", "prefix": prefix, "continuation": continuation}
        for name, rate in RATES.items():
            noisy = model.corrupt(prefix, SEED, number, 0, rate).text
            yield {"set": name, "prefix": noisy, "continuation": continuation}
            if name == "fitted_10":
                yield {"set": "correction", "prefix": f"<|typo|>{noisy}<|fix|>", "continuation": prefix}
        yield {"set": "textnoisr", "prefix": uniform.add_noise(prefix), "continuation": continuation}
        yield {"set": "multypo", "prefix": keys.insert_typos(prefix, 0.1), "continuation": continuation}


def mended_items(file: Path) -> Iterator[Item]:
    """Yield sentences that end in an error, and what follows it, from pairs of a noisy and a clean sentence."""
    for pair in read_records(file):
        noisy, clean = pair["noisy"], pair["clean"]
        same = next((n for n in range(len(clean)) if clean[len(clean) - n - 1 :] != noisy[len(noisy) - n - 1 :]), 0)
        start = clean.find(" ", len(clean) - same)
        continuation = clean[start:]
        if start >= 0 and len(continuation) >= 30:
            yield {"set": "git_clean", "prefix": clean[:start], "continuation": continuation}
            yield {"set": "git_noisy", "prefix": noisy[: len(noisy) - len(continuation)], "continuation": continuation}


def question(row: dict[str, Any]) -> tuple[str, str]:
    """Return question and right answer of an item as ARC and OpenBookQA have them."""
    texts, labels = row["choices"]["text"], row["choices"]["label"]
    answer = texts[labels.index(row["answerKey"])]
    if "question_stem" in row:
        return row["question_stem"], f" {answer}"
    return f"Question: {row['question']}\nAnswer:", f" {answer}"


BENCHMARKS: dict[str, tuple[str, Callable[[dict[str, Any]], tuple[str, str]]]] = {
    "hellaswag": ("validation", lambda row: (row["ctx"], f" {row['endings'][int(row['label'])]}")),
    "arc_easy": ("test", question),
    "arc_challenge": ("test", question),
    "piqa": (
        "validation",
        lambda row: (f"Question: {row['goal']}\nAnswer:", f" {row['sol2'] if int(row['label']) else row['sol1']}"),
    ),
    "openbookqa": ("test", question),
}


def answers(folder: Path) -> Iterator[Item]:
    """Yield a draw of the benchmarks' items, each with its right answer."""
    for name, (split, of) in BENCHMARKS.items():
        lines = (folder / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        for line in random.Random(SEED).sample(lines, min(BENCHMARK_ITEMS, len(lines))):
            prefix, continuation = of(json.loads(line))
            if continuation.strip():
                yield {"set": name, "prefix": prefix, "continuation": continuation}


def main() -> None:
    """Write the items from the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("items", type=Path)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    arguments = parser.parse_args()
    items = [*noisy_items(arguments.run), *mended_items(arguments.corpus / "typo/git_fixes.jsonl.zst")]
    items += answers(arguments.evaluation)
    arguments.items.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    print(f"{len(items):,} items in {arguments.items}")


if __name__ == "__main__":
    run_script(main)
