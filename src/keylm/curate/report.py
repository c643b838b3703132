"""The report of a curation: what each step did to each source, with samples, and the hash of the output.

Invariant: everything but `fingerprint` and `seconds` depends on the documents and the settings alone, not on when,
where or with how many workers they were curated; `hash` identifies that part.
"""

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from keylm.base.console import say
from keylm.base.files import atomic_path, read_json, sha256_file, sha256_json
from keylm.curate.decontamination import Decontaminator
from keylm.curate.tally import Tally
from keylm.recipe.schema import MINHASH, Curation, Source

FORMAT = 2
"""Incremented when the same settings come to mean something else."""
SUSPICIOUS = 0.5
"""A source that loses more than this share of its bytes or documents to the filters is flagged."""
REPORT = "report.json"
FAULTS = "faults.jsonl"
DUPLICATE_STEPS = ("exact_duplicates", "near_duplicates")


def settings_of(curation: Curation) -> dict[str, Any]:
    """Return what the outcome depends on apart from the sources; files by name and hash, not by path."""
    plain = {**curation.model_dump(mode="json"), **MINHASH}
    plain["decontaminate"] = [_content(Path(path)) for path in curation.decontaminate]
    return {
        "format": FORMAT,
        "curation": plain,
        "versions": {name: version(name) for name in ("datatrove", "py3langid")},
    }


def _content(path: Path) -> list[list[str]]:
    """Return the name and SHA-256 of a file, or of all files in a folder."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [[file.relative_to(path.parent).as_posix(), sha256_file(file)] for file in files]


def join_faults(parts: Path, ranks: dict[str, list[int]], file: Path) -> None:
    """Write the rejected records of all tasks to one file, a line each, in the order of the sources."""
    with atomic_path(file) as temporary, temporary.open("wb") as joined:
        for rank in sorted(rank for own in ranks.values() for rank in own):
            with (parts / f"{rank:05d}.jsonl").open("rb") as part:
                shutil.copyfileobj(part, joined)


def make_report(
    work: Path,
    folder: Path,
    sources: dict[str, Source],
    origins: dict[str, dict[str, Any]],
    ranks: dict[str, list[int]],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Return the report on the output in `folder`, from the tallies in `work`; `ranks`: each source's tasks."""
    seconds: dict[str, float] = {}
    entries = {}
    for name, source in sources.items():
        steps = _steps(work / "tallies", ranks[name])
        for step, tally in steps.items():
            seconds[step] = round(seconds.get(step, 0.0) + tally.seconds, 3)
        entries[name] = {"origin": origins[name], **_entry(source, steps, folder / name)}
    report = {"settings": settings, "sources": entries}
    if (work / "evaluation.npz").is_file():
        searched = Decontaminator.load(work / "evaluation.npz")
        report["evaluation"] = {
            name: {"items": items, "matchable": searched.matchable[name]} for name, items in searched.sets.items()
        }
    return {**report, "hash": report_hash(report), "seconds": seconds}


def report_hash(report: dict[str, Any]) -> str:
    """Return the SHA-256 of the settings and of every source's origin and output files, in hexadecimal."""
    files = {name: [entry["origin"], entry["files"]] for name, entry in report["sources"].items()}
    return sha256_json([report["settings"], files])


def _steps(tallies: Path, ranks: Sequence[int]) -> dict[str, Tally]:
    """Return each step's tally over a source's tasks, in the order of the steps."""
    steps: dict[str, Tally] = {}
    for stage in ("clean", "final"):
        for rank in ranks:
            files = (tallies / stage).glob(f"{rank:05d}-*.json")
            for file in sorted(files, key=lambda file: ORDER.index(_step(file))):
                steps.setdefault(_step(file), Tally()).add(Tally(**read_json(file)))
    return steps


ORDER = [
    *("read", "language", "gopher_quality", "gopher_repetition", "c4", "fineweb", "length", "mask_pii"),
    *("exact_duplicates", "near_duplicates", "decontamination"),
]


def _step(file: Path) -> str:
    return file.stem.partition("-")[2]


def _entry(source: Source, steps: dict[str, Tally], outputs: Path) -> dict[str, Any]:
    read = steps.pop("read")
    filtered = [tally for step, tally in steps.items() if step not in DUPLICATE_STEPS]
    kept = read.documents - sum(tally.dropped for tally in steps.values())
    last = list(steps.values())[-1] if steps else read  # masking changes sizes, so bytes cannot be subtracted
    entry: dict[str, Any] = {
        "register": source.text_register,
        "read": {"documents": read.documents, "bytes": read.bytes},
        "faults": read.reasons,
        "fault_samples": read.summary("read")["samples"],
        "steps": [tally.summary(step) for step, tally in steps.items()],
        "kept": {"documents": kept, "bytes": last.bytes - last.dropped_bytes},
        "files": {file.name: sha256_file(file) for file in sorted(outputs.glob("*.jsonl.zst"))},
    }
    dropped = max(
        sum(tally.dropped for tally in filtered) / max(1, read.documents),
        sum(tally.dropped_bytes for tally in filtered) / max(1, read.bytes),
    )
    entry["dropped_by_filters"] = round(dropped, 4)
    if dropped > SUSPICIOUS:
        worst = max(steps.items(), key=lambda item: item[1].dropped * (item[0] not in DUPLICATE_STEPS))[0]
        entry["suspicious"] = (
            f"the filters dropped {dropped:.0%}, most of it {worst}: look at the samples; "
            f"if these are good documents, change curation.filters, the source's register, or set curate = false"
        )
    return entry


def print_report(report: dict[str, Any], *, quiet: bool) -> None:
    """Print a line on each source."""
    for name, entry in report["sources"].items():
        read, kept = entry["read"], entry["kept"]
        drops = ", ".join(f"{step['step']} {step['dropped']:,}" for step in entry["steps"] if step["dropped"])
        say(
            f"curate  {name}: {kept['documents']:,} of {read['documents']:,} documents stay"
            f" ({kept['bytes'] / 1e6:,.1f} of {read['bytes'] / 1e6:,.1f} MB){'; dropped: ' + drops if drops else ''}",
            quiet=quiet,
        )
        if "suspicious" in entry:
            say(f"curate  {name}: suspicious: {entry['suspicious']}", quiet=quiet)
