r"""Accuracy under typing errors: lm_eval tasks whose prompts are mistyped, and what is read off their results.

    lm_eval --include_path $(python -c "import keylm.evaluation.robustness as r; print(r.TASKS)") \
        --model hf --model_args pretrained=MODEL --tasks hellaswag_typos_10_1

BENCHMARK_typos_RATE_SEED: RATE per cent of the prompt's words are mistyped by data/typos.py. Everything else is the
installed harness's own: data, prompt, choices, metrics.

Invariants: an item's noise depends on its benchmark, its clean text, the rate and the seed alone, not on its place, its
file or the platform; choices and the words that the harness puts around a question are never touched.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from keylm.base.errors import KeylmError
from keylm.base.files import atomic_write
from keylm.recipe.schema import Typos
from keylm.typos.model import VERSION, TypoModel

TASKS = Path(__file__).parent / "tasks"
"""Folder of the task files, for lm_eval's --include_path."""
TASK_CLASS = "keylm.evaluation.mistyped_task.TypoTask"
RATES = (5, 10, 20)
"""Per cent of words."""
SEEDS = (1, 2, 3)
HIGHEST_RATE = 20
"""Where the area under the curve ends."""
CLEAR_ERRORS = 3
"""Standard errors by which a clean accuracy must exceed chance; below, what is kept of it is a share of noise."""
DRAWS = 2000


@dataclass(frozen=True)
class Benchmark:
    """A multiple-choice task of the harness, and where its prompt stands."""

    file: str
    """in lm_eval/tasks"""
    field: str
    """of a processed item: what is asked, without the harness's words around it"""
    chance: float
    metric: str
    """the one that counts for the mean over benchmarks"""


BENCHMARKS = {
    "hellaswag": Benchmark("hellaswag/hellaswag.yaml", "query", 0.25, "acc_norm"),
    "piqa": Benchmark("piqa/piqa.yaml", "goal", 0.5, "acc"),
    "arc_easy": Benchmark("arc/arc_easy.yaml", "question", 0.25, "acc_norm"),
}


@dataclass(frozen=True)
class Noise:
    """Mistypes the prompts of a benchmark: a `process_docs` for lm_eval once the harness's own has run."""

    benchmark: str
    rate: int
    """per cent of words"""
    seed: int

    def __post_init__(self) -> None:
        if self.benchmark not in BENCHMARKS:
            raise KeylmError(f"typos: benchmark {self.benchmark!r} is not known; accepted: {', '.join(BENCHMARKS)}")
        if not isinstance(self.rate, int) or not 0 < self.rate <= 50:
            raise KeylmError(f"typos: rate = {self.rate!r} is not accepted; accepted: 1 … 50 (per cent of words)")
        if not isinstance(self.seed, int):
            raise KeylmError(f"typos: seed = {self.seed!r} is not accepted; accepted: a whole number")

    @property
    def task(self) -> str:
        """The task's name."""
        return f"{self.benchmark}_typos_{self.rate}_{self.seed}"

    def __call__(self, docs: Any) -> Any:
        """Return a datasets.Dataset with its prompts mistyped, and two more columns.

        `words` and `words_mistyped` count the words of the clean prompt.
        """
        field = BENCHMARKS[self.benchmark].field
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
        made = _model().corrupt_many(texts, self.seed, identities, epochs, self.rate / 100) if texts else []
        counts = [
            (len(text.split()), sum(len(text[edit.clean_start : edit.clean_end].split()) for edit in noisy.edits))
            for text, noisy in zip(texts, made, strict=True)
        ]
        return [noisy.text for noisy in made], counts

    def facts(self) -> dict[str, Any]:
        """Return what decides the noise, for the results that lm_eval writes."""
        return {**asdict(self), "version": VERSION, "typo_model": _model().fingerprint()}

    def _identity(self, text: str) -> int:
        """Return 64 bits that stand for an item: the same at every rate, so higher ones mostly add to lower ones."""
        digest = hashlib.blake2b(f"{self.benchmark}\0{text}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")


def _model() -> TypoModel:
    """Return the typo engine as the package has it: without word lists, which would differ between machines."""
    return TypoModel(Typos())


def noises() -> dict[str, Noise]:
    """Return the 27 tasks by name; the clean tasks beside them are the harness's own, named like the benchmarks."""
    made = [Noise(*parts) for parts in product(BENCHMARKS, RATES, SEEDS)]
    return {noise.task: noise for noise in made}


def measured_noise(docs: Any) -> dict[str, Any]:
    """Return how much of a task's items was mistyped: {"items", "words", "mistyped", "rate", "mean_item_rate"}.

    `docs` are a task's items (`task.eval_docs`): a datasets.Dataset, or dicts. `rate` is the share of all words,
    `mean_item_rate` the mean of the items' shares; None where there are no words. Raises KeylmError for items that were
    not mistyped by a `Noise`.
    """
    if hasattr(docs, "select_columns") and {"words", "words_mistyped"} <= set(docs.column_names):
        docs = docs.select_columns(["words", "words_mistyped"])  # the others take most of the time
    try:
        counts = [(int(doc["words"]), int(doc["words_mistyped"])) for doc in docs]
    except KeyError:
        raise KeylmError(
            "typos: the items do not say what was mistyped; accepted: those of a BENCHMARK_typos task"
        ) from None
    shares = [wrong / word for word, wrong in counts if word]
    words, mistyped = sum(word for word, _ in counts), sum(wrong for _, wrong in counts)
    return {
        "items": len(counts),
        "words": words,
        "mistyped": mistyped,
        "rate": mistyped / words if words else None,
        "mean_item_rate": math.fsum(shares) / len(shares) if shares else None,
    }


def robustness_configs(base: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """Return lm_eval's configs of the typo tasks by name, derived from those of the clean tasks.

    `base` has the config of each benchmark that is to be mistyped, at least what differs from the harness's: nothing
    for the data on the hub, or where the same items lie on disk (`dataset_path`, `dataset_kwargs`, …). Prompts are the
    same either way. What is left out comes from the installed harness, so that an `include` of its file is dropped.
    lm_eval takes such a config in the place of a task's name. Raises KeylmError where `base` has no benchmark that can
    be mistyped.
    """
    from keylm.evaluation.mistyped_task import TypoTask

    return {name: {**config, "class": TypoTask} for name, config in _plain_configs(base).items()}


def write_tasks(folder: Path, base: Mapping[str, Mapping[str, Any]] | None = None) -> list[Path]:
    """Write a task file for each of `robustness_configs(base)`; `folder` then is an --include_path for lm_eval."""
    paths = []
    for name, config in _plain_configs(base).items():
        text = yaml.safe_dump(config, sort_keys=False) + f"class: !function {TASK_CLASS}\n"
        atomic_write(folder / f"{name}.yaml", text)
        paths.append(folder / f"{name}.yaml")
    return paths


def _plain_configs(base: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """Return the configs without the class, which cannot be imported without lm_eval."""
    given: Mapping[str, Mapping[str, Any]] = {name: {} for name in BENCHMARKS} if base is None else base
    if not any(name in BENCHMARKS for name in given):
        raise KeylmError(f"typos: no benchmark among {', '.join(given) or 'none'}; accepted: {', '.join(BENCHMARKS)}")
    configs = {}
    for name, noise in noises().items():
        if noise.benchmark in given:
            kept = {key: value for key, value in given[noise.benchmark].items() if key not in ("include", "tag")}
            tags = ["typos", f"{noise.benchmark}_typos"]
            configs[name] = {**kept, "task": name, "tag": tags, "typos": asdict(noise)}
    return configs


Point = Mapping[str, Any]
Values = npt.NDArray[np.float64]


def curves(points: Iterable[Point]) -> dict[str, Any]:
    """Return accuracy and retention by rate, and the area under the retention curve.

    `points` are {"benchmark", "metric", "rate", "seed", "value", "stderr", "n"}: `rate` in per cent (0 is clean),
    `value` a share. Retention at a rate is (accuracy - chance) / (clean accuracy - chance), neither cut off at 0 nor at
    1. The area is its integral over rates 0 to 20 by the trapezium rule, divided by 20: 1 where nothing is lost.

    Returns {"curves": rows, "area", "interval", "benchmarks", "reason"}. A row is of one benchmark and metric:
    {"benchmark", "metric", "chance", "rates", "area", "interval", "reason"}; of its `rates` each is {"rate", "accuracy"
    (mean over seeds), "spread" (standard deviation over seeds), "seeds", "stderr", "retention"}. `area` of the whole is
    the mean over benchmarks, each with its main metric; `benchmarks` are those that it could be had of. What cannot be
    had is None, and `reason` says why. Intervals hold 95 %, by bootstrap from the points' standard errors (`_drawn`).
    Raises KeylmError for points that are not what is asked for.
    """
    grouped: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        _check(point)
        grouped.setdefault((point["benchmark"], point["metric"]), []).append(point)
    rows, drawn = [], {}
    for key in sorted(grouped, key=lambda key: (list(BENCHMARKS).index(key[0]), key[1])):
        row = _row(*key, grouped[key])
        if row["area"] is not None:
            drawn[key] = _drawn(row, grouped[key])
            row["interval"] = _interval(drawn[key])
        rows.append(row)
    main = [row for row in rows if row["metric"] == BENCHMARKS[row["benchmark"]].metric]
    return {"curves": rows, **_mean_area(main, drawn)}


def _check(point: Point) -> None:
    benchmark, rate, value, stderr = (point.get(key) for key in ("benchmark", "rate", "value", "stderr"))
    if benchmark not in BENCHMARKS or not isinstance(point.get("metric"), str):
        known = ", ".join(BENCHMARKS)
        raise KeylmError(f"robustness: no curve for {dict(point)}; accepted: a metric of one of {known}")
    for name, number, highest in (("rate", rate, 100), ("value", value, 1), ("stderr", stderr, 1)):
        absent = number is None and name == "stderr"
        if not absent and not (isinstance(number, int | float) and 0 <= number <= highest):
            raise KeylmError(f"robustness: {benchmark}: {name} = {number!r} is not accepted; accepted: 0 … {highest}")


def _row(benchmark: str, metric: str, points: Sequence[Point]) -> dict[str, Any]:
    chance = BENCHMARKS[benchmark].chance
    rates = [_at_rate(rate, points) for rate in sorted({point["rate"] for point in points})]
    reason = _undefined(rates, chance)
    for at in rates:
        at["retention"] = None if reason else (at["accuracy"] - chance) / (rates[0]["accuracy"] - chance)
    row = {"benchmark": benchmark, "metric": metric, "chance": chance, "rates": rates}
    reason = reason or _no_area(rates)
    found = None if reason else float(_area([(at["rate"], np.array(at["retention"])) for at in rates]))
    return {**row, "area": found, "interval": None, "reason": reason}


def _at_rate(rate: float, points: Sequence[Point]) -> dict[str, Any]:
    there = [point for point in points if point["rate"] == rate]
    values = [point["value"] for point in there]
    errors = [point["stderr"] for point in there if point.get("stderr") is not None]
    return {
        "rate": rate,
        "accuracy": math.fsum(values) / len(values),
        "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "seeds": len(values),
        # The seeds share their items, so that the error of drawing items does not shrink with their number.
        "stderr": math.fsum(errors) / len(errors) if len(errors) == len(there) else None,
    }


def _undefined(rates: Sequence[Mapping[str, Any]], chance: float) -> str | None:
    """Return why there is no retention, None where there is."""
    clean = rates[0]
    if clean["rate"] != 0:
        return "no clean accuracy (rate 0)"
    if clean["accuracy"] - chance <= CLEAR_ERRORS * (clean["stderr"] or 0.0):
        error = "" if clean["stderr"] is None else f" ± {clean['stderr']:.3f}"
        return f"clean accuracy {clean['accuracy']:.3f}{error} is not clearly above chance, {chance:g}"
    return None


def _no_area(rates: Sequence[Mapping[str, Any]]) -> str | None:
    if HIGHEST_RATE not in [at["rate"] for at in rates]:
        return f"no accuracy at {HIGHEST_RATE} %, where the area ends"
    return None


def _area(retentions: Sequence[tuple[float, Values]]) -> Values:
    """Return the mean height over rates 0 … HIGHEST_RATE of straight lines between (rate, retention) pairs."""
    inside = [pair for pair in retentions if pair[0] <= HIGHEST_RATE]
    parts = [(high - low) * (first + second) / 2 for (low, first), (high, second) in pairwise(inside)]
    return np.asarray(sum(parts) / HIGHEST_RATE, np.float64)


def _drawn(row: Mapping[str, Any], points: Sequence[Point]) -> Values | None:
    """Return areas [DRAWS] of accuracies drawn anew; None where a standard error is missing.

    At each rate seeds are drawn with replacement, and one normal error of the rate's standard error is added: seeds
    share their items. Rates share them too, yet are drawn apart, for points do not say how they hang together; so the
    interval is wider than it would be from the items' outcomes. Draws that are at chance when clean are left out.
    """
    if any(at["stderr"] is None for at in row["rates"]):
        return None
    key = hashlib.blake2b(f"{row['benchmark']} {row['metric']}".encode(), digest_size=8).digest()
    generator = np.random.default_rng(int.from_bytes(key, "little"))
    accuracies = []
    for at in row["rates"]:
        values = np.array([point["value"] for point in points if point["rate"] == at["rate"]])
        means = values[generator.integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)
        accuracies.append(means + at["stderr"] * generator.standard_normal(DRAWS) - row["chance"])
    clean = np.where(accuracies[0] > 0, accuracies[0], np.nan)
    return _area([(at["rate"], drawn / clean) for at, drawn in zip(row["rates"], accuracies, strict=True)])


def _interval(drawn: Values | None) -> list[float] | None:
    """Return the bounds of the middle 95 %."""
    return None if drawn is None else [float(bound) for bound in np.nanpercentile(drawn, [2.5, 97.5])]


def _mean_area(rows: Sequence[Mapping[str, Any]], drawn: Mapping[tuple[str, str], Values | None]) -> dict[str, Any]:
    """Return the mean of the rows that have an area; different benchmarks are independent."""
    counted = [row for row in rows if row["area"] is not None]
    missing = [name for name in BENCHMARKS if name not in [row["benchmark"] for row in rows]]
    reasons = [f"{row['benchmark']}: {row['reason']}" for row in rows if row["reason"]]
    reasons += [f"{name}: no accuracies" for name in missing]
    draws = [found for row in counted if (found := drawn[row["benchmark"], row["metric"]]) is not None]
    whole = len(draws) == len(counted) > 0
    return {
        "area": math.fsum(row["area"] for row in counted) / len(counted) if counted else None,
        "interval": _interval(np.mean(draws, axis=0)) if whole else None,
        "benchmarks": [row["benchmark"] for row in counted],
        "reason": "; ".join(reasons) or None,
    }
