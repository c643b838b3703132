"""Sixty requests of everyday use, which a model answers greedily: to be read, and to count what goes wrong.

There is no right answer to most of them, so nothing is scored. Counted are answers that are empty, that reach the limit
of tokens without an end, and that say a run of words twice. No repetition penalty is used, whatever the model's folder
asks for: what is counted is what the model does by itself. Cost: 60 answers of at most 200 tokens.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keylm.base.console import Status
from keylm.base.files import read_table, write_json
from keylm.model.folder import model_fingerprint

if TYPE_CHECKING:
    import torch

PROTOCOL = "keylm everyday 1"
"""Incremented with any change of a prompt or a rule."""
RUN = 8
"""Words in a row that count as said twice; `keylm chat` bars runs of as many tokens."""
GRAM = 4
COUNTED = {
    "empty": "empty answers",
    "cut_off": "answers cut off at the limit",
    "repetitive": f"answers that say {RUN} words twice",
}
"""Names of counts, in words."""


@dataclass(frozen=True)
class EverydayPrompt:
    """A request, and what kind of use it stands for."""

    group: str
    text: str


@cache
def everyday_prompts() -> tuple[tuple[EverydayPrompt, ...], int]:
    """Return the prompts in order, and how many tokens an answer may have."""
    table = tomllib.loads((files("keylm.evaluation") / "everyday_prompts.toml").read_text(encoding="utf-8"))
    rows = [EverydayPrompt(group, " ".join(text.split())) for group, texts in table["groups"].items() for text in texts]
    return tuple(rows), int(table["max_new_tokens"])


def repeated_share(text: str, size: int = GRAM) -> float:
    """Return the share of a text's runs of `size` words that occurred before in it, 0 where it is shorter.

    seq-rep-n of Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training", ICLR.
    """
    words = text.lower().split()
    runs = [tuple(words[place : place + size]) for place in range(len(words) - size + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def count_answers(answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return how many answers are empty, cut off and repetitive, the mean share of repeated runs, and the mean length.

    An answer is {"answer", "ended"}. Lengths are in words.
    """
    texts = [str(row["answer"]) for row in answers]
    return {
        "answers": len(texts),
        "empty": sum(not text.strip() for text in texts),
        "cut_off": sum(not row["ended"] for row in answers),
        "repetitive": sum(repeated_share(text, RUN) > 0 for text in texts),
        "repeated_share": sum(map(repeated_share, texts)) / max(1, len(texts)),
        "mean_words": sum(len(text.split()) for text in texts) / max(1, len(texts)),
    }


def answer_everyday(model_folder: Path, *, device: "torch.device | None" = None, quiet: bool = False) -> dict[str, Any]:
    """Return a model's answers, ready for JSON.

    {"protocol", "chat", "answers": [{"group", "prompt", "answer", "ended"}]}. A model without a chat template (`chat`
    is false) continues each prompt. Raises KeylmError where the model cannot be opened.
    """
    from keylm.runtimes.generation import Generator, rows_at_once

    prompts, most_tokens = everyday_prompts()
    generator = Generator(model_folder, device)
    batch = rows_at_once(generator.model.config, generator.device, generator.context)
    rows: list[dict[str, Any]] = []
    with Status("everyday", len(prompts), quiet=quiet) as status:
        for start in range(0, len(prompts), batch):
            asked = prompts[start : start + batch]
            for prompt, drawn in zip(asked, generator.greedy([one.text for one in asked], most_tokens), strict=True):
                answer = {"answer": drawn.text.strip(), "ended": drawn.ended}
                rows.append({"group": prompt.group, "prompt": prompt.text, **answer})
            status.update(len(rows), "prompts answered")
    return {"protocol": PROTOCOL, "chat": bool(generator.tokenizer.chat_template), "answers": rows}


def measure_everyday(
    model_folder: Path, out: Path, *, device: "torch.device | None" = None, quiet: bool = False
) -> dict[str, Any]:
    """Write the answers of `answer_everyday` with their counts to `out`, unless it has them; return them."""
    settings = {"model": model_fingerprint(model_folder)}
    found = read_table(out)
    if found.get("settings") == settings and found.get("protocol") == PROTOCOL:
        return found
    found = answer_everyday(model_folder, device=device, quiet=quiet)
    found |= {"counts": count_answers(found["answers"]), "settings": settings}
    write_json(out, found)
    return found
