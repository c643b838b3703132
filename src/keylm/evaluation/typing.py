"""The typing evaluation: a model on a keyboard, where it suggests words, corrects them and copes with mistakes.

Works on any folder that AutoModelForCausalLM and AutoTokenizer open, on the CPU; docs/typing.md has the measures. Every
figure but latency is the same for the same model, sets, seed and `fingerprint`, with a 95 % bootstrap interval.
"""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keylm.base.console import Status, say
from keylm.base.constants import constants_of
from keylm.base.errors import KeylmError, how_to_install
from keylm.base.files import read_table, sha256_json, write_json
from keylm.evaluation.keystrokes import measure_latency
from keylm.evaluation.statistics import Tallies
from keylm.evaluation.typing_items import LICENCES, language_sets, load_sets
from keylm.evaluation.typing_jobs import Sums, TypingJob, done_jobs, jobs_of, opened
from keylm.keyboard.search import Suggester
from keylm.languages.language import ENGLISH, Language, language_of
from keylm.model.folder import check_model_folder, model_fingerprint, model_languages
from keylm.recipe.schema import UNSTATED, Typos
from keylm.typos.model import TypoModel

PROTOCOL = "keylm typing 1"
"""Increased with any change of a rule, a set or a baseline: figures of two protocols do not compare."""
WORKERS = 4
"""Default number of processes, at most: each holds the model."""
MEASURES = ("keystrokes", "touch", "correction", "typing_items", "typing_robustness", "statistics")
"""Modules of this package whose constants decide the figures; so do those of keylm.keyboard."""
UNDECISIVE = ("ENGLISH", "KEYBOARDS", "LICENCES", "TIMED", "TRIED")
"""Constants of these modules that change no figure but the latency; the language has a digest of its own."""


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
    """Return a model's figures on a keyboard, ready for JSON.

    {"protocol", "fingerprint", "sets": {name: {"items", "hash", "licence"}}, "rows": [{"measure", "set", "system",
    "value", "low", "high", "n", "unit"}], "latency": {"p50_ms", "p95_ms", "keys", "machine", "threads"},
    "skipped": {system: why}}

    The model's own language (keylm.json), the first of several, is measured. `corpus`: a folder with casual/ and typo/
    for the sets beyond the packaged one; of another language its sets. `items`: the first documents or
    pairs of each set; all by default. `seed`: of the bootstrap. `workers`: processes, by default one a core, four at
    most; they change no figure. `unfinished`: a file for finished parts, from which a stopped evaluation resumes.
    Raises KeylmError where the model cannot be opened, a set is not the frozen one, or a package is missing.
    """
    for name, number in (("items", items), ("workers", workers)):
        if number is not None and number < 1:
            raise KeylmError(f"{name}: got {number}; accepted: a whole number from 1 on, or none for the default")
    check_model_folder(model_folder)
    fingerprint = model_fingerprint(model_folder)
    generator = opened(model_folder, fingerprint)
    name = model_languages(model_folder)[0]
    language = language_of(name)
    # Rejects at once what cannot be measured.
    suggester = Suggester(generator.model, generator.tokenizer, words=language.words)
    found_sets = load_sets(corpus) if name == ENGLISH.code else language_sets(corpus, language)
    sets = {name: found.first(items) for name, found in found_sets.items()}
    skipped = skipped_systems(language)
    jobs = list(jobs_of(fingerprint, sets, list(skipped), name))
    settings = sha256_json([typing_fingerprint(language), jobs])
    counted = _counted(model_folder, jobs, settings, workers or min(WORKERS, os.cpu_count() or 1), unfinished, quiet)
    latency = measure_latency(suggester, next(iter(sets.values())).items, language)
    say(f"suggestions take {latency['p50_ms']:.1f} ms a key, one in twenty over {latency['p95_ms']:.1f}", quiet=quiet)
    return {
        "protocol": PROTOCOL,
        "language": name,
        "fingerprint": typing_fingerprint(language),
        "sets": {
            name: {"items": found.documents, "hash": found.digest, "licence": LICENCES.get(name, UNSTATED)}
            for name, found in sets.items()
        },
        "rows": [row for name in sets for row in counted[name].rows(name, seed)],
        "latency": latency,
        "skipped": skipped,
    }


def typing_fingerprint(language: Language | None = None) -> str:
    """Return the SHA-256 of the tables and constants that decide the figures, the model and the sets apart."""
    language = language or ENGLISH
    modules = ("keylm.keyboard", *(f"keylm.evaluation.{name}" for name in MEASURES))
    constants = constants_of(*modules, apart=UNDECISIVE)
    return sha256_json([PROTOCOL, language.digest, TypoModel(Typos(), language).fingerprint(), constants])


def skipped_systems(language: Language = ENGLISH) -> dict[str, str]:
    """Return the systems that are not available here, and why."""
    if language.code != ENGLISH.code:
        return {"hunspell": f"spylls ships no dictionary of {language.code!r}"}
    try:
        importlib.import_module("spylls.hunspell")
    except ImportError:
        return {"hunspell": f"spylls is not installed; {how_to_install('eval')}"}
    return {}


def _counted(
    folder: Path, jobs: Sequence[TypingJob], settings: str, workers: int, unfinished: Path | None, quiet: bool
) -> dict[str, Tallies]:
    """Return the counts on each set; those in `unfinished` are not measured again."""
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
    for job in jobs:  # in this order, so that the order of the rows is always the same
        tallies[job.set].take(done[job.key])
    return tallies
