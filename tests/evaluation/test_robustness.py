"""The 27 typo tasks as lm_eval loads them; retention and its area against values worked out by hand."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from keylm.base.errors import KeylmError
from keylm.evaluation.measure import robustness_record
from keylm.evaluation.robustness import (
    BENCHMARKS,
    TASKS,
    Noise,
    curves,
    measured_noise,
    noises,
    robustness_configs,
    write_tasks,
)

SHARED = Path(__file__).parents[3] / "shared" / "eval" / "data"
ITEMS = {
    "hellaswag": [
        {
            "activity_label": "Baking a cake",
            "ctx_a": f"A woman stands in kitchen number {n} and holds a large bowl of flour.",
            "ctx_b": "she [title] slowly pours the milk and",
            "endings": ["stirs the mixture with a spoon.", "throws the oven away.", "reads a letter.", "sleeps there."],
            "label": str(n % 4),
        }
        for n in range(40)
    ],
    "piqa": [
        {"goal": f"How do I remove paint from window {n}?", "sol1": "Scrape it gently.", "sol2": "Burn it.", "label": 0}
        for n in range(40)
    ],
    "arc_easy": [
        {
            "id": f"Item_{n}",
            "question": f"Which property of mineral {n} can be determined just by looking at its surface?",
            "choices": {"text": ["luster", "mass", "weight", "hardness"], "label": ["A", "B", "C", "D"]},
            "answerKey": "A",
        }
        for n in range(40)
    ],
}
SPLITS = {"hellaswag": "validation", "piqa": "validation", "arc_easy": "test"}
NOISY = "hellaswag_typos_20_1"


@pytest.fixture(scope="module", autouse=True)
def lm_eval() -> Any:
    return pytest.importorskip("lm_eval", reason="needs keylm[eval]")


def on_disk(folder: Path, items: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Write items as JSON lines and return what of the harness's configs that changes."""
    base = {}
    for name, rows in items.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        base[name] = data_of(name, file)
    return base


def data_of(name: str, file: Path) -> dict[str, Any]:
    data = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": {SPLITS[name]: str(file)}}}
    other = {"test": "validation_split", "validation": "test_split"}[SPLITS[name]]
    return {**data, "training_split": None, other: None}


def prompts(task: Any) -> list[tuple[Any, ...]]:
    return [(task.doc_to_text(doc), task.doc_to_choice(doc), task.doc_to_target(doc)) for doc in task.eval_docs]


def loaded(folder: Path, names: list[str]) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    return dict(TaskManager(include_path=folder, include_defaults=False).load(names)["tasks"])


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All 27 tasks and the three clean ones over the made-up items."""
    folder = tmp_path_factory.mktemp("items")
    base = on_disk(folder, ITEMS)
    write_tasks(folder, base)
    harness = Path(sys.modules["lm_eval"].__file__ or "").parent / "tasks"
    for name, config in base.items():
        clean = {"include": str(harness / BENCHMARKS[name].file), "task": name, "tag": None, **config}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(clean))
    return loaded(folder, [*BENCHMARKS, *noises()])


def test_the_packaged_task_files_are_what_is_written_and_all_found(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    written = write_tasks(tmp_path)
    assert [file.name for file in sorted(written)] == sorted(file.name for file in TASKS.glob("*.yaml"))
    assert all(file.read_bytes() == (TASKS / file.name).read_bytes() for file in written)
    manager = TaskManager(include_path=TASKS, include_defaults=False)
    assert set(manager.all_subtasks) == set(noises())
    assert len(manager.all_subtasks) == 27
    assert set(manager.all_tags) == {"typos", *(f"{name}_typos" for name in BENCHMARKS)}


def test_the_packaged_tasks_are_the_harness_tasks_but_for_the_noise(lm_eval: Any) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    from keylm.evaluation.mistyped_task import mistyped_config

    for name, noise in noises().items():
        config = mistyped_config(load_yaml(TASKS / f"{name}.yaml"))
        official = load_yaml(Path(lm_eval.__file__).parent / "tasks" / BENCHMARKS[noise.benchmark].file)
        metadata = {**official.pop("metadata"), "typos": noise.facts()}
        process = official.pop("process_docs", None)
        official.pop("tag", None)
        made = config.pop("process_docs")
        assert (made.noise, getattr(made.first, "__name__", None)) == (noise, getattr(process, "__name__", None))
        assert config == {**official, "task": name, "metadata": metadata}


def test_all_tasks_load_and_only_the_question_differs(tasks: dict[str, Any]) -> None:
    assert len(tasks) == 30
    for name, noise in noises().items():
        clean, noisy = prompts(tasks[noise.benchmark]), prompts(tasks[name])
        assert [item[1:] for item in clean] == [item[1:] for item in noisy]
        assert sum(one[0] != other[0] for one, other in zip(clean, noisy, strict=True)) > len(clean) // 5
        if noise.benchmark != "hellaswag":
            assert all(text.startswith("Question: ") and text.endswith("\nAnswer:") for text, *_ in noisy)
        assert tasks[name].config.metric_list == tasks[noise.benchmark].config.metric_list
        assert tasks[name].dump_config()["metadata"]["typos"]["rate"] == noise.rate
        assert " at 0x" not in str(tasks[name].dump_config())


def test_the_packaged_tasks_load_and_ask_what_those_on_disk_ask(
    tasks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    hub = {"Rowan/hellaswag": "hellaswag", "baber/piqa": "piqa", "allenai/ai2_arc": "arc_easy"}

    def load_dataset(path: str, name: str | None = None) -> dict[str, Any]:
        assert name == {"allenai/ai2_arc": "ARC-Easy"}.get(path)
        return dict.fromkeys(("train", "validation", "test"), datasets.Dataset.from_list(ITEMS[hub[path]]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    packaged = loaded(TASKS, [*noises()])
    assert len(packaged) == 27
    for name, task in packaged.items():
        assert prompts(task) == prompts(tasks[name]), name


def test_seeds_and_rates_differ_and_a_seed_repeats(tasks: dict[str, Any]) -> None:
    texts = {name: tuple(text for text, *_ in prompts(tasks[name])) for name in noises()}
    assert len(set(texts.values())) == 27
    words = {rate: measured_noise(tasks[f"hellaswag_typos_{rate}_1"].eval_docs)["mistyped"] for rate in (5, 10, 20)}
    assert words[5] < words[10] < words[20]
    assert texts[NOISY] == tuple(Noise("hellaswag", 20, 1).mistype([t for t, *_ in prompts(tasks["hellaswag"])])[0])


def test_noise_depends_on_the_item_not_on_its_place(tmp_path: Path, tasks: dict[str, Any]) -> None:
    base = on_disk(tmp_path, {"hellaswag": ITEMS["hellaswag"][::-1][:7]})
    config = robustness_configs(base)[NOISY]
    from lm_eval.tasks import TaskManager

    [task] = TaskManager(include_defaults=False).load([config])["tasks"].values()
    assert prompts(task) == prompts(tasks[NOISY])[::-1][:7]


def test_noise_is_the_same_everywhere() -> None:
    texts = ["How do I remove dried paint from the kitchen window without scratching it?"]
    assert Noise("piqa", 20, 2).mistype(texts) == (
        ["How do I remove dried paint from the kitchen windowed without scratchnig it?"],
        [(13, 2)],
    )


def test_noise_is_the_same_in_another_process() -> None:
    code = (
        "from keylm.evaluation.robustness import Noise\n"
        "print(Noise('arc_easy', 20, 3).mistype([f'Which planet number {n} is nearest the sun' for n in range(50)])[0])"
    )
    outputs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)}
    texts = [f"Which planet number {n} is nearest the sun" for n in range(50)]
    assert outputs == {f"{Noise('arc_easy', 20, 3).mistype(texts)[0]}\n"}


def test_rates_on_real_items_are_what_was_asked() -> None:
    if not SHARED.exists():
        pytest.skip("the benchmarks' items are not at hand (../shared/eval)")
    files = {
        "hellaswag": "hellaswag/validation.jsonl",
        "piqa": "piqa/validation.jsonl",
        "arc_easy": "arc_easy/test.jsonl",
    }
    from datasets import load_dataset

    from keylm.evaluation.mistyped_task import official_config

    for benchmark, file in files.items():
        process = official_config(benchmark).get("process_docs", lambda docs: docs)
        docs = process(load_dataset("json", data_files=str(SHARED / file), split="train[:2000]"))
        for noise in [noise for noise in noises().values() if noise.benchmark == benchmark]:
            found = measured_noise(noise(docs))
            assert found["items"] == len(docs) >= 1838
            assert found["rate"] == pytest.approx(noise.rate / 100, rel=0.1), noise
            assert found["mean_item_rate"] == pytest.approx(noise.rate / 100, rel=0.1), noise


@pytest.mark.parametrize("noise", noises().values(), ids=str)
def test_rates_on_made_up_items_are_what_was_asked(noise: Noise) -> None:
    texts = [f"Case {n}: how should somebody remove the dried paint from a kitchen window?" for n in range(1000)]
    _, counts = noise.mistype(texts)
    assert sum(wrong for _, wrong in counts) / sum(words for words, _ in counts) == pytest.approx(
        noise.rate / 100, rel=0.1
    )


def test_measured_noise_counts_words() -> None:
    docs = [{"words": 10, "words_mistyped": 1}, {"words": 5, "words_mistyped": 2}, {"words": 0, "words_mistyped": 0}]
    found = measured_noise(docs)
    assert found == {"items": 3, "words": 15, "mistyped": 3, "rate": 0.2, "mean_item_rate": pytest.approx(0.25)}
    assert measured_noise([])["rate"] is None


def test_bad_tasks_are_refused() -> None:
    for wrong in ({"benchmark": "mmlu", "rate": 5, "seed": 1}, {"benchmark": "piqa", "rate": 0, "seed": 1}):
        with pytest.raises(KeylmError, match="accepted"):
            Noise(**wrong)  # type: ignore[arg-type]
    with pytest.raises(KeylmError, match="accepted: hellaswag, piqa, arc_easy"):
        robustness_configs({"mmlu": {}})
    with pytest.raises(KeylmError, match="do not say what was mistyped"):
        measured_noise([{"goal": "a"}])
    from keylm.evaluation.mistyped_task import mistyped_config

    with pytest.raises(KeylmError, match="accepted: benchmark, rate and seed"):
        mistyped_config({"task": "piqa_typos", "typos": {"benchmark": "piqa"}})


def points(benchmark: str, metric: str, values: dict[int, list[float]], stderr: float | None = 0.005) -> list[Any]:
    return [
        {"benchmark": benchmark, "metric": metric, "rate": rate, "seed": seed, "value": value, "stderr": stderr, "n": 9}
        for rate, found in values.items()
        for seed, value in enumerate(found)
    ]


FALLING = {0: [0.45], 5: [0.40, 0.42, 0.38], 10: [0.35], 20: [0.25]}
FLAT = {0: [0.6], 5: [0.6], 10: [0.6], 20: [0.6]}


def test_retention_and_area_by_hand() -> None:
    found = curves(points("hellaswag", "acc_norm", FALLING))
    [row] = found["curves"]
    assert [at["retention"] for at in row["rates"]] == pytest.approx([1, 0.75, 0.5, 0])
    assert [at["accuracy"] for at in row["rates"]] == pytest.approx([0.45, 0.4, 0.35, 0.25])
    assert row["rates"][1]["spread"] == pytest.approx(0.02)
    assert row["rates"][0]["spread"] is None
    # (5 × 0.875 + 5 × 0.625 + 10 × 0.25) / 20
    assert row["area"] == pytest.approx(0.5)
    assert found["area"] == row["area"]
    assert found["benchmarks"] == ["hellaswag"]
    assert "piqa: no accuracies" in found["reason"]


def test_a_model_that_loses_nothing_has_area_one_and_the_mean_is_over_benchmarks() -> None:
    found = curves(
        points("hellaswag", "acc_norm", FALLING)
        + points("piqa", "acc", FLAT)
        + points("piqa", "acc_norm", FALLING | {0: [0.7]})
    )
    rows = {(row["benchmark"], row["metric"]): row for row in found["curves"]}
    assert rows["piqa", "acc"]["area"] == pytest.approx(1)
    assert found["area"] == pytest.approx(0.75)
    assert found["benchmarks"] == ["hellaswag", "piqa"]


def test_the_interval_holds_the_area_and_grows_with_the_errors() -> None:
    widths = []
    for stderr in (0.001, 0.004, 0.016):
        found = curves(points("hellaswag", "acc_norm", FALLING, stderr))
        low, high = found["interval"]
        assert low < found["area"] < high
        widths.append(high - low)
    assert widths[0] < widths[1] < widths[2]
    assert curves(points("hellaswag", "acc_norm", FALLING)) == curves(points("hellaswag", "acc_norm", FALLING))
    bare = curves(points("hellaswag", "acc_norm", FALLING, None))
    assert bare["area"] == pytest.approx(0.5)
    assert bare["interval"] is None


def test_the_interval_covers_the_truth() -> None:
    import numpy as np

    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        drawn = {rate: [value[0] + 0.01 * generator.standard_normal()] for rate, value in FALLING.items()}
        low, high = curves(points("hellaswag", "acc_norm", drawn, 0.01))["interval"]
        covered += low < 0.5 < high
    assert 88 <= covered <= 100


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({0: [0.26], 5: [0.3], 20: [0.25]}, "not clearly above chance"),
        ({0: [0.2], 20: [0.25]}, "not clearly above chance"),
        ({5: [0.4], 20: [0.3]}, "no clean accuracy"),
        ({0: [0.4], 10: [0.3]}, "no accuracy at 20 %"),
    ],
)
def test_what_cannot_be_had_is_none_with_a_reason(values: dict[int, list[float]], reason: str) -> None:
    found = curves(points("arc_easy", "acc_norm", values))
    assert (found["area"], found["interval"], found["benchmarks"]) == (None, None, [])
    assert reason in found["curves"][0]["reason"]
    assert reason in found["reason"]


def test_a_model_at_chance_is_left_out_of_the_mean() -> None:
    found = curves(points("arc_easy", "acc_norm", {0: [0.25], 20: [0.25]}) + points("piqa", "acc", FLAT))
    assert found["area"] == pytest.approx(1)
    assert found["benchmarks"] == ["piqa"]
    assert "arc_easy: clean accuracy 0.250 ± 0.005" in found["reason"]
    [row] = [row for row in found["curves"] if row["benchmark"] == "arc_easy"]
    assert [at["retention"] for at in row["rates"]] == [None, None]


def test_what_is_kept_is_told_where_the_area_is_not_to_be_had() -> None:
    """As after robustness_10 alone; of a model at chance neither is."""
    half, none = points("hellaswag", "acc_norm", {0: [0.35], 10: [0.3]}), points("piqa", "acc", {0: [0.5], 10: [0.5]})
    kept, lost = robustness_record(half + none)["curves"]
    assert kept["retention"] == pytest.approx([1, 0.5])
    assert (kept["area"], lost["area"], lost["retention"]) == (None, None, None)
    assert "no accuracy at 20 %" in kept["reason"]


@pytest.mark.parametrize(
    "wrong", [{"benchmark": "mmlu"}, {"metric": None}, {"rate": -1}, {"value": 45.0}, {"value": None}, {"stderr": "x"}]
)
def test_bad_points_are_refused(wrong: dict[str, Any]) -> None:
    good = points("piqa", "acc", FLAT)
    with pytest.raises(KeylmError, match="accepted"):
        curves([*good, {**good[0], **wrong}])
