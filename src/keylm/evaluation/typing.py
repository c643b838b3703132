"""The typing evaluation: a model on a keyboard, where it suggests words, corrects them and lives with mistakes.

Works on any folder that AutoModelForCausalLM and AutoTokenizer open, on the CPU. What is measured, on which sets and
by which rules: docs/typing.md. Every figure is a ratio of sums over documents or sentence pairs with a 95 % bootstrap
interval over these, and the same for the same model, sets and seed, the latency apart.
"""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keylm.base.console import Status, say
from keylm.base.errors import KeylmError
from keylm.base.files import read_table, sha256_json, write_json
from keylm.evaluation.keystrokes import measure_latency
from keylm.evaluation.statistics import Tallies
from keylm.evaluation.typing_items import LICENCES, load_sets
from keylm.evaluation.typing_jobs import Sums, TypingJob, done_jobs, jobs_of, opened
from keylm.keyboard.search import Suggester
from keylm.model.folder import check_model_folder, model_fingerprint

PROTOCOL = "keylm typing 1"
"""Goes up with any change of a rule, a set or a baseline: figures of two protocols do not compare."""
WORKERS = 4
"""Processes by default, at most: each holds the model."""


def evaluate_typing(
    model_folder: Path,
    *,
    corpus: Path | None,
    items: int | None,
    seed: int = 0,
    quiet: bool = False,
    workers: int | None = None,
    unfinished: Path | None = None,
) -> dict[str, Any]:
    """Return what a model is worth on a keyboard, ready for JSON.

    {"protocol", "sets": {name: {"items", "hash", "licence"}}, "rows": [{"measure", "set", "system", "value", "low",
    "high", "n", "unit"}], "latency": {"p50_ms", "p95_ms", "keys", "machine", "threads"}, "skipped": {system: why}}

    `corpus`: a folder with casual/ and typo/ for the sets beyond the packaged one. `items`: documents or pairs of each
    set, the first ones; all by default. `seed`: of the bootstrap. `workers`: processes, by default one a core, four at
    most; they change no figure. `unfinished`: a file in which finished pieces are kept, so that a stopped evaluation
    goes on. Raises KeylmError where the model cannot be opened, a set is not what was frozen, or a package is missing.
    """
    for name, number in (("items", items), ("workers", workers)):
        if number is not None and number < 1:
            raise KeylmError(f"{name}: got {number}; accepted: a whole number from 1 on, or none for the default")
    check_model_folder(model_folder)
    fingerprint = model_fingerprint(model_folder)
    generator = opened(model_folder, fingerprint)
    suggester = Suggester(generator.model, generator.tokenizer)  # refuses what cannot be measured, at once
    sets = {name: found.first(items) for name, found in load_sets(corpus).items()}
    jobs = list(jobs_of(fingerprint, sets, list(skipped_systems())))
    counted = _counted(model_folder, jobs, workers or min(WORKERS, os.cpu_count() or 1), unfinished, quiet)
    latency = measure_latency(suggester, sets["embedded"].items)
    say(f"suggestions take {latency['p50_ms']:.1f} ms a key, one in twenty over {latency['p95_ms']:.1f}", quiet=quiet)
    return {
        "protocol": PROTOCOL,
        "sets": {
            name: {"items": found.documents, "hash": found.digest, "licence": LICENCES[name]}
            for name, found in sets.items()
        },
        "rows": [row for name in sets for row in counted[name].rows(name, seed)],
        "latency": latency,
        "skipped": skipped_systems(),
    }


def skipped_systems() -> dict[str, str]:
    """Return the systems that cannot be had here, and why."""
    try:
        importlib.import_module("spylls.hunspell")
    except ImportError:
        return {"hunspell": "spylls is not installed; pip install 'keylm[eval]'"}
    return {}


def _counted(
    folder: Path, jobs: Sequence[TypingJob], workers: int, unfinished: Path | None, quiet: bool
) -> dict[str, Tallies]:
    """Return what was counted on each set; what `unfinished` has already is not measured again."""
    settings = sha256_json([PROTOCOL, jobs])
    table = read_table(unfinished) if unfinished else {}
    done: dict[str, Sums] = table["jobs"] if table.get("settings") == settings else {}
    left = [job for job in jobs if job.key not in done]
    with Status("typing", len(jobs), start=len(jobs) - len(left), quiet=quiet) as status:
        for job, sums in done_jobs(folder, left, workers):
            done[job.key] = sums
            if unfinished:
                write_json(unfinished, {"settings": settings, "jobs": done})
            status.update(len(done), f"{job.group}, {job.set}")
    tallies: dict[str, Tallies] = {job.set: Tallies() for job in jobs}
    for job in jobs:  # in their order, so that the rows' is always the same
        tallies[job.set].take(done[job.key])
    return tallies
