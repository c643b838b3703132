"""Report which evaluation items a corpus holds: a table of sources and sets, and samples of what was found.

Usage: python scripts/contamination_report.py --eval PATH … --corpus PATH [--sample-mb N] [--out FILE]

`--eval` and `--corpus` take files or folders; of each file of the corpus, the first N million characters are read.
The table counts texts with a hit for each file, and items for each set; samples show the text of a match.

Invariant: the report depends on the files alone; which samples are shown is drawn with a fixed seed.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from keylm.data.curate.decontamination import Decontaminator, Match
from keylm.data.curate.evaluation_items import evaluation_files, open_lines
from keylm.errors import KeylmError

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
    arguments.add_argument("--out", type=Path, help="file to write the report to, instead of printing it")
    options = arguments.parse_args()
    started = time.perf_counter()
    decontaminator = Decontaminator.from_paths(options.eval)
    lines = [f"index ready after {time.perf_counter() - started:.1f} s", *items_table(decontaminator)]
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
    """Return what the first `characters` of a file hold; `seconds` are those of the search, not of the reading."""
    findings = Findings()
    for texts in batches(file, characters):
        started = time.perf_counter()
        verdicts = decontaminator.check_many(texts)
        findings.seconds += time.perf_counter() - started
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
    try:
        main()
    except KeylmError as error:
        sys.exit(f"contamination_report: {error}")
