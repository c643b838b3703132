"""Where instructions pay: in the mixture during the anneal, as tuning afterwards, as preferences, or all of it.

    python -m tools.release.pack …                       # the build and its instruction data
    python -m tools.studies.instruct --initial STABLE/model --data DATA --out OUT --tasks-path BENCHMARKS

All variants begin with one model whose rate has not fallen yet, and with the stages of the release's recipe
(tools/release/plan.toml) made short: `anneal` with a share of instructions, `instruct`, then `keylm dpo`. Each is
measured with IFEval, HellaSwag and PIQA, and with held-out instructions. Each GPU trains one variant at a time and
measures one beside it. A study that was killed goes on with the same command. Writes OUT/results.json and prints a
table; a variant's folder is a run like any other.
"""

import argparse
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from keylm.base.errors import KeylmError
from keylm.base.files import read_table, write_json
from keylm.base.json_lines import read_rows
from keylm.base.machine import device_name
from keylm.evaluation.results import EvaluationFolder
from keylm.recipe.load import Recipe, parse_recipe
from tools.command import run_script, script_parser
from tools.release.plan import PLAN, preference_command, read_plan, stage_recipe
from tools.studies.processes import Devices, visible_gpus


@dataclass(frozen=True)
class Variant:
    """What is done to which model."""

    parent: str | None
    """another variant; None: the model that all begin with"""
    kind: str
    """a stage of the recipe, or `dpo`"""
    share: float = 0.0
    """of instructions in the mixture, for "anneal\""""


VARIANTS = {
    "plain": Variant(None, "anneal", 0.0),
    "mix25": Variant(None, "anneal", 0.25),
    "mix50": Variant(None, "anneal", 0.5),
    "plain+sft": Variant("plain", "instruct"),
    "mix25+sft": Variant("mix25", "instruct"),
    "mix25+dpo": Variant("mix25", "dpo"),
    "plain+sft+dpo": Variant("plain+sft", "dpo"),
    "mix25+sft+dpo": Variant("mix25+sft", "dpo"),
}
TASKS = ("ifeval", "hellaswag", "piqa")
IFEVAL = ("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc")


class Study:
    """The variants of one initial model."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Read the plan; nothing is trained yet."""
        plan = read_plan(arguments.plan)
        # The stages as the recipe has them, which the published results had: the release's may have larger steps.
        stages = {name: {**stage, "set": ()} for name, stage in plan.stages.items()}
        self._given, self._plan = arguments, replace(plan, stages=stages)
        gpus = visible_gpus(arguments.gpus)
        self._train, self._measure = Devices(gpus), Devices(gpus)
        self._writing = threading.Lock()

    def run(self) -> None:
        """Train and measure all variants, each when its parent is there."""
        asked = {name: VARIANTS[name] for name in self._given.only or VARIANTS}
        trained = {name: threading.Event() for name in asked}
        with ThreadPoolExecutor(len(asked)) as pool:
            jobs = [pool.submit(self._one, name, variant, trained) for name, variant in asked.items()]
            for job in jobs:
                job.result()

    def _one(self, name: str, variant: Variant, trained: dict[str, threading.Event]) -> None:
        try:
            if variant.parent in trained:
                trained[variant.parent].wait()
            parent = self._given.initial if variant.parent is None else self.folder(variant.parent) / "model"
            if not parent.is_dir():
                raise KeylmError(f"{name}: {parent} is not there")
            self._call(self._train, name, self._training(name, variant, parent), "train")
        finally:
            trained[name].set()
        if not self._given.no_measures:
            self._call(self._measure, name, self._measuring(name), "eval")
        with self._writing:
            write_json(self._given.out / "results.json", self.results())

    def folder(self, name: str) -> Path:
        """Return a variant's run folder."""
        return Path(self._given.out) / name.replace("+", "-")

    def _training(self, name: str, variant: Variant, parent: Path) -> list[str]:
        folder, given = self.folder(name), self._given
        if variant.kind == "dpo":
            return preference_command(self._plan, parent, given.data, folder, given.pairs)
        tokens = given.anneal_tokens if variant.kind == "anneal" else given.instruct_tokens
        settings = [f"stages.{variant.kind}.tokens={tokens}", *given.set]
        recipe = stage_recipe(self._plan, variant.kind, given.data / "shards", parent, settings)
        if variant.kind == "anneal":
            recipe = with_share(recipe, variant.share)
        file = given.out / f"{folder.name}.toml"
        file.write_text(recipe.to_toml(), encoding="utf-8")
        return ["run", str(file), "--run-dir", str(folder)]

    def _measuring(self, name: str) -> list[str]:
        given, folder = self._given, self.folder(name)
        items = str(given.data / "instructions/evaluation.jsonl.zst")
        command = ["eval", str(folder / "model"), "--tasks", ",".join(["instructions", *TASKS]), "--items", items]
        command += ["--tasks-path", str(given.tasks_path)] if given.tasks_path else []
        command += ["--limit", str(given.limit)] if given.limit else []
        return [*command, "--out", str(folder / "evaluation")]

    def _call(self, devices: Devices, name: str, arguments: list[str], kind: str) -> None:
        """Run a command of keylm on one GPU. Raises KeylmError where it fails."""
        log = self._given.out / f"{self.folder(name).name}-{kind}.log"
        code = devices.keylm(*arguments, log=log)
        if code:
            raise KeylmError(f"{name}: keylm {arguments[0]} ended with {code}: {log}")
        print(f"{name}: {kind} done", flush=True)

    def results(self) -> dict[str, Any]:
        """Return what was measured so far."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return {
            "initial": str(self._given.initial),
            "anneal_tokens": self._given.anneal_tokens,
            "instruct_tokens": self._given.instruct_tokens,
            "pairs": self._given.pairs,
            "limit": self._given.limit,
            "device": device_name(device),
            "torch": torch.__version__,
            "variants": {name: found for name in VARIANTS if (found := figures(self.folder(name)))},
        }


def with_share(recipe: Recipe, share: float) -> Recipe:
    """Return a one-stage recipe in whose mixture the sources that train answers alone have `share`."""
    data = recipe.to_data()
    (stage,) = data["stages"].values()
    answers = {name for name in stage["weights"] if recipe.sources[name].loss == "assistant"}
    sums = {True: 0.0, False: 0.0}
    for name, weight in stage["weights"].items():
        sums[name in answers] += weight
    wanted = {True: share, False: 1 - share}
    scaled = {n: w * wanted[n in answers] / sums[n in answers] for n, w in stage["weights"].items()}
    stage["weights"] = {name: weight for name, weight in scaled.items() if weight >= 0.001}
    return parse_recipe(data, recipe.name)


def figures(run: Path) -> dict[str, Any]:
    """Return a variant's figures as far as they are there."""
    folder = EvaluationFolder(run / "evaluation")
    found: dict[str, Any] = {}
    for name, record in folder.benchmarks().items():
        metrics = {metric: figure["value"] for metric, figure in record["metrics"].items()}
        found[name] = {"n": record["n"], "seconds": record["seconds"], **metrics}
        if name == "ifeval":
            found[name]["mean"] = sum(metrics[metric] for metric in IFEVAL) / len(IFEVAL)
    rows = read_table(folder.instructions).get("rows", [])
    wanted = ("all constraints", "constraints", "exact", "error reduction", "unchanged")
    for row in rows:
        if row["measure"] in wanted and row.get("system", "model") == "model":
            found[f"{row['set']}: {row['measure']}"] = {key: row[key] for key in ("value", "low", "high", "n")}
    validation = read_rows(run / "metrics.jsonl", "validation") if (run / "metrics.jsonl").is_file() else []
    if found and validation:
        found["bits_per_byte"] = validation[-1]["bits_per_byte"]
    return found


def markdown(results: dict[str, Any]) -> str:
    """Return the results as a table, a row a variant, per cent."""
    columns = {
        "IFEval": ("ifeval", "mean"),
        "HellaSwag": ("hellaswag", "acc_norm"),
        "PIQA": ("piqa", "acc"),
        "trained types": ("trained: all constraints", "value"),
        "held-out types": ("held_out: all constraints", "value"),
        "typos exact": ("typos: exact", "value"),
    }
    lines = ["| variant | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for name, found in results["variants"].items():
        cells = [found.get(key, {}).get(metric) for key, metric in columns.values()]
        lines.append(f"| {name} | " + " | ".join("" if cell is None else f"{100 * cell:.1f}" for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the study."""
    parser = script_parser(__doc__)
    parser.add_argument("--initial", type=Path, required=True, help="a model whose rate has not fallen yet")
    parser.add_argument("--data", type=Path, required=True, help="what tools/release/pack.py built")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks-path", type=Path, help="benchmark items on this machine")
    parser.add_argument("--anneal-tokens", type=int, default=50_000_000)
    parser.add_argument("--instruct-tokens", type=int, default=20_000_000)
    parser.add_argument("--pairs", type=int, default=3000, help="questions that DPO looks at")
    parser.add_argument(
        "--only", nargs="+", choices=VARIANTS, help="some variants; parents that are not among them must be there"
    )
    parser.add_argument("--gpus", type=int, help="GPUs to use; by default all")
    parser.add_argument("--limit", type=int, help="items of each benchmark")
    parser.add_argument("--no-measures", action="store_true", help="train alone")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a field of the recipe")
    parser.add_argument("--plan", type=Path, default=PLAN)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    study = Study(arguments)
    study.run()
    print(markdown(json.loads((arguments.out / "results.json").read_text())))


if __name__ == "__main__":
    run_script(main)
