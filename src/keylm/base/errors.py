"""Errors that the user can fix: printed as one message without a traceback."""


class KeylmError(Exception):
    """Bad input: the message says what is wrong, where, and what is accepted."""

    exit_code = 2


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra; keylm is on no package index, so it is run in the clone."""
    return f"pip install -e '.[{extra}]' in keylm's clone"


class TrainingDiverged(KeylmError):
    """The loss or a gradient is not a finite number; the checkpoints on disk are untouched."""

    exit_code = 3


class Interrupted(KeylmError):
    """SIGTERM or Ctrl-C; a checkpoint was written, and the same command resumes from it."""

    exit_code = 130


class FailedElsewhere(KeylmError):
    """The leading process failed and has said why; the others stop without a word."""
