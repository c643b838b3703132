"""Bits per byte of a build's held-out text under models: which fall to keep, what leaving sources out costs.

    python scripts/release/held_out.py OUT/anneal/model OUT/averaged/model --data DATA --out OUT/held_out.json

The same windows of every source of the build for each model, whether it was trained on that source or not. Choosing by
this instead of by benchmarks keeps the benchmarks' figures honest. Prints the means over sources, those of sources
whose licence is stated and of the others apart; mistyped text made from sources is left out of the means.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from plan import parser, read_plan, run

from keylm.data.shards import read_manifest
from keylm.data.store import Finished, ShardStore
from keylm.errors import KeylmError
from keylm.evaluation.validation import validate
from keylm.files import sha256_file, write_json
from keylm.fused import can_fuse
from keylm.machine import device_name
from keylm.model import Decoder
from keylm.recipe import Recipe
from keylm.recipe_sections import UNSTATED, Source
from keylm.release.card_sections import markdown_table
from keylm.release.huggingface import check_model_folder
from keylm.tokenizer import DocumentTokenizer
from keylm.training.distributed import Ranks
from keylm.training.feeding import suited
from keylm.training.initial import read_weights
from keylm.training.objective import Objective

Bits = dict[str, float]
"""Bits per byte by source."""


def measure(arguments: argparse.Namespace) -> str:
    """Write --out and return the table of means. Raises KeylmError where a model does not fit the build."""
    recipe = read_plan(arguments.plan).load(arguments.set)
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    found = {
        str(model): held_out_bits(model, recipe, arguments.data / "shards", arguments.windows, device)
        for model in arguments.models
    }
    rows = [
        {"model": model, "bits_per_byte": bits, "means": means(bits, recipe.sources)} for model, bits in found.items()
    ]
    where = {"device": device_name(device), "torch": torch.__version__, "windows_per_source": arguments.windows}
    if arguments.out:
        write_json(arguments.out, {**where, "models": rows})
    return table(rows)


def held_out_bits(model: Path, recipe: Recipe, shards: Path, windows: int, device: torch.device) -> Bits:
    """Return the bits per byte of up to `windows` held-out windows of each source that has some. Raises KeylmError."""
    check_model_folder(model)
    store, settings = Finished(shards), read_manifest(shards)
    if sha256_file(model / "tokenizer.json") != settings["tokenizer_sha256"]:
        raise KeylmError(f"{model}: another tokenizer than that of {shards}; accepted: models trained on this build")
    training = recipe.training.model_copy(update={"context": settings["context"]})
    training = suited(training, recipe.model.head_dim, device)
    tokenizer = DocumentTokenizer(model)
    objective = Objective(load(model, recipe, tokenizer.vocab_size, device), 0.0, 0.0)

    def losses(part: Any) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=training.computes_in_bf16(device.type)):
            return objective.token_losses(part)

    sources = [name for name in settings["sources"] if name in recipe.sources]
    windows_of = ShardStore(store, training.context)
    ranks = Ranks(0, 1, device)
    return validate(losses, windows_of, sources, tokenizer.byte_lengths(), windows, training, ranks)["bits_per_byte"]


def load(folder: Path, recipe: Recipe, vocab_size: int, device: torch.device) -> Decoder:
    """Return a model folder's decoder in fp32. Raises KeylmError where it has another shape than the recipe."""
    decoder = Decoder(recipe.model, vocab_size)
    try:
        decoder.load_state_dict(read_weights(folder))
    except RuntimeError as error:
        raise KeylmError(f"{folder}: not of the plan's shape: {error}") from None
    if device.type == "cuda" and can_fuse(device, recipe.model.head_dim):
        decoder.fuse()
    return decoder.to(device).eval()


def means(bits: Bits, sources: dict[str, Source]) -> Bits:
    """Return the means over sources of plain text: of all, of those whose licence is stated, of the others."""
    plain = {name: value for name, value in bits.items() if not sources[name].typos_of}
    stated = [value for name, value in plain.items() if sources[name].licence != UNSTATED]
    unstated = [value for name, value in plain.items() if sources[name].licence == UNSTATED]
    groups = {"all": list(plain.values()), "licence stated": stated, "licence unstated": unstated}
    return {name: statistics.fmean(values) for name, values in groups.items() if values}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the means as a table, a row a model."""
    columns = list(rows[0]["means"])
    lines = [[row["model"], *(f"{row['means'][name]:.4f}" for name in columns)] for row in rows]
    return markdown_table(["held out, bits per byte", *columns], lines)


def main() -> None:
    given = parser(__doc__)
    given.add_argument("models", type=Path, nargs="+", help="model folders of the plan's shape")
    given.add_argument("--data", type=Path, required=True, help="the unpacked build")
    given.add_argument("--out", type=Path, help="a JSON file for each source's figures")
    given.add_argument("--windows", type=int, default=64, help="at most so many of each source")
    given.add_argument("--device", help="cpu, cuda; by default a GPU where there is one")
    given.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a field of the recipe")
    run(measure, given.parse_args())


if __name__ == "__main__":
    main()
