r"""Put a finished model where the repository keeps it: weights, card, report, measured rows, how it was made.

    python scripts/release/collect.py keylm-75m --stages stable anneal --data DATA --out OUT
    python scripts/release/collect.py keylm-75m-instruct --stages stable anneal instruct --last preference \\
        --data DATA --out OUT

The stages' runs are joined to one (OUT/NAME): their recipes, metrics one behind the other, the build's manifest, the
last one's model and evaluation; report and card are made from it as from any run. models/NAME then holds the model
folder, README.md, evaluation.json, manifest.json, recipe.toml and report.html.
"""

import argparse
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from plan import PLAN, read_plan

from keylm.errors import KeylmError
from keylm.evaluation.contamination import contamination, statement
from keylm.evaluation.report import write_report
from keylm.evaluation.results import EvaluationFolder, write_rows
from keylm.files import atomic_write, read_json, read_table, write_json
from keylm.json_lines import read_rows
from keylm.recipe import Recipe, parse_recipe, read_toml
from keylm.release.card import Given, card_text
from keylm.release.card_sections import markdown_table
from keylm.run_folder import RunFolder

MODELS = Path(__file__).parents[2] / "models"


def join(arguments: argparse.Namespace) -> Path:
    """Write the joined run and return its folder. Raises KeylmError where a stage is missing."""
    plan, out = read_plan(arguments.plan), arguments.out
    stages = {name: RunFolder(out / name) for name in arguments.stages}
    joined, last = RunFolder(out / arguments.name), out / (arguments.last or arguments.stages[-1])
    if not (last / "model/config.json").is_file():
        raise KeylmError(f"{last}: holds no model; accepted: a stage that was trained")
    shutil.rmtree(joined.path, ignore_errors=True)
    joined.path.mkdir(parents=True)
    data = plan.load().to_data()
    trained = {name: folder.saved_recipe() for name, folder in stages.items()}
    data["name"] = arguments.name
    data["description"] = f"{arguments.description or data['description']} {steps_text(trained)}"
    data["stages"] = {name: stage_as_trained(recipe, stages[name]) for name, recipe in trained.items()}
    atomic_write(joined.recipe, portable(parse_recipe(data, arguments.name).to_toml(), data["paths"]))
    (joined.path / "shards").mkdir()
    shutil.copyfile(arguments.data / "shards/manifest.json", joined.path / "shards/manifest.json")
    join_rows(list(stages.values()), joined)
    tokens = sum(stage["tokens"] for stage in data["stages"].values())
    summary = read_table(stages[arguments.stages[-1]].summary)
    command = "scripts/release/train.py " + ", ".join(arguments.stages)
    write_json(joined.summary, {**summary, "world_size": 1, "tokens_seen": tokens, "command": command})
    shutil.copytree(last / "model", joined.model)
    copy_measured(joined, arguments.name, [last, stages[arguments.stages[-1]].path])
    know_contamination(arguments.data, joined)
    write_report(joined.path)
    return joined.path


def copy_measured(joined: RunFolder, name: str, places: Sequence[Path]) -> None:
    """Copy samples and evaluation from the first of `places` that has them; commands lose that machine's folders."""
    for place in places:
        if (place / "samples.json").is_file() and not joined.samples.is_file():
            shutil.copyfile(place / "samples.json", joined.samples)
        if (place / "evaluation").is_dir() and not (joined.path / "evaluation").exists():
            shutil.copytree(place / "evaluation", joined.path / "evaluation")
    measured = EvaluationFolder(joined.path / "evaluation")
    for benchmark, record in measured.benchmarks().items():
        words = [Path(word).name if word.startswith("/") else word for word in record.get("command", "").split()]
        write_json(measured.benchmark(benchmark), {**record, "command": " ".join(words)})
    if measured.benchmarks():
        write_rows(measured, name)


def know_contamination(data: Path, joined: RunFolder) -> None:
    """Write what is known of benchmark items where the data was built; beside the GPUs are the shards alone."""
    rows = contamination(data)
    if (joined.path / "evaluation").is_dir() and any(row["basis"] != "manifest" for row in rows):
        write_json(joined.path / "evaluation/contamination.json", {"statement": statement(rows), "rows": rows})


def steps_text(trained: dict[str, Recipe]) -> str:
    """Return what a recipe of all stages cannot say, as its fields hold for each of them alike."""
    sizes = (f"{name} {recipe.training.batch_tokens:,}" for name, recipe in trained.items())
    decays = (f"{name} {recipe.optimizer.muon_weight_decay:g}" for name, recipe in trained.items())
    return f"Tokens a step: {', '.join(sizes)}. Muon's weight decay: {', '.join(decays)}."


def stage_as_trained(recipe: Recipe, folder: RunFolder) -> dict[str, Any]:
    """Return the table of the stage that a recipe trained; of one that was cut off with what it reached."""
    (stage,) = recipe.to_data()["stages"].values()
    reached = read_table(folder.path / "reached.json")
    return {**stage, "tokens": reached["tokens"]} if reached else stage


def portable(recipe: str, paths: dict[str, str]) -> str:
    """Return a recipe's text with the folders of this machine named as the recipe names them."""
    for name, path in paths.items():
        recipe = recipe.replace(f'"{path}/', f'"{{{name}}}/').replace(f'{name} = "{path}"', f'{name} = "{name}"')
    return recipe


def join_rows(folders: Sequence[RunFolder], joined: RunFolder) -> None:
    """Write the stages' metrics and timing as one run's: steps and tokens counted on, seconds of all processes.

    Of a stage without metrics, whose model alone was kept, reached.json counts.
    """
    steps = tokens = 0
    for folder in folders:
        known = read_table(folder.summary) or read_table(folder.path / "reached.json")
        processes = known.get("world_size", 1)
        metrics, timing = read_rows(folder.metrics), read_rows(folder.timing)
        for row in metrics:
            row["step"], row["tokens"] = row["step"] + steps, row["tokens"] + tokens
        for row in timing:
            row["step"], row["seconds"] = row["step"] + steps, row["seconds"] * processes
        append(joined.metrics, metrics)
        append(joined.timing, timing)
        trained = [row for row in metrics if row["kind"] == "train"]
        if trained:
            steps, tokens = steps + len(trained), trained[-1]["tokens"]
        else:
            steps, tokens = steps + known.get("step", 0), tokens + known.get("tokens", 0)
            append(joined.timing, [{"step": steps - 1, "seconds": known.get("seconds", 0) * processes}])


def append(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows to a file of JSON lines."""
    with file.open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def collect(arguments: argparse.Namespace) -> Path:
    """Write the model's folder in the repository and return it. Raises KeylmError."""
    run = join(arguments)
    target = arguments.models / arguments.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(run / "model", target)
    repo = f"keylm/{arguments.name}"
    card = card_text(run, Given(arguments.name, repo, arguments.licence))
    atomic_write(target / "README.md", card + origins(arguments.corpus, read_toml(run / "recipe.toml")))
    shutil.copyfile(run / "shards/manifest.json", target / "manifest.json")
    for name in ("recipe.toml", "report.html", "evaluation/evaluation.json"):
        if (run / name).is_file():
            shutil.copyfile(run / name, target / Path(name).name)
    return Path(target)


def origins(corpus: Path | None, recipe: dict[str, Any]) -> str:
    """Return a section of the card on where the files of a corpus are from, as its corpus.json tells."""
    if corpus is None:
        return ""
    used = {source.get("path", "").removeprefix("{corpus}/") for source in recipe["sources"].values()}
    rows = [
        [row["path"], row["note"], row["licence"], row["origin"]]
        for row in read_json(corpus / "corpus.json")
        if row["path"] in used
    ]
    table = markdown_table(["file", "what it is", "licence", "gathered from"], rows, left=4)
    return f"\n## Where the texts are from\n\n{table}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--stages", nargs="+", required=True, help="stages of the plan's recipe, in order")
    parser.add_argument("--last", help="the folder of OUT whose model it is, where that is no stage: preference")
    parser.add_argument("--data", type=Path, required=True, help="the build: WORK/data of pack.py, or unpacked")
    parser.add_argument("--out", type=Path, required=True, help="where train.py and tune.py wrote")
    parser.add_argument("--corpus", type=Path, help="the corpus, whose corpus.json tells origins")
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--licence", default="apache-2.0")
    parser.add_argument("--description", help="the card's first sentence, in place of the recipe's")
    parser.add_argument("--plan", type=Path, default=PLAN)
    try:
        print(collect(parser.parse_args()))
    except KeylmError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
