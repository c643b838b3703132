"""What every script of tools/ does on the command line: `python -m tools.FOLDER.SCRIPT`, its docstring as the help."""

import argparse
from collections.abc import Callable
from typing import Any

from keylm.base.errors import KeylmError


def script_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is the script's docstring as it is written."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def run_script(main: Callable[[], Any]) -> None:
    """Run `main`; a KeylmError ends the script with one line, as it ends `keylm`."""
    try:
        main()
    except KeylmError as error:
        raise SystemExit(f"error: {error}") from None
