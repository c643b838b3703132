"""`keylm sft`: turn a model and conversations into a recipe that starts from that model, and run it like any other.

Invariant: RUN/recipe.toml says everything, so `keylm run RUN/recipe.toml` trains the same model; the
command itself decides nothing that is not written there. It counts first (builds all shards), because an epoch is a
number of windows and only packing tells how many there are; the cost is one pass of tokenizing.
"""

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keylm.base.console import is_leader, say
from keylm.base.files import atomic_write
from keylm.data.manifest import read_manifest
from keylm.model.folder import check_model_folder, read_config
from keylm.pipeline.run import put_aside, run
from keylm.recipe.load import Recipe, resolve_recipe
from keylm.recipe.run_folder import RunFolder, checkpoint_paths
from keylm.recipe.schema import EMBEDDED
from keylm.recipe.stage import PATTERN_WINDOWS

STAGE = "sft"
MUON_RATE = 0.02
"""The recipe's `optimizer.muon_learning_rate`, which `learning_rate` is a share of; AdamW's rates follow."""
MICRO_BATCH_TOKENS = 16_384
MOST_BATCH_TOKENS = 65_536
FEWEST_STEPS = 200
"""Where the data are little, batches get smaller until there are so many steps."""
ALL = 1 << 45
"""Tokens that no source has: all shards are built."""
CHATS = (
    "Hello! Who are you?",
    "What is the capital of France?",
    "Fix the spelling: I recieved yuor leter yesterdy.",
    "Write two short sentences about the sea.",
    "How do I boil an egg?",
)
"""What the report shows answers to."""


@dataclass(frozen=True)
class Tuning:
    """How long and how fast; the defaults are what LOG.md measured."""

    epochs: float = 2.0
    learning_rate: float = 0.002
    """Muon's, at the peak; AdamW's rates are scaled by the same factor"""
    batch_tokens: int | None = None
    """None: at most MOST_BATCH_TOKENS, less where FEWEST_STEPS steps would not come about"""
    warmup: float = 0.03
    """share of the steps"""


def sft(
    model: Path,
    data: Sequence[str],
    path: Path,
    tuning: Tuning,
    overrides: Sequence[str] = (),
    *,
    workers: int | None = None,
    fresh: bool = False,
    quiet: bool = False,
) -> RunFolder:
    """Tune `model` on the conversations in `data` (files, folders, hub:NAME) in the run folder `path`.

    Loss is taken on the assistant's turns alone, files weigh as their sizes, the rate decays linearly to 0 after a
    short warm-up. Run again, it resumes. Raises KeylmError as `keylm.pipeline.run.run` does.
    """
    folder = RunFolder(path)
    if fresh and is_leader():
        put_aside(folder, quiet=quiet)
    draft = sft_recipe(model, data, path.name, tuning)
    begun = bool(checkpoint_paths(folder.checkpoints))
    if not begun:
        whole = _resolved(with_windows(draft, {}, draft["training"]["context"], tuning), folder, overrides)
        if is_leader() and not folder.model.exists():
            folder.recipe.unlink(missing_ok=True)  # from an earlier start, before counting; not a change to report
        run(whole, path, until="shards", workers=workers, quiet=quiet)
    manifest = read_manifest(folder.shards)
    windows = {name: source.train.windows for name, source in manifest.sources.items()}
    recipe = _resolved(with_windows(draft, windows, manifest.context, tuning), folder, overrides)
    stage = recipe.stages[STAGE]
    say(
        f"sft  {stage.tokens:,} tokens in steps of {recipe.training.batch_tokens:,}; an epoch of all data has "
        f"{sum(windows.values()) * manifest.context:,}",
        quiet=quiet,
    )
    if is_leader() and not begun:
        atomic_write(folder.recipe, recipe.to_toml())
    return run(recipe, path, workers=workers, quiet=quiet)


def _resolved(data: dict[str, Any], folder: RunFolder, overrides: Sequence[str]) -> Recipe:
    """Return the recipe of plain values and what `--set` says over them."""
    return resolve_recipe(copy.deepcopy(data), folder.recipe, list(overrides))


def sft_recipe(model: Path, data: Sequence[str], name: str, tuning: Tuning) -> dict[str, Any]:
    """Return the recipe without amounts, plain, with absolute paths. Raises KeylmError for another model layout."""
    check_model_folder(model)
    config = read_config(model)
    context = min(config.shape.max_position_embeddings, 2048)
    return {
        "name": re.sub(r"[^A-Za-z0-9_-]", "-", name).lstrip("-_")[:80] or STAGE,
        "description": f"{model.parent.name if model.name == 'model' else model.name}, tuned on conversations.",
        "model": config.shape.model_dump(),
        "tokenizer": {"vocab_size": config.vocab_size},
        "sources": _sources(data),
        "training": {"initial_model": str(model.absolute()), "context": context},
        "optimizer": {"muon_learning_rate": MUON_RATE},
        "evaluation": {"holdout": 0.01, "every_steps": 50, "prompts": [], "chats": list(CHATS), "sample_tokens": 120},
    }


def _sources(data: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return a source for each file, folder or data set, named after it."""
    sources: dict[str, dict[str, Any]] = {}
    for place in data:
        hub = place.removeprefix("hub:") if place.startswith("hub:") else None
        stem = hub or (place.removeprefix(EMBEDDED) if place.startswith(EMBEDDED) else Path(place).absolute().name)
        name = base = re.sub(r"[^A-Za-z0-9_-]+", "_", stem.split("/")[-1].split(".")[0]).strip("_-")[:60] or "data"
        while name in sources:
            name = f"{base}_{len(sources)}"
        origin = {"hub": hub} if hub else {"path": place if place.startswith(EMBEDDED) else str(Path(place).absolute())}
        sources[name] = {**origin, "register": "conversational", "loss": "assistant"}
    return sources


def with_windows(draft: dict[str, Any], windows: dict[str, int], context: int, tuning: Tuning) -> dict[str, Any]:
    """Return the draft with amounts for so many training `windows` of `context` tokens a source; without, for all."""
    total = sum(windows.values())
    least = total / PATTERN_WINDOWS
    tokens = round(tuning.epochs * total) * context if windows else ALL
    batch = tuning.batch_tokens or _batch_tokens(tokens, context)
    stage = {
        "tokens": max(1, tokens),
        "weights": {name: max(windows.get(name, 1), least) for name in draft["sources"]},
        "peak": tuning.learning_rate / MUON_RATE,
        "warmup": tuning.warmup,
        "decay": 1 - tuning.warmup,
    }
    micro = max(1, min(batch, MICRO_BATCH_TOKENS) // context)
    training = {**draft["training"], "batch_tokens": batch, "micro_batch_windows": micro}
    return {**draft, "stages": {STAGE: stage}, "training": training}


def _batch_tokens(tokens: int, context: int) -> int:
    """Return the largest batch in whole windows that leaves FEWEST_STEPS steps, within bounds."""
    most = max(1, MOST_BATCH_TOKENS // context)
    return context * min(most, max(1, math.floor(tokens / FEWEST_STEPS / context)))
