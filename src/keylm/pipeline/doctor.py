"""`keylm doctor`: what a recipe will need, and one real step of each stage, before hours are spent.

The steps are real: a few megabytes of each source go through tokenizer, shards, loop and export in a temporary
folder, with batches of one micro-batch, and the speed measured there is what the time is estimated from.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from rich.table import Table

from keylm.base.console import console, say, seconds
from keylm.base.errors import KeylmError
from keylm.base.json_lines import read_rows
from keylm.base.machine import device_name, free_memory
from keylm.data.curated import curated_sources
from keylm.data.provenance import bytes_read, source_stamps
from keylm.data.sources import check_sources
from keylm.model.decoder import count_parameters
from keylm.pipeline.data_plan import plan
from keylm.pipeline.run import run
from keylm.recipe.load import Recipe, parse_recipe, stage_steps
from keylm.recipe.run_folder import RunFolder
from keylm.recipe.schema import Source
from keylm.training.distributed import check_share, choose_device
from keylm.training.objective import CACHED_LOGITS, GPU_ROWS
from keylm.training.sharding import check_even

GIB = 1 << 30
SAMPLE_BYTES = 2_000_000
"""Text of each source that the trial reads."""
NEED_DATA = ("disk", "one step of each stage")
"""Checks that read the sources: without them they would only repeat what is missing."""
TRIAL_STEPS = 3
"""Steps of each stage in the trial; the first of a stage warms up and is not timed."""


def examine(recipe: Recipe, run_dir: Path, processes: int) -> bool:
    """Print what `recipe` needs and whether it works here; return whether every check passed."""
    table = Table("check", "result", title=f"doctor: {recipe.name}", title_justify="left")
    checks: dict[str, Callable[[], str]] = {
        "device": lambda: _device(recipe),
        "parameters": lambda: f"{count_parameters(recipe.model, recipe.tokenizer.vocab_size):,}",
        "memory": lambda: _memory(recipe, processes),
        "steps": lambda: _steps(recipe, processes),
        "data": lambda: _data(recipe),
        "disk": lambda: _disk(recipe, run_dir),
        "one step of each stage": lambda: _trial(recipe, processes),
    }
    failed = set()
    for name, check in checks.items():
        try:
            result = "not tried without the data" if name in NEED_DATA and "data" in failed else check()
        except KeylmError as error:
            failed.add(name)
            result = f"FAILED: {error}"
        table.add_row(name, result)
    console.print(table)
    say("fix what FAILED, then run keylm doctor again" if failed else "everything is ready")
    return not failed


def _device(recipe: Recipe) -> str:
    device = choose_device(recipe.training.device)
    if device.type == "cuda":
        return f"{device_name(device)} ({torch.cuda.device_count()} here)"
    return f"{device.type}, {torch.get_num_threads()} threads"


def _memory(recipe: Recipe, processes: int) -> str:
    """Return an estimate of what one process holds while training. Raises KeylmError where it can't fit."""
    shape, settings = recipe.model, recipe.training
    device = choose_device(settings.device)
    gradients = 4 * count_parameters(shape, recipe.tokenizer.vocab_size)
    # A checkpoint is copied before it is written.
    fixed = (2 * _checkpoint_bytes(recipe) + gradients) // (processes if settings.parallel == "fsdp" else 1)
    tokens = settings.micro_batch_windows * settings.context
    width = 2 if settings.computes_in_bf16(device.type) else 4
    compiled = settings.compile and device.type == "cuda"
    per_layer = (8, 3) if compiled else (10, 4)  # what is kept for backward: times the hidden and the inner size
    kept = per_layer[0] * shape.hidden_size + per_layer[1] * shape.intermediate_size
    logits = 3 * 4 * (GPU_ROWS * recipe.tokenizer.vocab_size if device.type == "cuda" else CACHED_LOGITS)
    moving = tokens * width * kept * shape.num_hidden_layers + logits
    free = free_memory(device)
    parts = f"{fixed / GIB:.2f} model and optimizer, {moving / GIB:.2f} a micro-batch"
    text = f"about {(fixed + moving) / GIB:.2f} GiB ({parts})"
    if free is not None and fixed + moving > free:
        raise KeylmError(f"{text}, but {free / GIB:.1f} GiB are free; lower training.micro_batch_windows")
    return text if free is None else f"{text}; {free / GIB:.1f} GiB free"


def _checkpoint_bytes(recipe: Recipe) -> int:
    """Return the bytes of fp32 weights, and Muon's momentum or (for the two vocabulary matrices) AdamW's moments."""
    parameters = count_parameters(recipe.model, recipe.tokenizer.vocab_size)
    tables = 2 * recipe.tokenizer.vocab_size * recipe.model.hidden_size
    return 4 * (2 * parameters + tables)


def _steps(recipe: Recipe, processes: int) -> str:
    """Return steps per stage and micro-batches per step. Raises KeylmError where the batch can't be shared."""
    windows = recipe.training.batch_windows
    check_share(windows, processes)
    if recipe.training.parallel == "fsdp":
        check_even(windows, processes, recipe.training.micro_batch_windows)
    micro = math.ceil(math.ceil(windows / processes) / recipe.training.micro_batch_windows)
    uneven = "" if windows % processes == 0 else f", shared unevenly by {processes} processes"
    steps = ", ".join(f"{name} {number:,}" for name, number in stage_steps(recipe).items())
    return f"{steps}; {windows} windows a step in {micro} micro-batches{uneven}"


def _data(recipe: Recipe) -> str:
    """Return the files of each source that is used or read. Raises KeylmError where one cannot be read."""
    found, missing, revisions = [], [], dict[str, str]()
    sources = {**recipe.used_sources, **recipe.read_sources}
    try:
        revisions = _revisions(sources)
    except KeylmError as error:
        missing.append(str(error))
    for name, source in sources.items():
        try:
            found.append(f"{name}: {_origin(name, source, revisions)}")
        except KeylmError as error:
            missing.append(str(error))
    if missing:
        raise KeylmError("\n".join(missing))
    check_sources(recipe)  # word lists, evaluation sets and a given tokenizer too
    return "\n".join(found)


def _revisions(sources: Mapping[str, Source]) -> dict[str, str]:
    """Return the commits of the sources on the hub, which is asked about all of them at once. Raises KeylmError."""
    on_hub = {name: source for name, source in sources.items() if source.hub}
    if not on_hub:
        return {}
    from keylm.data.hub_check import look_up

    return look_up(on_hub)


def _origin(name: str, source: Source, revisions: Mapping[str, str]) -> str:
    """Return what a source reads. Raises KeylmError where that cannot be had."""
    if source.typos_of:
        return f"typos in {', '.join(source.typos_of)}"
    if source.hub:
        return f"{source.hub} at revision {revisions.get(name, '')[:12] or 'unknown'}"
    files = source_stamps(name, source)
    return f"{len(files)} file{'s' * (len(files) != 1)}, {sum(file.size for file in files) / 1e6:,.1f} MB"


def _disk(recipe: Recipe, run_dir: Path) -> str:
    """Return what the run folder will take. Raises KeylmError where the disk has less."""
    kept = recipe.checkpoints.keep_last + len(recipe.stages) + 1
    models = len(recipe.stages) * 2 * count_parameters(recipe.model, recipe.tokenizer.vocab_size)
    checkpoints = kept * _checkpoint_bytes(recipe) + models
    tokens = sum(min(share.tokens, share.size or share.tokens) for share in plan(recipe, RunFolder(run_dir)))
    shards = tokens * (2 + 1 / 8)  # two bytes and a mask bit
    to_curate = curated_sources(recipe) if recipe.curation else {}
    curated = sum((bytes_read(recipe.sources, name) or 0) / 4 for name in to_curate)
    if run_dir.exists() and not run_dir.is_dir():
        raise KeylmError(f"--run-dir: {run_dir} is a file; accepted: a folder, or a name that is free")
    there = next(folder for folder in (run_dir.absolute(), *run_dir.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    parts = f"{checkpoints / 1e9:.2f} checkpoints and models, {(shards + curated) / 1e9:.2f} data"
    needs = f"about {(checkpoints + shards + curated) / 1e9:.2f} GB ({parts})"
    if checkpoints + shards + curated > free:
        raise KeylmError(f"{needs}, but {free / 1e9:.2f} GB are free at {there}")
    return f"{needs}; {free / 1e9:.1f} GB free"


def _trial(recipe: Recipe, processes: int) -> str:
    """Run a few small steps of each stage and return the speed and the time the whole recipe will take."""
    trial = _trial_recipe(recipe)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="keylm-doctor-") as folder:
        run(trial, Path(folder) / "run", until="export", quiet=True)
        timed = [row for row in read_rows(Path(folder) / "run" / "timing.jsonl") if row["step"] % TRIAL_STEPS]
    spent = time.monotonic() - started
    speed = processes * trial.training.batch_tokens * len(timed) / sum(row["seconds"] for row in timed)
    total = sum(stage.tokens for stage in recipe.stages.values())
    return (
        f"{len(recipe.stages)} stages and the export worked in {seconds(spent)}; {speed:,.0f} tokens/s"
        f"{f' on {processes} processes (one measured)' if processes > 1 else ''}: "
        f"about {seconds(total / speed)} for {total:,} tokens"
    )


def _trial_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe with a few megabytes of each source and steps of one micro-batch."""
    data = recipe.to_data()
    windows = min(recipe.training.micro_batch_windows, recipe.training.batch_windows)
    data["training"]["batch_tokens"] = windows * recipe.training.context
    for source in {**recipe.used_sources, **recipe.read_sources}:
        data["sources"][source]["max_bytes"] = min(SAMPLE_BYTES, recipe.sources[source].max_bytes or SAMPLE_BYTES)
    for stage in data["stages"].values():
        stage["tokens"] = TRIAL_STEPS * data["training"]["batch_tokens"]
    data["evaluation"] |= {"windows_per_source": 1, "every_steps": 10**9}
    return parse_recipe(data, "doctor's trial")
