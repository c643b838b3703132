"""`keylm data instructions`: files of instruction data from a folder of documents, with a manifest of its inputs.

    OUT/verifiable.jsonl.zst    {"messages", "source", "constraints", "kind", "from"}: constraints that a program checks
    OUT/everyday.jsonl.zst      the same without constraints: facts, words, typo fixing, rewriting, small talk
    OUT/preferences.jsonl.zst   {"prompt", "chosen", "constraints"}; with minimal violations also "rejected"
    OUT/prompts.jsonl.zst       {"prompt", "constraints"}: no answers, for reinforcement learning
    OUT/evaluation.jsonl.zst    items from held-out documents, and of held-out types (held_out_items.py)
    OUT/manifest.json           settings, fingerprints of tables and code, sources with licences and hashes, counts

Invariant: the folder appears whole or not at all; the same corpus, settings and version of keylm give the same files
whatever the number of workers, without exact duplicates or given benchmark items. Cost: 1 to 2 ms a pair and core.
"""

import hashlib
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import zstandard

import keylm
from keylm.base.console import Status, say
from keylm.base.errors import KeylmError
from keylm.base.files import atomic_folder, read_json, read_table, sha256_file, sweep_ended, visible_files, write_json
from keylm.base.shapes import check, json_object, list_of
from keylm.curate.decontamination import Decontaminator
from keylm.data.documents import Document, Fault, content_hash, is_held_out
from keylm.data.sources import read_source
from keylm.data.workers import prepare_worker
from keylm.instructions import held_out_items
from keylm.instructions.checks import HELD_OUT, TRAINED
from keylm.instructions.document_tasks import SourceText
from keylm.instructions.generator import GeneratorSettings, PairGenerator
from keylm.instructions.tables import fingerprint, phrase_tables
from keylm.recipe.schema import Source, Typos
from keylm.text.sentences import fewest_words
from keylm.typos.model import TypoModel

_SOURCES = phrase_tables().sources
BLOCK = 250
LICENCES = list_of(json_object("path licence licence_status", path=str, licence=str, licence_status=str))
"""corpus.json beside the documents."""
VERSION = 2
"""Of the records: goes up when the same input gives other ones."""


@dataclass(frozen=True)
class InstructionPlan:
    """How many records of each kind to write, and from what."""

    corpus: Path
    count: int = 200_000
    """conversations in verifiable and everyday together"""
    everyday: float = 0.4
    """share of them without constraints"""
    preferences: int = 0
    rejected: bool = False
    """whether these come with a minimal violation; else a model's own violating answers are to be found"""
    prompts: int = 0
    """prompts with constraints and without an answer"""
    evaluation: int = 200
    """items of each set"""
    settings: GeneratorSettings = field(default_factory=GeneratorSettings)
    open_only: bool = False
    """leave out files whose licence is not stated"""
    decontaminate: tuple[Path, ...] = ()
    """files and folders of benchmark items, none of which may be in a training record"""

    def parts(self) -> dict[str, int]:
        """Return how many lines each file is to have."""
        plain = round(self.count * self.everyday)
        wanted = {"verifiable": self.count - plain, "everyday": plain, "preferences": self.preferences}
        wanted["prompts"] = self.prompts
        return {**wanted, "evaluation": self.evaluation * len(held_out_items.SETS)}


@dataclass(frozen=True)
class CorpusFile:
    """A file of documents."""

    name: str
    path: Path
    licence: str
    status: str


def write_instructions(out: Path, plan: InstructionPlan, *, workers: int = 1, quiet: bool = False) -> dict[str, Any]:
    """Write all files of a plan to the folder `out`; return the manifest.

    Raises KeylmError where the corpus has none of the files, `out` holds something else, or there are no items in
    `plan.decontaminate`.
    """
    corpus_files = find_corpus_files(plan)
    searched = Decontaminator.from_paths(plan.decontaminate) if plan.decontaminate else None
    if out.exists() and not (out / "manifest.json").is_file() and any(out.iterdir()):
        raise KeylmError(f"{out}: holds something else; accepted: a new folder, or one that this command wrote")
    counts: dict[str, Any] = {}
    sweep_ended(out.parent, out.name)
    with atomic_folder(out) as folder, _BlockPool(plan, corpus_files, workers) as pool:
        for part, wanted in plan.parts().items():
            if wanted:
                trained = searched if part != "evaluation" else None
                counts[part] = _write_part(folder / f"{part}.jsonl.zst", part, wanted, pool, trained, quiet=quiet)
        for part, tally in counts.items():
            tally["sha256"] = sha256_file(folder / f"{part}.jsonl.zst")
        manifest = _manifest(plan, corpus_files, pool.faults(), searched, counts)
        write_json(folder / "manifest.json", manifest)
    return manifest


def _manifest(
    plan: InstructionPlan,
    corpus_files: Sequence[CorpusFile],
    faults: Mapping[str, dict[str, int]],
    searched: Decontaminator | None,
    counts: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    return {
        "format": VERSION,
        "keylm": keylm.__version__,
        "fingerprints": {"instructions": fingerprint(), "typos": TypoModel(Typos()).fingerprint()},
        "settings": {
            **asdict(plan.settings),
            "everyday": plan.everyday,
            "rejected": plan.rejected,
            "open_only": plan.open_only,
            "decontaminate": searched.fingerprint() if searched else None,
        },
        "sources": [
            {"name": file.name, "file": file.path.name, "licence": file.licence, "status": file.status}
            | {"sha256": sha256_file(file.path)}
            | ({"faults": faults[file.name]} if file.name in faults else {})
            for file in corpus_files
        ],
        "own_text": "Apache-2.0 (templates and phrasings of keylm)",
        "constraint_types": {"trained": TRAINED, "held_out": HELD_OUT},
        "files": {f"{part}.jsonl.zst": tally for part, tally in counts.items()},
    }


def find_corpus_files(plan: InstructionPlan) -> list[CorpusFile]:
    """Return the corpus's files that can be used, in a fixed order. Raises KeylmError where there is none."""
    if not plan.corpus.is_dir():
        raise KeylmError(f"{plan.corpus}: no folder; accepted: a folder with files such as wikipedia.jsonl.zst")
    listed = {}
    if (plan.corpus / "corpus.json").is_file():
        rows = read_json(plan.corpus / "corpus.json")
        check(LICENCES, rows, str(plan.corpus / "corpus.json"))
        listed = {row["path"]: (row["licence"], row["licence_status"]) for row in rows}
    found = []
    for name in _SOURCES.files:
        for path in visible_files(plan.corpus, f"{name}.jsonl*")[:1]:
            licence, status = listed.get(path.relative_to(plan.corpus).as_posix(), ("unstated", "unstated"))
            if status == "open" or not plan.open_only:
                found.append(CorpusFile(name, path, licence, status))
    if not found:
        raise KeylmError(
            f"{plan.corpus}: none of the files that instructions are made from; accepted: "
            f"{', '.join(f'{name}.jsonl' for name in _SOURCES.files)} "
            "(.zst, .gz; with --open-only those with an open licence)"
        )
    return found


def read_documents(
    corpus_files: Sequence[CorpusFile],
    faults: dict[str, dict[str, int]] | None = None,
) -> tuple[dict[str, list[SourceText]], dict[str, list[SourceText]]]:
    """Return the documents of each file: those for training, and those held out by the hash of their content.

    What is no document is counted in `faults`, by file and kind.
    """
    kept: dict[str, list[SourceText]] = {}
    held: dict[str, list[SourceText]] = {}
    for file in corpus_files:
        for item in read_source(file.name, Source(path=str(file.path))):
            if isinstance(item, Fault) and faults is not None:
                counted = faults.setdefault(file.name, {})
                counted[item.kind] = counted.get(item.kind, 0) + 1
            text = _text(file.name, item) if isinstance(item, Document) else None
            if text is not None and isinstance(item, Document):
                side = held if is_held_out(content_hash(item), _SOURCES.held_out) else kept
                side.setdefault(file.name, []).append(text)
    return kept, held


def _text(name: str, document: Document) -> SourceText | None:
    """Return a document as the makers of tasks read it; None for a conversation of more than two turns."""
    if document.text is not None:
        return SourceText(name, document.text)
    if [turn["role"] for turn in document.messages] != ["user", "assistant"]:
        return None
    return SourceText(name, "\0".join(turn["content"] for turn in document.messages))


class _BlockGenerator:
    """Generates blocks of records; one in each worker process."""

    def __init__(self, plan: InstructionPlan, corpus_files: Sequence[CorpusFile]) -> None:
        self.faults: dict[str, dict[str, int]] = {}
        kept, held = read_documents(corpus_files, self.faults)
        self._kept, self._held = PairGenerator(kept, plan.settings), PairGenerator(held or kept, plan.settings)
        self._items, self._rejected = plan.evaluation, plan.rejected

    def lines(self, part: str, start: int) -> list[dict[str, Any]]:
        """Return the records of a part from index `start` on."""
        indices = range(start, start + BLOCK)
        match part:
            case "verifiable":
                return [self._kept.verifiable(index).record() for index in indices]
            case "everyday":
                return [self._kept.everyday(index).record() for index in indices]
            case "preferences":
                return [self._preference(index) for index in indices]
            case "prompts":
                return [self._kept.prompt(index) for index in indices]
        end = self._items * len(held_out_items.SETS)
        return [
            held_out_items.item(self._held, held_out_items.SETS[index // self._items], index % self._items)
            for index in indices
            if index < end
        ]

    def _preference(self, index: int) -> dict[str, Any]:
        record = self._kept.preference(index)
        return record if self._rejected else {key: value for key, value in record.items() if key != "rejected"}


_generator: _BlockGenerator | None = None
"""of a worker process"""


def _start_worker(parent: int, plan: InstructionPlan, corpus_files: Sequence[CorpusFile]) -> None:
    global _generator
    prepare_worker(parent)
    _generator = _BlockGenerator(plan, corpus_files)


def _make_block(part: str, start: int) -> list[dict[str, Any]]:
    assert _generator is not None
    return _generator.lines(part, start)


def _corpus_faults() -> dict[str, dict[str, int]]:
    assert _generator is not None
    return _generator.faults


class _BlockPool:
    """Blocks of records in order, from worker processes, or from this process where there is one worker."""

    def __init__(self, plan: InstructionPlan, corpus_files: Sequence[CorpusFile], workers: int) -> None:
        self._workers = workers
        self._here = _BlockGenerator(plan, corpus_files) if workers == 1 else None
        context = multiprocessing.get_context("spawn")
        arguments = (os.getpid(), plan, corpus_files)
        self._pool = ProcessPoolExecutor(workers, context, _start_worker, arguments) if workers > 1 else None

    def __enter__(self) -> "_BlockPool":
        return self

    def faults(self) -> dict[str, dict[str, int]]:
        """Return what of the corpus is no document: how many lines or files, by file and kind of fault."""
        return self._pool.submit(_corpus_faults).result() if self._pool else self._block_generator().faults

    def _block_generator(self) -> _BlockGenerator:
        assert self._here is not None
        return self._here

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def blocks(self, part: str) -> Iterator[list[dict[str, Any]]]:
        """Yield a part's blocks endlessly."""
        if self._pool is None:
            for number in count():
                yield self._block_generator().lines(part, number * BLOCK)
        else:
            waiting = [self._pool.submit(_make_block, part, number * BLOCK) for number in range(2 * self._workers)]
            for number in count(2 * self._workers):
                yield waiting.pop(0).result()
                waiting.append(self._pool.submit(_make_block, part, number * BLOCK))


def _write_part(
    path: Path, part: str, wanted: int, pool: _BlockPool, searched: Decontaminator | None, *, quiet: bool
) -> dict[str, Any]:
    """Write `wanted` different records; return the counts of their kinds, types and words."""
    seen: set[bytes] = set()
    twice = taken = held = 0
    tally: dict[str, Counter[str]] = {"kinds": Counter(), "types": Counter(), "from": Counter()}
    words: Counter[str] = Counter()
    with zstandard.open(path, "wt", encoding="utf-8") as file, Status(part, wanted, quiet=quiet) as status:
        for block in pool.blocks(part):
            kept = _without_items(block, searched) if searched else block
            held += len(block) - len(kept)
            for record in kept:
                line = json.dumps(record, ensure_ascii=False)
                digest = hashlib.blake2b(line.encode(), digest_size=12).digest()
                if digest in seen:
                    twice += 1
                    continue
                seen.add(digest)
                file.write(line + "\n")
                taken += 1
                _count(record, tally, words)
                if taken == wanted:
                    break
            status.update(
                taken, f"{twice:,} duplicates left out" + (f", {held:,} with benchmark items" if held else "")
            )
            left_out = twice + held
            if taken == wanted or not block or (left_out > 20 * BLOCK and left_out > 4 * taken):
                break
    means = {f"mean_{key}_words": round(words[key] / max(1, taken), 1) for key in ("prompt", "answer")}
    tallied = {"duplicates": twice, "with_benchmark_items": held if searched else None}
    return {"records": taken, **tallied, **means, **{key: dict(value.most_common()) for key, value in tally.items()}}


def _without_items(records: Sequence[dict[str, Any]], searched: Decontaminator) -> list[dict[str, Any]]:
    """Return the records without a benchmark item, reading them as curation does: turns joined in order."""
    texts = [(number, text) for number, record in enumerate(records) for text in _texts(record)]
    verdicts = searched.check_many(text for _, text in texts)
    found = {number for (number, _), verdict in zip(texts, verdicts, strict=True) if verdict.hit}
    return [record for number, record in enumerate(records) if number not in found]


def _texts(record: dict[str, Any]) -> list[str]:
    """Return a conversation, or a prompt with each of its answers if it has any."""
    turns = [turn["content"] for turn in record.get("messages") or record["prompt"]]
    answers = [record[key] for key in ("chosen", "rejected") if key in record]
    return ["\n\n".join([*turns, *end]) for end in ([[answer] for answer in answers] or [[]])]


def _count(record: dict[str, Any], tally: dict[str, Counter[str]], words: Counter[str]) -> None:
    messages = record.get("messages") or record["prompt"]
    answer = record.get("chosen") or record.get("reference") or ("" if "prompt" in record else messages[-1]["content"])
    tally["kinds"][record.get("kind") or record["set"]] += 1
    tally["types"].update(constraint["type"] for constraint in record["constraints"])
    tally["from"][record.get("from") or "own"] += 1
    words["answer"] += fewest_words(answer)
    words["prompt"] += sum(fewest_words(message["content"]) for message in messages if message["role"] != "assistant")


def default_workers() -> int:
    """Return how many processes to use: one a core, four at most, as each holds the corpus."""
    return min(4, os.cpu_count() or 1)


def print_summary(out: Path, manifest: dict[str, Any], *, quiet: bool = False) -> None:
    """Print what was written: counts, lengths, and how often each type of constraint occurs."""
    for source in manifest["sources"]:
        if faults := source.get("faults"):
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in faults.items())
            say(f"{source['file']}: not read as documents: {kinds}", quiet=quiet)
    for name, tally in manifest["files"].items():
        answered = f", {tally['mean_answer_words']} answered" if tally["mean_answer_words"] else ""
        asked = f"{tally['records']:,} records, words on average: {tally['mean_prompt_words']} asked"
        say(f"{out / name}: {asked}{answered}", quiet=quiet)
        for what in ("types", "kinds"):
            shown = ", ".join(f"{key} {value:,}" for key, value in tally[what].items())
            if shown:
                say(f"    {what}: {shown}", quiet=quiet)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder that `write_instructions` made. Raises KeylmError where there is none."""
    found = read_table(folder / "manifest.json")
    if "constraint_types" not in found:
        raise KeylmError(f"{folder}: no manifest; accepted: a folder that `keylm data instructions` wrote")
    return found
