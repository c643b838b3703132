"""Instruction data whose constraints a program checks: docs/instructions.md."""

from keylm.instructions.checks import violations as violations
