"""The stages in order: tokenizer, shards, train, export, samples, report.

Invariant: each stage reads only what the stages before it left in the run folder, and does nothing where its
inputs have not changed; so a run can be killed anywhere and started again with the same command.
"""

import contextlib
import datetime
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import keylm
from keylm.base.console import errors, say
from keylm.base.errors import KeylmError
from keylm.base.files import sha256_file, write_json
from keylm.base.json_lines import read_rows
from keylm.base.machine import device_name
from keylm.data.background_build import BackgroundBuild, background_build
from keylm.data.curated import Executor
from keylm.data.curriculum import Curriculum
from keylm.data.manifest import read_manifest
from keylm.model.decoder import count_parameters
from keylm.model.folder import export_model
from keylm.pipeline.prepare import STAGES, RunOptions, prepare
from keylm.recipe.load import Recipe, stage_steps
from keylm.recipe.run_folder import RunFolder, checkpoint_path
from keylm.recipe.run_identity import TrainingProvenance, export_inputs, report_inputs, sample_inputs
from keylm.recipe.run_records import RunSummary
from keylm.report.run_report import write_report
from keylm.runtimes.generation import Generator, Sampling
from keylm.training.benchmarks_in_training import draw_items
from keylm.training.checkpoint import DamagedCheckpoint, read_checkpoint
from keylm.training.distributed import Ranks, join
from keylm.training.loop import Trainer


def run(
    recipe: Recipe,
    path: Path,
    *,
    until: str = STAGES[-1],
    workers: int | None = None,
    executor: Executor = "local",
    fresh: bool = False,
    quiet: bool = False,
) -> RunFolder:
    """Bring the run at `path` through the stages up to `until` and return its folder; `fresh` puts it aside first."""
    folder, options = RunFolder(path), RunOptions(until, workers, executor, quiet)
    trains = "train" in options.stages
    # Only training needs the device: data can be built on another machine.
    with join(recipe.training.device if trains else "cpu") as ranks, contextlib.ExitStack() as held:
        if fresh:
            ranks.lead(lambda: put_aside(folder, quiet=quiet))
        ranks.lead(lambda: held.enter_context(folder.locked()))
        if trains:
            ranks.lead(lambda: draw_items(recipe, quiet=True))  # anything missing is reported before hours of data
        pending = ranks.lead(lambda: prepare(recipe, folder, options))
        with background_build(pending if ranks.leads else None) as build:
            if trains:
                _train(recipe, folder, ranks, build, quiet=quiet)
            if ranks.leads:
                _finish(recipe, folder, ranks, options.stages, quiet=quiet)
    return folder


def put_aside(folder: RunFolder, *, quiet: bool = False) -> None:
    """Rename an earlier run's folder. Raises KeylmError where another process is using it."""
    if not folder.path.exists():
        return
    with folder.locked():  # the lock moves with the folder: a process waiting for it under the old name starts over
        aside = folder.path.with_name(f"{folder.path.name}.old-{time.strftime('%Y%m%d-%H%M%S')}")
        folder.path.rename(aside)
    say(f"the earlier run is now {aside}", quiet=quiet)


def _train(recipe: Recipe, folder: RunFolder, ranks: Ranks, build: BackgroundBuild | None, *, quiet: bool) -> None:
    """Train, unless the run's last checkpoint exists and is sound."""
    last = checkpoint_path(folder.checkpoints, sum(stage_steps(recipe).values())) / "state.json"
    if ranks.lead(lambda: build is None and _is_trained(recipe, folder, last)):
        return
    Trainer(recipe, folder, ranks, build=build, quiet=quiet).run()
    if ranks.leads:
        if build is not None:
            build.wait()
        spent = sum(_duration(row.get("seconds")) for row in read_rows(folder.timing))
        folder.mark_done("train", _train_inputs(recipe, folder), [folder.metrics, last], spent)
        write_json(folder.summary, _summary(recipe, folder, ranks).model_dump())


def _duration(value: object) -> float:
    """Return the seconds in a row of timing.jsonl, which nothing protects; 0 for what is no duration."""
    return value if isinstance(value, int | float) and 0 <= value < 1e12 else 0.0


def _is_trained(recipe: Recipe, folder: RunFolder, last: Path) -> bool:
    return folder.is_done("train", _train_inputs(recipe, folder)) and _is_sound(last.parent)


def _train_inputs(recipe: Recipe, folder: RunFolder) -> str:
    return TrainingProvenance.of(recipe, folder).inputs(read_manifest(folder.shards).hash)


def _finish(recipe: Recipe, folder: RunFolder, ranks: Ranks, wanted: tuple[str, ...], *, quiet: bool) -> None:
    """Write what users open: models, samples, report."""
    if "export" in wanted:
        _export_all(recipe, folder, quiet=quiet)
    evaluation = recipe.evaluation
    if "samples" in wanted:
        models = [sha256_file(file) for file in sorted(folder.path.glob("model*/*.safetensors"))]
        inputs = sample_inputs(models, evaluation)
        folder.run_unless_done(
            "samples", inputs, [folder.samples], lambda: _sample(recipe, folder, ranks.device), quiet=quiet
        )
    if "report" in wanted:
        if not folder.summary.is_file():
            write_json(folder.summary, _summary(recipe, folder, ranks).model_dump())
        shown = [folder.metrics, folder.samples, folder.summary, folder.shards / "manifest.json", folder.recipe]
        inputs = report_inputs(keylm.__version__, map(sha256_file, shown))
        folder.run_unless_done("report", inputs, [folder.report], lambda: write_report(folder.path), quiet=quiet)


def _is_sound(checkpoint: Path) -> bool:
    try:
        read_checkpoint(checkpoint)
    except DamagedCheckpoint:
        return False
    return True


def _export_all(recipe: Recipe, folder: RunFolder, *, quiet: bool) -> None:
    """Export the model at the end of each stage, the run's own first; a lost earlier one does not cost the last."""
    ends = Curriculum(recipe).stage_ends()
    tokenizer = sha256_file(folder.tokenizer / "tokenizer.json")
    for stage, step in reversed(ends.items()):
        target = _model_folder(recipe, folder, stage)
        try:
            checkpoint = read_checkpoint(checkpoint_path(folder.checkpoints, step))
        except DamagedCheckpoint as damage:
            if target == folder.model:
                raise KeylmError(f"stage {stage} has no sound checkpoint to export: {damage}") from None
            errors.print(f"no {target.name}: its checkpoint is not sound: {damage}")
            continue
        inputs = export_inputs(dict(checkpoint.state.sha256), tokenizer, recipe.model, target.name)

        def work(target: Path = target, weights: Callable[[], Any] = checkpoint.model) -> None:
            export_model(recipe, weights(), folder.tokenizer, target)

        folder.run_unless_done(f"export {target.name}", inputs, [target], work, quiet=quiet)


def _model_folder(recipe: Recipe, folder: RunFolder, stage: str) -> Path:
    return folder.model if stage == list(recipe.stages)[-1] else folder.stage_model(stage)


def _sample(recipe: Recipe, folder: RunFolder, device: torch.device) -> None:
    """Write each stage's model's continuations of the prompts, and the last one's answers to the chats."""
    rows: list[dict[str, Any]] = []
    prompts, questions = recipe.evaluation.prompts, recipe.evaluation.chats
    sampling = Sampling(max_new_tokens=recipe.evaluation.sample_tokens, seed=recipe.seed % 2**32)
    for stage in recipe.stages:
        path = _model_folder(recipe, folder, stage)
        if not path.is_dir():
            continue
        generator = Generator(path, device)
        texts = generator.completions(prompts, sampling)
        for prompt, text in zip(prompts, texts, strict=True):
            rows.append({"stage": stage, "prompt": prompt, "text": text, "messages": None})
        turns = [{"role": "user", "content": question} for question in questions] if path == folder.model else []
        answers = generator.answers([[turn] for turn in turns], sampling)
        for turn, answer in zip(turns, answers, strict=True):
            messages = [turn, {"role": "assistant", "content": answer}]
            rows.append({"stage": stage, "prompt": None, "text": None, "messages": messages})
    write_json(folder.samples, rows)


def _summary(recipe: Recipe, folder: RunFolder, ranks: Ranks) -> RunSummary:
    """Return the facts of a finished training that no other file holds."""
    device = ranks.device
    return RunSummary(
        keylm=keylm.__version__,
        torch=str(torch.__version__),
        python=platform.python_version(),
        device=device.type,
        device_name=device_name(device),
        world_size=ranks.world_size,
        parameters=count_parameters(recipe.model, recipe.tokenizer.vocab_size),
        command=" ".join(["keylm", *sys.argv[1:]]),
        date=datetime.date.today().isoformat(),
        tokens_seen=sum(stage_steps(recipe).values()) * recipe.training.batch_tokens,
        manifest=read_manifest(folder.shards).hash,
    )
