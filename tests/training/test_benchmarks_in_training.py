"""Benchmarks inside training: the harness's figures, one process's on two, and no trace in what is trained."""

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.fake_hub import FakeHub, Repo, json_lines, one_split
from support.programs import run_ranks
from support.recipes import sentence, tiny_recipe, training_command, write_jsonl

from keylm.base.errors import KeylmError
from keylm.base.json_lines import read_rows
from keylm.model.folder import export_model
from keylm.pipeline.run import run
from keylm.recipe.benchmark_table import TRAINING
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder, checkpoint_paths
from keylm.training.benchmarks_in_training import ChoiceItem, choice_item, draw_items, measure, pack_items
from keylm.training.checkpoint import read_checkpoint
from keylm.training.distributed import Ranks
from keylm.training.loop import Trainer

CPU = Ranks(0, 1, torch.device("cpu"))
SHARED = Path(__file__).parents[3] / "shared" / "eval" / "data"
NAMES = list(TRAINING)
SPLITS = {"arc_easy": "test", "hellaswag": "validation", "piqa": "validation"}
STEPS, HALF = 12, 8
SETTINGS = [
    *("model.max_position_embeddings=128", "training.context=128", "training.batch_tokens=512"),
    *(f"stages.pretrain.tokens={512 * HALF}", f"stages.chat.tokens={512 * (STEPS - HALF)}"),
    *("training.micro_batch_windows=2", "checkpoints.every_steps=3", "checkpoints.keep_last=20"),
    "evaluation.every_steps=100",
]
ASKED = ["paths.evaluation=items", f"evaluation.benchmarks={NAMES}", "evaluation.benchmarks_every_steps=5"]


def records(rng: random.Random, count: int) -> dict[str, list[dict[str, Any]]]:
    """Return made-up records of each benchmark, with the odd things that real ones have."""

    def some(number: int) -> list[str]:
        texts = [sentence(rng, rng.randint(1, 6)) for _ in range(number)]
        texts[0] = rng.choice(["{} [step] ", "[header] {} [title] {}", " {}  {}", "{} é {}", "{}"]).format(*texts[:2])
        return rng.sample(texts, number)

    hellaswag = [
        {
            "activity_label": rng.choice(["Sea tales", "Hill [substeps]"]),
            "ctx_a": f"{rng.choice(['', '[header] '])}{sentence(rng, 9)}",
            "ctx_b": rng.choice(["", "the Old cat [step]", "a fox  ran"]),
            "endings": some(4),
            "label": str(rng.randrange(4)),
        }
        for _ in range(count)
    ]
    arc, piqa = [], []
    for number in range(count):
        letters = ["1234", "ABC", "ABCDE"][number % 3]
        question = sentence(rng, 60 if number == 1 else 8)  # one is too long for the context
        choices = {"text": some(len(letters)), "label": list(letters)}
        arc.append({"question": question, "choices": choices, "answerKey": rng.choice(letters)})
        sol1, sol2 = some(2)
        goal = f"{sentence(rng, 5)}{rng.choice(['', ' '])}"
        piqa.append({"goal": goal, "sol1": sol1, "sol2": sol2, "label": rng.randrange(2)})
    return {"hellaswag": hellaswag, "arc_easy": arc, "piqa": piqa}


def write_items(folder: Path, made: dict[str, list[dict[str, Any]]]) -> Path:
    for name, some in made.items():
        (folder / name).mkdir(parents=True)
        write_jsonl(folder / name / f"{SPLITS[name]}.jsonl", some)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe's files, made-up items, and a run with tokenizer and shards but no training yet."""
    folder = tmp_path_factory.mktemp("asked")
    write_items(folder / "items", records(random.Random(3), 13))
    run(tiny_recipe(folder, SETTINGS), folder / "run", until="shards", quiet=True)
    return folder


def copied(prepared: Path, name: str) -> RunFolder:
    return RunFolder(Path(shutil.copytree(prepared / "run", prepared / name)))


def trained(prepared: Path, name: str, *extra: str) -> RunFolder:
    folder = copied(prepared, name)
    Trainer(tiny_recipe(prepared, [*SETTINGS, *extra]), folder, CPU, quiet=True).run()
    return folder


@pytest.fixture(scope="module")
def alone(prepared: Path) -> RunFolder:
    """The run of one process, with benchmarks."""
    return trained(prepared, "alone", *ASKED)


def harness_tasks(items: Path, scratch: Path) -> dict[str, Any]:
    """Return the harness's own tasks over our files."""
    pytest.importorskip("lm_eval")
    import lm_eval
    import yaml
    from lm_eval.tasks import TaskManager

    theirs = Path(lm_eval.__file__).parent / "tasks"
    for name, file in zip(NAMES, ("arc/arc_easy", "hellaswag/hellaswag", "piqa/piqa"), strict=True):
        files = {SPLITS[name]: str(next((items / name).glob(f"{SPLITS[name]}.jsonl")))}
        if name == "arc_easy":
            files["validation"] = files["test"]  # it wants one, and does not ask it
        config = {
            "include": str(theirs / f"{file}.yaml"),
            **{"task": f"our_{name}", "tag": None, "dataset_path": "json", "dataset_name": None},
            "dataset_kwargs": {"data_files": files, "cache_dir": str(scratch / "cache")},
            "training_split": None,
        }
        (scratch / f"{name}.yaml").write_text(yaml.safe_dump(config))
    manager = TaskManager(include_path=str(scratch), include_defaults=False)
    return manager.load([f"our_{name}" for name in NAMES])["tasks"]


def asked_by_harness(task: Any) -> list[ChoiceItem]:
    """Return what the harness asks, read off its requests."""
    task.build_all_requests(rank=0, world_size=1)
    items: dict[int, list[Any]] = {}
    for request in task.instances:
        items.setdefault(request.doc_id, []).append(request)
    return [
        ChoiceItem(
            requests[0].args[0],
            tuple(request.args[1].removeprefix(" ") for request in requests),
            task.doc_to_target(requests[0].doc),
        )
        for requests in items.values()
    ]


def drawn(folder: Path, items: Path, *extra: str) -> dict[str, list[ChoiceItem]]:
    recipe = tiny_recipe(folder, [*ASKED, f"paths.evaluation={items}", *extra])
    return draw_items(recipe)


def by_prompt(items: Iterable[ChoiceItem]) -> list[ChoiceItem]:
    return sorted(items, key=lambda item: (item.prompt, item.choices))


@pytest.mark.parametrize("source", ["made up", "shared"])
def test_prompts_choices_and_answers_are_the_harness_s(source: str, tmp_path: Path) -> None:
    if source == "shared":
        if not SHARED.is_dir():
            pytest.skip(f"{SHARED} is absent")
        made = {name: first_records(name, 60) for name in NAMES}
    else:
        made = records(random.Random(5), 40)
    items = write_items(tmp_path / "items", made)
    ours = drawn(tmp_path, items)
    for name, task in zip(NAMES, harness_tasks(items, tmp_path).values(), strict=True):
        assert by_prompt(ours[name]) == by_prompt(asked_by_harness(task)), name


def first_records(name: str, count: int) -> list[dict[str, Any]]:
    with (SHARED / name / f"{SPLITS[name]}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for _, line in zip(range(count), lines, strict=False)]


def measured_by_harness(run_folder: RunFolder, recipe: Recipe, tasks: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Return the harness's results for the run's exported model with the weights of its last checkpoint in fp32."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    weights = read_checkpoint(checkpoint_paths(run_folder.checkpoints)[-1]).model()
    export_model(recipe, weights, run_folder.tokenizer, scratch / "model")
    model = AutoModelForCausalLM.from_pretrained(scratch / "model", dtype=torch.float32)
    model.load_state_dict(weights)  # unrounded, as training has them
    model.save_pretrained(scratch / "model")
    harness = HFLM(pretrained=str(scratch / "model"), device="cpu", dtype="float32", batch_size=4)
    return simple_evaluate(model=harness, tasks=list(tasks.values()), bootstrap_iters=0)["results"]


def test_figures_are_the_harness_s_for_the_exported_model(prepared: Path, alone: RunFolder, tmp_path: Path) -> None:
    tasks = harness_tasks(prepared / "items", tmp_path)
    theirs = measured_by_harness(alone, tiny_recipe(prepared, [*SETTINGS, *ASKED]), tasks, tmp_path)
    ours = read_rows(alone.metrics, "benchmark")[-1]
    assert ours["step"] == STEPS
    for name in NAMES:
        found = theirs[f"our_{name}"]
        expected = {"acc": found["acc,none"], "acc_norm": found["acc_norm,none"], "n": 13}
        assert ours["results"][name] == pytest.approx(expected, abs=1e-12), name
    assert len({value for one in ours["results"].values() for value in one.values()}) > 3  # not all chance or nothing


def benchmark_rows(folder: RunFolder) -> list[dict[str, Any]]:
    return read_rows(folder.metrics, "benchmark")


def test_rows_come_in_their_steps_and_leave_training_as_it_is(prepared: Path, alone: RunFolder) -> None:
    rows = benchmark_rows(alone)
    assert [(row["step"], row["stage"], row["tokens"]) for row in rows] == [
        *((step, "pretrain", 512 * step) for step in (0, 5, HALF)),
        *((step, "chat", 512 * step) for step in (10, STEPS)),
    ]
    assert all(list(row["results"]) == NAMES for row in rows)
    without = trained(prepared, "without")
    assert benchmark_rows(without) == []
    others = [row for row in read_rows(alone.metrics) if row["kind"] != "benchmark"]
    assert others == read_rows(without.metrics)
    for name in ("model", "optimizer"):
        ours, theirs = (checkpoint_paths(one.checkpoints)[-1] / f"{name}.safetensors" for one in (alone, without))
        assert ours.read_bytes() == theirs.read_bytes()


def test_by_default_they_are_measured_at_the_ends_of_stages_alone(prepared: Path) -> None:
    folder = trained(prepared, "ends", *ASKED[:1], 'evaluation.benchmarks=["piqa"]')
    assert [row["step"] for row in benchmark_rows(folder)] == [HALF, STEPS]


@pytest.mark.parametrize("left", [0, 6, HALF, STEPS])
def test_a_run_that_goes_on_has_each_row_once(prepared: Path, alone: RunFolder, left: int) -> None:
    folder = RunFolder(Path(shutil.copytree(alone.path, prepared / f"resumed-{left}")))
    for path in checkpoint_paths(folder.checkpoints):
        if int(path.name[-8:]) > left:
            shutil.rmtree(path)
    Trainer(tiny_recipe(prepared, [*SETTINGS, *ASKED]), folder, CPU, quiet=True).run()
    assert folder.metrics.read_bytes() == alone.metrics.read_bytes()


def test_a_run_goes_on_with_other_benchmarks(prepared: Path, alone: RunFolder) -> None:
    folder = RunFolder(Path(shutil.copytree(alone.path, prepared / "changed")))
    shutil.rmtree(checkpoint_paths(folder.checkpoints)[-1])
    changed = [*ASKED, 'evaluation.benchmarks=["piqa"]', "evaluation.benchmark_items=4"]
    Trainer(tiny_recipe(prepared, [*SETTINGS, *changed]), folder, CPU, quiet=True).run()
    last = benchmark_rows(folder)[-1]
    assert (last["step"], list(last["results"]), last["results"]["piqa"]["n"]) == (STEPS, ["piqa"], 4)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_give_the_figures_of_one(prepared: Path, alone: RunFolder, kind: str) -> None:
    folder = copied(prepared, kind)
    settings = [*SETTINGS, *ASKED, f"paths.evaluation={prepared / 'items'}", f"training.parallel={kind}"]
    done = run_ranks(training_command(prepared, kind, settings), 2)
    assert f"bench  step {STEPS}: acc/acc_norm  arc_easy 0." in done.stdout
    assert benchmark_rows(folder) == benchmark_rows(alone)


def untrained(prepared: Path, name: str) -> Trainer:
    """Return a trainer whose model's choices differ: projections and head, which begin at zero, are drawn too."""
    trainer = Trainer(tiny_recipe(prepared, SETTINGS), copied(prepared, name), CPU, quiet=True)
    generator = torch.Generator().manual_seed(0)
    for parameter in trainer._bare_model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return trainer


def test_a_choice_s_score_does_not_depend_on_what_it_is_packed_with(prepared: Path) -> None:
    trainer, tokenizer = untrained(prepared, "scores"), prepared / "run" / "tokenizer"
    items = drawn(prepared, prepared / "items")
    losses = trainer._bare_objective.token_losses
    settings = trainer._settings.model_copy(update={"micro_batch_windows": 4, "document_masks": False})
    packed = pack_items(items, tokenizer, 128)
    assert len(packed.windows) % 4  # the last micro-batch is filled up
    together = measure(losses, packed, settings, CPU)
    for name, some in items.items():
        alone = [measure(losses, pack_items({name: [item]}, tokenizer, 128), settings, CPU)[name] for item in some]
        for metric in ("acc", "acc_norm"):
            assert together[name][metric] == pytest.approx(sum(one[metric] for one in alone) / len(some))


def test_the_items_are_a_fixed_draw(tmp_path: Path) -> None:
    items = write_items(tmp_path / "items", records(random.Random(1), 30))
    few, again, many = (drawn(tmp_path, items, f"evaluation.benchmark_items={n}") for n in (7, 7, 1000))
    assert few == again
    for name in NAMES:
        assert few[name] == many[name][:7]
        assert len(many[name]) == 30
        assert few[name] != [choice_item(record, TRAINING[name]) for record in records(random.Random(1), 30)[name][:7]]


def test_packed_files_and_a_folder_data_are_found(tmp_path: Path) -> None:
    items = write_items(tmp_path / "items", records(random.Random(1), 4))
    other = tmp_path / "other" / "data"
    for name in NAMES:
        (other / name).mkdir(parents=True)
        lines = (items / name / f"{SPLITS[name]}.jsonl").read_bytes()
        (other / name / f"{SPLITS[name]}.jsonl.gz").write_bytes(gzip.compress(lines))
    assert drawn(tmp_path, tmp_path / "other") == drawn(tmp_path, items)


def damaged(change: Callable[[list[str]], list[str]], tmp_path: Path) -> str:
    items = write_items(tmp_path / "items", records(random.Random(1), 4))
    file = items / "piqa" / "validation.jsonl"
    file.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())))
    with pytest.raises(KeylmError) as caught:
        drawn(tmp_path, items)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: [lines[0], '{"goal": "x"}', *lines[2:]], "validation.jsonl, line 2: not an item of piqa"),
        (lambda lines: [*lines[:3], lines[3][:-5]], "line 4: not an item of piqa with its answer; accepted: records"),
        (lambda lines: [lines[0].replace('"label": ', '"label": 2')], "line 1: not an item of piqa"),
        (lambda lines: [], "validation.jsonl: no record; accepted: an item of piqa a line"),
    ],
    ids=["columns", "cut", "no such choice", "empty"],
)
def test_a_line_that_is_no_item_is_refused_by_its_place(change, told: str, tmp_path: Path) -> None:
    assert told in damaged(change, tmp_path)


def test_an_answer_longer_than_the_context_is_refused(prepared: Path) -> None:
    items = {"piqa": [ChoiceItem("Question: x\nAnswer:", ("a", "fox " * 200), 0)]}
    with pytest.raises(KeylmError, match=r"piqa: an answer has \d+ tokens .*accepted: 1 to training.context = 128"):
        pack_items(items, prepared / "run" / "tokenizer", 128)


def test_without_files_and_hub_the_run_stops_before_training(prepared: Path, monkeypatch) -> None:
    pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = copied(prepared, "nowhere")
    asked = [*SETTINGS, "paths.evaluation=nowhere", 'evaluation.benchmarks=["arc_easy"]']
    with pytest.raises(KeylmError, match=r"nowhere has no arc_easy/test.jsonl, and from the hub: .*HF_HUB_OFFLINE"):
        Trainer(tiny_recipe(prepared, asked), folder, CPU, quiet=True)
    with pytest.raises(KeylmError, match=r"\[paths\] has no evaluation, a folder with arc_easy/test.jsonl"):
        draw_items(tiny_recipe(prepared, asked[-1:]), quiet=True)
    with pytest.raises(KeylmError, match=r"nowhere has no arc_easy/test.jsonl"):
        run(tiny_recipe(prepared, asked), prepared / "anew", quiet=True)
    assert not (prepared / "anew" / "tokenizer").exists()  # reported before anything is built


READ_HUB = """
import sys
from pathlib import Path
from support.recipes import tiny_recipe
from keylm.recipe.benchmark_table import TRAINING
from keylm.training.benchmarks_in_training import draw_items
print(draw_items(tiny_recipe(Path(sys.argv[1]), [f"evaluation.benchmarks={list(TRAINING)}"]), quiet=True))
"""


def test_from_the_hub_come_the_same_items(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    made = records(random.Random(1), 6)
    items = write_items(tmp_path / "items", made)
    with FakeHub() as fake:
        for name, row in TRAINING.items():
            task = row.training
            assert task
            fake.repos[task.hub] = split_on_hub(
                {"data/items.jsonl.gz": json_lines(made[name])}, task.split, task.config
            )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": fake.url, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}
        environment |= {
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
        }
        program = [sys.executable, "-c", READ_HUB, str(tmp_path / "other")]
        done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr(drawn(tmp_path, items))


def split_on_hub(files: dict[str, bytes], split: str, config: str | None) -> Repo:
    return one_split(files, split, config or "default")
