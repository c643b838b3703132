"""Tune the release's preferences: one epoch of DPO on pairs whose rejected answers the model gives itself.

    python -m tools.release.tune --data DATA --out OUT --initial OUT/instruct/model

The stage before it, `instruct`, is train.py's. DATA/instructions/preferences.jsonl.zst holds prompts, answers that
keep their constraints, and the constraints (docs/instruction_data.md). OUT/preference/model is the result.
"""

import argparse
from pathlib import Path

from keylm.base.errors import KeylmError
from tools.release.plan import Clock, keylm, parser, preference_command, read_plan, run


def tune(arguments: argparse.Namespace) -> Path:
    """Run `keylm dpo` as the plan says; return the model's folder. Raises KeylmError where it fails."""
    plan = read_plan(arguments.plan)
    clock, out = Clock("preference", plan.preference["seconds"]), arguments.out / "preference"
    code = keylm(*preference_command(plan, arguments.initial, arguments.data, out, plan.preference["pairs"]))
    if code:
        raise KeylmError(f"keylm dpo ended with {code}; the same command goes on")
    clock.done()
    return out / "model"


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--data", type=Path, required=True, help="the unpacked build")
    given.add_argument("--out", type=Path, required=True)
    given.add_argument("--initial", type=Path, required=True, help="the model to tune")
    run(tune, given.parse_args())


if __name__ == "__main__":
    main()
