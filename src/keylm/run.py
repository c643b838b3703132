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
from keylm.console import errors, say, seconds
from keylm.data.build import build_shards
from keylm.data.curriculum import Curriculum
from keylm.data.shards import read_manifest
from keylm.data.sources import source_inputs, token_shares, tokenizer_sample
from keylm.errors import KeylmError
from keylm.evaluation.report import write_report
from keylm.files import atomic_write, sha256_file, sha256_json, sweep, write_json
from keylm.generate import Generator, Sampling
from keylm.identity import differences, identity_hash
from keylm.machine import device_name
from keylm.model import count_parameters
from keylm.recipe import Recipe, stage_steps
from keylm.release.huggingface import export_model
from keylm.run_folder import RunFolder
from keylm.tokenizer import DocumentTokenizer, train_tokenizer
from keylm.training.checkpoint import DamagedCheckpoint, checkpoint_path, checkpoint_paths, read_checkpoint
from keylm.training.distributed import Ranks, join
from keylm.training.loop import Trainer
from keylm.training.metrics import read_rows

CHAT_MARKS = 8
"""Tokens that the chat template puts around one question, about."""
STAGES = ("tokenizer", "shards", "train", "export", "samples", "report")


def run(recipe: Recipe, path: Path, *, until: str = STAGES[-1], fresh: bool = False, quiet: bool = False) -> RunFolder:
    """Bring the run at `path` through all stages up to `until` and return its folder.

    `fresh` puts an earlier run at `path` aside first. Raises KeylmError; Interrupted and TrainingDiverged from
    training.
    """
    folder = RunFolder(path)
    wanted = STAGES[: STAGES.index(until) + 1]
    with join(recipe.training.device) as ranks, contextlib.ExitStack() as held:
        if ranks.leads and fresh and path.exists():
            aside = path.with_name(f"{path.name}.old-{time.strftime('%Y%m%d-%H%M%S')}")
            path.rename(aside)
            say(f"the earlier run is now {aside}", quiet=quiet)
        ranks.lead(lambda: held.enter_context(folder.locked()))
        ranks.lead(lambda: _prepare(recipe, folder, wanted, quiet=quiet))
        if "train" in wanted:
            _train(recipe, folder, ranks, quiet=quiet)
        if ranks.leads:
            _finish(recipe, folder, ranks, wanted, quiet=quiet)
    return folder


def _prepare(recipe: Recipe, folder: RunFolder, wanted: tuple[str, ...], *, quiet: bool) -> None:
    """Make tokenizer and shards, unless training on them has begun: then they stay as they are."""
    sweep(folder.path)
    _claim(recipe, folder)
    if checkpoint_paths(folder.checkpoints) and folder.is_done("tokenizer") and folder.is_done("shards"):
        return
    inputs = _tokenizer_inputs(recipe)
    _stage(folder, "tokenizer", inputs, [folder.tokenizer], lambda: _make_tokenizer(recipe, folder), quiet=quiet)
    _check_prompts(recipe, folder)
    if "shards" in wanted:
        started = time.monotonic()
        manifest = build_shards(recipe, folder.tokenizer, folder.shards, quiet=quiet)
        if not folder.is_done("shards", manifest["hash"]):
            folder.mark_done("shards", manifest["hash"], [folder.shards / "manifest.json"], time.monotonic() - started)


def _train(recipe: Recipe, folder: RunFolder, ranks: Ranks, *, quiet: bool) -> None:
    """Train, unless the run's last checkpoint is there and sound."""
    inputs = sha256_json([identity_hash(recipe), read_manifest(folder.shards)["hash"]])
    last = checkpoint_path(folder.checkpoints, sum(stage_steps(recipe).values())) / "state.json"
    if ranks.lead(lambda: folder.is_done("train", inputs) and _is_sound(last.parent)):
        return
    Trainer(recipe, folder, ranks, quiet=quiet).run()
    if ranks.leads:
        spent = sum(row["seconds"] for row in read_rows(folder.timing))
        folder.mark_done("train", inputs, [folder.metrics, last], spent)
        write_json(folder.summary, _summary(recipe, folder, ranks))


def _finish(recipe: Recipe, folder: RunFolder, ranks: Ranks, wanted: tuple[str, ...], *, quiet: bool) -> None:
    """Make what users open: models, samples, report."""
    if "export" in wanted:
        _export_all(recipe, folder, quiet=quiet)
    evaluation = recipe.evaluation
    if "samples" in wanted:
        models = [sha256_file(file) for file in sorted(folder.path.glob("model*/*.safetensors"))]
        inputs = sha256_json([models, evaluation.prompts, evaluation.chats, evaluation.sample_tokens])
        _stage(folder, "samples", inputs, [folder.samples], lambda: _sample(recipe, folder), quiet=quiet)
    if "report" in wanted:
        if not folder.summary.is_file():
            write_json(folder.summary, _summary(recipe, folder, ranks))
        shown = [folder.metrics, folder.samples, folder.summary, folder.shards / "manifest.json", folder.recipe]
        inputs = sha256_json([keylm.__version__, *map(sha256_file, shown)])
        _stage(folder, "report", inputs, [folder.report], lambda: write_report(folder.path), quiet=quiet)


def _stage(
    folder: RunFolder, name: str, inputs: str, outputs: list[Path], work: Callable[[], object], *, quiet: bool
) -> None:
    """Do `work` unless it was done with the same inputs and its outputs are still as it left them."""
    if folder.is_done(name, inputs):
        return
    started = time.monotonic()
    work()
    spent = time.monotonic() - started
    folder.mark_done(name, inputs, outputs, spent)
    say(f"{name}  done in {seconds(spent)}", quiet=quiet)


def _claim(recipe: Recipe, folder: RunFolder) -> None:
    """Save the resolved recipe in the run folder. Raises KeylmError where the run was begun with another one."""
    if folder.recipe.is_file():
        changed = differences(folder.saved_recipe(), recipe)
        if changed:
            raise KeylmError(
                f"{folder.path}: was begun with another recipe: {'; '.join(changed[:5])}; accepted: the same recipe, "
                "another --run-dir, or --fresh, which puts the old run aside"
            )
        if folder.recipe.read_text(encoding="utf-8") == recipe.to_toml():
            return
    atomic_write(folder.recipe, recipe.to_toml())


def _check_prompts(recipe: Recipe, folder: RunFolder) -> None:
    """Raise KeylmError where a prompt will not fit into the context, before anything is trained."""
    tokenizer, context = DocumentTokenizer(folder.tokenizer), recipe.model.max_position_embeddings
    for field, texts in (("prompts", recipe.evaluation.prompts), ("chats", recipe.evaluation.chats)):
        for text, tokens in zip(texts, tokenizer.encode_texts(texts), strict=True):
            if len(tokens) + CHAT_MARKS >= context:
                raise KeylmError(
                    f"evaluation.{field}: {text[:40]!r}… has {len(tokens)} tokens; accepted: fewer than the context "
                    f"of {context} less {CHAT_MARKS}"
                )


def _is_sound(checkpoint: Path) -> bool:
    try:
        read_checkpoint(checkpoint)
    except DamagedCheckpoint:
        return False
    return True


def _tokenizer_inputs(recipe: Recipe) -> str:
    if recipe.tokenizer.path is not None:
        return sha256_file(Path(recipe.tokenizer.path) / "tokenizer.json")
    sources = {name: [str(source.path), source_inputs(name, source)] for name, source in recipe.used_sources.items()}
    return sha256_json([recipe.tokenizer.model_dump(), sources, token_shares(recipe), recipe.evaluation.holdout])


def _make_tokenizer(recipe: Recipe, folder: RunFolder) -> None:
    context = recipe.model.max_position_embeddings
    if recipe.tokenizer.path is None:
        train_tokenizer(tokenizer_sample(recipe), recipe.tokenizer.vocab_size, folder.tokenizer, context)
        return
    given = DocumentTokenizer(Path(recipe.tokenizer.path))
    if given.vocab_size != recipe.tokenizer.vocab_size:
        raise KeylmError(
            f"tokenizer.vocab_size: got {recipe.tokenizer.vocab_size}, but {recipe.tokenizer.path} has "
            f"{given.vocab_size} entries; accepted: that number"
        )
    given.save(folder.tokenizer, context)


def _export_all(recipe: Recipe, folder: RunFolder, *, quiet: bool) -> None:
    """Export the model at the end of each stage, the run's own first; a lost earlier one does not cost the last."""
    ends = Curriculum(recipe, dict.fromkeys(recipe.used_sources, 1)).stage_ends()
    tokenizer = sha256_file(folder.tokenizer / "tokenizer.json")
    for stage, step in reversed(ends.items()):
        target = _model_folder(recipe, folder, stage)
        try:
            checkpoint = read_checkpoint(checkpoint_path(folder.checkpoints, step))
        except DamagedCheckpoint as damage:
            if target == folder.model:
                raise KeylmError(f"stage {stage} has no sound checkpoint to export: {damage}") from None
            errors.print(f"no {target.name}: its checkpoint is not sound: {damage}", markup=False)
            continue
        inputs = sha256_json([checkpoint.state["sha256"], tokenizer, recipe.model.model_dump(), target.name])

        def work(target: Path = target, weights: Callable[[], Any] = checkpoint.model) -> None:
            export_model(recipe, weights(), folder.tokenizer, target)

        _stage(folder, f"export {target.name}", inputs, [target], work, quiet=quiet)


def _model_folder(recipe: Recipe, folder: RunFolder, stage: str) -> Path:
    return folder.model if stage == list(recipe.stages)[-1] else folder.stage_model(stage)


def _sample(recipe: Recipe, folder: RunFolder) -> None:
    """Write what each stage's model makes of the prompts, and the last one of the chats."""
    rows: list[dict[str, Any]] = []
    sampling = Sampling(max_new_tokens=recipe.evaluation.sample_tokens, seed=recipe.seed % 2**32)
    for stage in recipe.stages:
        path = _model_folder(recipe, folder, stage)
        if not path.is_dir():
            continue
        generator = Generator(path)
        for prompt in recipe.evaluation.prompts:
            text = generator.complete(prompt, sampling)
            rows.append({"stage": stage, "prompt": prompt, "text": text, "messages": None})
        for question in recipe.evaluation.chats if path == folder.model else ():
            asked = {"role": "user", "content": question}
            answer = {"role": "assistant", "content": generator.answer([asked], sampling)}
            rows.append({"stage": stage, "prompt": None, "text": None, "messages": [asked, answer]})
    write_json(folder.samples, rows)


def _summary(recipe: Recipe, folder: RunFolder, ranks: Ranks) -> dict[str, Any]:
    """Return the facts of a finished training that no other file holds."""
    device = ranks.device
    return {
        "keylm": keylm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device.type,
        "device_name": device_name(device),
        "world_size": ranks.world_size,
        "parameters": count_parameters(recipe.model, recipe.tokenizer.vocab_size),
        "command": " ".join(["keylm", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "tokens_seen": sum(stage_steps(recipe).values()) * recipe.training.batch_tokens,
        "manifest": read_manifest(folder.shards)["hash"],
    }
