"""Trains a recipe with other settings, variant by variant, on the same shards in the same order.

    keylm data build recipes/keylm-75m-hour.toml --run-dir RUN          # curated sources and a tokenizer
    python -m tools.studies.training_grid tools/studies/grids/optimizer.toml --data RUN --out OUT [--gpus 2] [--only …]

A study (TOML) names a recipe, what all variants change of it (`set`), one stage (`stage`; its mixture is that of the
recipe's first stage), seeds, a reference, and of each variant what it changes, as keylm's `--set` takes it; its stage
is called `all` (`stages.all.tokens=…`). The shards of all sources are built once in OUT/build. Each GPU trains one
variant at a time, with its output in OUT/VARIANT-SEED.log; a machine without one trains them one after the other.

A study that was killed goes on with the same command. What is finished is skipped, and so is what diverged (it
stopped at a loss that is no number, or ended worse than guessing); what failed otherwise is tried again. Of a run that
is done checkpoints and shards are deleted, unless --keep is given. Writes OUT/results.json, anew after each run, and
prints it as a table; scaling_fit.py reads it. A study goes on on another machine with --known and that file.

Bits per byte are means over sources of their validation text: the plain ones by register without the typo sources
(as in tools/studies/ablation.py), the weighted one over all sources with the mixture's weights.
"""

import json
import math
import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from keylm.base.errors import KeylmError, TrainingDiverged
from keylm.base.files import read_table, write_json
from keylm.base.json_lines import read_rows
from keylm.base.machine import device_name
from keylm.data.manifest import read_manifest
from keylm.model.decoder import count_parameters
from keylm.recipe.load import Recipe, load_recipe, parse_recipe
from keylm.recipe.run_folder import RunFolder
from tools.command import run_script, script_parser
from tools.studies.ablation import BUILD_TOKENS, Study, build, curated_data, read_study, register_bits
from tools.studies.processes import Devices, keylm, visible_gpus

STAGE = "all"
"""The one stage of every variant."""
LAST = 0.02
"""The share of the steps, at the end, over which the training loss is averaged."""

Job = tuple[str, int]
"""A variant and a seed."""


class Grid:
    """A study on its shards: what a variant's recipe is, what of it is done, what came out."""

    def __init__(self, study: Study, data: Path, out: Path) -> None:
        """Build the shards in `out` from the run folder `data`."""
        self.study, self.out = study, out
        plain = curated_data(study, data)
        weights = next(iter(plain["stages"].values()))["weights"]
        base = parse_recipe({**plain, "stages": {STAGE: {"tokens": BUILD_TOKENS, "weights": weights}}}, "the study")
        shards = build(base, out)
        manifest = read_manifest(shards)
        self.manifest = manifest.hash
        self.unique_tokens = {name: source.train.tokens for name, source in manifest.sources.items()}
        self.weights = {name: weight / sum(weights.values()) for name, weight in weights.items() if weight}
        self.recipe = self._template({**study["stage"], "weights": weights}, base, shards)

    def _template(self, stage: dict[str, Any], base: Recipe, shards: Path) -> Recipe:
        """Write and return the recipe that variants change: the study's stage on the published shards."""
        supply = {"shards": str(shards), "cache_bytes": 1 << 40}
        recipe = parse_recipe({**base.to_data(), "stages": {STAGE: stage}, "data": supply}, "the study's stage")
        (self.out / "study.toml").write_text(recipe.to_toml(), encoding="utf-8")
        return recipe

    def variant(self, job: Job) -> Recipe:
        """Return the recipe of one variant and seed. Raises KeylmError where its settings are none of a recipe's."""
        overrides = self.study["variants"][job[0]]
        return load_recipe(self.out / "study.toml", [*overrides, f"seed={job[1]}"])

    def settings(self, job: Job) -> dict[str, Any]:
        """Return what a finished run is known by; where it changes the run is done anew."""
        study, (variant, seed) = self.study, job
        return {
            "set": study["set"],
            "stage": study["stage"],
            "overrides": study["variants"][variant],
            "seed": seed,
            "manifest": self.manifest,
        }

    def file(self, job: Job, kind: str) -> Path:
        """Return the file of one run beside its folder: its recipe, log or record."""
        return self.out / f"{job[0]}-{job[1]}.{kind}"

    def is_done(self, job: Job) -> bool:
        """Return whether a run was finished with these settings, or diverged, which it would do again."""
        record = read_table(self.file(job, "json"))
        return record.get("settings") == self.settings(job) and settled(record)

    def take_up(self, known: dict[str, Any]) -> None:
        """Write down as done what an earlier machine's results.json has of this study; what differs is left out."""
        shared = {key: known[key] for key in ("set", "stage", "manifest")}
        for variant, entry in known["variants"].items():
            for run in entry["runs"] if variant in self.study["variants"] else []:
                job = variant, run["seed"]
                settings = {**shared, "overrides": entry["overrides"], "seed": run["seed"]}
                if settings == self.settings(job) and settled(run) and not self.is_done(job):
                    figures = {key: value for key, value in run.items() if key != "seed"}
                    write_json(self.file(job, "json"), {"settings": settings, **figures})

    def train(self, job: Job, device: str | None, *, keep: bool) -> None:
        """Train one run on the GPU of that number (None: wherever keylm trains) and write down what came out."""
        folder = RunFolder(self.out / f"{job[0]}-{job[1]}")
        if not self.is_done(job):
            write_json(self.file(job, "json"), {"settings": self.settings(job), **self._outcome(job, folder, device)})
        for bulk in () if keep or not self.is_done(job) else (folder.checkpoints, *folder.shards.glob("*/")):
            shutil.rmtree(bulk, ignore_errors=True)

    def _outcome(self, job: Job, folder: RunFolder, device: str | None) -> dict[str, Any]:
        """Train one run and return its record; a failure is one too."""
        try:
            recipe = self.variant(job)
        except KeylmError as error:
            return {"diverged": False, "error": str(error)}
        file, log = self.file(job, "toml"), self.file(job, "log")
        file.write_text(recipe.to_toml(), encoding="utf-8")
        environment = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
        before = log.stat().st_size if log.exists() else 0
        command = ("run", str(file), "--run-dir", str(folder.path), "--until", "train")
        code = keylm(*command, log=log, environment=environment)
        said = last_error(log, before) or f"exit code {code}"
        figures = self._figures(recipe, folder, finished=not code)
        return {**fate(code, said, figures.get("training_loss"), recipe.tokenizer.vocab_size), **figures}

    def _figures(self, recipe: Recipe, folder: RunFolder, *, finished: bool) -> dict[str, Any]:
        """Return what a run's logs say; of one that did not come to its end only the way as far as it came."""
        steps, timing = read_rows(folder.metrics, "train"), read_rows(folder.timing)
        rows = read_rows(folder.metrics, "validation")
        figures: dict[str, Any] = {
            "device": device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            "torch": torch.__version__,
            "parameters": count_parameters(recipe.model, recipe.tokenizer.vocab_size),
            "steps": len(steps),
            "tokens": len(steps) * recipe.training.batch_tokens,
            "curve": [[row["tokens"], weighted(row["bits_per_byte"], self.weights)] for row in rows],
        }
        if not finished:
            return figures
        last = steps[-max(1, round(LAST * len(steps))) :]
        return {
            **figures,
            "bits_per_byte": rows[-1]["bits_per_byte"],
            "registers": register_bits(folder, recipe),
            "weighted": weighted(rows[-1]["bits_per_byte"], self.weights),
            "training_loss": float(np.mean([row["loss"] for row in last])),
            "tokens_per_second": float(np.median([row["tokens_per_second"] for row in timing])),
            "seconds": float(sum(row["seconds"] for row in timing)),
        }

    def results(self) -> dict[str, Any]:
        """Return the records of all runs that there are, and each variant's difference from the reference."""
        records = {
            variant: [
                {"seed": seed, **{key: value for key, value in record.items() if key != "settings"}}
                for seed in self.study["seeds"]
                if (record := read_table(self.file((variant, seed), "json")))
                and record["settings"] == self.settings((variant, seed))
            ]
            for variant in self.study["variants"]
        }
        reference = finished(records.get(self.study["reference"], []))
        return {
            "manifest": self.manifest,
            "set": self.study["set"],
            "stage": self.study["stage"],
            "reference": self.study["reference"],
            "weights": self.weights,
            "unique_tokens": self.unique_tokens,
            "variants": {
                variant: {
                    "overrides": self.study["variants"][variant],
                    "weighted": mean(run["weighted"] for run in finished(runs).values()),
                    "from_reference": difference(finished(runs), reference),
                    "runs": runs,
                }
                for variant, runs in records.items()
                if runs
            },
        }


def weighted(bits: dict[str, float], weights: dict[str, float]) -> float:
    """Return the mean of the sources' bits per byte, weighted as the mixture weighs the sources."""
    return sum(weights[name] * value for name, value in bits.items()) / sum(weights[name] for name in bits)


def fate(code: int, said: str, loss: float | None, vocabulary: int) -> dict[str, Any]:
    """Return whether a run diverged and what is wrong with it, from its exit code, last word and training loss."""
    guessing = math.log(vocabulary)
    if loss is not None and not loss <= guessing:
        return {"diverged": True, "error": f"ends at a training loss of {loss:.3f}; guessing has {guessing:.3f}"}
    return {"diverged": code == TrainingDiverged.exit_code, "error": said if code else None}


def settled(record: dict[str, Any]) -> bool:
    """Return whether a run came to its end or diverged, rather than failing for another reason."""
    return record["error"] is None or record["diverged"]


def last_error(log: Path, start: int) -> str:
    """Return the last thing a failed command said in its log from byte `start` on: keylm's error, or the last line."""
    said = log.read_bytes()[start:].decode(errors="replace")
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


def finished(runs: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the runs that came to their end, by seed."""
    return {run["seed"]: run for run in runs if run["error"] is None}


def mean(values: Iterable[float]) -> float | None:
    """Return the mean, None of nothing."""
    found = list(values)
    return float(np.mean(found)) if found else None


def difference(runs: dict[int, dict[str, Any]], reference: dict[int, dict[str, Any]]) -> float | None:
    """Return the mean difference in weighted bits per byte, over the seeds that both have."""
    return mean(run["weighted"] - reference[seed]["weighted"] for seed, run in runs.items() if seed in reference)


def markdown(results: dict[str, Any]) -> str:
    """Return the results as a table, a row a variant: means over its seeds."""
    ended = [run for entry in results["variants"].values() for run in finished(entry["runs"]).values()]
    registers = list(dict.fromkeys(register for run in ended for register in run["registers"]))
    columns = ["weighted", "difference", *registers, "training loss", "tokens/s", "seconds", "runs"]
    lines = ["| variant | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for variant, entry in results["variants"].items():
        runs = list(finished(entry["runs"]).values())
        by_register = [mean(run["registers"][register] for run in runs) for register in registers]
        figures = [entry["weighted"], entry["from_reference"], *by_register, mean(run["training_loss"] for run in runs)]
        speeds = [mean(run[key] for run in runs) for key in ("tokens_per_second", "seconds")]
        cells = ["" if figure is None else f"{figure:.4f}" for figure in figures]
        cells += ["" if speed is None else f"{speed:,.0f}" for speed in speeds]
        lines.append(f"| {variant} | " + " | ".join([*cells, fates(entry["runs"])]) + " |")
    return "\n".join(lines)


def fates(runs: list[dict[str, Any]]) -> str:
    """Return in words how a variant's runs ended."""
    ends = ["diverged" if run["diverged"] else "failed" if run["error"] else "finished" for run in runs]
    return ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))


def run_all(grid: Grid, jobs: list[Job], devices: list[str | None], *, keep: bool) -> None:
    """Train all jobs, one on each device at a time; after each results.json is written anew."""
    free, writing = Devices(devices), threading.Lock()

    def work(job: Job) -> None:
        with free.one() as device:
            grid.train(job, device, keep=keep)
        with writing:
            write_json(grid.out / "results.json", grid.results())
        print(f"{job[0]}, seed {job[1]}: {read_table(grid.file(job, 'json'))['error'] or 'done'}", flush=True)

    with ThreadPoolExecutor(len(devices)) as pool:
        try:
            for done in [pool.submit(work, job) for job in jobs]:
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # Ctrl-C reaches the runs too, which write a checkpoint and end
            raise


def main(arguments: list[str] | None = None) -> None:
    """Run a study from the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="run folder with curated sources and tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gpus", type=int, help="GPUs to train on, a variant on each; by default all")
    parser.add_argument("--only", nargs="*", help="variants to train; by default all")
    parser.add_argument("--known", type=Path, help="results.json of the same study, of which nothing is trained again")
    parser.add_argument("--keep", action="store_true", help="keep checkpoints and shards of finished runs")
    given = parser.parse_args(arguments)
    study, out = read_study(given.study), given.out.absolute()
    unknown = {*(given.only or ()), study["reference"]} - set(study["variants"])
    if unknown:
        raise SystemExit(f"{given.study}: has no variant {', '.join(unknown)}; it has {', '.join(study['variants'])}")
    out.mkdir(parents=True, exist_ok=True)
    grid = Grid(study, given.data.absolute(), out)
    if given.known:
        grid.take_up(json.loads(given.known.read_text(encoding="utf-8")))
    jobs = [(variant, seed) for seed in study["seeds"] for variant in given.only or study["variants"]]
    run_all(grid, jobs, visible_gpus(given.gpus), keep=given.keep)
    print(markdown(grid.results()))


if __name__ == "__main__":
    run_script(main)
