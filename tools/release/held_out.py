"""Bits per byte of a build's held-out text under models: which fall to keep, what leaving sources out costs.

    python -m tools.release.held_out OUT/anneal/model mean=OUT/averaged/model --data DATA --out OUT/held_out.json

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

from keylm.base.errors import KeylmError
from keylm.base.files import sha256_file, write_json
from keylm.base.machine import device_name
from keylm.data.manifest import ShardManifest, read_manifest
from keylm.data.store import finished_store
from keylm.model.decoder import Decoder
from keylm.model.fused import can_fuse
from keylm.recipe.load import Recipe
from keylm.recipe.schema import UNSTATED
from keylm.report.card_sections import markdown_table
from keylm.text.tokenizer import DocumentTokenizer
from keylm.training.distributed import Ranks, choose_device
from keylm.training.initial_model import check_shape, fill
from keylm.training.objective import Objective
from keylm.training.prefetch import MicroBatch, suited
from keylm.training.validation import validate
from tools.release.plan import parser, read_plan, run

Bits = dict[str, float]
"""Bits per byte by source."""


class HeldOut:
    """The windows that all models are measured on."""

    def __init__(self, recipe: Recipe, shards: Path, stage: str | None, windows: int) -> None:
        """Open a build, for up to `windows` windows a source. Raises KeylmError where it does not fit `recipe`."""
        manifest, device = read_manifest(shards), choose_device(recipe.training.device)
        training = recipe.training.model_copy(update={"context": manifest.context})
        self.device, self._training = device, suited(training, recipe.model.head_dim, device)
        self._recipe, self._shards, self._manifest, self._windows = recipe, shards, manifest, windows
        self._sources = chosen_sources(recipe, manifest, stage)
        self._store = finished_store(shards, verify="opened")

    def bits(self, model: Path) -> Bits:
        """Return a model's bits per byte of each source that has held-out text. Raises KeylmError."""
        objective = Objective(self._load(model), 0.0, 0.0)
        if not (model / "tokenizer.json").is_file():
            raise KeylmError(f"{model}: no tokenizer.json in it; accepted: a model folder that keylm wrote")
        if sha256_file(model / "tokenizer.json") != self._manifest.tokenizer_sha256:
            raise KeylmError(
                f"{model}: another tokenizer than that of {self._shards}; accepted: models trained on this build"
            )
        settings, device = self._training, self.device

        def losses(part: MicroBatch) -> torch.Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.computes_in_bf16(device.type)):
                return objective.token_losses(part)

        lengths, ranks = DocumentTokenizer(model).byte_lengths(), Ranks(0, 1, device)
        found = validate(losses, self._store, self._sources, lengths, self._windows, settings, ranks)
        return found["bits_per_byte"]

    def _load(self, folder: Path) -> Decoder:
        """Return a model folder's decoder in fp32. Raises KeylmError where it is none of the recipe's shape."""
        recipe = self._recipe
        training = recipe.training.model_copy(update={"initial_model": str(folder)})
        check_shape(recipe.model_copy(update={"training": training}))
        decoder = Decoder(recipe.model, recipe.tokenizer.vocab_size)
        fill(decoder, folder)
        if self._training.computes_in_bf16(self.device.type) and can_fuse(self.device, recipe.model.head_dim):
            decoder.fuse()
        return decoder.to(self.device).eval()

    def means(self, bits: Bits) -> Bits:
        """Return the means over sources of plain text; "by tokens" weighs each by what there is of it to train on."""
        sources = self._recipe.sources
        tokens = {name: source.train.tokens for name, source in self._manifest.sources.items()}
        plain = {name: value for name, value in bits.items() if not sources[name].typos_of}
        groups = {
            "all": plain,
            "licence stated": {name: bits[name] for name in plain if sources[name].licence != UNSTATED},
            "licence unstated": {name: bits[name] for name in plain if sources[name].licence == UNSTATED},
        }
        found = {name: statistics.fmean(values.values()) for name, values in groups.items() if values}
        if sum(tokens[name] for name in plain):
            found["by tokens"] = statistics.fmean(plain.values(), [tokens[name] for name in plain])
        return found


def chosen_sources(recipe: Recipe, manifest: ShardManifest, stage: str | None) -> list[str]:
    """Return the build's sources, or those of them that a stage trains on. Raises KeylmError for unknown ones."""
    if unknown := sorted(set(manifest.sources) - set(recipe.sources)):
        raise KeylmError(f"the build has sources that the plan's recipe lacks: {', '.join(unknown)}")
    if stage is None:
        return list(manifest.sources)
    if stage not in recipe.stages:
        raise KeylmError(f"--stage {stage}: accepted: {', '.join(recipe.stages)}")
    return [name for name in manifest.sources if recipe.stages[stage].weights.get(name, 0) > 0]


def measure(arguments: argparse.Namespace) -> str:
    """Write --out and return the table of means. Raises KeylmError where a model does not fit the build."""
    if arguments.windows < 1:
        raise KeylmError(f"--windows: got {arguments.windows}; accepted: 1 or more")
    recipe = read_plan(arguments.plan).load(arguments.set)
    text = HeldOut(recipe, arguments.data / "shards", arguments.stage, arguments.windows)
    rows = []
    for given in arguments.models:
        name, path = given.split("=", 1) if "=" in given else (given, given)
        bits = text.bits(Path(path))
        rows.append({"model": name, "means": text.means(bits), "bits_per_byte": bits})
    where = {"device": device_name(text.device), "torch": torch.__version__, "windows_per_source": arguments.windows}
    if arguments.out:
        write_json(arguments.out, {**where, "models": rows})
    return table(rows)


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
