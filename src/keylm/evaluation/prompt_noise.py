r"""lm_eval tasks whose prompts are mistyped: which there are, their noise, and their task files.

    python -m keylm.evaluation.prompt_noise typo_tasks
    lm_eval --include_path typo_tasks --model hf --model_args pretrained=MODEL --tasks hellaswag_typos_10_1

Invariants: an item's noise (typos/model.py) depends on its benchmark, its clean text, the rate (per cent of words) and
the seed alone; data, choices, metrics and the words that the harness puts around a question stay its own.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product, starmap
from pathlib import Path
from typing import Any

import yaml

from keylm.base.errors import KeylmError
from keylm.base.files import atomic_write
from keylm.recipe.benchmark_table import MISTYPED
from keylm.recipe.schema import Typos
from keylm.typos.model import VERSION, TypoModel

TASK_CLASS = "keylm.evaluation.mistyped_task.TypoTask"
RATES = (5, 10, 20)
"""Per cent of words."""
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Noise:
    """Mistypes the prompts of a benchmark: a `process_docs` for lm_eval, applied after the harness's own."""

    benchmark: str
    rate: int
    """per cent of words"""
    seed: int

    def __post_init__(self) -> None:
        if self.benchmark not in MISTYPED:
            raise KeylmError(f"typos: benchmark {self.benchmark!r} is not known; accepted: {', '.join(MISTYPED)}")
        if not isinstance(self.rate, int) or not 0 < self.rate <= 50:
            raise KeylmError(f"typos: rate = {self.rate!r} is not accepted; accepted: 1 … 50 (per cent of words)")
        if not isinstance(self.seed, int):
            raise KeylmError(f"typos: seed = {self.seed!r} is not accepted; accepted: a whole number")

    @property
    def task(self) -> str:
        """The task's name."""
        return f"{self.benchmark}_typos_{self.rate}_{self.seed}"

    def __call__(self, docs: Any) -> Any:
        """Return a datasets.Dataset with its prompts mistyped; new columns count their `words` and `words_mistyped`."""
        field = str(MISTYPED[self.benchmark].mistyped)
        mistyped, counts = self.mistype(list(docs[field]))
        words, changed = [list(column) for column in zip(*counts, strict=True)] if counts else ([], [])
        columns = {field: mistyped, "words": words, "words_mistyped": changed}
        docs = docs.remove_columns([name for name in columns if name in docs.column_names])
        for name, column in columns.items():
            docs = docs.add_column(name, column)
        return docs

    def mistype(self, texts: Sequence[str]) -> tuple[list[str], list[tuple[int, int]]]:
        """Return the texts mistyped, and for each how many words it has and how many of them were mistyped."""
        identities = [self._identity(text) for text in texts]
        epochs = [0] * len(texts)
        noisy_texts = _model().corrupt_many(texts, self.seed, identities, epochs, self.rate / 100) if texts else []
        counts = [
            (len(text.split()), sum(len(text[edit.clean_start : edit.clean_end].split()) for edit in noisy.edits))
            for text, noisy in zip(texts, noisy_texts, strict=True)
        ]
        return [noisy.text for noisy in noisy_texts], counts

    def facts(self) -> dict[str, Any]:
        """Return what decides the noise, for the results that lm_eval writes."""
        return {**asdict(self), "version": VERSION, "typo_model": _model().fingerprint()}

    def _identity(self, text: str) -> int:
        """Return an item's 64-bit identity: the same at every rate, so that higher rates mostly add errors."""
        digest = hashlib.blake2b(f"{self.benchmark}\0{text}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")


def _model() -> TypoModel:
    """Return the typo model without word lists, which would differ between machines."""
    return TypoModel(Typos())


def noises() -> dict[str, Noise]:
    """Return the mistyped tasks by name, of each benchmark one a rate and seed; clean ones are the harness's own."""
    return {noise.task: noise for noise in starmap(Noise, product(MISTYPED, RATES, SEEDS))}


def write_tasks(folder: Path, base: Mapping[str, Mapping[str, Any]] | None = None) -> list[Path]:
    """Write a task file for each mistyped task; `folder` then is an --include_path for lm_eval. Return the files.

    `base` has the configs of the clean tasks, at least what differs from the harness's: nothing for the data on the
    hub, or where the same items are on disk (`dataset_path`, `dataset_kwargs`, …). Prompts are the same either way.
    Whatever is left out comes from the installed harness, so that an `include` of its file is dropped. Raises
    KeylmError where `base` has no benchmark that can be mistyped.
    """
    given: Mapping[str, Mapping[str, Any]] = {name: {} for name in MISTYPED} if base is None else base
    if not any(name in MISTYPED for name in given):
        raise KeylmError(f"typos: no benchmark among {', '.join(given) or 'none'}; accepted: {', '.join(MISTYPED)}")
    paths = []
    for name, noise in noises().items():
        if noise.benchmark in given:
            kept = {key: value for key, value in given[noise.benchmark].items() if key not in ("include", "tag")}
            tags = ["typos", f"{noise.benchmark}_typos"]
            config = {**kept, "task": name, "tag": tags, "typos": asdict(noise)}
            text = yaml.safe_dump(config, sort_keys=False) + f"class: !function {TASK_CLASS}\n"
            atomic_write(folder / f"{name}.yaml", text)
            paths.append(folder / f"{name}.yaml")
    return paths


if __name__ == "__main__":
    write_tasks(Path(sys.argv[1]))
