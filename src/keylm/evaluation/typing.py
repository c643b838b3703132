"""The typing evaluation: a model on a keyboard, where it suggests words, corrects them and lives with mistakes.

Works on any folder that AutoModelForCausalLM and AutoTokenizer open, on the CPU. What is measured, on which sets and
by which rules: docs/typing.md. Every figure is a ratio of sums over documents or sentence pairs with a 95 % bootstrap
interval over these, and the same for the same model, sets and seed, the latency apart.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from keylm.console import Status, say
from keylm.errors import KeylmError
from keylm.evaluation.typing_baselines import hunspell, lexicon
from keylm.evaluation.typing_correction import Candidates, Correct, Corrector, measure_correction
from keylm.evaluation.typing_edits import EditModel
from keylm.evaluation.typing_items import LICENCES, Item, TypingSet, load_sets
from keylm.evaluation.typing_keystrokes import (
    SHOWN,
    Suggest,
    measure_keystrokes,
    measure_latency,
    measure_prediction,
    one_thread,
)
from keylm.evaluation.typing_robustness import measure_cost, measure_tokens
from keylm.evaluation.typing_search import Suggester
from keylm.evaluation.typing_statistics import Tallies
from keylm.files import read_table, sha256_file, sha256_json, write_json
from keylm.generate import Generator

PROTOCOL = "keylm typing 1"
"""Goes up with any change of a rule, a set or a baseline: figures of two protocols do not compare."""
WHOLE_TEXTS = "typos before"
Rows = list[dict[str, Any]]
_Measure = Callable[[Sequence[Item], Tallies], Iterable[int]]


def evaluate_typing(
    model_folder: Path,
    *,
    corpus: Path | None,
    items: int | None,
    seed: int = 0,
    quiet: bool = False,
    unfinished: Path | None = None,
) -> dict[str, Any]:
    """Return what a model is worth on a keyboard, ready for JSON.

    {"protocol", "sets": {name: {"items", "hash", "licence"}}, "rows": [{"measure", "set", "system", "value", "low",
    "high", "n", "unit"}], "latency": {"p50_ms", "p95_ms", "keys", "machine", "threads"}, "skipped": {system: why}}

    `corpus`: a folder with casual/ and typo/ for the sets beyond the packaged one. `items`: documents or pairs of each
    set, the first ones; all by default. `seed`: of the bootstrap. `unfinished`: a file in which finished parts are
    kept, so that a stopped evaluation goes on. Raises KeylmError where the model cannot be opened, a set is not what
    was frozen, or a package is missing.
    """
    if items is not None and items < 1:
        raise KeylmError(f"items: got {items}; accepted: a whole number from 1 on, or none for all")
    generator = Generator(model_folder)
    sets = {name: found.first(items) for name, found in load_sets(corpus).items()}
    kept = _Kept(unfinished, _settings(model_folder, sets, seed))
    bench = _Bench(generator)
    rows: Rows = []
    for name, measure, found in _parts(bench, sets):
        rows += kept.part(f"{name}: {found.name}", partial(_measured, name, measure, found, seed, quiet))
    latency = kept.part("latency", lambda: measure_latency(bench.suggester, sets["embedded"].items))
    return {
        "protocol": PROTOCOL,
        "sets": {
            name: {"items": found.documents, "hash": found.digest, "licence": LICENCES[name]}
            for name, found in sets.items()
        },
        "rows": rows,
        "latency": latency,
        "skipped": bench.skipped,
    }


class _Bench:
    """The systems that are compared, made when they are first asked for."""

    def __init__(self, generator: Generator) -> None:
        self.model, self.tokenizer, self.context = generator.model, generator.tokenizer, generator.context
        self.suggester = Suggester(self.model, self.tokenizer)
        self.skipped = _skipped()

    @cached_property
    def suggesting(self) -> dict[str, Suggest]:
        def suggest(text: str, typed: str) -> list[str]:
            return [suggestion.word for suggestion in self.suggester.suggest(text, typed, SHOWN)]

        return {"model": suggest, "word frequency": lambda _, typed: lexicon().completions(typed, SHOWN)}

    @cached_property
    def correcting(self) -> dict[str, Correct]:
        candidates = Candidates(self.suggester, lexicon(), EditModel())
        systems: dict[str, Correct] = {
            "model": Corrector(candidates, 1.0),
            "model + word frequency": Corrector(candidates),
            "typed text": lambda _, typed: typed,
            "symspell": lambda _, typed: lexicon().corrected(typed),
        }
        if "hunspell" not in self.skipped:
            systems["hunspell"] = lambda _, typed: hunspell().corrected(typed)
        return systems


def _parts(bench: _Bench, sets: dict[str, TypingSet]) -> Iterator[tuple[str, _Measure, TypingSet]]:
    """Yield (name, measure, set) in the order in which they are measured."""
    for found in (found for name, found in sets.items() if name != "git_fixes"):
        yield "prediction", lambda items, tallies: measure_prediction(bench.suggesting, items, tallies), found
        first = TypingSet(found.name, tuple({item.document: item for item in reversed(found.items)}.values())[::-1])
        yield "keystrokes", lambda items, tallies: measure_keystrokes(bench.suggesting, items, tallies), first
        yield WHOLE_TEXTS, partial(measure_cost, bench.model, bench.tokenizer, bench.context), found
    for found in (found for name, found in sets.items() if name != "casual"):
        yield "tokens", partial(_count_tokens, bench.tokenizer), found
        yield "correction", partial(_correct, bench), found


def _correct(bench: _Bench, items: Sequence[Item], tallies: Tallies) -> Iterator[int]:
    return measure_correction(bench.correcting, items, lexicon().counts.__contains__, tallies)


def _count_tokens(tokenizer: Any, items: Sequence[Item], tallies: Tallies) -> list[int]:
    measure_tokens(tokenizer, items, tallies)
    return [len(items)]


def _measured(name: str, measure: _Measure, found: TypingSet, seed: int, quiet: bool) -> Rows:
    """Return the rows of one measure on one set, with its progress shown."""
    tallies = Tallies()
    # Where whole texts run through the model, more threads help.
    threads = contextlib.nullcontext() if name == WHOLE_TEXTS else one_thread()
    with threads, Status(f"{name}, {found.name}", len(found.items), quiet=quiet) as status:
        for done in measure(found.items, tallies):
            status.update(done, f"{done} done")
    say(f"{name}, {found.name}  measured", quiet=quiet)
    return tallies.rows(found.name, seed)


class _Kept:
    """Finished parts in a file, for the same model, sets and seed only."""

    def __init__(self, path: Path | None, settings: str) -> None:
        self._path, self._settings = path, settings
        table = read_table(path) if path else {}
        self._parts: dict[str, Any] = table.get("parts", {}) if table.get("settings") == settings else {}

    def part(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a part, from the file or made now."""
        if name not in self._parts:
            self._parts[name] = make()
            if self._path:
                write_json(self._path, {"settings": self._settings, "parts": self._parts})
        return self._parts[name]


def _settings(folder: Path, sets: dict[str, TypingSet], seed: int) -> str:
    """Return the hash of all that figures depend on."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")])
    model = {file.name: sha256_file(file) for file in files}
    return sha256_json([PROTOCOL, model, {name: found.digest for name, found in sets.items()}, seed, _skipped()])


def _skipped() -> dict[str, str]:
    """Return the systems that cannot be had here, and why."""
    try:
        importlib.import_module("spylls.hunspell")
    except ImportError:
        return {"hunspell": "spylls is not installed; pip install 'keylm[eval]'"}
    return {}
