"""Train the trials one after the other in one process, and write down each one's held-out figures at once.

    python trials/run_trials.py DATA OUT [--tokens 90_000_000] [--seconds 1300] [--only NAME …] [--set KEY=VALUE …]

DATA: shards/, tokenizer/, recipe.toml and endings.jsonl of trials/make_data.py. OUT/NAME.json is a trial's result; one that
has a result is not trained again, one that fails has its error as result, one for which no time is left is not begun.
"""

import argparse
import gc
import json
import math
import os
import statistics
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import keylm.attention
from keylm.data.shards import read_manifest
from keylm.evaluation.in_training import Item, PackedItems, pack_items
from keylm.evaluation.validation import validate, window_losses
from keylm.files import write_json
from keylm.json_lines import read_rows
from keylm.machine import device_name
from keylm.recipe import load_recipe
from keylm.run_folder import RunFolder
from keylm.training.distributed import join
from keylm.training.loop import Trainer

HALF = [f"optimizer.{name}={rate}" for name, rate in (
    ("muon_learning_rate", 0.0106),
    ("embedding_learning_rate", 0.0866),
    ("head_learning_rate", 0.001732),
    ("norm_learning_rate", 0.003536),
    ("muon_momentum_steps", 600),
)]
TRIALS: dict[str, list[str]] = {
    "baseline": [],
    "batch_64k": ["training.batch_tokens=65_536", "training.micro_batch_windows=32", *HALF],
    "cautious": ["optimizer.muon_cautious_decay=true", "optimizer.muon_weight_decay=0.2"],
    "pack_anew": ["data.pack_anew=true"],
    "future": ["training.future_weight=0.3"],
    "seed_2": ["seed=2"],
    "pair": ["stages.all.weights.typos=0.0", "stages.all.weights.typos_pair=0.1"],
    "decay_x2": ["optimizer.muon_weight_decay=0.2"],
    "decay_quarter": ["optimizer.muon_weight_decay=0.025"],
    "muon_02": ["optimizer.muon_learning_rate=0.02"],
}
AVERAGED = ("baseline", "seed_2")
"""Trials of which averages over the fall of the rate are measured too."""


class OutOfTime(Exception):
    """The machine goes back soon."""


class Trial(Trainer):
    """A training without checkpoints that is measured at its end, with averages of its weights where wanted."""

    def prepare(self, endings: PackedItems, sources: list[str], end: float, *, averages: bool) -> None:
        """Measure `sources` and `endings`; give up at the time `end`."""
        self.endings, self.all_sources, self.end, self.averages = endings, sources, end, averages
        self.final: dict[str, Any] = {}
        self.sums: dict[str, tuple[int, list[Tensor]]] = {}
        [stage] = self._recipe.stages.values()
        total = self._curriculum.total_steps
        self.fall = total - round(stage.decay * total)

    def train_step(self) -> tuple[dict[str, Any], bool]:
        """Do one update."""
        if time.time() > self.end:
            raise OutOfTime
        done = super().train_step()
        if self.averages and self._step > self.fall:
            self._average()
        return done

    @torch.no_grad()
    def _average(self) -> None:
        weights, total = list(self._bare_model.parameters()), self._curriculum.total_steps
        length = total - self.fall
        for name, share in (("mean_of_fall", 1.0), ("mean_of_last_half", 0.5), ("mean_of_last_quarter", 0.25)):
            if self._step > total - round(share * length):
                count, mean = self.sums.get(name) or (0, [torch.zeros_like(weight) for weight in weights])
                torch._foreach_lerp_(mean, weights, 1 / (count + 1))
                self.sums[name] = count + 1, mean
        for name, rate in (("ema_0.95", 0.05), ("ema_0.98", 0.02)):
            _, mean = self.sums.get(name) or (0, [weight.clone() for weight in weights])
            torch._foreach_lerp_(mean, weights, rate)
            self.sums[name] = 0, mean

    def _validate(self) -> None:
        if self._step < self._curriculum.total_steps:
            return
        self.final = self.measured()
        weights = list(self._bare_model.parameters())
        held = [weight.detach().clone() for weight in weights] if self.sums else []
        found = {}
        for name, (_, mean) in self.sums.items():
            with torch.no_grad():
                torch._foreach_copy_(weights, mean)
            found[name] = self.measured()
        if held:
            with torch.no_grad():
                torch._foreach_copy_(weights, held)
        self.final["averages"] = found

    def measured(self) -> dict[str, Any]:
        """Return bits per byte of all sources and of the endings."""
        settings = self._settings
        windows = self._recipe.evaluation.windows_per_source
        found = validate(
            self._token_losses, self._store, self.all_sources, self._byte_lengths, windows, settings, self._ranks
        )
        return {**found, "endings": self._measure_endings()}

    def _measure_endings(self) -> dict[str, float]:
        settings = self._settings.model_copy(update={"document_masks": True})
        nats = np.zeros(sum(len(some) for some in self.endings.items.values()))
        size = settings.micro_batch_windows
        for start in range(0, len(self.endings.windows), size):
            some = self.endings.windows[start : start + size]
            with torch.no_grad():
                found = window_losses(self._token_losses, [one.window for one in some], settings, self._ranks.device)
            for one, values in zip(some, found, strict=True):
                np.add.at(nats, one.choices[one.choices >= 0], values[one.choices >= 0])
        scores = iter(nats)
        result = {}
        for name, items in self.endings.items.items():
            total = sum(float(next(scores)) for _ in items)
            result[name] = total / math.log(2) / sum(len(f" {item.choices[0]}".encode()) for item in items)
        return result

    def _benchmarks_due(self) -> bool:
        return False

    def _checkpoint_due(self) -> bool:
        return False

    def _save(self) -> None:
        pass


def read_endings(file: Path, tokenizer: Path, context: int) -> PackedItems:
    """Return endings by kind, packed."""
    items: dict[str, list[Item]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        items.setdefault(row["kind"], []).append(Item(row["prompt"], (row["ending"],), 0))
    return pack_items(items, tokenizer, context)


def train(name: str, arguments: argparse.Namespace, end: float) -> dict[str, Any]:
    """Train one trial and return its result."""
    data, out = arguments.data.resolve(), arguments.out
    overrides = [f"stages.all.tokens={arguments.tokens}", *arguments.set, *TRIALS[name]]
    recipe = load_recipe(data / "recipe.toml", overrides)
    folder = RunFolder(out / name)
    folder.path.mkdir(parents=True, exist_ok=True)
    for place in ("shards", "tokenizer"):
        link = folder.path / place
        link.unlink(missing_ok=True)
        link.symlink_to(data / place)
    folder.recipe.write_text(recipe.to_toml(), encoding="utf-8")
    for old in (folder.metrics, folder.timing):
        old.unlink(missing_ok=True)
    sources = list(read_manifest(data / "shards")["sources"])
    endings = read_endings(data / "endings.jsonl", folder.tokenizer, recipe.training.context)
    started = time.time()
    with join(recipe.training.device) as ranks:
        trial = Trial(recipe, folder, ranks, quiet=True)
        trial.prepare(endings, sources, end, averages=name in AVERAGED)
        trial.run()
        device = device_name(ranks.device)
    seconds = time.time() - started
    rows, timing = read_rows(folder.metrics, "train"), read_rows(folder.timing)
    last = rows[-max(1, len(rows) // 50) :]
    return {
        "trial": name,
        "overrides": overrides,
        "device": device,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "manifest": read_manifest(data / "shards")["hash"],
        "steps": len(rows),
        "tokens": len(rows) * recipe.training.batch_tokens,
        "training_loss": statistics.mean(row["loss"] for row in last),
        "training_bits_per_byte": statistics.mean(row["bits_per_byte"] for row in last),
        "others": {key: value for key, value in last[-1].items() if key.endswith("_loss") and key != "source_loss"},
        "tokens_per_second": statistics.median(row["tokens_per_second"] for row in timing),
        "step_seconds": sum(row["seconds"] for row in timing),
        "seconds": seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None,
        **trial.final,
    }


def choose_kernel() -> str:
    """Try FlashAttention 4, and fall back to torch's own where it does not run."""
    if not torch.cuda.is_available():
        return "none"
    if os.environ.get("TRIALS_OLD_KERNEL"):
        keylm.attention.NEWEST_SIZES = ()
        return "FlashAttention 2, as asked for"
    device = torch.device("cuda", 0)
    kernel = keylm.attention.newest_kernel(device)
    if kernel is None:
        return "FlashAttention 2"
    try:
        queries, keys, values = (
            torch.randn(256, heads, 64, device=device, dtype=torch.bfloat16, requires_grad=True) for heads in (8, 2, 2)
        )
        begins = torch.tensor([0, 100, 256], dtype=torch.int32, device=device)
        out, _ = keylm.attention.packed_attention(queries, keys, values, begins, 256)
        out.float().sum().backward()
        torch.cuda.synchronize()
        return "FlashAttention 4"
    except Exception:
        traceback.print_exc()
        keylm.attention.NEWEST_SIZES = ()
        keylm.attention.best_kernel.cache_clear()
        return "FlashAttention 2, as 4 failed"


def pending(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the trials that have no result yet, in order, but for those that ended a process twice."""
    for name in arguments.only or TRIALS:
        begun = arguments.out / f"{name}.begun"
        times = len(begun.read_text()) if begun.exists() else 0
        if not (arguments.out / f"{name}.json").exists() and times < 2:
            begun.write_text("x" * (times + 1))
            yield name


def main() -> None:
    """Run the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=90_000_000)
    parser.add_argument("--end", type=float, default=float("inf"), help="when to stop, in seconds since 1970")
    parser.add_argument("--only", nargs="*", choices=list(TRIALS))
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.accumulated_recompile_limit = 512
    print(f"{time.strftime('%H:%M:%S')} kernel: {choose_kernel()}", flush=True)
    estimate = arguments.tokens / 600_000 + 10
    for name in pending(arguments):
        left = arguments.end - time.time()
        if left < estimate:
            (arguments.out / f"{name}.begun").unlink()
            print(f"{name}: not begun, {left:.0f} s left of the {estimate:.0f} it takes", flush=True)
            continue
        print(f"{time.strftime('%H:%M:%S')} {name}: begun, {left:.0f} s left", flush=True)
        started = time.time()
        try:
            result = train(name, arguments, arguments.end)
        except Exception as error:
            traceback.print_exc()
            result = {"trial": name, "error": f"{type(error).__name__}: {error}"}
        write_json(arguments.out / f"{name}.json", result)
        said = result.get("error") or f"{result['tokens_per_second']:,.0f} tokens/s, loss {result['training_loss']:.4f}"
        took = time.time() - started
        if "error" not in result:
            estimate = min(estimate, took) if name != "future" else estimate
        print(f"{time.strftime('%H:%M:%S')} {name}: {took:.0f} s, {said}", flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            if (held := torch.cuda.memory_allocated() / 2**30) > 16:
                print(f"{held:.1f} GiB are still held", flush=True)
                torch._dynamo.reset()
                gc.collect()
                torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
