"""Instruction data whose constraints a program checks: docs/instructions.md."""

from keylm.data.instructions.checks import violations as violations
