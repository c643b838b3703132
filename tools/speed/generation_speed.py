"""How fast a model writes on this machine's CPU, runtime by runtime, in one run.

    python -m tools.speed.generation_speed [--model FOLDER] [--threads 2] [--variants llama-q8_0 onnx-int8 …]

By default the model has KeyLM-75M's shape and random weights, which changes nothing about speed; the files of every
runtime are written anew from it. Each variant runs in a process of its own: it reads a prompt, then chooses the
likeliest token again and again, one sequence at a time. Shown are tokens a second after the first, the time to the
first token, and the most memory that the process had at any time, its libraries included. Medians of the repeats, with
the fastest; the load of the machine before and after each variant stands beside, as a busy machine slows runtimes with
several threads more than others (their threads wait for each other by spinning). A run is added to the results file.

`hf-eager` is transformers' generate. `hf-compiled` is its StaticCache under torch.compile in a loop of our own, as its
generate does not compile on a CPU; compilation is not counted. `keylm` is the decoder of `keylm generate` and of
`keylm serve --engine torch`. decoder_speed.py measures many texts at once on a GPU.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tools.command import run_script, script_parser

RESULTS = Path(__file__).parents[2] / "results" / "generation_speed.json"
GGUF, ONNX = ("f16", "q8_0", "q6_k", "q4_k_m", "q4_0"), ("fp32", "int8", "q4")
OWN = ("keylm-fp32", "keylm-int8")
VARIANTS = ("hf-eager", "hf-compiled", *OWN, *(f"onnx-{kind}" for kind in ONNX), *(f"llama-{kind}" for kind in GGUF))

Timed = tuple[float, float]
"""Seconds to the first token, and for all after it."""


def random_model(folder: Path) -> Path:
    """Write a model folder of KeyLM-75M's shape with random weights and a tokenizer of the embedded corpus."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from keylm.data.tokenizer_sample import tokenizer_sample
    from keylm.model.folder import export_model, qwen3_config
    from keylm.recipe.load import load_recipe
    from keylm.text.tokenizer import train_tokenizer

    recipe, corpus = load_recipe("keylm-75m"), load_recipe("nano")
    context, size = recipe.model.max_position_embeddings, recipe.tokenizer.vocab_size
    train_tokenizer(tokenizer_sample(corpus, corpus.sources), size, folder / "tokenizer", context)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**qwen3_config(recipe.model, size)))
    export_model(recipe, model.state_dict(), folder / "tokenizer", folder / "model")
    return folder / "model"


def write_files(model: Path, folder: Path, variants: Sequence[str]) -> None:
    """Write what the variants open: folder/KIND.gguf, folder/KIND.onnx."""
    from keylm.export.reference import TorchModel
    from keylm.runtimes.gguf_write import write_gguf
    from keylm.runtimes.onnx_files import build, write_onnx

    weights = TorchModel(model).weights()
    for kind in [kind for kind in GGUF if f"llama-{kind}" in variants]:
        write_gguf(model, weights, folder / f"{kind}.gguf", kind, "speed")
    kinds = [kind for kind in ONNX if f"onnx-{kind}" in variants]
    graph = build(model, weights) if kinds else None
    for kind in kinds:
        write_onnx(graph, folder / f"{kind}.onnx", kind, range(256))


def by_reading(read: Callable[[Sequence[int]], Any], reset: Callable[[], None]) -> Callable[[list[int], int], Timed]:
    """Return a timed greedy text of a runtime that gives logits [tokens, vocab] for the tokens it reads."""

    def write(prompt: list[int], tokens: int) -> Timed:
        reset()
        begun = time.perf_counter()
        token = int(read(prompt)[-1].argmax())
        first = time.perf_counter()
        for _ in range(tokens - 1):
            token = int(read([token])[-1].argmax())
        return first - begun, time.perf_counter() - first

    return write


def eager(model: Path, threads: int) -> Callable[[list[int], int], Timed]:
    """Return transformers' generate, timed by when its streamer gets the first token."""
    import torch
    from transformers.generation.streamers import BaseStreamer

    from keylm.model.opening import open_model

    torch.set_num_threads(threads)
    opened = open_model(model, torch.float32)
    times: list[float] = []

    class Clock(BaseStreamer):  # type: ignore[misc]  # transformers is untyped
        def put(self, value: Any) -> None:
            times.append(time.perf_counter())

        def end(self) -> None:
            pass

    def write(prompt: list[int], tokens: int) -> Timed:
        times.clear()
        ids, begun = torch.tensor([prompt]), time.perf_counter()
        length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        opened.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, streamer=Clock(), **length)
        assert len(times) == tokens + 1  # the first is the prompt's
        return times[1] - begun, times[-1] - times[1]

    return write


def compiled(model: Path, threads: int, room: int) -> Callable[[list[int], int], Timed]:
    """Return transformers' model with a static cache of `room` tokens, its step for one token compiled."""
    import torch
    from transformers import StaticCache

    from keylm.model.opening import open_model

    torch.set_num_threads(threads)
    opened = open_model(model, torch.float32)
    cache = StaticCache(config=opened.config, max_cache_len=room)
    step = torch.compile(opened.forward, dynamic=False)

    def read(ids: Sequence[int]) -> Any:
        place = torch.arange(read.filled, read.filled + len(ids))  # type: ignore[attr-defined]
        read.filled += len(ids)  # type: ignore[attr-defined]
        forward = step if len(ids) == 1 else opened.forward
        with torch.no_grad():
            found = forward(
                input_ids=torch.tensor([list(ids)]), position_ids=place[None], past_key_values=cache, use_cache=True
            )
        return found.logits[0]

    def reset() -> None:
        cache.reset()
        read.filled = 0  # type: ignore[attr-defined]

    return by_reading(read, reset)


def own(model: Path, precision: Literal["fp32", "int8"], threads: int, room: int) -> Callable[[list[int], int], Timed]:
    """Return keylm's decoder, with a cache of `room` tokens."""
    import torch

    from keylm.runtimes.cached_decoder import CachedDecoder, load_weights

    torch.set_num_threads(threads)
    decoder = CachedDecoder(load_weights(model), precision)
    cache, filled = decoder.cache(1, room), 0

    def read(ids: Sequence[int]) -> Any:
        nonlocal filled
        hidden = decoder.prefill(cache, 0, filled, ids)
        filled += len(ids)
        return decoder.logits(hidden[-1:])

    def reset() -> None:
        nonlocal filled
        filled = 0

    return by_reading(read, reset)


def measure(
    variant: str, model: Path, folder: Path, threads: int, prompt: int, tokens: int, repeats: int
) -> dict[str, Any]:
    """Return what one variant does, in this process."""
    kind = variant.split("-", 1)[1]
    if variant == "hf-eager":
        write = eager(model, threads)
    elif variant == "hf-compiled":
        write = compiled(model, threads, prompt + tokens)
    elif variant in OWN:
        write = own(model, "int8" if kind == "int8" else "fp32", threads, prompt + tokens)
    elif variant.startswith("onnx"):
        from keylm.runtimes.onnx_files import OnnxModel

        opened = OnnxModel(folder / f"{kind}.onnx", threads)
        write = by_reading(opened.read, opened.reset)
    else:
        from keylm.runtimes.llama import LlamaModel

        llama = LlamaModel(folder / f"{kind}.gguf", prompt + tokens, threads)
        write = by_reading(lambda ids: llama.read(ids, every=False), llama.reset)
    ids = np.random.default_rng(0).integers(20, 276, prompt).tolist()  # bytes, which every tokenizer has
    write(ids, 8)  # compiles, allocates
    found = [write(ids, tokens) for _ in range(repeats)]
    speeds = [(tokens - 1) / rest for _, rest in found]
    return {
        "variant": variant,
        "tokens_per_second": round(statistics.median(speeds), 1),
        "fastest": round(max(speeds), 1),
        "first_token_ms": round(1000 * statistics.median(first for first, _ in found), 1),
        "peak_memory_mb": round(peak_memory() / 1e6),
        "bytes": file_bytes(variant, model, folder),
    }


def peak_memory() -> int:
    """Return the most bytes that this process has had in memory (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def file_bytes(variant: str, model: Path, folder: Path) -> int:
    """Return the size of the weights that a variant opens."""
    runtime, kind = variant.split("-", 1)
    if runtime in ("hf", "keylm"):
        return sum(file.stat().st_size for file in model.glob("*.safetensors"))
    return (folder / f"{kind}.{'gguf' if runtime == 'llama' else 'onnx'}").stat().st_size


def in_a_process(variant: str, arguments: argparse.Namespace, model: Path, folder: Path) -> dict[str, Any]:
    """Return a variant's row, measured in a process of its own, and the machine's load before and after."""
    before = os.getloadavg()[0]
    command = [
        sys.executable,
        "-m",
        "tools.speed.generation_speed",
        "--variants",
        variant,
        "--model",
        str(model),
        "--files",
        str(folder),
    ]
    for name in ("threads", "prompt", "tokens", "repeats"):
        command += [f"--{name}", str(getattr(arguments, name))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"variant": variant, "failed": done.stderr.strip().splitlines()[-1:]}
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**row, "load": [round(before, 1), round(os.getloadavg()[0], 1)]}


def versions() -> dict[str, str]:
    """Return the versions of the runtimes."""
    from keylm.export.exporter import runtime_versions

    return runtime_versions()


def machine() -> str:
    """Return the processor's name."""
    import torch

    from keylm.base.machine import device_name

    return device_name(torch.device("cpu"))


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a table in Markdown."""
    print("| variant | MB | tokens/s | fastest | first token, ms | peak memory, MB | load |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        if "failed" in row:
            print(f"| {row['variant']} | failed: {row['failed']} |")
            continue
        load = " → ".join(str(value) for value in row["load"])
        cells = (row["tokens_per_second"], row["fastest"], row["first_token_ms"], row["peak_memory_mb"], load)
        print(f"| {row['variant']} | {row['bytes'] / 1e6:.0f} | {' | '.join(map(str, cells))} |")


def main() -> None:
    """Measure all variants, or, with --files, the one that is named, for `in_a_process`."""
    parser = script_parser(__doc__)
    parser.add_argument("--model", type=Path, help="a model folder; by default random weights of KeyLM-75M's shape")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--prompt", type=int, default=128, help="tokens in the prompt")
    parser.add_argument("--tokens", type=int, default=128, help="tokens to write")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.files:
        options = (arguments.threads, arguments.prompt, arguments.tokens, arguments.repeats)
        print(json.dumps(measure(arguments.variants[0], arguments.model, arguments.files, *options)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = arguments.model or random_model(folder)
        write_files(model, folder, arguments.variants)
        rows = []
        for variant in arguments.variants:
            rows.append(in_a_process(variant, arguments, model, folder))
            print(json.dumps(rows[-1]), flush=True)
    facts = {"date": date.today().isoformat(), "machine": machine(), "versions": versions()}
    shape = {name: getattr(arguments, name) for name in ("threads", "prompt", "tokens", "repeats")}
    show(rows)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(arguments.results.read_text()) if arguments.results.is_file() else []
    arguments.results.write_text(json.dumps([*known, {**facts, **shape, "rows": rows}], indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
