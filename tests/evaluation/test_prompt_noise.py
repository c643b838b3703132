"""The mistyped tasks as lm_eval loads them: only the question differs, by the noise requested."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml

from keylm.base.errors import KeylmError
from keylm.evaluation.prompt_noise import Noise, noises, write_tasks
from keylm.recipe.benchmark_table import MISTYPED

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
        clean = {"include": str(harness / MISTYPED[name].harness), "task": name, "tag": None, **config}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(clean))
    return loaded(folder, [*MISTYPED, *noises()])


@pytest.fixture(scope="module")
def on_hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task files over the hub's data."""
    folder = tmp_path_factory.mktemp("on_hub")
    subprocess.run([sys.executable, "-m", "keylm.evaluation.prompt_noise", str(folder)], check=True)
    return folder


def test_the_task_files_are_all_found(on_hub: Path) -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=on_hub, include_defaults=False)
    assert set(manager.all_subtasks) == set(noises())
    assert len(manager.all_subtasks) == 27
    assert set(manager.all_tags) == {"typos", *(f"{name}_typos" for name in MISTYPED)}


def test_the_tasks_are_the_harness_s_except_for_the_noise(lm_eval: Any, on_hub: Path) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    from keylm.evaluation.mistyped_task import mistyped_config

    for name, noise in noises().items():
        config = mistyped_config(load_yaml(on_hub / f"{name}.yaml"))
        official = load_yaml(Path(lm_eval.__file__).parent / "tasks" / MISTYPED[noise.benchmark].harness)
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


def test_the_hub_s_tasks_load_and_ask_what_those_on_disk_ask(
    tasks: dict[str, Any], on_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    hub = {"Rowan/hellaswag": "hellaswag", "baber/piqa": "piqa", "allenai/ai2_arc": "arc_easy"}

    def load_dataset(path: str, name: str | None = None) -> dict[str, Any]:
        assert name == {"allenai/ai2_arc": "ARC-Easy"}.get(path)
        return dict.fromkeys(("train", "validation", "test"), datasets.Dataset.from_list(ITEMS[hub[path]]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = loaded(on_hub, [*noises()])
    assert len(found) == 27
    for name, task in found.items():
        assert prompts(task) == prompts(tasks[name]), name


def test_seeds_and_rates_differ_and_a_seed_repeats(tasks: dict[str, Any]) -> None:
    texts = {name: tuple(text for text, *_ in prompts(tasks[name])) for name in noises()}
    assert len(set(texts.values())) == 27
    words = {rate: sum(tasks[f"hellaswag_typos_{rate}_1"].eval_docs["words_mistyped"]) for rate in (5, 10, 20)}
    assert words[5] < words[10] < words[20]
    assert texts[NOISY] == tuple(Noise("hellaswag", 20, 1).mistype([t for t, *_ in prompts(tasks["hellaswag"])])[0])


def test_noise_depends_on_the_item_not_on_its_place(tmp_path: Path, tasks: dict[str, Any]) -> None:
    base = on_disk(tmp_path, {"hellaswag": ITEMS["hellaswag"][::-1][:7]})
    write_tasks(tmp_path, base)
    [task] = loaded(tmp_path, [NOISY]).values()
    assert prompts(task) == prompts(tasks[NOISY])[::-1][:7]


def test_noise_is_the_same_everywhere() -> None:
    texts = ["How do I remove dried paint from the kitchen window without scratching it?"]
    assert Noise("piqa", 20, 2).mistype(texts) == (
        ["How do I remove dried paint from the kitchen windowed without scratchnig it?"],
        [(13, 2)],
    )


def test_noise_is_the_same_in_another_process() -> None:
    code = (
        "from keylm.evaluation.prompt_noise import Noise\n"
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
            noisy = noise(docs)
            assert len(noisy) == len(docs) >= 1838
            counts = list(zip(noisy["words"], noisy["words_mistyped"], strict=True))
            assert sum(noisy["words_mistyped"]) / sum(noisy["words"]) == pytest.approx(noise.rate / 100, rel=0.1), noise
            mean_of_items = fmean(wrong / words for words, wrong in counts if words)
            assert mean_of_items == pytest.approx(noise.rate / 100, rel=0.1), noise


@pytest.mark.parametrize("noise", noises().values(), ids=str)
def test_rates_on_made_up_items_are_what_was_asked(noise: Noise) -> None:
    texts = [f"Case {n}: how should somebody remove the dried paint from a kitchen window?" for n in range(1000)]
    _, counts = noise.mistype(texts)
    assert sum(wrong for _, wrong in counts) / sum(words for words, _ in counts) == pytest.approx(
        noise.rate / 100, rel=0.1
    )


def test_bad_tasks_are_refused(tmp_path: Path) -> None:
    for wrong in ({"benchmark": "mmlu", "rate": 5, "seed": 1}, {"benchmark": "piqa", "rate": 0, "seed": 1}):
        with pytest.raises(KeylmError, match="accepted"):
            Noise(**wrong)  # type: ignore[arg-type]
    with pytest.raises(KeylmError, match="accepted: arc_easy, hellaswag, piqa"):
        write_tasks(tmp_path, {"mmlu": {}})
    from keylm.evaluation.mistyped_task import mistyped_config

    with pytest.raises(KeylmError, match="accepted: benchmark, rate and seed"):
        mistyped_config({"task": "piqa_typos", "typos": {"benchmark": "piqa"}})
