"""Trains the variants of a study on the same shards and scores them on the same items.

    keylm data build recipes/keylm-75m-hour.toml --run-dir RUN          # curated sources and a tokenizer
    python -m tools.studies.ablation_items RUN ITEMS.jsonl --corpus … --evaluation …
    python -m tools.studies.ablation tools/studies/ablations/typos.toml --data RUN --items ITEMS --out OUT [--jobs 3]

A study (TOML) names a recipe, what it changes of it, and its variants: shares of registers and of typo sources. Within
a register a source weighs as its tokens to the power of `power`. The shards of all sources are built once; each variant
and seed is a run folder under OUT, so a killed study goes on with the same command. Prints the tables of
docs/ablations.md and writes OUT/results.json.
"""

import json
import os
import tomllib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from keylm.base.files import write_json
from keylm.base.json_lines import read_rows
from keylm.base.machine import device_name
from keylm.data.curated import curated_recipe
from keylm.data.manifest import read_manifest
from keylm.evaluation.continuation import continuation_bits
from keylm.model.opening import open_pair
from keylm.recipe.load import Recipe, load_recipe, parse_recipe
from keylm.recipe.run_folder import RunFolder
from tools.command import run_script, script_parser
from tools.studies.processes import keylm

BUILD_TOKENS = 10**11
"""Of the run that only builds shards: more than there are."""
LEAST = 0.001
"""A source's least weight that a recipe takes."""
NOISES = {
    **dict.fromkeys(("fitted_05", "fitted_10", "fitted_20", "textnoisr", "multypo"), "clean"),
    "git_noisy": "git_clean",
}
"""Sets with mistyped prefixes, and the same items without."""
DRAWS = 2000
"""Bootstrap samples of the intervals."""

Study = dict[str, Any]
Shares = dict[str, float]


def read_study(file: Path) -> Study:
    """Return the study, with its recipe's path made whole."""
    study = tomllib.loads(file.read_text(encoding="utf-8"))
    return {
        "power": 0.8,
        "without": [],
        "reference": next(iter(study["variants"])),
        **study,
        "recipe": file.parent / study["recipe"],
    }


def curated_data(study: Study, data: Path) -> dict[str, Any]:
    """Return the study's recipe as plain values, on the curated sources and the tokenizer of the run `data`.

    `data/word_lists`, which a packed run carries (tools/release/pack_run.py), stands in for the recipe's own lists.
    """
    recipe = load_recipe(study["recipe"], [*study["set"], f"tokenizer.path={data / 'tokenizer'}"])
    curated = (curated_recipe(recipe, data / "curated") if recipe.curation else recipe).to_data()
    curated.pop("curation", None)
    if (data / "word_lists").is_dir():
        names = [Path(file).name for file in recipe.typos.word_lists]
        curated["typos"]["word_lists"] = [str(data / "word_lists" / name) for name in names]
    return curated


def study_recipe(study: Study, data: Path) -> Recipe:
    """Return the recipe that builds the shards of all sources of the study."""
    curated = curated_data(study, data)
    for name, source in study["sources"].items():
        curated["sources"][name] = {"register": "synthetic", **curated["sources"]["typos"], **source}
    for name in ("typos", *study["without"]):
        del curated["sources"][name]
    curated["stages"] = {"all": {"tokens": BUILD_TOKENS, "weights": dict.fromkeys(curated["sources"], 1.0)}}
    return parse_recipe(curated, study["recipe"].name)


def variant_recipe(study: Study, base: Recipe, shards: Path, shares: Shares, seed: int) -> Recipe:
    """Return the recipe of one variant and seed, on published shards."""
    data = base.to_data()
    weights = source_weights(base, shards, shares, study["power"])
    data["stages"] = {"all": {**study["stage"], "weights": weights}}
    data["data"] = {"shards": str(shards), "cache_bytes": 1 << 40}
    return parse_recipe({**data, "seed": seed}, "variant")


def variant_shares(study: Study, variant: str) -> Shares:
    """Return a variant's shares; where it gives none of registers, the study's registers share what is left."""
    given: Shares = study["variants"][variant]
    registers = {} if set(given) & set(study["registers"]) else study["registers"]
    left = 1 - sum(given.values())
    return {**{name: share * left / sum(registers.values()) for name, share in registers.items()}, **given}


def source_weights(recipe: Recipe, shards: Path, shares: Shares, power: float) -> dict[str, float]:
    """Return each source's weight from the shares of registers and single sources, which sum to 1."""
    tokens = {name: source.train.tokens for name, source in read_manifest(shards).sources.items()}
    weights: dict[str, float] = {}
    for key, share in shares.items():
        inside = [name for name, source in recipe.sources.items() if key in (name, source.text_register)]
        total = sum(tokens[name] ** power for name in inside)
        weights |= {name: max(LEAST, round(share * tokens[name] ** power / total, 5)) for name in inside if share}
    return weights


def keylm_or_stop(*arguments: str, log: Path) -> None:
    """Run a keylm command; where it fails, so does the study."""
    if keylm(*arguments, log=log):
        raise SystemExit(f"keylm {' '.join(arguments)}\n{log.read_text(encoding='utf-8')[-4000:]}")


def build(base: Recipe, out: Path) -> Path:
    """Build the shards of all sources of `base` once, in out/build; return their folder, ready to be fetched from."""
    file = out / "build.toml"
    file.write_text(base.to_toml(), encoding="utf-8")
    folder = RunFolder(out / "build")
    keylm_or_stop("data", "build", str(file), "--run-dir", str(folder.path), log=out / "build.log")
    link = folder.shards / "tokenizer"
    if not link.exists():
        link.symlink_to(folder.tokenizer)
    return folder.shards


def train(
    study: Study, base: Recipe, shards: Path, out: Path, items: list[dict[str, str]], job: tuple[str, int]
) -> None:
    """Train and score one variant with one seed, unless that is done."""
    variant, seed = job
    folder = RunFolder(out / f"{variant}-{seed}")
    if (folder.path / "bits.json").is_file():
        return
    recipe = variant_recipe(study, base, shards, variant_shares(study, variant), seed)
    file = out / f"{variant}-{seed}.toml"
    file.write_text(recipe.to_toml(), encoding="utf-8")
    log = out / f"{variant}-{seed}.log"
    keylm_or_stop("run", str(file), "--run-dir", str(folder.path), "--until", "export", log=log)
    write_json(folder.path / "bits.json", score(folder.model, items))
    print(f"{variant}, seed {seed}: done", flush=True)


def score(model_folder: Path, items: list[dict[str, str]]) -> list[float]:
    """Return the bits of each item's continuation, in fp32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    opened, tokenizer = open_pair(Path(model_folder), torch.float32)
    model = opened.to(device)
    pairs = [(item["prefix"], item["continuation"]) for item in items]
    return continuation_bits(model, tokenizer, pairs, context=model.config.max_position_embeddings)


def register_bits(folder: RunFolder, recipe: Recipe) -> dict[str, float]:
    """Return the mean of the sources' validation bits per byte, for each register that is no noise."""
    last = [row for row in read_rows(folder.metrics) if row["kind"] == "validation"][-1]["bits_per_byte"]
    registers: dict[str, list[float]] = defaultdict(list)
    for name, bits in last.items():
        if not recipe.sources[name].typos_of:
            registers[recipe.sources[name].text_register].append(bits)
    return {register: float(np.mean(values)) for register, values in registers.items()}


def tables(study: Study, base: Recipe, out: Path, items: list[dict[str, str]]) -> dict[str, Any]:
    """Return {variant: {"items": …, "noise": …, "registers": …}}; variants that are not finished are left out.

    `items` has bits per byte by set, `noise` what a mistyped prefix costs against the clean one, both with each seed's
    figure and the interval of the difference from the reference; `registers` the means of validation bits per byte.
    """
    sets = np.array([item["set"] for item in items])
    sizes = np.array([len(item["continuation"].encode()) for item in items], dtype=float)
    runs = {
        variant: [folder for seed in study["seeds"] if (folder := out / f"{variant}-{seed}" / "bits.json").is_file()]
        for variant in study["variants"]
    }
    bits = {variant: np.array([read_bits(file) for file in files]) for variant, files in runs.items() if files}
    reference = bits[study["reference"]]
    result: dict[str, Any] = {}
    for variant, found in bits.items():
        by_register = [register_bits(RunFolder(file.parent), base) for file in runs[variant]]
        result[variant] = {
            "items": {
                name: compared(found[:, sets == name], reference[:, sets == name], sizes[sets == name])
                for name in dict.fromkeys(sets.tolist())
            },
            "noise": {
                noisy: compared(
                    *(each[:, sets == noisy] - each[:, sets == clean] for each in (found, reference)),
                    sizes[sets == clean],
                )
                for noisy, clean in NOISES.items()
            },
            "registers": {key: float(np.mean([row[key] for row in by_register])) for key in by_register[0]},
        }
    return result


def compared(bits: Any, reference: Any, sizes: Any) -> dict[str, Any]:
    """Return bits per byte, of each seed too, and the difference from the reference; bits: [seeds, items]."""
    difference = bits.mean(axis=0) - reference.mean(axis=0)
    return {
        "bits_per_byte": float(bits.mean(axis=0).sum() / sizes.sum()),
        "seeds": [float(value) for value in bits.sum(axis=1) / sizes.sum()],
        "from_reference": float(difference.sum() / sizes.sum()),
        "interval": interval(difference, sizes),
    }


def read_bits(file: Path) -> list[float]:
    """Return the bits of each item under one run's model."""
    found: list[float] = json.loads(file.read_text(encoding="utf-8"))
    return found


def interval(differences: Any, sizes: Any) -> list[float]:
    """Return the 95 % bootstrap interval of the difference in bits per byte, items drawn anew."""
    drawn = np.random.default_rng(1).integers(0, len(sizes), size=(DRAWS, len(sizes)))
    samples = differences[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return [float(value) for value in np.percentile(samples, [2.5, 97.5])]


def markdown(result: dict[str, Any], part: str) -> str:
    """Return one table: a row a variant; * marks a difference from the reference outside its interval."""
    columns = list(next(iter(result.values()))[part])
    lines = ["| variant | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for variant, found in result.items():
        cells = [cell(found[part][column]) for column in columns]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(value: Any) -> str:
    """Return a figure as the tables show it."""
    if isinstance(value, float):
        return f"{value:.4f}"
    low, high = value["interval"]
    return f"{value['bits_per_byte']:.4f}{'' if low <= 0 <= high else '*'}"


def main() -> None:
    """Run a study from the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="run folder with curated sources and tokenizer")
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="variants that are trained at once")
    parser.add_argument("--only", nargs="*", help="variants; by default all")
    arguments = parser.parse_args()
    study, out = read_study(arguments.study), arguments.out.absolute()
    study["variants"] = {name: study["variants"][name] for name in arguments.only or study["variants"]}
    if study["reference"] not in study["variants"]:
        study["reference"] = next(iter(study["variants"]))
    out.mkdir(parents=True, exist_ok=True)
    items = read_rows(arguments.items)
    base = study_recipe(study, arguments.data.absolute())
    shards = build(base, out)
    jobs = [(variant, seed) for seed in study["seeds"] for variant in study["variants"]]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda job: train(study, base, shards, out, items, job), jobs))
    result = tables(study, base, out, items)
    where = {
        "device": device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "cores": os.cpu_count(),
    }
    write_json(out / "results.json", {"torch": torch.__version__, **where, "variants": result})
    print(*(markdown(result, part) for part in ("items", "noise", "registers")), sep="\n\n")


if __name__ == "__main__":
    run_script(main)
