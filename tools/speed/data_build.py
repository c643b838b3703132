"""How fast text becomes shards, beside datatrove's tokenization pipeline on the same files.

    python -m tools.speed.data_build CORPUS [--files formal/wikipedia casual/energy_forum …] [--whole]

The comparison runs on the files named, with one process for either side and the tokenizers library held to one
thread; MB are bytes of UTF-8 text, per second of CPU time of that process and its children. `--whole` also builds
every text file of the corpus with 1 and with 2 workers and tells wall-clock seconds, peak memory and manifest hash.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from tools.command import run_script, script_parser

RECIPE = """
name = "benchmark"
seed = 1
[model]
hidden_size = 64
num_hidden_layers = 1
num_attention_heads = 1
num_key_value_heads = 1
head_dim = 64
intermediate_size = 64
max_position_embeddings = 2048
[training]
batch_tokens = 2_048_000
context = 2048
[stages.all]
tokens = 1_000_000_000_000
"""
DATATROVE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer
folder, tokenizer, out = sys.argv[1:]
LocalPipelineExecutor(
    [
        JsonlReader(folder, compression="zstd"),
        DocumentTokenizer(out + "/tokens", tokenizer, eos_token="<|endoftext|>", shuffle_documents=False),
    ],
    tasks=1, workers=1, logging_dir=out + "/logs",
).run()
"""


def write_recipe(folder: Path, corpus: Path, files: list[str]) -> Path:
    """Write a recipe that takes all of each file, and return it."""
    lines = [RECIPE, "[stages.all.weights]", *(f'"{_key(file)}" = 1' for file in files)]
    for file in files:
        lines += [f'[sources."{_key(file)}"]', f'path = "{corpus / file}.jsonl.zst"']
    path = folder / "recipe.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _key(file: str) -> str:
    return file.replace("/", "-")


def measured(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return its CPU seconds, its wall-clock seconds, and its largest process's peak memory in MB."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_one_thread())
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: failed, status {status}")
    return used.ru_utime + used.ru_stime, time.monotonic() - started, used.ru_maxrss / 1e3


def _one_thread() -> dict[str, str]:
    return {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


def build(recipe: Path, run: Path, workers: int) -> tuple[float, float, float]:
    """Build shards of `recipe` (its tokenizer is there already) and return what `measured` does."""
    keylm = [sys.executable, "-m", "keylm"]
    return measured([*keylm, "data", "build", str(recipe), "--run-dir", str(run), "--workers", str(workers), "-q"])


def with_tokenizer(recipe: Path, run: Path) -> float:
    """Train the recipe's tokenizer in `run` and return the wall-clock seconds."""
    command = [sys.executable, "-m", "keylm", "run", str(recipe), "--until", "tokenizer", "--run-dir", str(run), "-q"]
    return measured(command)[1]


def text_bytes(run: Path) -> int:
    """Return the bytes of text in a run's shards."""
    sources = json.loads((run / "shards" / "manifest.json").read_text())["sources"].values()
    return sum(entry[split]["bytes"] for entry in sources for split in ("train", "validation"))


def compare(corpus: Path, files: list[str], scratch: Path) -> None:
    """Print MB/s per core of both sides on the same files."""
    recipe = write_recipe(scratch, corpus, files)
    run = scratch / "run"
    with_tokenizer(recipe, run)
    empty = measured([sys.executable, "-c", "import keylm.pipeline.run"])[0]
    ours, _, memory = build(recipe, run, 1)
    size = text_bytes(run) / 1e6
    folder = scratch / "same"
    folder.mkdir()
    for file in files:
        shutil.copy(corpus / f"{file}.jsonl.zst", folder / f"{_key(file)}.jsonl.zst")
    script = scratch / "datatrove_tokens.py"
    script.write_text(DATATROVE, encoding="utf-8")
    tokenizer = str(run / "tokenizer" / "tokenizer.json")
    theirs, _, their_memory = measured([sys.executable, str(script), str(folder), tokenizer, str(scratch / "out")])
    print(f"{size:.1f} MB of text, {len(files)} files: {', '.join(files)}")
    print(
        f"keylm data build     {size / ours:6.2f} MB/s per core "
        f"({ours:.1f} s, of which {empty:.1f} s start), {memory:.0f} MB"
    )
    print(f"datatrove tokenizer  {size / theirs:6.2f} MB/s per core ({theirs:.1f} s), {their_memory:.0f} MB")
    print(f"ratio                {theirs / ours:6.2f}")


def whole(corpus: Path, scratch: Path) -> None:
    """Build every text file of the corpus, with 1 and with 2 workers."""
    names = sorted(str(file.relative_to(corpus)).removesuffix(".jsonl.zst") for file in corpus.glob("*/*.jsonl.zst"))
    files = [name for name in names if not name.startswith("typo/")]
    recipe = write_recipe(scratch, corpus, files)
    seconds = with_tokenizer(recipe, scratch / "run1")
    print(f"tokenizer of 12,020 from 70 MB: {seconds:.1f} s")
    shutil.copytree(scratch / "run1", scratch / "run2")
    for workers in (1, 2):
        run = scratch / f"run{workers}"
        cpu, wall, memory = build(recipe, run, workers)
        size = text_bytes(run) / 1e6
        manifest = json.loads((run / "shards" / "manifest.json").read_text())["hash"]
        print(
            f"{len(files)} sources, {size:.1f} MB, {workers} workers: {wall:.1f} s = {size / wall:.2f} MB/s "
            f"({size / cpu:.2f} a core-second), {memory:.0f} MB in the largest process, manifest {manifest[:16]}…"
        )


def main() -> None:
    """Read the arguments and run."""
    parser = script_parser(__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--files", nargs="+", default=["formal/wikinews", "formal/openstax", "casual/energy_forum"])
    parser.add_argument("--whole", action="store_true")
    arguments = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("tokenizers", "datatrove", "numpy"))
    print(f"Python {platform.python_version()}, {versions}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments.corpus.resolve(), arguments.files, Path(folder))
        if arguments.whole:
            (Path(folder) / "whole").mkdir()
            whole(arguments.corpus.resolve(), Path(folder) / "whole")


if __name__ == "__main__":
    run_script(main)
