"""`keylm dpo`: preference tuning (DPO, arXiv 2305.18290) of a model folder through TRL.

The run folder contains dpo.json (settings, hashes of model and data), pairs.jsonl, faults.json (lines of no use),
trl/ (TRL's checkpoints), metrics.jsonl, summary.json, model/ (a model folder like any other), report.html, stages.json.

Invariants: a killed command resumes from the pairs found so far and from TRL's last complete checkpoint; no
pair is cut to fit: what does not is left out and counted; another model, other data or settings are refused in the
same folder. The cost is a second copy of the model (the reference) and four passes a pair and step.
"""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from keylm.base.console import say
from keylm.base.errors import KeylmError, how_to_install
from keylm.base.files import (
    atomic_folder,
    atomic_write,
    read_table,
    sha256_file,
    sha256_json,
    sweep,
    write_json,
)
from keylm.data.documents import Fault
from keylm.data.readers import source_files
from keylm.model.config_files import read_config_file
from keylm.model.folder import SHARD_SIZE, check_model_folder, weights_hash
from keylm.model.opening import TOKENIZER_FILES
from keylm.pipeline.run import put_aside
from keylm.recipe.run_folder import RunFolder
from keylm.runtimes.generation import Generator, Message, Sampling
from keylm.training.distributed import choose_device
from keylm.tuning.pairs import PairRequest, PreferencePair, Search, make_pairs, read_pairs, read_requests
from keylm.tuning.preference_settings import DpoRun, Preference, Tools

SAMPLE_BATCH = {"cuda": 4096}
"""Questions that are answered together, by kind of device; SMALL_BATCH elsewhere."""
SMALL_BATCH = 16


def dpo(
    model: Path, data: Sequence[Path], path: Path, settings: Preference, tools: Tools, *, fresh: bool = False
) -> RunFolder:
    """Tune `model` on pairs that `data` contain or need sampled, in a run folder. Raises KeylmError, Interrupted."""
    check_model_folder(model)
    needs_trl()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise KeylmError("keylm dpo: runs on one GPU or CPU; accepted: without torchrun")
    folder = RunFolder(path)
    run = DpoRun(model, data, folder, settings, tools, choose_device(tools.device))
    if fresh:
        put_aside(folder, quiet=tools.quiet)
    with folder.locked():
        sweep(folder.path)
        identity = _claim(run)
        pairs, quiet = path / "pairs.jsonl", tools.quiet
        folder.run_unless_done("pairs", sha256_json(identity), [pairs], partial(_make_pairs, run, pairs), quiet=quiet)
        inputs, outputs = sha256_json([identity, sha256_file(pairs)]), [folder.metrics, folder.model]
        folder.run_unless_done("train", inputs, outputs, partial(_tune, run, read_pairs(pairs)), quiet=quiet)
        shown = sha256_json([inputs, sha256_file(folder.metrics), sha256_file(folder.summary)])
        folder.run_unless_done("report", shown, [folder.report], partial(_write_report, path), quiet=quiet)
    return folder


def needs_trl() -> None:
    """Raise KeylmError where TRL is not installed."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import trl  # noqa: F401
    except ImportError:
        raise KeylmError(f"preference tuning needs TRL: {how_to_install('post')}") from None


def _claim(run: DpoRun) -> dict[str, Any]:
    """Record what the run is, and return it. Raises KeylmError if the folder holds another run."""
    folder, settings = run.folder, asdict(run.settings)
    files = [file for path in run.data for file in source_files(path)]
    identity = {
        "settings": settings,
        "model": weights_hash(run.model),
        "data": [[file.name, sha256_file(file)] for file in files],
    }
    file = folder.path / "dpo.json"
    known = read_table(file)
    if not known and folder.recipe.is_file():
        raise KeylmError(f"{folder.path}: holds another kind of run; accepted: another --out, or --fresh")
    for key, value in identity.items():
        if known and known.get(key) != value:
            was = known.get(key)
            change = key if key != "settings" or not isinstance(was, dict) else _changed(was, settings)
            raise KeylmError(
                f"{folder.path}: was begun with another {change}; accepted: the same command, another --out, or --fresh"
            )
    write_json(file, {**identity, "paths": {"model": str(run.model), "data": list(map(str, run.data))}})
    return identity


def _changed(was: dict[str, Any], now: dict[str, Any]) -> str:
    return ", ".join(f"{key} ({was.get(key)!r}, now {now[key]!r})" for key in now if was.get(key) != now[key])


def _make_pairs(run: DpoRun, out: Path) -> None:
    """Bring pairs.jsonl to its end. Raises KeylmError where there is no pair at all."""
    settings, tools = run.settings, run.tools
    faults: list[Fault] = []
    requests: list[PairRequest] = []
    for item in read_requests(run.data):
        if settings.limit is not None and len(requests) >= settings.limit:
            break
        if isinstance(item, Fault):
            faults.append(item)
        else:
            requests.append(item)
    write_json(out.with_name("faults.json"), [asdict(fault) for fault in faults])
    search = Search(settings.tries, SAMPLE_BATCH.get(run.device.type, SMALL_BATCH), settings.seed)
    counts = make_pairs(requests, out, partial(Sampler, run), tools.checker, search, quiet=tools.quiet)
    counts += Counter(fault.kind for fault in faults)
    say("pairs  " + ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common()), quiet=tools.quiet)
    if not counts["pairs"]:
        raise KeylmError(
            f"{', '.join(map(str, run.data))}: give no pair to tune on ({dict(counts)}); accepted: lines with prompt, "
            "chosen and rejected or constraints"
        )


class Sampler:
    """Answers of a model, many at once."""

    def __init__(self, run: DpoRun) -> None:
        """Load the run's model folder. Raises KeylmError as Generator does."""
        self._generator = Generator(run.model, run.device)
        self._sampling = Sampling(run.settings.max_new_tokens, run.settings.temperature, 1.0, 1.0)

    def __call__(self, conversations: Sequence[list[Message]], seed: int) -> list[str]:
        """Return an answer to each; "" where a question leaves no room for one."""
        return self._generator.answers(conversations, replace(self._sampling, seed=seed))


def _tune(run: DpoRun, pairs: list[PreferencePair]) -> None:
    """Train, and write metrics, model and summary. Raises Interrupted on a signal."""
    from keylm.tuning.dpo_trainer import train  # TRL is slow to import

    export_tuned(train(run, pairs), run.model, run.folder.model)


def export_tuned(model: Any, source: Path, folder: Path) -> None:
    """Write a tuned fp32 model as a bf16 model folder, with `source`'s tokenizer and generation defaults; whole or not.

    Weights are rounded by chance (see `round_by_chance`), always the same one. Changes `model`.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(round_by_chance(parameter.cpu(), generator))
    with atomic_folder(folder) as temporary:
        model.to(torch.bfloat16).save_pretrained(temporary, max_shard_size=SHARD_SIZE)
        config = read_config_file(source / "config.json")
        for name in (*TOKENIZER_FILES, "generation_config.json"):  # nothing else is the tuned model's
            if (source / name).is_file():
                shutil.copyfile(source / name, temporary / name)
        write_json(temporary / "config.json", {**config, "dtype": "bfloat16", "torch_dtype": "bfloat16"})


def round_by_chance(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return fp32 `values` as bf16: one of the two neighbours, at random, so that the mean is right.

    What preference tuning changes is mostly less than half the distance between two bf16 numbers, and the weights it
    begins with are such numbers: rounded to the nearest, most of it would be gone (LOG.md). bf16 is the upper half
    of fp32's bits, so a random lower half is added and what is below is cut off; bf16 numbers stay as they are.
    """
    bits = values.float().contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << 16, values.shape, dtype=torch.int32, generator=generator)
    return ((bits + noise) & -(1 << 16)).view(torch.float32).bfloat16()


def _write_report(path: Path) -> None:
    from keylm.tuning.report import render

    atomic_write(path / "report.html", render(path))
