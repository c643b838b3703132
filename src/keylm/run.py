"""The stages in order: tokenizer, shards, train, export, samples, report.

Invariant: each stage reads only what the stages before it left in the run folder, and does nothing where its
inputs have not changed; so a run can be killed anywhere and started again with the same command.
"""

import datetime
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import keylm
from keylm.console import say, seconds
from keylm.data.build import build_shards
from keylm.data.curriculum import Curriculum
from keylm.data.shards import ShardStore, read_manifest
from keylm.data.sources import source_inputs, token_shares, tokenizer_sample
from keylm.errors import KeylmError
from keylm.evaluation.report import write_report
from keylm.files import atomic_write, sha256_file, sha256_json, write_json
from keylm.generate import Generator, Sampling
from keylm.model import count_parameters
from keylm.recipe import Recipe
from keylm.release.huggingface import export_model
from keylm.run_folder import RunFolder
from keylm.tokenizer import DocumentTokenizer, train_tokenizer
from keylm.training.checkpoint import DamagedCheckpoint, checkpoint_path, read_checkpoint
from keylm.training.distributed import Ranks, join
from keylm.training.loop import Trainer
from keylm.training.metrics import read_rows

STAGES = ("tokenizer", "shards", "train", "export", "samples", "report")
MAY_CHANGE = (
    "name",
    "description",
    "checkpoints",
    "evaluation.prompts",
    "evaluation.chats",
    "evaluation.sample_tokens",
    "training.device",
    "training.compile",
)
"""Recipe fields that a run may change between two starts: they do not touch what is trained."""


def run(recipe: Recipe, path: Path, *, until: str = STAGES[-1], quiet: bool = False) -> RunFolder:
    """Bring the run at `path` through all stages up to `until` and return its folder.

    Raises KeylmError; Interrupted and TrainingDiverged from training.
    """
    folder = RunFolder(path)
    with join(recipe.training.device) as ranks:
        quiet = quiet or not ranks.leads
        wanted = STAGES[: STAGES.index(until) + 1]
        if ranks.leads:
            _claim(recipe, folder)
            _prepare(recipe, folder, wanted, quiet=quiet)
        ranks.wait()
        if "train" in wanted:
            _train(recipe, folder, ranks, quiet=quiet)
        if ranks.leads:
            _finish(recipe, folder, ranks, wanted, quiet=quiet)
    return folder


def _prepare(recipe: Recipe, folder: RunFolder, wanted: tuple[str, ...], *, quiet: bool) -> None:
    inputs = _tokenizer_inputs(recipe)
    _stage(folder, "tokenizer", inputs, lambda: _make_tokenizer(recipe, folder), quiet=quiet)
    if "shards" in wanted:
        started = time.monotonic()
        manifest = build_shards(recipe, folder.tokenizer, folder.shards, quiet=quiet)
        if not folder.is_done("shards", manifest["hash"]):
            folder.mark_done("shards", manifest["hash"], time.monotonic() - started)


def _train(recipe: Recipe, folder: RunFolder, ranks: Ranks, *, quiet: bool) -> None:
    manifest = read_manifest(folder.shards)
    inputs = sha256_json([_fixed(recipe), manifest["hash"]])
    if folder.is_done("train", inputs):
        return
    Trainer(recipe, folder, ranks, quiet=quiet).run()
    if ranks.leads:
        spent = sum(row["seconds"] for row in read_rows(folder.timing))
        folder.mark_done("train", inputs, spent)
    ranks.wait()


def _finish(recipe: Recipe, folder: RunFolder, ranks: Ranks, wanted: tuple[str, ...], *, quiet: bool) -> None:
    if "export" in wanted:
        _export_all(recipe, folder, quiet=quiet)
    if "samples" in wanted:
        evaluation = recipe.evaluation
        models = [sha256_file(file) for file in sorted(folder.path.glob("model*/*.safetensors"))]
        inputs = sha256_json([models, evaluation.prompts, evaluation.chats, evaluation.sample_tokens])
        _stage(folder, "samples", inputs, lambda: _sample(recipe, folder), quiet=quiet)
    if "report" in wanted:
        write_json(folder.summary, _summary(recipe, folder, ranks))
        write_report(folder.path)


def _stage(folder: RunFolder, name: str, inputs: str, work: Callable[[], None], *, quiet: bool) -> None:
    """Do `work` unless it was done with the same inputs."""
    if folder.is_done(name, inputs):
        return
    started = time.monotonic()
    work()
    folder.mark_done(name, inputs, time.monotonic() - started)
    say(f"{name}  done in {seconds(time.monotonic() - started)}", quiet=quiet)


def _claim(recipe: Recipe, folder: RunFolder) -> None:
    """Save the resolved recipe in the run folder. Raises KeylmError where the run was begun with another one."""
    folder.path.mkdir(parents=True, exist_ok=True)
    if folder.recipe.is_file():
        before = _flat(_fixed(folder.saved_recipe()))
        now = _flat(_fixed(recipe))
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if changed:
            lines = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in changed[:5])
            raise KeylmError(
                f"{folder.path}: was begun with another recipe: {lines}; accepted: the same recipe, another "
                f"--run-dir, or --fresh, which puts the old run aside"
            )
    atomic_write(folder.recipe, recipe.to_toml())


def _fixed(recipe: Recipe) -> dict[str, Any]:
    """Return what of a recipe may not change within a run."""
    return {key: value for key, value in _flat(recipe.to_data()).items() if not key.startswith(MAY_CHANGE)}


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


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
    """Export the model at the end of each stage; the last stage's is the run's model."""
    ends = Curriculum(recipe, dict.fromkeys(recipe.used_sources, 1)).stage_ends()
    tokenizer = sha256_file(folder.tokenizer / "tokenizer.json")
    for stage, step in ends.items():
        target = folder.model if stage == list(ends)[-1] else folder.stage_model(stage)
        try:
            checkpoint = read_checkpoint(checkpoint_path(folder.checkpoints, step))
        except DamagedCheckpoint as damage:
            raise KeylmError(f"stage {stage} has no sound checkpoint to export: {damage}") from None
        inputs = sha256_json([checkpoint.state["sha256"], tokenizer, recipe.model.model_dump(), target.name])

        def work(target: Path = target, weights: Callable[[], Any] = checkpoint.model) -> None:
            export_model(recipe, weights(), folder.tokenizer, target)

        _stage(folder, f"export {target.name}", inputs, work, quiet=quiet)


def _sample(recipe: Recipe, folder: RunFolder) -> None:
    """Write what each stage's model makes of the prompts, and the last one of the chats."""
    rows: list[dict[str, Any]] = []
    sampling = Sampling(max_new_tokens=recipe.evaluation.sample_tokens, seed=recipe.seed % 2**32)
    for stage in recipe.stages:
        last = stage == list(recipe.stages)[-1]
        generator = Generator(folder.model if last else folder.stage_model(stage))
        for prompt in recipe.evaluation.prompts:
            text = generator.complete(prompt, sampling)
            rows.append({"stage": stage, "prompt": prompt, "text": text, "messages": None})
        for question in recipe.evaluation.chats if last else ():
            asked = {"role": "user", "content": question}
            answer = {"role": "assistant", "content": generator.answer([asked], sampling)}
            rows.append({"stage": stage, "prompt": None, "text": None, "messages": [asked, answer]})
    write_json(folder.samples, rows)


def _summary(recipe: Recipe, folder: RunFolder, ranks: Ranks) -> dict[str, Any]:
    curriculum_tokens = sum(1 for _ in read_rows(folder.metrics, "train")) * recipe.training.batch_tokens
    device = ranks.device
    return {
        "keylm": keylm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "world_size": ranks.world_size,
        "parameters": count_parameters(recipe.model, recipe.tokenizer.vocab_size),
        "seconds": {name: entry["seconds"] for name, entry in folder.done().items()},
        "command": " ".join(["keylm", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "trained_tokens": curriculum_tokens,
        "manifest": ShardStore(folder.shards, verify=False).manifest["hash"],
    }


def _processor() -> str:
    """Return the processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} threads)" if names else platform.processor() or platform.machine()
