"""Instruction data whose constraints a program checks: docs/instruction_data.md."""

from keylm.instructions.checks import check_constraint as check_constraint
from keylm.instructions.checks import violations as violations
from keylm.instructions.rewards import Reward as Reward
from keylm.instructions.rewards import reward as reward
