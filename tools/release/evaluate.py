"""Measure a model of the release, each group of the plan's measures in a process of its own, several on a GPU at once.

    python -m tools.release.evaluate MODEL --measures base instruct --data DATA --tasks-path BENCHMARKS [--limit N]

Writes beside the model (OUT/STAGE/evaluation for OUT/STAGE/model). What is finished is kept, so the command can be
given again; logs lie in OUT/STAGE/evaluation-GROUP.log.
"""

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from keylm.base.errors import KeylmError
from keylm.evaluation.measure import write_summaries
from keylm.evaluation.results import EvaluationFolder
from tools.release.plan import Clock, parser, read_plan, run
from tools.studies.processes import Devices, visible_gpus


def evaluate(arguments: argparse.Namespace) -> None:
    """Run all groups. Raises KeylmError where one fails."""
    plan = read_plan(arguments.plan)
    groups = []
    for measures in arguments.measures:
        if not isinstance(plan.evaluation.get(measures), list):
            raise KeylmError(f"--measures {measures}: the plan's [evaluation] has no such list of groups")
        groups += plan.evaluation[measures]
    if arguments.data is None and any("instructions" in group for group in groups):
        raise KeylmError("instructions: no items; accepted: --data with the unpacked build")
    clock = Clock(f"evaluation of {arguments.model}", plan.evaluation["seconds"])
    # The host is slower than the GPU with so small a model: several processes fill one.
    gpus = visible_gpus(None)
    places = gpus * (plan.evaluation.get("per_gpu", 1) if gpus != [None] else 1)
    devices = Devices(places)
    with ThreadPoolExecutor(len(places)) as pool:
        codes = list(pool.map(lambda group: measure(arguments, group, devices), groups))
    # Each process has written them of what it found; the last to write is not always the last that was finished.
    write_summaries(EvaluationFolder(arguments.model.parent / "evaluation"), str(arguments.model))
    clock.done()
    failed = [",".join(group) for group, code in zip(groups, codes, strict=True) if code]
    if failed:
        raise KeylmError(f"{' and '.join(failed)} failed; look at evaluation-*.log, then give the command again")


def measure(arguments: argparse.Namespace, group: list[str], devices: Devices) -> int:
    """Run `keylm eval` for one group on one GPU; return its exit code."""
    run = arguments.model.parent
    command = ["eval", str(arguments.model), "--tasks", ",".join(group)]
    command += ["--tasks-path", str(arguments.tasks_path)] if arguments.tasks_path else []
    if "typing" in group:
        command += ["--workers", str(max(1, (os.cpu_count() or 1) // 2))]
        command += ["--corpus", str(arguments.corpus)] if arguments.corpus else []
    command += ["--out", str(run / "evaluation")]
    if "instructions" in group:
        command += ["--items", str(arguments.data / "instructions/evaluation.jsonl.zst")]
    if arguments.limit is not None:
        command += ["--limit", str(arguments.limit)]
    started = time.monotonic()
    code = devices.keylm(*command, log=run / f"evaluation-{group[0]}.log")
    print(f"{', '.join(group)}: {'done' if not code else f'exit code {code}'}, {time.monotonic() - started:.0f} s")
    return code


def main() -> None:
    given = parser(__doc__)
    given.add_argument("model", type=Path)
    given.add_argument("--measures", nargs="+", default=["base"], help="lists of groups in the plan's [evaluation]")
    given.add_argument("--data", type=Path, help="the unpacked build, for its instruction items")
    given.add_argument("--tasks-path", type=Path, help="benchmark items on this machine")
    given.add_argument("--corpus", type=Path, help="for typing on real errors and held-out chat")
    given.add_argument("--limit", type=int)
    run(evaluate, given.parse_args())


if __name__ == "__main__":
    main()
