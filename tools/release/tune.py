"""Tune the release by preferences or by rewards: pairs whose rejected answers the model gives itself, or GRPO.

    python -m tools.release.tune --data DATA --out OUT --initial OUT/instruct/model
    python -m tools.release.tune grpo --data DATA --out OUT --initial OUT/instruct/model [--replay TEXT]

OUT/preference/model or OUT/grpo/model is the result. The stage before it, `instruct`, is train.py's.
DATA/instructions/preferences.jsonl.zst holds prompts, answers that keep their constraints, and the constraints;
prompts.jsonl.zst prompts and constraints (docs/instruction_data.md).
"""

import argparse
from pathlib import Path

from keylm.base.errors import KeylmError
from tools.release.plan import Clock, keylm, parser, preference_command, read_plan, reward_command, run


def tune(arguments: argparse.Namespace) -> Path:
    """Run `keylm dpo` or `keylm grpo` as the plan says; return the model's folder. Raises KeylmError where it fails."""
    plan, out = read_plan(arguments.plan), arguments.out / arguments.by
    if arguments.by == "grpo":
        seconds = plan.grpo.get("seconds", 0)
        command = reward_command(plan, arguments.initial, arguments.data, out, arguments.replay)
    else:
        seconds = plan.preference["seconds"]
        command = preference_command(plan, arguments.initial, arguments.data, out, plan.preference["pairs"])
    clock = Clock(arguments.by, seconds)
    code = keylm(*command)
    if code:
        raise KeylmError(f"keylm {command[0]} ended with {code}; the same command goes on")
    clock.done()
    return out / "model"


def main() -> None:
    given = parser(__doc__)
    given.add_argument(
        "by", nargs="?", choices=("preference", "grpo"), default="preference", help="a table of the plan"
    )
    given.add_argument("--data", type=Path, required=True, help="the unpacked build")
    given.add_argument("--out", type=Path, required=True)
    given.add_argument("--initial", type=Path, required=True, help="the model to tune")
    given.add_argument("--replay", type=Path, action="append", default=[], help="text that grpo is not to forget")
    run(tune, given.parse_args())


if __name__ == "__main__":
    main()
