"""What the release's scripts share: the plan, the recipe of a stage, the clock.

A stage of the plan's recipe is trained as a run of its own, which begins with the weights that the stage before left:
so stages can be trained on different days and machines, and all that travels is a model folder. What is lost against
one run of all stages is the optimizer's memory, some hundred steps' worth.
"""

import argparse
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keylm.base.errors import KeylmError
from keylm.recipe.load import Recipe, load_recipe, parse_recipe, read_toml
from tools.command import run_script, script_parser
from tools.studies.processes import command

PLAN = Path(__file__).with_name("plan.toml")


@dataclass(frozen=True)
class Plan:
    """plan.toml, read; paths count from its folder."""

    name: str
    recipe: Path
    overrides: tuple[str, ...]
    instructions: dict[str, int]
    """amounts, by the names of the options of `keylm data instructions`: count, preferences …"""
    stages: dict[str, dict[str, Any]]
    """of each, in the order they are trained: `seconds` it may take, `gpus`; where it is one more stretch of a stage of
    the recipe, that one (`of`); `set`: fields of the recipe that are otherwise in it"""
    preference: dict[str, Any]
    grpo: dict[str, Any]
    """`seconds`, and options of `keylm grpo` by their names; empty where nothing is tuned by rewards"""
    evaluation: dict[str, Any]

    def load(self, more: list[str] | None = None) -> Recipe:
        """Return the whole recipe. Raises KeylmError."""
        return load_recipe(self.recipe, [*self.overrides, *(more or [])])

    def load_for(self, stage: str, more: list[str] | None = None) -> tuple[Recipe, str]:
        """Return the recipe as a stage of the plan has it, and the name of the recipe's own stage that it trains.

        Raises KeylmError where either is not there.
        """
        if stage not in self.stages:
            raise KeylmError(f"no stage {stage}; the plan has: {', '.join(self.stages)}")
        planned = self.stages[stage]
        recipe, source = self.load([*planned.get("set", ()), *(more or [])]), planned.get("of", stage)
        if source not in recipe.stages:
            raise KeylmError(f"no stage {source}; the recipe has: {', '.join(recipe.stages)}")
        return recipe, source


def read_plan(file: Path = PLAN) -> Plan:
    """Read a plan. Raises KeylmError where it is none."""
    data = read_toml(file)
    try:
        recipe = (file.parent / data["recipe"]).resolve()
        return Plan(
            data["name"],
            recipe if recipe.is_file() else Path(data["recipe"]),
            tuple(data.get("set", ())),
            data["instructions"],
            data["stages"],
            data["preference"],
            data.get("grpo", {}),
            data["evaluation"],
        )
    except KeyError as missing:
        raise KeylmError(f"{file}: lacks {missing}; accepted: what tools/release/plan.toml has") from None


def stage_recipe(plan: Plan, stage: str, shards: Path, initial: Path | None, more: list[str] | None = None) -> Recipe:
    """Return the recipe of one stage alone, on a published build in `shards`, from the weights of `initial`.

    Its order of the data is another one than that of the stages before. Raises KeylmError.
    """
    recipe, source = plan.load_for(stage, more)
    data = recipe.to_data()
    data.pop("curation", None)
    data["seed"] += list(plan.stages).index(stage)
    data["name"], data["stages"] = f"{plan.name}-{stage}", {stage: data["stages"][source]}
    data["data"] = {**data.get("data", {}), "shards": str(shards.resolve()), "cache_bytes": 1 << 40}
    if initial is not None:
        data["training"]["initial_model"] = str(initial.resolve())
    return parse_recipe(data, f"{plan.recipe}, stage {stage}")


def keylm(*arguments: str, gpus: int = 1, seconds: float | None = None) -> int:
    """Run a command of keylm, on `gpus` processes where there are several; return its exit code.

    After `seconds` it is asked to end, as by Ctrl-C: what trains writes a checkpoint first.
    """
    process = subprocess.Popen(command(*arguments, processes=gpus))
    try:
        return process.wait(seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.send_signal(signal.SIGTERM)
        return process.wait()


def preference_command(plan: Plan, model: Path, data: Path, out: Path, pairs: int) -> list[str]:
    """Return the arguments of `keylm dpo` as the plan has them, which looks at `pairs` questions of the build."""
    questions, settings = data / "instructions/preferences.jsonl.zst", plan.preference
    amounts = ["--limit", str(pairs), "--tries", str(settings["tries"])]
    rate = ["--learning-rate", str(settings["learning_rate"])]
    return ["dpo", str(model), str(questions), "--out", str(out), *amounts, *rate]


def reward_command(plan: Plan, model: Path, data: Path, out: Path, replay: Sequence[Path]) -> list[str]:
    """Return the arguments of `keylm grpo` as the plan has them, on the prompts of the build.

    Raises KeylmError where the plan has none.
    """
    if not plan.grpo:
        raise KeylmError("the plan has no [grpo]; accepted: one with seconds, and options of keylm grpo")
    prompts, settings = data / "instructions/prompts.jsonl.zst", {**plan.grpo}
    settings.pop("seconds", None)
    options = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    texts = [word for path in replay for word in ("--replay", str(path))]
    return ["grpo", str(model), str(prompts), "--out", str(out), *options, *texts]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a script's parser, which knows --plan."""
    made = script_parser(description)
    made.add_argument("--plan", type=Path, default=PLAN)
    return made


def run(function: Callable[[argparse.Namespace], Any], arguments: argparse.Namespace) -> None:
    """Run a script's `function` and print its result, if there is one; a KeylmError ends it with one line."""

    def main() -> None:
        result = function(arguments)
        if result is not None:
            print(result)

    run_script(main)


class Clock:
    """Tells what a step was given and what it took."""

    def __init__(self, step: str, budget: float) -> None:
        """Begin a step that may take `budget` seconds."""
        self._step, self._budget, self._start = step, budget, time.monotonic()
        print(f"== {step}: {budget:,.0f} s are planned", flush=True)

    def left(self) -> float:
        """Return the seconds that are left of the budget."""
        return self._budget - (time.monotonic() - self._start)

    def done(self) -> None:
        """Print what the step took."""
        print(f"== {self._step}: took {self._budget - self.left():,.0f} of {self._budget:,.0f} s", flush=True)
