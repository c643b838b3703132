"""Bits per byte of a build's held-out text under models: which fall to keep, what leaving sources out costs.

    python scripts/release/held_out.py OUT/anneal/model mean=OUT/averaged/model --data DATA --out OUT/held_out.json

The same windows of every source for each model, whether it was trained on that source or not; with --stage of those
alone that a stage of the recipe trains on. Choosing by this instead of by benchmarks keeps the benchmarks' figures
honest. Prints means over sources: of all, the same by their tokens, of those whose licence is stated, of the others.
Mistyped text that is made from sources is in none of them.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from plan import parser, read_plan, run

from keylm.data.shards import read_manifest
from keylm.data.store import finished_store
from keylm.errors import KeylmError
from keylm.evaluation.validation import validate
from keylm.files import sha256_file, write_json
from keylm.fused import can_fuse
from keylm.machine import device_name
from keylm.model import Decoder
from keylm.recipe import Recipe
from keylm.recipe_sections import UNSTATED
from keylm.release.card_sections import markdown_table
from keylm.tokenizer import DocumentTokenizer
from keylm.training.distributed import Ranks, choose_device
from keylm.training.feeding import MicroBatch, suited
from keylm.training.initial import check_shape, read_weights
from keylm.training.objective import Objective

Bits = dict[str, float]
"""Bits per byte by source."""


def measure(arguments: argparse.Namespace) -> str:
    """Write --out and return the table of means. Raises KeylmError where a model does not fit the build."""
    if arguments.windows < 1:
        raise KeylmError(f"--windows: got {arguments.windows}; accepted: 1 or more")
    recipe, shards = read_plan(arguments.plan).load(arguments.set), arguments.data / "shards"
    device = choose_device(recipe.training.device)
    sources = chosen_sources(recipe, read_manifest(shards), arguments.stage)
    rows = []
    for given in arguments.models:
        name, path = given.split("=", 1) if "=" in given else (given, given)
        bits = held_out_bits(Path(path), recipe, shards, sources, arguments.windows, device)
        rows.append({"model": name, "means": means(bits, recipe, shards), "bits_per_byte": bits})
    where = {"device": device_name(device), "torch": torch.__version__, "windows_per_source": arguments.windows}
    if arguments.out:
        write_json(arguments.out, {**where, "models": rows})
    return table(rows)


def chosen_sources(recipe: Recipe, manifest: dict[str, Any], stage: str | None) -> list[str]:
    """Return the build's sources, or those of them that a stage trains on. Raises KeylmError for unknown ones."""
    if unknown := sorted(set(manifest["sources"]) - set(recipe.sources)):
        raise KeylmError(f"the build has sources that the plan's recipe lacks: {', '.join(unknown)}")
    if stage is None:
        return list(manifest["sources"])
    if stage not in recipe.stages:
        raise KeylmError(f"--stage {stage}: accepted: {', '.join(recipe.stages)}")
    return [name for name in manifest["sources"] if recipe.stages[stage].weights.get(name, 0) > 0]


def held_out_bits(
    model: Path, recipe: Recipe, shards: Path, sources: list[str], windows: int, device: torch.device
) -> Bits:
    """Return the bits per byte of up to `windows` held-out windows of each source that has some. Raises KeylmError."""
    decoder = load(model, recipe, device)
    if not (model / "tokenizer.json").is_file():
        raise KeylmError(f"{model}: no tokenizer.json in it; accepted: a model folder that keylm wrote")
    manifest = read_manifest(shards)
    if sha256_file(model / "tokenizer.json") != manifest["tokenizer_sha256"]:
        raise KeylmError(f"{model}: another tokenizer than that of {shards}; accepted: models trained on this build")
    training = recipe.training.model_copy(update={"context": manifest["context"]})
    training = suited(training, recipe.model.head_dim, device)
    objective = Objective(decoder, 0.0, 0.0)

    def losses(part: MicroBatch) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=training.computes_in_bf16(device.type)):
            return objective.token_losses(part)

    lengths = DocumentTokenizer(model).byte_lengths()
    store = finished_store(shards, verify="opened")
    return validate(losses, store, sources, lengths, windows, training, Ranks(0, 1, device))["bits_per_byte"]


def load(folder: Path, recipe: Recipe, device: torch.device) -> Decoder:
    """Return a model folder's decoder in fp32. Raises KeylmError where it is none of the recipe's shape."""
    training = recipe.training.model_copy(update={"initial_model": str(folder)})
    check_shape(recipe.model_copy(update={"training": training}))
    decoder = Decoder(recipe.model, recipe.tokenizer.vocab_size)
    try:
        decoder.load_state_dict(read_weights(folder))
    except RuntimeError:
        raise KeylmError(f"{folder}: other tensors than its config.json asks; accepted: a whole model folder") from None
    if recipe.training.computes_in_bf16(device.type) and can_fuse(device, recipe.model.head_dim):
        decoder.fuse()
    return decoder.to(device).eval()


def means(bits: Bits, recipe: Recipe, shards: Path) -> Bits:
    """Return the means over sources of plain text; "by tokens" weighs each by what the build has of it to train on."""
    tokens = {name: entry["train"]["tokens"] for name, entry in read_manifest(shards)["sources"].items()}
    plain = {name: value for name, value in bits.items() if not recipe.sources[name].typos_of}
    groups = {
        "all": plain,
        "licence stated": {name: bits[name] for name in plain if recipe.sources[name].licence != UNSTATED},
        "licence unstated": {name: bits[name] for name in plain if recipe.sources[name].licence == UNSTATED},
    }
    found = {name: statistics.fmean(values.values()) for name, values in groups.items() if values}
    if sum(tokens[name] for name in plain):
        found["by tokens"] = statistics.fmean(plain.values(), [tokens[name] for name in plain])
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Return the means as a table, a row a model."""
    columns = list(rows[0]["means"])
    lines = [[row["model"], *(f"{row['means'][name]:.4f}" for name in columns)] for row in rows]
    return markdown_table(["held out, bits per byte", *columns], lines)


def main() -> None:
    given = parser(__doc__)
    given.add_argument("models", nargs="+", metavar="[NAME=]MODEL", help="model folders of the plan's shape")
    given.add_argument("--data", type=Path, required=True, help="the unpacked build")
    given.add_argument("--out", type=Path, help="a JSON file for each source's figures")
    given.add_argument("--windows", type=int, default=64, help="at most so many of each source")
    given.add_argument("--stage", help="a stage of the recipe: of the sources that it trains on alone")
    given.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a field of the recipe")
    run(measure, given.parse_args())


if __name__ == "__main__":
    main()
