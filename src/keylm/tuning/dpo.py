"""`keylm dpo`: preference tuning (DPO, arXiv 2305.18290) of a model folder through TRL.

The run folder contains dpo.json (settings, hashes of model and data), pairs.jsonl, faults.json (lines of no use),
trl/ (TRL's checkpoints), metrics.jsonl, summary.json, model/ (a model folder like any other), report.html, stages.json.

Invariants: a killed command resumes from the pairs found so far and from TRL's last complete checkpoint; no
pair is cut to fit: what does not is left out and counted; another model, other data or settings are refused in the
same folder. The cost is a second copy of the model (the reference) and four passes a pair and step.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from keylm.base.console import say
from keylm.base.errors import KeylmError
from keylm.base.files import atomic_write, sha256_file, sha256_json, write_json
from keylm.data.documents import Fault
from keylm.recipe.run_folder import RunFolder
from keylm.runtimes.generation import Generator, Message, Sampling
from keylm.tuning.pairs import PairRequest, PreferencePair, Search, make_pairs, read_pairs, read_requests
from keylm.tuning.preference_settings import DpoRun, Preference
from keylm.tuning.trl_runs import Tools, claimed, export_tuned, new_run

SAMPLE_BATCH = {"cuda": 4096}
"""Questions that are answered together, by kind of device; SMALL_BATCH elsewhere."""
SMALL_BATCH = 16


def dpo(
    model: Path, data: Sequence[Path], path: Path, settings: Preference, tools: Tools, *, fresh: bool = False
) -> RunFolder:
    """Tune `model` on pairs that `data` contain or need sampled, in a run folder. Raises KeylmError, Interrupted."""
    run = new_run("dpo", model, data, path, settings, tools)
    folder, pairs, quiet = run.folder, path / "pairs.jsonl", tools.quiet
    with claimed(run, fresh=fresh) as identity:
        folder.run_unless_done("pairs", sha256_json(identity), [pairs], partial(_make_pairs, run, pairs), quiet=quiet)
        inputs, outputs = sha256_json([identity, sha256_file(pairs)]), [folder.metrics, folder.model]
        folder.run_unless_done("train", inputs, outputs, partial(_tune, run, read_pairs(pairs)), quiet=quiet)
        shown = sha256_json([inputs, sha256_file(folder.metrics), sha256_file(folder.summary)])
        folder.run_unless_done("report", shown, [folder.report], partial(_write_report, path), quiet=quiet)
    return folder


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


def _write_report(path: Path) -> None:
    from keylm.tuning.report import render

    atomic_write(path / "report.html", render(path))
