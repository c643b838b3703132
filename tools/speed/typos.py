"""How fast the typo generator makes noise, in megabytes of UTF-8 text a second of processor time, on one core.

    python -m tools.speed.typos ../shared/corpus/formal/wikipedia.jsonl.zst [--megabytes 20]

Prints one line for each rate, and for texts of some lengths what one takes among many and alone (default rates). Best
of three passes, the reading left out.
"""

import time
from pathlib import Path

from keylm.recipe.schema import Typos
from keylm.typos.model import TypoModel
from tools.command import run_script, script_parser
from tools.records import read_records


def read_texts(path: Path, size: int) -> list[str]:
    """Return the texts of a .jsonl.zst file up to `size` bytes."""
    texts: list[str] = []
    for record in read_records(path):
        texts.append(record["text"])
        size -= len(texts[-1].encode())
        if size <= 0:
            break
    return texts


def measure(model: TypoModel, texts: list[str], rate: float | None) -> tuple[float, int]:
    """Return the seconds of processor time that one pass over all texts takes, and its errors."""
    started = time.process_time()
    errors = sum(len(noisy.spans) for noisy in model.corrupt_many(texts, 1, range(len(texts)), [0] * len(texts), rate))
    return time.process_time() - started, errors


def measure_edits(model: TypoModel, texts: list[str]) -> float:
    """Return the seconds of processor time with the edits made as tuples, at the default rates."""
    started = time.process_time()
    for noisy in model.corrupt_many(texts, 1, range(len(texts)), [0] * len(texts)):
        len(noisy.edits)
    return time.process_time() - started


def measure_alone(model: TypoModel, texts: list[str]) -> float:
    """Return the seconds of processor time for one call for each text, with the edits, at the default rates."""
    started = time.process_time()
    for number, text in enumerate(texts):
        len(model.corrupt(text, 1, number, 0).edits)
    return time.process_time() - started


def main() -> None:
    """Measure at the documents' own rates, at three fixed ones, and for texts of three lengths."""
    parser = script_parser(__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--megabytes", type=float, default=20)
    arguments = parser.parse_args()
    texts = read_texts(arguments.file, round(arguments.megabytes * 1e6))
    size = sum(len(text.encode()) for text in texts)
    words = sum(len(text.split()) for text in texts)
    model = TypoModel(Typos())
    print(f"{len(texts)} documents, {size / 1e6:.1f} MB, {words} words")
    for rate in (None, 0.01, 0.05, 0.2):
        seconds, errors = min(measure(model, texts, rate) for _ in range(3))
        name = "default" if rate is None else f"{rate:g}"
        print(
            f"rate {name:>7}: {size / 1e6 / seconds:6.1f} MB/s, {errors / words:.2%} of words, "
            f"{seconds / errors * 1e6:.2f} µs an error"
        )
    for name, measured in (
        ("default, with tuples of edits", measure_edits),
        ("default, one call a text", measure_alone),
    ):
        print(f"{name}: {size / 1e6 / min(measured(model, texts) for _ in range(3)):.1f} MB/s")
    for length in (400, 4_000, 40_000):
        parts = [text[at : at + length] for text in texts for at in range(0, len(text) - length + 1, length)]
        parts = parts[: 2_000_000 // length]
        together = min(measure_edits(model, parts) for _ in range(3)) / len(parts)
        alone = min(measure_alone(model, parts) for _ in range(3)) / len(parts)
        print(f"{length:6} characters: {together * 1e6:6.0f} µs a text together, {alone * 1e6:6.0f} alone")


if __name__ == "__main__":
    run_script(main)
