"""How fast keylm's decoder writes many texts at once on a GPU, and how far that is from the memory's own speed.

    python -m tools.speed.decoder_speed models/keylm-75m-instruct [--rows 64 256 1024 4096] [--out FILE]

For each number of rows: prompts of real text, new tokens sampled with keylm's default settings (temperature, top_p,
repetition penalty), none ending early. Shown are tokens a second of the whole call, prompts included; the time of a
step; and the roofline: the bytes of weights and caches that a step must read, over the bandwidth of a copy that is
measured first. Then the decoder's greedy texts beside those of transformers in fp32 and in bf16, transformers'
generate on the same prompts with fewer new tokens, the kernels that a step spends its time in, and other settings of
the attention kernel.

Each part is measured by itself: one that fails is reported as failed, and the rest goes on; parts that would begin
after --seconds are left out. First each kernel is compared with the plain formula in the model's shapes; one that fails
or differs is replaced by the formula, and the report says so. Steps that cannot be captured as a graph are launched
kernel by kernel. Prints each result as it comes, then a table, then all of it as one line of JSON.
"""

import argparse
import json
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from keylm.base.machine import device_name
from keylm.data.readers import FileRecords
from keylm.data.sources import row_of
from keylm.model.opening import open_model, open_tokenizer
from keylm.recipe.load import CORPUS_FOLDER
from keylm.runtimes.batch_generation import BatchGenerator
from keylm.runtimes.cached_decoder import CachedDecoder, Precision, Weights, load_weights
from keylm.runtimes.decoding import FusedOperations, Newest, Spots
from keylm.runtimes.sampling import Sampling
from tools.command import run_script, script_parser
from tools.speed.kernel_checks import checked_kernels

GREEDY = Sampling(0, 0.0, 1.0, 1.0)
COMPARED = 64
"""Texts and new tokens that are compared with transformers'."""
SHOWN_KERNELS = 16
ATTENTION = (
    (32, 2, 2),
    (32, 4, 3),
    (64, 2, 2),
    (64, 2, 3),
    (64, 4, 2),
    (64, 4, 3),
    (128, 4, 2),
    (128, 4, 3),
    (128, 8, 2),
)
"""Settings of the attention kernel that are tried: block, warps, stages."""


class Report:
    """Results by name, printed as they come."""

    def __init__(self, seconds: float) -> None:
        self.results: dict[str, Any] = {}
        self._begun, self._seconds = time.perf_counter(), seconds

    def measure(self, name: str, part: Callable[[], Any]) -> Any:
        """Return what a part measures, or None where it failed or the time is over."""
        begun = time.perf_counter()
        if begun - self._begun > self._seconds:
            found: Any = {"left_out": f"after {self._seconds:g} s"}
        else:
            try:
                found = part()
            except Exception as error:  # what the other parts measure counts too
                traceback.print_exc()
                found = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        self.results[name] = found
        print(json.dumps({name: found, "seconds": round(time.perf_counter() - begun, 1)}), flush=True)
        return found


def real_prompts(folder: Path, count: int, length: int) -> list[list[int]]:
    """Return windows of `length` tokens of the embedded stories, again from the start where they run out."""
    tokenizer, ids = open_tokenizer(folder), list[int]()
    for record in FileRecords(CORPUS_FOLDER / "short_stories.jsonl.zst"):
        row = row_of(record)
        ids += tokenizer(row["text"], add_special_tokens=False)["input_ids"] if isinstance(row, dict) else []
        if len(ids) >= count * length:
            break
    starts = [number * length % (len(ids) - length) for number in range(count)]
    return [ids[start : start + length] for start in starts]


def wait(device: torch.device) -> float:
    """Return the time once the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def bandwidth(device: torch.device, size: int = 1 << 30) -> dict[str, float]:
    """Return the bytes a second that copying `size` bytes reads and writes, the best of ten."""
    size = size if device.type == "cuda" else 1 << 26
    source = torch.zeros(size // 4, dtype=torch.int32, device=device)
    target, times = torch.empty_like(source), []
    for _ in range(10):
        begun = wait(device)
        target.copy_(source)
        times.append(wait(device) - begun)
    return {"copy_gb_per_s": round(2 * size / min(times) / 1e9, 1)}


def decoder_rate(
    decoder: CachedDecoder, prompts: list[list[int]], sampling: Sampling, graphs: bool, copied: float | None
) -> dict[str, Any]:
    """Return the rate for a batch of `prompts`, the median of two calls; the first call, which compiles, is apart."""
    generator, device = BatchGenerator(decoder, rows=len(prompts), graphs=graphs), decoder.device
    begun = wait(device)
    generator.generate(prompts, sampling, ends=(), stop=lambda number, ids: len(ids) > 1)
    first = wait(device) - begun
    times, reading = [], []
    for _ in range(2):
        begun = wait(device)
        generator.generate(prompts, sampling, ends=(), stop=lambda number, ids: True)
        reading.append(wait(device) - begun)
        begun = wait(device)
        found = generator.generate(prompts, sampling, ends=())
        times.append(wait(device) - begun)
    assert all(len(each.ids) == sampling.max_new_tokens for each in found)
    counts, seconds = generator.counts, statistics.median(times)
    step = (seconds - statistics.median(reading)) / (sampling.max_new_tokens - 1)
    shape, width = decoder.shape, decoder.dtype.itemsize
    weights = sum(part.numel() for _, part in decoder._parts) * width
    token = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * width
    read = weights + token * len(prompts) * (len(prompts[0]) + sampling.max_new_tokens / 2)
    row = {
        "rows": len(prompts),
        "tokens_per_second": round(counts.new_tokens / seconds),
        "seconds": round(seconds, 3),
        "prompts_seconds": round(statistics.median(reading), 3),
        "first_call_seconds": round(first, 2),
        "step_ms": round(1000 * step, 3),
        "tokens_per_second_of_steps": round(len(prompts) / step),
        "read_per_step_mb": round(read / 1e6),
        "graphs": generator.graphs,
        "why_no_graphs": generator.why_no_graphs[:300],
    }
    if copied:
        row |= {"roofline_ms": round(read / copied / 1e6, 3), "of_roofline": round(read / copied / 1e9 / step, 3)}
    if device.type == "cuda":
        row["peak_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 1)
        torch.cuda.reset_peak_memory_stats(device)
    generator.release()
    return row


def hugging_face(
    model: Any, prompts: list[list[int]], device: torch.device, tokens: int, sampling: Sampling
) -> tuple[float, list[list[int]]]:
    """Return the seconds that transformers' generate takes for `tokens` new tokens each, and the tokens."""
    ids = torch.tensor(prompts, device=device)
    length = {"max_new_tokens": tokens, "min_new_tokens": tokens, "pad_token_id": 0}
    begun = wait(device)
    found = model.generate(ids, attention_mask=torch.ones_like(ids), **length, **sampling.arguments())
    return wait(device) - begun, found[:, ids.shape[1] :].tolist()


def transformers_rate(
    model: Any, prompts: list[list[int]], device: torch.device, tokens: int, sampling: Sampling
) -> dict[str, Any]:
    """Return the rate of transformers' generate, one call after a short one."""
    hugging_face(model, prompts[:8], device, 2, sampling)
    seconds, _ = hugging_face(model, prompts, device, tokens, sampling)
    rate = len(prompts) * tokens / seconds
    return {"rows": len(prompts), "tokens_per_second": round(rate), "step_ms": round(1000 * seconds / tokens, 2)}


@torch.no_grad()
def agreement(
    folder: Path, weights: Weights, prompts: list[list[int]], precision: Precision, usual: CachedDecoder, tokens: int
) -> dict[str, Any]:
    """Compare greedy texts with transformers' in the same precision, and scores with its model in fp32.

    "rows_identical", "tokens_before_first_difference" (a share); "score_error": of the log-probabilities of the
    decoder's own tokens, the mean and the largest difference from transformers in fp32.
    """
    device = usual.device
    model = open_model(folder, torch.float32 if precision == "fp32" else torch.bfloat16).to(device)
    _, expected = hugging_face(model, prompts, device, tokens, GREEDY)
    decoder = CachedDecoder(weights, precision, device)
    decoder.operations = usual.operations
    texts = BatchGenerator(decoder).generate(prompts, replace(GREEDY, max_new_tokens=tokens), ends=())
    # transformers was told to write no end token before the last place: compare up to where the decoder would.
    shared, same = 0, 0
    for each, other in zip(texts, expected, strict=True):
        ended = next((place for place, token in enumerate(each.ids) if token in weights.ends), tokens)
        until = next((place for place in range(ended) if each.ids[place] != other[place]), ended)
        shared, same = shared + (until if until < ended else tokens), same + (until == ended)
    exact = model.float()
    ids = torch.tensor([prompt + each.ids for prompt, each in zip(prompts, texts, strict=True)], device=device)
    errors = []
    for part, own in zip(
        ids.split(16), torch.tensor([each.log_probabilities for each in texts]).split(16), strict=True
    ):
        scores = exact(part).logits[:, len(prompts[0]) - 1 : -1].log_softmax(-1)
        own_scores = scores.gather(2, part[:, len(prompts[0]) :, None])[..., 0].cpu()
        errors.append((own_scores - own).abs())
    error = torch.cat(errors)
    return {
        "rows": len(prompts),
        "tokens": tokens,
        "rows_identical": round(same / len(prompts), 4),
        "tokens_before_first_difference": round(shared / len(prompts) / tokens, 4),
        "score_error": {"mean": round(float(error.mean()), 6), "largest": round(float(error.max()), 5)},
    }


def kernel_times(
    decoder: CachedDecoder, prompts: list[list[int]], sampling: Sampling, steps: int = 8
) -> dict[str, Any]:
    """Return the kernels of a step, launched one by one, in microseconds a step, the costliest first."""
    from torch.profiler import ProfilerActivity, profile

    generator = BatchGenerator(decoder, rows=len(prompts), graphs=False)
    generator.generate(prompts, sampling, ends=(), stop=lambda number, ids: True)
    states, cache = generator._states, generator._cache
    assert states is not None
    assert cache is not None
    rows = torch.arange(len(prompts), device=decoder.device)
    states.done.fill_(False)
    states.done[-1] = True
    generator._step(states, cache, rows)
    on_gpu = decoder.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as log:
        for _ in range(steps):
            generator._step(states, cache, rows)
        wait(decoder.device)
    spent = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    found = [(event.key, getattr(event, spent) / steps, event.count / steps) for event in log.key_averages()]
    found.sort(key=lambda each: -each[1])
    shown = [[name[:90], round(time_, 1), round(count, 1)] for name, time_, count in found[:SHOWN_KERNELS]]
    return {"us_per_step": round(sum(each[1] for each in found), 1), "kernels": shown}


def attention_settings(decoder: CachedDecoder, rows: int, length: int, copied: float | None) -> list[dict[str, Any]]:
    """Return the time of one layer's attention over caches of `length` tokens, by settings of the kernel."""
    operations, heads = decoder.operations, decoder._heads
    if not isinstance(operations, FusedOperations):
        return []
    size = (rows, heads.kv, -(-length // 128) * 128, heads.size)
    cache = tuple(torch.randn(size, device=decoder.device, dtype=decoder.dtype) for _ in range(2))
    q = torch.randn(rows, heads.queries, heads.size, device=decoder.device, dtype=decoder.dtype)
    at, places = torch.arange(rows, device=decoder.device), torch.full((rows,), length - 1, device=decoder.device)
    newest, usual, found = Newest(Spots(at, places, places), length), dict(operations.attention), []
    for block, warps, stages in ATTENTION:
        operations.attention = {"block": block, "num_warps": warps, "num_stages": stages}
        times = []
        for _ in range(12):
            begun = wait(decoder.device)
            for _ in range(10):
                operations.attend_cached(q, (cache[0], cache[1]), newest, heads)
            times.append((wait(decoder.device) - begun) / 10)
        seconds = min(times)
        read = 2 * rows * heads.kv * length * heads.size * decoder.dtype.itemsize
        row = {**operations.attention, "us": round(1e6 * seconds, 1), "gb_per_s": round(read / seconds / 1e9)}
        found.append({**row, "of_copy": round(read / seconds / 1e9 / copied, 2)} if copied else row)
    operations.attention = usual
    return sorted(found, key=lambda row: row["us"])


def show(results: dict[str, Any]) -> None:
    """Print the rates as a table in Markdown."""
    print("| | rows | tokens/s | step, ms | roofline, ms | share |\n|---|--:|--:|--:|--:|--:|")
    for name, row in results.items():
        if isinstance(row, dict) and "tokens_per_second" in row:
            ends = (row.get("roofline_ms", ""), row.get("of_roofline", ""))
            cells = (name.split()[0], row["rows"], f"{row['tokens_per_second']:,}", row["step_ms"], *ends)
            print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    """Measure all parts."""
    parser = script_parser(__doc__)
    parser.add_argument("model", type=Path, help="a model folder")
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--compared-rows", type=int, nargs="+", default=[256, 1024], help="for transformers")
    parser.add_argument("--prompt", type=int, default=128, help="tokens in a prompt")
    parser.add_argument("--tokens", type=int, default=256, help="new tokens")
    parser.add_argument("--compared-tokens", type=int, default=COMPARED, help="new tokens of transformers")
    parser.add_argument("--seconds", type=float, default=80, help="no part begins later")
    parser.add_argument("--no-graphs", action="store_true", help="launch kernel by kernel")
    parser.add_argument("--out", type=Path, help="a JSON file to write all results to")
    report = measured(parser.parse_args())
    show(report)
    print(json.dumps(report))


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all results; --out has those that there are after each part."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report, sampling = Report(arguments.seconds), Sampling(arguments.tokens, seed=0)
    precision: Precision = "bf16" if device.type == "cuda" else "fp32"
    report.results |= {
        "date": date.today().isoformat(),
        "machine": device_name(device),
        "torch": str(torch.__version__),
        "model": arguments.model.name,
        "prompt": arguments.prompt,
        "tokens": arguments.tokens,
        "precision": precision,
    }
    weights = load_weights(arguments.model)
    prompts = real_prompts(arguments.model, max(arguments.rows), arguments.prompt)
    decoder = CachedDecoder(weights, precision, device)

    def run(name: str, part: Callable[[], Any]) -> Any:
        found = report.measure(name, part)
        if arguments.out:
            arguments.out.write_text(json.dumps(report.results, indent=1) + "\n")
        return found

    run("checks", lambda: checked_kernels(decoder))
    copied = run("copy", lambda: bandwidth(device)).get("copy_gb_per_s")
    graphs = not arguments.no_graphs
    for rows in arguments.rows:
        run(f"keylm {rows}", lambda rows=rows: decoder_rate(decoder, prompts[:rows], sampling, graphs, copied))
    count, tokens = min(COMPARED, len(prompts)), min(arguments.compared_tokens, arguments.tokens)
    for kind in ("fp32", "bf16"):
        run(
            f"agreement {kind}",
            lambda kind=kind: agreement(arguments.model, weights, prompts[:count], kind, decoder, tokens),
        )
    largest = max(rows for rows in arguments.rows if rows <= 1024 or rows == min(arguments.rows))
    run("kernels", lambda: kernel_times(decoder, prompts[:largest], sampling))
    model = open_model(arguments.model, decoder.dtype).to(device)
    for rows in arguments.compared_rows:
        part = prompts[:rows]
        run(f"transformers {rows}", lambda part=part: transformers_rate(model, part, device, tokens // 2, sampling))
    run("attention", lambda: attention_settings(decoder, largest, arguments.prompt + arguments.tokens // 2, copied))
    return report.results


if __name__ == "__main__":
    run_script(main)
