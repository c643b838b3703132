"""`keylm grpo`: tuning by rewards (GRPO, arXiv 2402.03300) of a model folder through TRL.

The run folder contains grpo.json (settings, hashes of model, prompts and replayed text), faults.json (lines of no use),
trl/ (TRL's checkpoints), metrics.jsonl, summary.json, model/ (a model folder like any other), report.html, stages.json.

Invariants: a killed command resumes from TRL's last complete checkpoint, with the same prompts, samples and rows as if
it had not been killed; no prompt is cut to fit: what leaves no room for an answer is left out and counted. The cost is
a second copy of the model (the reference), the sampling, and four passes an answer.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from keylm.base.console import say
from keylm.base.errors import KeylmError
from keylm.base.files import atomic_write, sha256_file, sha256_json, write_json
from keylm.data.documents import Fault
from keylm.recipe.run_folder import RunFolder
from keylm.tuning.reward_prompts import RewardPrompt, read_prompts
from keylm.tuning.reward_settings import GrpoRun, Reinforcement
from keylm.tuning.trl_runs import Tools, claimed, export_tuned, new_run


def grpo(
    model: Path,
    prompts: Sequence[Path],
    path: Path,
    settings: Reinforcement,
    tools: Tools,
    *,
    replay: Sequence[Path] = (),
    fresh: bool = False,
) -> RunFolder:
    """Tune `model` by rewards for its answers to `prompts`, in a run folder. Raises KeylmError, Interrupted."""
    run = new_run("grpo", model, prompts, path, settings, tools, replay)
    folder, quiet = run.folder, tools.quiet
    with claimed(run, fresh=fresh) as identity:
        inputs, outputs = sha256_json(identity), [folder.metrics, folder.model]
        folder.run_unless_done("train", inputs, outputs, partial(_tune, run), quiet=quiet)
        shown = sha256_json([inputs, sha256_file(folder.metrics), sha256_file(folder.summary)])
        folder.run_unless_done("report", shown, [folder.report], partial(_write_report, path), quiet=quiet)
    return folder


def _tune(run: GrpoRun) -> None:
    """Train, and write metrics, model and summary. Raises Interrupted on a signal."""
    from keylm.tuning.grpo_trainer import train  # TRL is slow to import

    export_tuned(train(run, read_all(run)), run.model, run.folder.model)


def read_all(run: GrpoRun) -> list[RewardPrompt]:
    """Return a run's prompts; faults.json has the lines of no use. Raises KeylmError where there is none."""
    faults: list[Fault] = []
    prompts: list[RewardPrompt] = []
    for item in read_prompts(run.data):
        if run.settings.limit is not None and len(prompts) >= run.settings.limit:
            break
        if isinstance(item, Fault):
            faults.append(item)
        else:
            prompts.append(item)
    write_json(run.folder.path / "faults.json", [asdict(fault) for fault in faults])
    counts = Counter({"prompts": len(prompts)}) + Counter(fault.kind for fault in faults)
    say("prompts  " + ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common()), quiet=run.tools.quiet)
    if not prompts:
        raise KeylmError(
            f"{', '.join(map(str, run.data))}: give no prompt to answer ({dict(counts)}); accepted: lines with prompt "
            "and constraints"
        )
    return prompts


def _write_report(path: Path) -> None:
    from keylm.tuning.grpo_report import render

    atomic_write(path / "report.html", render(path))
