"""Tune the release's preferences: one epoch of DPO on pairs whose rejected answers the model gives itself.

    python scripts/release/tune.py --data DATA --out OUT --initial OUT/instruct/model

The stage before it, `instruct`, is train.py's. DATA/instructions/preferences.jsonl.zst holds prompts, answers that
keep their constraints, and the constraints (docs/instructions.md). OUT/preference/model is the result.
"""

import argparse
from pathlib import Path

from plan import PLAN, Clock, keylm, preference_command, read_plan

from keylm.errors import KeylmError


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the unpacked build")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--initial", type=Path, required=True, help="the model to tune")
    parser.add_argument("--plan", type=Path, default=PLAN)
    try:
        print(tune(parser.parse_args()))
    except KeylmError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
