r"""Train stages one after the other within a time, and measure the last; each is packed as soon as it is finished.

    python -m tools.release.sequence stable_2 anneal --data DATA --out OUT --initial MODEL --seconds 1500 \
        --measures base --tasks-path BENCHMARKS --corpus CORPUS

For machines that are to be had for so long: a stage whose rate does not fall takes what the steps after it leave of
the seconds, the others are given what the plan says. OUT/packed/STAGE holds a finished stage in parts (its model and
records; unpack_run.py), OUT/packed/measured the evaluation of the last: fetch each as soon as its parts.json is
there, for what was not fetched goes with the machine. Started again, it leaves out what is packed.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

from keylm.base.errors import KeylmError
from tools.release.evaluate import evaluate
from tools.release.pack_run import PARTS, pack_result
from tools.release.plan import Clock, Plan, parser, read_plan, run
from tools.release.train import train


def sequence(arguments: argparse.Namespace) -> None:
    """Train, pack, measure. Raises KeylmError where a step fails; what was finished before it is packed."""
    plan, clock = read_plan(arguments.plan), Clock("sequence", arguments.seconds)
    packed, model, last = arguments.out / "packed", arguments.initial, arguments.out / arguments.stages[-1]
    limit = arguments.part_bytes
    steady = {name for name in arguments.stages if is_steady(plan, name)}
    with ThreadPoolExecutor(1) as packing:  # beside what comes next
        waiting = []
        for number, stage in enumerate(arguments.stages):
            if not (packed / stage / PARTS).is_file():
                later = [*arguments.stages[number + 1 :], *(["evaluation"] if arguments.measures else [])]
                seconds = share(plan, stage, later, steady, clock.left())
                own = {"stage": stage, "seconds": seconds, "initial": model, "arriving": None}
                train(SimpleNamespace(**{**vars(arguments), **own}))
                waiting.append(packing.submit(pack_result, arguments.out / stage, packed / stage, part_bytes=limit))
            model = arguments.out / stage / "model"
        try:
            if arguments.measures:
                evaluate(SimpleNamespace(**vars(arguments), model=model))
        finally:
            for each in waiting:
                each.result()
            if arguments.measures:
                pack_result(last, packed / "measured", ("evaluation",), part_bytes=limit)
    clock.done()


def is_steady(plan: Plan, stage: str) -> bool:
    """Return whether a stage's rate never decays, so that it may be cut short. Raises KeylmError for an unknown one."""
    recipe, source = plan.load_for(stage)
    return recipe.stages[source].decay == 0


def share(plan: Plan, stage: str, later: list[str], steady: set[str], left: float) -> float:
    """Return the seconds for a stage: the plan's, or of a steady one its part of what the others leave.

    Raises KeylmError where they leave nothing.
    """
    if stage not in steady:
        return float(plan.stages[stage]["seconds"])
    budgets = {**plan.stages, "evaluation": plan.evaluation}
    others = sum(budgets[name]["seconds"] for name in later if name not in steady)
    if left <= others:
        raise KeylmError(
            f"{left:,.0f} s are left, and {', '.join(later)} are planned to take {others:,}; accepted: more --seconds"
        )
    return (left - others) / (1 + sum(name in steady for name in later))


def main() -> None:
    given = parser(__doc__)
    given.add_argument("stages", nargs="+", help="stages of the plan, in order")
    given.add_argument("--data", type=Path, required=True, help="the unpacked build")
    given.add_argument("--out", type=Path, required=True)
    given.add_argument("--initial", type=Path, help="the model to begin with")
    given.add_argument("--seconds", type=float, required=True, help="for all of it")
    given.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a field of the recipe")
    given.add_argument("--measures", nargs="*", default=[], help="lists of groups in the plan's [evaluation]")
    given.add_argument("--tasks-path", type=Path, help="benchmark items on this machine")
    given.add_argument("--corpus", type=Path, help="for typing on real errors and held-out chat")
    given.add_argument("--limit", type=int, help="items of each benchmark")
    given.add_argument("--part-bytes", type=int, default=15_000_000)
    run(sequence, given.parse_args())


if __name__ == "__main__":
    main()
