"""How fast a training step is, beside Hugging Face's Qwen3 of the same shape, in one run on one machine.

    keylm data build RECIPE --run-dir RUN
    python benchmarks/training_speed.py RUN [--variants hf-eager hf-compiled keylm] [--set training.compile=true …]

Every variant trains the run's recipe on the run's own batches. `hf-…` is Qwen3ForCausalLM with fused AdamW under bf16
autocast: forward, backward and update, nothing else. `keylm` is the real step with everything on: document masks, Muon
and AdamW, clipping, the loader from shards, metrics. MFU is the model's arithmetic over what a large matrix product
reaches in the same run. Prints a table and the time by kind, and puts a row a variant into the results file.
"""

import argparse
import gc
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.profiler import ProfilerActivity, profile

from keylm.data.curriculum import BatchLoader, Curriculum
from keylm.data.store import finished_store
from keylm.machine import device_name
from keylm.model import count_parameters
from keylm.recipe import Recipe, load_recipe
from keylm.release.huggingface import qwen3_config
from keylm.run_folder import RunFolder
from keylm.training.distributed import Ranks
from keylm.training.loop import Trainer

RESULTS = Path(__file__).parent / "results" / "training_speed.json"
PRODUCT = 8192
"""Rows and columns of the matrix product that stands for the machine's best (1024 on a CPU)."""
PROFILED = 2
"""Steps under the profiler, after those that are timed."""
KINDS = (
    ("attention", r"flash|fmha|sdpa|attention|attn"),
    ("products", r"gemm|nvjet|cutlass|wgmma|cublas|matmul|addmm|::mm|::bmm|mkldnn_linear"),
    ("copies", r"memcpy|memset|::copy_"),
    ("element-wise", r".*"),
)
"""Kernel names to kinds, the first that fits."""

Step = Callable[[], Any]


def flops_per_token(recipe: Recipe) -> float:
    """Return the arithmetic of forward and backward a token, as PaLM counts it (arXiv 2204.02311, appendix B).

    Six operations a parameter that multiplies, embedding left out, and 12 a layer, head, dimension and position for
    attention, halved as it is causal. Masks of documents are not subtracted.
    """
    shape, vocabulary = recipe.model, recipe.tokenizer.vocab_size
    multiplying = count_parameters(shape, vocabulary) - vocabulary * shape.hidden_size
    attention = shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim * recipe.training.context
    return 6.0 * multiplying + 6.0 * attention


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


def keylm_step(recipe: Recipe, run: RunFolder, device: torch.device, scratch: Path) -> Step:
    """Return the trainer's own step, with its metrics, in a run folder that shares the run's shards."""
    folder = RunFolder(scratch)
    folder.tokenizer.symlink_to(run.tokenizer.absolute())
    folder.shards.symlink_to(run.shards.absolute())
    trainer = Trainer(recipe, folder, Ranks(0, 1, device), quiet=True)
    return trainer.train_step


def measure(step: Step, recipe: Recipe, device: torch.device, steps: int, best: float) -> dict[str, Any]:
    """Return a row of results: the first step by itself, then the mean of `steps` after two more."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    first, warm, timed = (seconds(step, count, device) for count in (1, 2, steps))
    typical = timed / steps
    speed = recipe.training.batch_tokens / typical
    row = {
        "tokens_per_second": round(speed, 1),
        "mfu": round(speed * flops_per_token(recipe) / best, 4),
        "peak_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None,
        "compile_s": round(max(0.0, first + warm - 3 * typical), 2),
        "step_s": round(typical, 5),
    }
    return {**row, "time_by_kind": time_by_kind(step, device, typical)}


def seconds(step: Step, count: int, device: torch.device) -> float:
    """Return the wall-clock seconds of `count` steps."""
    synchronise(device)
    started = time.perf_counter()
    for _ in range(count):
        step()
    synchronise(device)
    return time.perf_counter() - started


def time_by_kind(step: Step, device: torch.device, typical: float) -> dict[str, float]:
    """Return the share of a step's time that each kind of kernel takes; `host` is what is left of the wall clock."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        for _ in range(PROFILED):
            step()
        synchronise(device)
    times: Counter[str] = Counter()
    for event in profiler.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        kind = next(kind for kind, pattern in KINDS if re.search(pattern, event.key, re.IGNORECASE))
        times[kind] += spent / 1e6 / PROFILED
    shares = {kind: round(spent / typical, 4) for kind, spent in times.most_common()}
    return {**shares, "host": round(max(0.0, 1 - sum(shares.values())), 4)} if on_gpu else shares


def run_variant(
    name: str, recipe: Recipe, run: RunFolder, device: torch.device, steps: int, best: float
) -> dict[str, Any]:
    """Measure one variant and let go of its memory."""
    with tempfile.TemporaryDirectory(prefix="keylm-speed-") as scratch:
        if name == "keylm":
            step = keylm_step(recipe, run, device, Path(scratch))
        else:
            step = huggingface_step(recipe, run, device, compiled=name == "hf-compiled")
        row = measure(step, recipe, device, steps, best)
    del step
    gc.collect()
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {"variant": name, "gpus": 1 if device.type == "cuda" else 0, **row}


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as Markdown."""
    print("| variant | tokens/s | MFU | peak GiB | compile s | step s | time by kind |\n|---|--:|--:|--:|--:|--:|---|")
    for row in rows:
        kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in row["time_by_kind"].items())
        print(
            f"| {row['variant']} | {row['tokens_per_second']:,.0f} | {row['mfu']:.3f} | {row['peak_gib']} "
            f"| {row['compile_s']} | {row['step_s']} | {kinds} |"
        )


def main() -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--variants", nargs="+", default=["hf-eager", "hf-compiled", "keylm"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes of the run's recipe")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    run, device = RunFolder(arguments.run), torch.device(arguments.device)
    recipe = load_recipe(run.recipe, arguments.set)
    best = product_speed(device)
    where = {"device": device_name(device), "torch": torch.__version__, "transformers": transformers.__version__}
    print(f"{where['device']}, torch {where['torch']}: a large product reaches {best / 1e12:.2f} TFLOP/s")
    rows = [run_variant(name, recipe, run, device, arguments.steps, best) for name in arguments.variants]
    show(rows)
    said = {
        **where,
        "date": date.today().isoformat(),
        "recipe": recipe.name,
        "set": arguments.set,
        "tflops": best / 1e12,
    }
    earlier = json.loads(arguments.results.read_text()) if arguments.results.is_file() else []
    arguments.results.write_text(json.dumps([*earlier, *({**said, **row} for row in rows)], indent=1) + "\n")


if __name__ == "__main__":
    main()
