"""Report which evaluation items a corpus holds: a table of sources and sets, and samples of what was found.

Usage: python -m tools.studies.contamination_report --eval PATH … --corpus PATH [--sample-mb N] [--plant N] [--out FILE]

`--eval` and `--corpus` take files or folders; of each file of the corpus, the first N million characters are read.
The table counts texts with a hit for each file, and items for each set; samples show the text of a match. With
`--plant N` it is also tried how many of N items a set are found that are put into texts of the corpus: word for word,
and with one word in ten, but at least one, replaced by words of the corpus; with the right answer, and without it.

Invariant: the report depends on the files alone; which samples are shown is drawn with a fixed seed.
"""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from keylm.curate.decontamination import Decontaminator, Match
from keylm.curate.evaluation_index import MATCHABLE_WORDS
from keylm.curate.evaluation_items import EvaluationItem, evaluation_files, open_lines, read_items
from keylm.curate.evaluation_words import word_spans
from tools.command import run_script

BATCH = 256


@dataclass
class Findings:
    """What one file of a corpus holds."""

    texts: int = 0
    characters: int = 0
    seconds: float = 0.0
    hits: int = 0
    leaking: int = 0
    cells: Counter[tuple[str, str, bool]] = field(default_factory=Counter)
    """(set, how, whether the answer leaks): matches"""
    items: set[tuple[str, int]] = field(default_factory=set)
    samples: list[tuple[Match, str]] = field(default_factory=list)


def main() -> None:
    arguments = argparse.ArgumentParser(description="Report which evaluation items a corpus holds.")
    arguments.add_argument("--eval", type=Path, nargs="+", required=True, help="files or folders of evaluation items")
    arguments.add_argument("--corpus", type=Path, required=True, help="file or folder of texts or conversations")
    arguments.add_argument("--sample-mb", type=float, default=float("inf"), help="million characters of each file")
    arguments.add_argument("--samples", type=int, default=3, help="samples to show of each file and set")
    arguments.add_argument("--plant", type=int, default=0, help="items of each set to put into texts and look for")
    arguments.add_argument("--out", type=Path, help="file to write the report to, instead of printing it")
    options = arguments.parse_args()
    started = time.perf_counter()
    decontaminator = Decontaminator.from_paths(options.eval)
    lines = [f"index ready after {time.perf_counter() - started:.1f} s", *items_table(decontaminator)]
    if options.plant:
        lines += [
            "",
            *recall_table(decontaminator, options.eval, clean_texts(decontaminator, options.corpus), options.plant),
        ]
    findings = {}
    for file in evaluation_files(options.corpus):
        found = search(decontaminator, file, options.sample_mb * 1e6)
        if found.texts:
            findings[file.name if file == options.corpus else file.relative_to(options.corpus).as_posix()] = found
    lines += ["", *corpus_table(findings), "", *sets_table(findings), "", *samples(findings, options.samples)]
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        print("\n".join(lines))


def search(decontaminator: Decontaminator, file: Path, characters: float) -> Findings:
    """Return what the first `characters` of a file hold; `seconds` are processor time of the search alone."""
    findings = Findings()
    for texts in batches(file, characters):
        started = time.process_time()
        verdicts = decontaminator.check_many(texts)
        findings.seconds += time.process_time() - started
        findings.texts += len(texts)
        findings.characters += sum(map(len, texts))
        for text, verdict in zip(texts, verdicts, strict=True):
            findings.hits += verdict.hit
            findings.leaking += any(match.answer_leaks for match in verdict.matches)
            findings.cells.update((match.set, match.how, match.answer_leaks) for match in verdict.matches)
            findings.items.update((match.set, match.item) for match in verdict.matches)
            findings.samples += [(match, shown(text, match)) for match in verdict.matches]
    return findings


def batches(file: Path, characters: float) -> Iterator[list[str]]:
    """Yield the texts of a file, BATCH at a time, until they have `characters`; a conversation is one text."""
    batch: list[str] = []
    read = 0
    with open_lines(file) as lines:
        for line in lines:
            record = json.loads(line) if line.strip() else {}
            text = record.get("text") or "\n".join(message["content"] for message in record.get("messages", ()))
            batch += [text] if text else []
            read += len(text)
            if len(batch) == BATCH:
                yield batch
                batch = []
            if read >= characters:
                break
    if batch:
        yield batch


def clean_texts(decontaminator: Decontaminator, corpus: Path, count: int = 80) -> list[str]:
    """Return beginnings, of 3,000 … 20,000 characters, of texts that hold no item, spread over the corpus's files."""
    files = evaluation_files(corpus)
    most = -(-count // len(files))
    clean = []
    for file in files:
        texts = (text[:20_000] for batch in batches(file, 1e6) for text in batch if len(text) >= 3_000)
        clean += list(islice((text for text in texts if not decontaminator.check(text).hit), most))
    return clean


def recall_table(decontaminator: Decontaminator, paths: list[Path], carriers: list[str], count: int) -> list[str]:
    choice = random.Random(3)
    vocabulary = [word for carrier in carriers for word in carrier.split()]
    head = "| set | with the answer | changed | the question alone | changed |"
    lines = [head, "| --- | --: | --: | --: | --: |"]
    for name, items in read_items(paths).items():
        drawn = choice.sample(list(enumerate(items)), min(4 * count, len(items)))
        cells = []
        for planted in (written_out, lambda item: "" if item.inside else item.stem):
            tried = [(n, planted(item)) for n, item in drawn if len(word_spans(planted(item))) >= MATCHABLE_WORDS]
            for share in (0.0, 0.1):
                texts = [plant(text, share, vocabulary, carriers, choice) for _, text in tried[:count]]
                verdicts = zip(tried, decontaminator.check_many(texts), strict=False)
                found = sum(any((m.set, m.item) == (name, n) for m in verdict.matches) for (n, _), verdict in verdicts)
                cells.append(f"{found} of {len(texts)}" if texts else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def written_out(item: EvaluationItem) -> str:
    """Return an item as a text would hold it: the question, the right answer, and what follows that."""
    space = "" if item.inside and item.stem[-1:] in " \"'(" else " "
    return f"{item.stem}{space}{item.answer}{item.tail}"


def plant(text: str, share: float, vocabulary: list[str], carriers: list[str], choice: random.Random) -> str:
    """Return one of `carriers` with `text` in it, of whose words `share` (but at least one, unless 0) are replaced."""
    words = text.split()
    for place in choice.sample(range(len(words)), max(1, round(len(words) * share)) if share else 0):
        words[place] = choice.choice(vocabulary)
    around = choice.choice(carriers).split(" ")
    place = choice.randrange(len(around) + 1)
    return " ".join([*around[:place], "\n", *words, "\n", *around[place:]])


def shown(text: str, match: Match) -> str:
    return " ".join(text[max(0, match.start - 40) : min(match.end, match.start + 200) + 60].split())


def items_table(decontaminator: Decontaminator) -> list[str]:
    rows = [
        f"| {name} | {items:,} | {decontaminator.matchable[name]:,} | {decontaminator.matchable[name] / items:.1%} |"
        for name, items in decontaminator.sets.items()
    ]
    return ["", "| set | items | matchable | share |", "| --- | --: | --: | --: |", *rows]


def corpus_table(findings: dict[str, Findings]) -> list[str]:
    rows = []
    for name, found in findings.items():
        sets = Counter(kind for kind, _ in found.items)
        speed = found.characters / found.seconds / 1e6
        rows.append(
            f"| {name} | {found.texts:,} | {found.characters / 1e6:.1f} | {found.hits} | {found.leaking} | "
            f"{', '.join(f'{kind} {count}' for kind, count in sorted(sets.items()))} | {speed:.1f} |"
        )
    texts, hits = sum(found.texts for found in findings.values()), sum(found.hits for found in findings.values())
    characters, seconds = (sum(getattr(found, key) for found in findings.values()) for key in ("characters", "seconds"))
    leaking = sum(found.leaking for found in findings.values())
    rows.append(
        f"| all | {texts:,} | {characters / 1e6:.1f} | {hits} | {leaking} | | {characters / seconds / 1e6:.1f} |"
    )
    head = "| file | texts | million characters | texts hit | with the answer | items of sets | million characters/s |"
    return [head, "| --- | --: | --: | --: | --: | --- | --: |", *rows]


def sets_table(findings: dict[str, Findings]) -> list[str]:
    cells: Counter[tuple[str, str, bool]] = sum((found.cells for found in findings.values()), Counter())
    items = set().union(*(found.items for found in findings.values())) if findings else set()
    rows = []
    for name in sorted({name for name, _, _ in cells}):
        counts = [cells[name, how, True] + cells[name, how, False] for how in ("whole", "ngram", "fuzzy")]
        leaking = sum(count for (kind, _, leaks), count in cells.items() if kind == name and leaks)
        different = sum(kind == name for kind, _ in items)
        rows.append(f"| {name} | {different} | {' | '.join(map(str, counts))} | {leaking} |")
    head = "| set | different items | matches: whole | n-gram | fuzzy | of all, with the answer |"
    return [head, "| --- | --: | --: | --: | --: | --: |", *rows]


def samples(findings: dict[str, Findings], most: int) -> list[str]:
    lines = []
    choice = random.Random(0)
    for name, found in findings.items():
        for kind in sorted({match.set for match, _ in found.samples}):
            of_set = [sample for sample in found.samples if sample[0].set == kind]
            for match, text in choice.sample(of_set, min(most, len(of_set))):
                lines.append(f"- {name}: {match}: …{text}…")
    return lines


if __name__ == "__main__":
    run_script(main)
