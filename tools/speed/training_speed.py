"""How fast a training step is, beside Hugging Face's Qwen3 of the same shape, in one run on one machine.

    keylm data build RECIPE --run-dir RUN
    python -m tools.speed.training_speed RUN [--variants hf-eager hf-compiled bare keylm] [--set KEY=VALUE …]
    torchrun --nproc-per-node 2 -m tools.speed.training_speed RUN --variants keylm

Every variant trains the run's recipe on the run's own batches. `hf-…` is Qwen3ForCausalLM with fused AdamW under bf16
autocast: forward, backward and update, nothing else. `bare` is keylm's model, losses and optimizers on one batch that
lies there already, without loader, clipping and metrics. `keylm` is the real step with everything on: document masks,
Muon and AdamW, clipping, the loader from shards, metrics. Prints a table and the time by kind, and puts a row a variant
into the results file.

MFU is the model's arithmetic over what a large matrix product reaches in the same run. Attention is counted as it is
done, over pairs of tokens within a document; `mfu_causal` counts it over whole windows, as published figures do.
"""

import gc
import json
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

from keylm.base.machine import device_name
from keylm.data.curriculum import BatchLoader, Curriculum
from keylm.data.store import finished_store
from keylm.model.attention import newest_kernel
from keylm.model.decoder import count_parameters
from keylm.model.folder import qwen3_config
from keylm.recipe.load import Recipe, load_recipe
from keylm.recipe.run_folder import RunFolder
from keylm.training.distributed import Ranks, join
from keylm.training.loop import Trainer
from keylm.training.prefetch import cumulative_lengths
from tools.command import run_script, script_parser

RESULTS = Path(__file__).parents[2] / "results" / "training_speed.json"
PRODUCT = 8192
"""Rows and columns of the matrix product that stands for the machine's best (1024 on a CPU)."""
WARM = 4
"""Steps before those that are timed: attention's kernels come in two variants, by the number of documents."""
PROFILED = 2
"""Steps under the profiler, after those that are timed."""
KINDS = (
    ("attention", r"flash|fmha|sdpa|attention|attn"),
    ("products", r"gemm|nvjet|cutlass|wgmma|cublas|matmul|addmm|::mm|::bmm|mkldnn_linear"),
    ("exchange", r"nccl"),
    ("copies", r"memcpy|memset|::copy_"),
    ("element-wise", r".*"),
)
"""Kernel names to kinds, the first that fits; what the optimizer starts is the kind `optimizer`."""

Step = Callable[[], Any]


class Measured:
    """A variant's step, with what only some variants have."""

    def __init__(self, step: Step, trainer: Trainer | None = None) -> None:
        self.step, self.trainer = step, trainer
        self.waited = 0.0
        """seconds that the step has waited for its batch"""
        self.optimizing: list[tuple[float, float]] = []
        """intervals on the profiler's clock, in microseconds, in which the optimizer had the device to itself"""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count the time spent waiting for batches."""
        if self.trainer is None:
            yield
            return
        ahead = self.trainer._ahead
        take = ahead.take

        def timed(step: int) -> Any:
            started = time.perf_counter()
            found = take(step)
            self.waited += time.perf_counter() - started
            return found

        ahead.take = timed  # type: ignore[method-assign]
        yield
        ahead.take = take  # type: ignore[method-assign]

    @contextmanager
    def optimizer_apart(self, device: torch.device) -> Iterator[None]:
        """Let the device finish before and after the optimizer, so that a profile shows what belongs to it."""
        if self.trainer is None:
            yield
            return
        optimizers = self.trainer._optimizers
        update = optimizers.step

        def apart(*arguments: Any) -> None:
            synchronise(device)
            with torch.profiler.record_function(OPTIMIZER):
                update(*arguments)
                synchronise(device)

        optimizers.step = apart  # type: ignore[method-assign]
        yield
        optimizers.step = update  # type: ignore[method-assign]


OPTIMIZER = "keylm.optimizer"


def flops_per_token(recipe: Recipe, pairs: float) -> float:
    """Return the arithmetic of forward and backward a token, as PaLM counts it (arXiv 2204.02311, appendix B).

    Six operations a parameter that multiplies, embedding left out, and 12 a layer, head, dimension and pair of tokens
    that attention looks at; `pairs` is the mean number of tokens that one looks at.
    """
    shape, vocabulary = recipe.model, recipe.tokenizer.vocab_size
    multiplying = count_parameters(shape, vocabulary) - vocabulary * shape.hidden_size
    attention = shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim * pairs
    return 6.0 * multiplying + 12.0 * attention


def pairs_per_token(recipe: Recipe, run: RunFolder) -> float:
    """Return how many tokens one looks at in the run's first batch, on average: itself and those before it."""
    if not recipe.training.document_masks:
        return (recipe.training.context + 1) / 2
    store = finished_store(run.shards, verify="none")
    lengths = np.diff(cumulative_lengths(BatchLoader(Curriculum(recipe, store.layout), store).batch(0).documents))
    return float((lengths * (lengths + 1.0) / 2).sum() / lengths.sum())


def product_speed(device: torch.device) -> float:
    """Return the operations a second of a large product: bf16 on a GPU, fp32 on a CPU."""
    size, kind = (PRODUCT, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    for _ in range(3):
        left @ right
    synchronise(device)
    started = time.perf_counter()
    for _ in range(10):
        left @ right
    synchronise(device)
    return 10 * 2 * size**3 / (time.perf_counter() - started)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def huggingface_step(recipe: Recipe, run: RunFolder, device: torch.device, *, compiled: bool) -> Step:
    """Return a step of Qwen3ForCausalLM under autocast with fused AdamW, on the run's own batches."""
    config = transformers.Qwen3Config(**qwen3_config(recipe.model, recipe.tokenizer.vocab_size))
    model = transformers.Qwen3ForCausalLM(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=device.type == "cuda")
    forward = torch.compile(model) if compiled else model
    store = finished_store(run.shards, verify="none")
    loader, number = BatchLoader(Curriculum(recipe, store.layout), store), iter(range(10**9))
    windows = recipe.training.micro_batch_windows
    bf16 = recipe.training.computes_in_bf16(device.type)

    def step() -> None:
        batch = loader.batch(next(number))
        tokens, labels = (torch.from_numpy(array).to(device) for array in (batch.tokens, batch.labels))
        for start in range(0, len(tokens), windows):
            part = slice(start, start + windows)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                logits = forward(input_ids=tokens[part], use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[part].flatten())
            (loss * len(tokens[part]) / len(tokens)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def keylm_step(recipe: Recipe, run: RunFolder, ranks: Ranks, scratch: Path) -> Measured:
    """Return the trainer's own step, with its metrics, in a run folder that shares the run's shards."""
    folder = RunFolder(scratch / f"rank-{ranks.rank}")
    folder.path.mkdir()
    folder.tokenizer.symlink_to(run.tokenizer.absolute())
    folder.shards.symlink_to(run.shards.absolute())
    trainer = Trainer(recipe, folder, ranks, quiet=True)
    return Measured(trainer.train_step, trainer)


def bare_step(trainer: Trainer, device: torch.device) -> Step:
    """Return a loop of the same products as the trainer's step, and nothing else: always its first batch."""
    share, numbers = trainer._load(0), iter(range(10**9))
    parts, trained = [part.to(device) for part in share.parts], int(share.trained.sum())

    def step() -> None:
        for part in parts:
            with trainer._autocast():
                losses = trainer._objective(*part)
            (losses.total / trained).backward()
        trainer._optimizers.step(next(numbers), 1.0)

    return step


def measure(name: str, recipe: Recipe, run: RunFolder, ranks: Ranks, steps: int, scratch: Path) -> dict[str, Any]:
    """Return a row of results: the start and first step by themselves, then the median of `steps` after WARM more."""
    device = ranks.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    if name in ("bare", "keylm"):
        measured = keylm_step(recipe, run, ranks, scratch)
        if name == "bare":
            measured = Measured(bare_step(measured.trainer, device))
    else:
        measured = Measured(huggingface_step(recipe, run, device, compiled=name == "hf-compiled"))
    first = seconds(measured.step, 1, device)
    start = time.perf_counter() - started
    warm = seconds(measured.step, WARM, device)
    with measured.watched():
        timed = [seconds(measured.step, 1, device) for _ in range(steps)]
    typical = statistics.median(timed)
    row = {
        "tokens_per_second": round(recipe.training.batch_tokens / typical, 1),
        "peak_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None,
        "compile_s": round(max(0.0, first + warm - (1 + WARM) * typical), 2),
        "start_s": round(start, 2),
        "step_s": round(typical, 5),
        "slowest_step_s": round(max(timed), 5),
        "loader_wait_s": round(measured.waited / steps, 5),
    }
    return {**row, "time_by_kind": time_by_kind(measured, device, typical)}


def seconds(step: Step, count: int, device: torch.device) -> float:
    """Return the wall-clock seconds of `count` steps."""
    synchronise(device)
    started = time.perf_counter()
    for _ in range(count):
        step()
    synchronise(device)
    return time.perf_counter() - started


def time_by_kind(measured: Measured, device: torch.device, typical: float) -> dict[str, float]:
    """Return the share of a step's time that each kind of kernel takes; `host` is what is left of the wall clock."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
    with measured.optimizer_apart(device), profile(activities=activities) as profiler:
        for _ in range(PROFILED):
            measured.step()
        synchronise(device)
    events = list(profiler.events() or [])
    wanted = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    apart = [event.time_range for event in events if event.name == OPTIMIZER and event.device_type.name == "CPU"]
    times: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    for event in events:
        if event.device_type != wanted or event.name == OPTIMIZER or event.is_user_annotation:
            continue
        spent = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6 / PROFILED
        inside = any(span.start <= event.time_range.start < span.end for span in apart)
        kind = "optimizer" if inside else kind_of(event.name)
        times[kind] += spent
        kernels[f"{kind}: {event.name}"] += spent
    for name, spent in kernels.most_common(SHOWN):
        print(f"  {spent / typical:6.1%}  {name[:150]}")
    shares = {kind: round(spent / typical, 4) for kind, spent in times.most_common()}
    return {**shares, "host": round(max(0.0, 1 - sum(shares.values())), 4)} if on_gpu else shares


SHOWN = 25
"""Kernels that are printed, those that take longest."""


def kind_of(name: str) -> str:
    """Return the kind of a kernel."""
    return next(kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE))


def run_variant(name: str, recipe: Recipe, run: RunFolder, ranks: Ranks, steps: int) -> dict[str, Any]:
    """Measure one variant and let go of its memory."""
    with tempfile.TemporaryDirectory(prefix="keylm-speed-") as scratch:
        row = measure(name, recipe, run, ranks, steps, Path(scratch))
    gc.collect()
    torch.compiler.reset()
    if ranks.device.type == "cuda":
        torch.cuda.empty_cache()
    return {"variant": name, "gpus": ranks.world_size if ranks.device.type == "cuda" else 0, **row}


COLUMNS = ("gpus", "tokens_per_second", "mfu", "mfu_causal", "peak_gib", "compile_s", "start_s", "loader_wait_s")


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as Markdown."""
    print(f"| variant | {' | '.join(COLUMNS)} | time by kind |\n|---|{'--:|' * len(COLUMNS)}---|")
    for row in rows:
        figures = ("–" if row[column] is None else f"{row[column]:,}" for column in COLUMNS)
        kinds = ", ".join(f"{kind} {share:.1%}" for kind, share in row["time_by_kind"].items())
        print(f"| {row['variant']} | {' | '.join(figures)} | {kinds} |")


def main() -> None:
    """Measure from the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--variants", nargs="+", default=["hf-eager", "hf-compiled", "keylm"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes of the run's recipe")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    recipe = load_recipe(run.recipe, arguments.set)
    with join(arguments.device) as ranks:
        if ranks.world_size > 1 and set(arguments.variants) != {"keylm"}:
            parser.error("on several processes only the variant keylm is measured")
        best = product_speed(ranks.device)
        where = {
            "device": device_name(ranks.device),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "attention": "flash-attn-4" if newest_kernel(ranks.device) else "torch",
        }
        rows = [run_variant(name, recipe, run, ranks, arguments.steps) for name in arguments.variants]
    if not ranks.leads:
        return
    pairs = {"mfu": pairs_per_token(recipe, run), "mfu_causal": (recipe.training.context + 1) / 2}
    for row in rows:
        done = row["tokens_per_second"] / (best * max(1, row["gpus"]))
        row |= {name: round(done * flops_per_token(recipe, seen), 4) for name, seen in pairs.items()}
    print(f"{where}: a large product reaches {best / 1e12:.2f} TFLOP/s; a token looks at {pairs['mfu']:.0f}")
    show(rows)
    said = {
        **where,
        "date": date.today().isoformat(),
        "recipe": recipe.name,
        "set": arguments.set,
        "tflops": round(best / 1e12, 2),
    }
    earlier = json.loads(arguments.results.read_text()) if arguments.results.is_file() else []
    arguments.results.write_text(json.dumps([*earlier, *({**said, **row} for row in rows)], indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
