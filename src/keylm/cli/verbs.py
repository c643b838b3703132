"""How `keylm --help` shows the verbs, in the order of work, every bracket as it is written; and no option is empty."""

import os
from typing import Any

from rich.markup import escape
from typer.core import TyperGroup

from keylm.base.errors import KeylmError

ORDER = [
    *("run", "doctor", "data", "sft", "dpo", "grpo", "eval", "compare", "report"),
    *("generate", "chat", "serve", "export", "card", "push", "version"),
]


class Verbs(TyperGroup):
    """A group that lists its verbs in ORDER, keeps rich from reading `.[post]` as markup, and takes no empty value."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        _escape_help(self)
        _refuse_empty(self)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs' names in ORDER; one that ORDER lacks raises ValueError."""
        return sorted(self.commands, key=ORDER.index)


def _escape_help(command: Any) -> None:
    """Escape markup in the help texts of a command, its parameters and its subcommands."""
    for owner in (command, *command.params):
        if getattr(owner, "help", None):
            owner.help = escape(owner.help)
    for verb in getattr(command, "commands", {}).values():
        _escape_help(verb)


def _refuse_empty(command: Any) -> None:
    """Make every option of a command and its subcommands raise KeylmError for an empty value, or variable, of its own.

    An empty one is most often a shell's variable that is not set: it must not mean "no key" or "the folder here".
    """
    for option in command.params:
        if option.param_type_name == "option":
            option.handle_parse_result = _checked(option, option.handle_parse_result)
    for verb in getattr(command, "commands", {}).values():
        _refuse_empty(verb)


def _checked(option: Any, handle: Any) -> Any:
    name = max(option.opts, key=len)

    def checked(context: Any, given: Any, arguments: Any) -> Any:
        value = given.get(option.name)
        if value is None and option.envvar and os.environ.get(option.envvar) == "":
            raise KeylmError(f"{option.envvar}: is empty; accepted: a value, or the variable not set")
        if "" in (value if isinstance(value, list | tuple) else [value]):
            raise KeylmError(f"{name}: is empty; accepted: a value, or no {name}")
        return handle(context, given, arguments)

    return checked
