"""Instruction data whose constraints a program checks: docs/instruction_data.md."""

from keylm.instructions.checks import violations as violations
