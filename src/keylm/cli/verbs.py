"""How `keylm --help` shows the verbs: in the order of work, every bracket as it is written."""

from typing import Any

from rich.markup import escape
from typer.core import TyperGroup

ORDER = [
    *("run", "doctor", "data", "sft", "dpo", "grpo", "eval", "compare", "report"),
    *("generate", "chat", "serve", "export", "card", "push", "version"),
]


class Verbs(TyperGroup):
    """A group that lists its verbs in ORDER and keeps rich from reading `.[post]` as markup."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        _escape_help(self)

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
