"""The chat template as runtimes outside Python can render it."""

import re
from pathlib import Path

from keylm.base.files import read_table


def plain_template(folder: Path) -> str | None:
    """Return a model folder's chat template without the marks that only transformers knows; None where it has none."""
    file = folder / "chat_template.jinja"
    found = read_table(folder / "tokenizer_config.json").get("chat_template")
    text = file.read_text(encoding="utf-8") if file.is_file() else found
    return without_marks(text) if isinstance(text, str) else None


def without_marks(template: str) -> str:
    """Return a template without `{% generation %}`, which lets transformers mask the answers in training.

    It prints nothing, and the Jinja of llama.cpp and of transformers.js need not know it.
    """
    return re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)
