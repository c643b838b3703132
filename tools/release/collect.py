r"""Put a finished model where the repository keeps it: weights, card, report, measured rows, how it was made.

    python -m tools.release.collect keylm-75m --stages stable stable_2 anneal --data DATA --out OUT --corpus CORPUS
    python -m tools.release.collect keylm-75m-instruct --stages stable stable_2 anneal instruct --data DATA \\
        --out OUT --corpus CORPUS                  # with --last preference: OUT/preference/model, and its figures

The stages' runs are joined to one (OUT/NAME): their recipes, metrics one after the other, the build's manifest, the
last one's model, samples and evaluation; report and card are made from it as from any run. Of a stage whose model was
kept and not its run, recipe.toml and reached.json are enough. models/NAME then holds the model folder, README.md,
evaluation.json, manifest.json, recipe.toml and report.html.
"""

import argparse
import json
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keylm.base.errors import KeylmError
from keylm.base.files import atomic_write, read_json, read_table, write_json
from keylm.base.json_lines import read_rows
from keylm.evaluation.contamination import contamination_record
from keylm.evaluation.measure import write_summaries
from keylm.evaluation.results import EvaluationFolder
from keylm.recipe.load import Recipe, parse_recipe, read_toml
from keylm.recipe.run_folder import RunFolder
from keylm.report.card import CardDetails, card_text
from keylm.report.card_sections import markdown_table
from keylm.report.run_report import write_report
from tools.release.plan import parser, read_plan, run

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
    tokens = join_rows(stages, joined)
    summary = read_table(stages[arguments.stages[-1]].summary)
    command = "tools/release/train.py " + ", ".join(arguments.stages)
    summary.pop("world_size", None)  # the stages' own: what a row of timing says is the seconds of all processes
    write_json(joined.summary, {**summary, "tokens_seen": tokens, "command": command})
    write_json(joined.path / "stages.json", {})  # each stage's own folder has it
    shutil.copytree(last / "model", joined.model)
    copy_measured(last, joined, arguments.name)
    know_contamination(arguments.data, joined)
    write_report(joined.path)
    return joined.path


def copy_measured(last: Path, joined: RunFolder, name: str) -> None:
    """Copy the model's samples and evaluation, without that machine's folders; count anew what is made of records."""
    if (last / "samples.json").is_file():
        shutil.copyfile(last / "samples.json", joined.samples)
    if not (last / "evaluation").is_dir():
        return
    shutil.copytree(last / "evaluation", joined.path / "evaluation")
    measured = EvaluationFolder(joined.path / "evaluation")
    for benchmark, record in measured.benchmarks().items():
        words = map(without_folders, shlex.split(record.get("command", "")))
        write_json(measured.benchmark(benchmark), {**record, "command": shlex.join(words)})
    write_summaries(measured, name)


def without_folders(word: str) -> str:
    """Return a path of another machine by its last name, a model's with that of its run."""
    path = Path(word)
    return word if not path.is_absolute() else f"{path.parent.name}/model" if path.name == "model" else path.name


def know_contamination(data: Path, joined: RunFolder) -> None:
    """Write what is known of benchmark items where the data was built; beside the GPUs are the shards alone."""
    found = contamination_record(data)
    if (joined.path / "evaluation").is_dir() and any(row["basis"] != "manifest" for row in found["rows"]):
        write_json(joined.path / "evaluation/contamination.json", found)


def steps_text(trained: dict[str, Recipe]) -> str:
    """Return what a recipe of all stages cannot say, as its fields hold for each of them alike."""
    sizes = (f"{name} {recipe.training.batch_tokens:,}" for name, recipe in trained.items())
    decays = (f"{name} {recipe.optimizer.muon_weight_decay:g}" for name, recipe in trained.items())
    equal = [name for name, recipe in trained.items() if recipe.optimizer.muon_normalise_neurons]
    text = f"Tokens a step: {', '.join(sizes)}. Muon's weight decay: {', '.join(decays)}."
    return f"{text} Neurons normalised: {', '.join(equal)}." if equal else text


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


def join_rows(stages: dict[str, RunFolder], joined: RunFolder) -> int:
    """Write the stages' metrics and timing as one run's, steps and tokens counted on; return the tokens of all.

    Seconds are those of all processes. Of a stage without metrics, whose model alone was kept, reached.json tells step,
    tokens, seconds and world_size. Raises KeylmError where it does not.
    """
    steps = tokens = 0
    for name, folder in stages.items():
        known = read_table(folder.summary) or read_table(folder.path / "reached.json")
        metrics, timing = read_rows(folder.metrics), read_rows(folder.timing)
        if not metrics:
            if missing := {"step", "tokens", "seconds", "world_size"} - set(known):
                raise KeylmError(f"{folder.path}: no metrics, and reached.json lacks {', '.join(sorted(missing))}")
            metrics = [{"kind": "train", "step": known["step"] - 1, "stage": name, "tokens": known["tokens"]}]
            timing = [{"step": known["step"] - 1, "seconds": known["seconds"]}]
        for row in metrics:
            row["step"], row["tokens"] = row["step"] + steps, row["tokens"] + tokens
        for row in timing:
            row["step"], row["seconds"] = row["step"] + steps, row["seconds"] * known.get("world_size", 1)
        append(joined.metrics, metrics)
        append(joined.timing, timing)
        last = [row for row in metrics if row["kind"] == "train"][-1]
        steps, tokens = last["step"] + 1, last["tokens"]
    return tokens


def append(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows to a file of JSON lines."""
    with file.open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def collect(arguments: argparse.Namespace) -> Path:
    """Write the model's folder in the repository and return it. Raises KeylmError."""
    joined = join(arguments)
    target = arguments.models / arguments.name
    given = CardDetails(arguments.name, f"keylm/{arguments.name}", arguments.licence, parity=arguments.parity)
    card = card_text(joined, given)
    card += origins(arguments.corpus, read_toml(joined / "recipe.toml"))
    card += open_licences(arguments.open_licences)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(joined / "model", target)
    atomic_write(target / "README.md", card)
    shutil.copyfile(joined / "shards/manifest.json", target / "manifest.json")
    for name in ("recipe.toml", "report.html", "evaluation/evaluation.json"):
        if (joined / name).is_file():
            shutil.copyfile(joined / name, target / Path(name).name)
    return Path(target)


def origins(corpus: Path | None, recipe: dict[str, Any]) -> str:
    """Return a section of the card on where the files of a corpus are from, as its corpus.json tells."""
    if corpus is None:
        return ""
    if not (corpus / "corpus.json").is_file():
        raise KeylmError(f"{corpus}: no corpus.json, which tells where its files are from")
    used = {source.get("path", "").removeprefix("{corpus}/") for source in recipe["sources"].values()}
    rows = [
        [row["path"], *(str(row.get(key, "not known")) for key in ("note", "licence", "origin"))]
        for row in read_json(corpus / "corpus.json")
        if row["path"] in used
    ]
    table = markdown_table(["file", "what it is", "licence", "gathered from"], rows, left=4)
    return f"\n## Where the texts are from\n\n{table}\n"


def open_licences(file: Path | None) -> str:
    """Return a sentence of the card on what it costs to leave out the sources that state no licence.

    `file`: what held_out.py wrote of models named "all" and "open", with the `tokens` that each was trained on. Raises
    KeylmError where it is something else.
    """
    if file is None:
        return ""
    measured = read_table(file)
    means = {row.get("model"): row.get("means", {}) for row in measured.get("models", [])}
    groups = ("licence stated", "licence unstated")
    if "tokens" not in measured or any(not set(groups) <= set(means.get(name, {})) for name in ("all", "open")):
        raise KeylmError(f"{file}: accepted: figures of held_out.py for models named all and open, with their tokens")
    stated, unstated = (f"{means['open'][group]:.3f} instead of {means['all'][group]:.3f}" for group in groups)
    million = f"{measured['tokens'] / 1e6:.0f} million"
    return (
        f'\nWith the recipe\'s `licences = "open"` a model of this shape has, after {million} tokens, {stated} bits '
        f"per byte on held-out text of sources that state a licence, {unstated} on that of the rest.\n"
    )


def main() -> None:
    given = parser(__doc__)
    given.add_argument("name")
    given.add_argument("--stages", nargs="+", required=True, help="stages of the plan, in order")
    given.add_argument("--last", help="the folder of OUT whose model it is, where that is no stage: preference")
    given.add_argument("--data", type=Path, required=True, help="the build: WORK/data of pack.py, or unpacked")
    given.add_argument("--out", type=Path, required=True, help="where train.py and tune.py wrote")
    given.add_argument("--corpus", type=Path, help="the corpus, whose corpus.json tells origins")
    given.add_argument("--open-licences", type=Path, help="what they cost, as results/licences.json has it")
    given.add_argument("--parity", type=Path, help="parity.json of `keylm export`, for the card's other formats")
    given.add_argument("--models", type=Path, default=MODELS)
    given.add_argument("--licence", default="apache-2.0")
    given.add_argument("--description", help="the card's first sentence, in place of the recipe's")
    run(collect, given.parse_args())


if __name__ == "__main__":
    main()
