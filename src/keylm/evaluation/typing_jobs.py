"""The typing evaluation in jobs: a few items and one group of measures, in this process or in several.

Invariants: a job's figures depend on the model and its items alone, not on other jobs, so that any number of processes,
and a run that was stopped and resumed, give the same ones. No process outlives the one that started it. Each computes
on one thread: a word search runs a few tokens at a time, where threads cost more than they gain.
"""

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from keylm.base.errors import KeylmError
from keylm.data.workers import prepare_worker
from keylm.evaluation.correction import measure_correction
from keylm.evaluation.keystrokes import SHOWN, Suggest, measure_keystrokes, measure_prediction, one_thread
from keylm.evaluation.statistics import Tallies
from keylm.evaluation.typing_items import PAIRED, TypingItem, TypingSet
from keylm.evaluation.typing_robustness import measure_cost, measure_tokens
from keylm.keyboard.corrector import Candidates, Correct, Corrector
from keylm.keyboard.edit_model import EditModel
from keylm.keyboard.lexicon import hunspell, lexicon
from keylm.keyboard.search import Suggester
from keylm.languages.language import ENGLISH, Language, language_of
from keylm.runtimes.generation import Generator

PASSAGES, PAIRS = 7, 30
"""Items of a job, at most, of sets of passages and of pairs."""
Sums = list[list[Any]]
"""The result of `Tallies.sums`."""


class TypingJob(NamedTuple):
    """A group of measures ("prediction", "keystrokes", "typos before", "correction") and some items of a set."""

    model: str
    """The fingerprint of the model folder."""
    group: str
    set: str
    number: int
    items: tuple[TypingItem, ...]
    skipped: tuple[str, ...]
    """Systems that are not available."""
    language: str = ENGLISH.code

    @property
    def key(self) -> str:
        """The job's name within one evaluation."""
        return f"{self.group}, {self.set}, {self.number}"


def jobs_of(
    model: str, sets: dict[str, TypingSet], skipped: Sequence[str], language: str = ENGLISH.code
) -> Iterator[TypingJob]:
    """Yield all jobs for the model with that fingerprint, in the order of their rows in the result."""
    for name, found in sets.items():
        first = tuple({item.document: item for item in reversed(found.items)}.values())[::-1]
        groups = {"correction": found.items}
        if name not in PAIRED:
            groups = {"prediction": found.items, "keystrokes": first, "typos before": first}
            groups |= {"correction": found.items} if name != "casual" else {}
        size = PAIRS if name in PAIRED else PASSAGES
        for group, items in groups.items():
            for start in range(0, len(items), size):
                some = items[start : start + size]
                yield TypingJob(model, group, name, start // size, some, tuple(skipped), language)


def done_jobs(folder: Path, jobs: Sequence[TypingJob], workers: int) -> Iterator[tuple[TypingJob, Sums]]:
    """Yield jobs with their sums as they are done, in any order. Raises KeylmError, also where a worker was killed."""
    if workers == 1 or len(jobs) < 2:
        yield from ((job, measure(folder, job)) for job in jobs)
        return
    # spawn: a fork would copy the locks of torch's threads in whatever state they are.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=prepare_worker, initargs=(os.getpid(),))
    try:
        futures = {pool.submit(measure, folder, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise KeylmError(
            "a worker process of the typing evaluation was killed, perhaps for lack of memory; accepted: fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def measure(folder: Path, job: TypingJob) -> Sums:
    """Return the counts of one job. Raises KeylmError where the model cannot be opened or a package is missing."""
    generator, tallies = opened(folder, job.model), Tallies()
    with one_thread():
        for _ in _measured(job, generator, tallies):
            pass
    return tallies.sums()


@lru_cache(maxsize=1)
def opened(folder: Path, fingerprint: str) -> Generator:
    """Return the model of a folder, opened once as long as it is the same by `fingerprint`. Raises KeylmError."""
    return Generator(folder)


def _measured(job: TypingJob, generator: Generator, tallies: Tallies) -> Iterable[int]:
    model, tokenizer, language = generator.model, generator.tokenizer, language_of(job.language)
    if job.group == "typos before":
        return measure_cost(model, tokenizer, generator.context, job.items, tallies, language)
    suggester = Suggester(model, tokenizer, words=language.words)
    if job.group == "prediction":
        return measure_prediction(suggesting(suggester, language), _read(suggester, job.items), tallies, language)
    if job.group == "keystrokes":
        return measure_keystrokes(suggesting(suggester, language), _read(suggester, job.items), tallies, language)
    assert job.group == "correction"
    measure_tokens(tokenizer, job.items, tallies, language)
    systems = correcting(suggester, language)
    kept = {name: correct for name, correct in systems.items() if name not in job.skipped}
    known = lexicon(language).counts.__contains__
    return measure_correction(kept, _read(suggester, job.items), known, tallies, language)


def _read(suggester: Suggester, items: Iterable[TypingItem]) -> Iterator[TypingItem]:
    """Yield the items, each read ahead by the suggester."""
    for item in items:
        suggester.read(item.typed)
        yield item


def suggesting(suggester: Suggester, language: Language = ENGLISH) -> dict[str, Suggest]:
    """Return the systems that suggest words."""

    def suggest(text: str, typed: str) -> list[str]:
        return [suggestion.word for suggestion in suggester.suggest(text, typed, SHOWN)]

    return {"model": suggest, "word frequency": lambda _, typed: lexicon(language).completions(typed, SHOWN)}


def correcting(suggester: Suggester, language: Language = ENGLISH) -> dict[str, Correct]:
    """Return the systems that correct words."""
    candidates = Candidates(suggester, lexicon(language), EditModel(language))
    return {
        "model": Corrector(candidates, 1.0),
        "model + word frequency": Corrector(candidates),
        "typed text": lambda _, typed: typed,
        "symspell": lambda _, typed: lexicon(language).corrected(typed),
        "hunspell": lambda _, typed: hunspell().corrected(typed),
    }
