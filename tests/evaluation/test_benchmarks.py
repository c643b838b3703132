"""Benchmarks through lm_eval: the harness's own figures, kept from stop to stop, and clear errors."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from support.recipes import WORDS, write_jsonl

from keylm.base.errors import KeylmError
from keylm.base.files import read_json
from keylm.cli.main import main
from keylm.evaluation import benchmarks
from keylm.evaluation.results import EvaluationFolder, default_folder, table
from keylm.evaluation.task_files import prepare

lm_eval = pytest.importorskip("lm_eval")
SHARED = Path(__file__).parents[3] / "shared/eval"
ITEMS = 12


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS.split(), k=count))


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of made-up items in the hub's columns."""
    folder, rng = tmp_path_factory.mktemp("items"), random.Random(0)
    for name in ("arc_easy", "hellaswag", "piqa", "ifeval", "sciq"):
        (folder / "data" / name).mkdir(parents=True)
    letters = list("ABCD")
    science = [
        {
            "id": str(number),
            "question": words(rng, 9) + "?",
            "choices": {"text": [words(rng, rng.randint(1, 5)) for _ in letters], "label": letters},
            "answerKey": rng.choice(letters),
        }
        for number in range(ITEMS)
    ]
    for split in ("test", "validation"):
        write_jsonl(folder / f"data/arc_easy/{split}.jsonl", science)
    stories = [
        {
            "ind": number,
            "activity_label": "Cooking",
            "ctx_a": words(rng, 12) + ".",
            "ctx_b": words(rng, 3),
            "ctx": words(rng, 12),
            "endings": [words(rng, rng.randint(2, 9)) for _ in range(4)],
            "source_id": "made up",
            "split": "val",
            "split_type": "indomain",
            "label": str(rng.randrange(4)),
        }
        for number in range(ITEMS)
    ]
    write_jsonl(folder / "data/hellaswag/validation.jsonl", stories)
    goals = [
        {"goal": words(rng, 5), "sol1": words(rng, 6), "sol2": words(rng, 4), "label": rng.randrange(2)}
        for _ in range(ITEMS)
    ]
    write_jsonl(folder / "data/piqa/validation.jsonl", goals)
    prompt = {"key": 1, "prompt": "Write no comma.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    write_jsonl(folder / "data/ifeval/train.jsonl", [prompt])
    school = [
        {
            "question": words(rng, 6),
            "distractor1": words(rng, 1),
            "distractor2": words(rng, 2),
            "distractor3": words(rng, 1),
            "correct_answer": words(rng, 1),
            "support": words(rng, 12),
        }
        for _ in range(ITEMS)
    ]
    write_jsonl(folder / "data/sciq/validation.jsonl", school)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A model folder with random weights and a context of 1,024."""
    return make_model(tmp_path_factory.mktemp("random") / "model", tokenizer)


def make_model(folder: Path, tokenizer: Path, vocabulary: int = 400) -> Path:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(1)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen3Config(
        vocab_size=vocabulary,
        head_dim=16,
        intermediate_size=64,
        max_position_embeddings=1024,
        initializer_range=0.4,
        **shape,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder)
    return folder


def reference(model: Path, name: str, files: Path, limit: int | None) -> dict:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lm = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=3)
    tasks = TaskManager(include_path=str(files), include_defaults=False)
    return lm_eval.simple_evaluate(model=lm, tasks=[name], task_manager=tasks, limit=limit)["results"][name]


def check_against_the_harness(model: Path, tasks_path: Path, names: list[str], out: Path, limit: int | None) -> None:
    folder, files = EvaluationFolder(out), out / "task-files"
    benchmarks.evaluate(
        str(model), names, folder, benchmarks.BenchmarkOptions(limit=limit, tasks_path=tasks_path), quiet=True
    )
    prepare(tasks_path, files)
    for name in names:
        record, expected = folder.benchmarks()[name], reference(model, name, files, limit)
        for metric, figure in record["metrics"].items():
            assert figure["value"] == expected[f"{metric},none"], (name, metric)
            assert figure["stderr"] == expected[f"{metric}_stderr,none"]
            assert sum(record["items"][metric]) / record["n"] == pytest.approx(figure["value"])


def test_figures_are_the_harness_s_own(model, items, tmp_path):
    check_against_the_harness(model, items, ["arc_easy", "hellaswag", "piqa"], tmp_path, None)
    record = read_json(tmp_path / "benchmarks/arc_easy.json")
    assert record["n"] == ITEMS
    assert len(record["task_hashes"]["arc_easy"]) == 64
    assert record["harness"] == lm_eval.__version__


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the shared evaluation items are not on this machine")
def test_figures_on_real_items_are_the_harness_s_own(model, tmp_path):
    check_against_the_harness(model, SHARED, ["hellaswag", "winogrande", "openbookqa"], tmp_path, 8)


def test_robustness_is_its_rates_and_the_clean_prompts():
    by_rate = [benchmarks.SUITES[f"robustness_{rate}"] for rate in (5, 10, 20)]
    parts = [name for part in by_rate for name in part]
    assert len(parts) == 27
    assert {*parts, "hellaswag", "piqa", "arc_easy"} == set(benchmarks.SUITES["robustness"])


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the shared evaluation items are not on this machine")
def test_benchmarks_of_many_parts_are_found_whole(tmp_path):
    from lm_eval.tasks import TaskManager

    files = prepare(SHARED, tmp_path)
    assert set(files.hashes) >= {*benchmarks.SUITES["card"], "blimp", "lambada_openai", "boolq", "commonsense_qa"}
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    assert len([name for name in tasks.all_subtasks if name.startswith("mmlu_")]) == 57
    assert len([name for name in tasks.all_subtasks if name.startswith("blimp_")]) == 67
    assert {"mmlu", "blimp"} <= set(tasks.all_groups)


def test_what_is_measured_is_kept_and_measured_anew_where_anything_differs(model, items, tmp_path, monkeypatch):
    measured = []
    run = benchmarks.Harness.run

    def stopping(self, name):
        if name == "piqa" and not measured.count("piqa"):
            measured.append("piqa")
            raise KeyboardInterrupt
        measured.append(name)
        return run(self, name)

    monkeypatch.setattr(benchmarks.Harness, "run", stopping)
    folder, options = EvaluationFolder(tmp_path), benchmarks.BenchmarkOptions(tasks_path=items)
    asked = ["arc_easy", "piqa"]
    with pytest.raises(KeyboardInterrupt):
        benchmarks.evaluate(str(model), asked, folder, options, quiet=True)
    benchmarks.evaluate(str(model), asked, folder, options, quiet=True)
    benchmarks.evaluate(str(model), asked, folder, options, quiet=True)
    assert measured == ["arc_easy", "piqa", "piqa"]
    benchmarks.evaluate(
        str(model), ["piqa"], folder, benchmarks.BenchmarkOptions(limit=3, tasks_path=items), quiet=True
    )
    assert folder.benchmarks()["piqa"]["n"] == 3
    assert measured == ["arc_easy", "piqa", "piqa", "piqa"]


def test_a_suite_says_what_it_leaves_out(model, items, tmp_path, capsys):
    benchmarks.evaluate(
        str(model),
        ["card", "extras"],
        EvaluationFolder(tmp_path),
        benchmarks.BenchmarkOptions(limit=2, tasks_path=items),
    )
    said = capsys.readouterr().out
    assert set(EvaluationFolder(tmp_path).benchmarks()) == {"arc_easy", "hellaswag", "piqa", "sciq_validation"}
    assert "ifeval  left out: answers have up to 1,280 tokens, the model's context holds 1,024" in said
    assert "mmlu  not here" in said
    assert "sciq  not here, sciq_validation instead" in said


def test_the_command_writes_rows_and_a_table(model, items, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    command = ["keylm", "eval", str(model), "--tasks-path", str(items), "--tasks", "arc_easy,piqa", "--out", str(out)]
    monkeypatch.setattr("sys.argv", command)
    monkeypatch.setenv("TQDM_DISABLE", "1")  # what the command sets is taken back
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    rows = json.loads((out / "evaluation.json").read_text())
    assert {(row["benchmark"], row["metric"]) for row in rows} >= {("arc_easy", "acc_norm"), ("piqa", "acc")}
    assert all(row["n"] == ITEMS and row["command"].startswith("keylm eval") and row["stderr"] > 0 for row in rows)
    said = capsys.readouterr().out
    (figure,) = table(EvaluationFolder(out).benchmarks())
    assert figure.line.title == "PIQA acc"
    assert f"PIQA acc  {figure}" in said
    assert "60.0" in said


def test_outside_a_repository_nothing_is_said_of_git(model, items, tmp_path, monkeypatch, capfd):
    """The harness would ask git, and start pip; what else goes to standard error stays."""
    for program in ("git", "pip"):
        (tmp_path / program).write_text(f"#!/bin/sh\necho fatal: {program} was started >&2\nexit 128\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    simple_evaluate = lm_eval.simple_evaluate

    def heard(**options):
        os.write(2, b"a warning\n")
        return simple_evaluate(**options)

    monkeypatch.setattr(lm_eval, "simple_evaluate", heard)
    options = benchmarks.BenchmarkOptions(limit=2, tasks_path=items)
    benchmarks.evaluate(str(model), ["piqa"], EvaluationFolder(tmp_path / "out"), options, quiet=True)
    said = capfd.readouterr().err
    assert "fatal" not in said
    assert "a warning" in said
    prepare(items, tmp_path / "files")
    reference(model, "piqa", tmp_path / "files", 1)
    assert "fatal: git was started" in capfd.readouterr().err, "the harness itself is as it was"


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("nonsense", "--tasks: no task nonsense; accepted: card, extras, .*arc_easy"),
        ("mmlu", "--tasks: no task mmlu"),
        ("ifeval", "answers have up to 1,280 tokens, the model's context holds 1,024; accepted"),
    ],
)
def test_what_cannot_be_measured_is_refused(model, items, tmp_path, tasks, message):
    with pytest.raises(KeylmError, match=message):
        benchmarks.evaluate(
            str(model), [tasks], EvaluationFolder(tmp_path), benchmarks.BenchmarkOptions(tasks_path=items), quiet=True
        )


def test_a_folder_that_is_no_model_is_refused(model, items, tokenizer, tmp_path):
    def refused(folder: Path, message: str) -> None:
        with pytest.raises(KeylmError, match=message):
            benchmarks.open_model(str(folder), benchmarks.BenchmarkOptions())

    refused(tmp_path, r"no config\.json in it; accepted: a model folder")
    refused(model.parent, f"did you mean {model}")
    broken = shutil.copytree(model, tmp_path / "broken")
    (broken / "tokenizer.json").unlink()
    (broken / "tokenizer_config.json").unlink()
    refused(broken, "no tokenizer in it")
    (broken / "model.safetensors").unlink()
    refused(broken, "no .*safetensors in it")
    refused(make_model(tmp_path / "other", tokenizer, vocabulary=300), "tokenizer has 400 entries, its embedding 300")
    with pytest.raises(KeylmError, match="neither task files nor items"):
        prepare(tmp_path / "other", tmp_path / "scratch")


def test_items_out_of_reach_are_one_message(model, tmp_path, monkeypatch):
    import datasets

    def out_of_reach(*arguments, **options):
        raise ConnectionError("Couldn't reach 'allenai/ai2_arc' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", out_of_reach)
    with pytest.raises(KeylmError, match=r"arc_easy: its items cannot be had from the hub .*accepted: a network, or"):
        benchmarks.evaluate(
            str(model), ["arc_easy"], EvaluationFolder(tmp_path), benchmarks.BenchmarkOptions(limit=2), quiet=True
        )


def test_results_lie_where_the_model_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/model").mkdir(parents=True)
    assert default_folder("run/model") == Path("run/model/evaluation")
    (tmp_path / "run/recipe.toml").touch()
    assert default_folder("run/model") == Path("run/evaluation")
    assert default_folder("run/model", 50) == Path("run/evaluation/limit-50")
    assert default_folder("someone/model") == Path("evaluations/someone--model")
