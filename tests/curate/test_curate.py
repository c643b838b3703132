"""Curation drops and masks what it should, keeps the rest byte for byte, and does nothing twice."""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard
from support.programs import wait_for
from support.recipes import chat, tiny_recipe, write_jsonl

from keylm.base.errors import KeylmError
from keylm.base.files import read_json
from keylm.curate import pipeline
from keylm.curate.pipeline import curate
from keylm.data.curated import curated_sources
from keylm.recipe.load import Recipe, parse_recipe
from keylm.recipe.schema import MINHASH

pytest.importorskip("datatrove", reason="datatrove is not installed: pip install 'keylm[curate]'")

SMALL = "the of and to that with have in on at from by for it was they we she his her this their when as"
LARGE = """river station window garden letter market teacher bridge summer kitchen doctor village engine forest crossed
painted opened carried followed noticed repaired remembered watched described quiet heavy golden narrow early careful
mountain captain bottle thunder blanket harbour carpenter evening shoulder question morning paper island winter brother
promise silver basket answer finger journey soldier cousin lantern meadow weather corner dinner pocket ladder chimney
neighbour compass orchard whisper hammer feather horizon saddle pebble curtain kettle anchor stable violin"""


def prose(seed: int, sentences: int = 8) -> str:
    """Return English-like sentences that every filter lets pass, different for each seed."""
    rng = random.Random(seed)
    small, large = SMALL.split(), LARGE.split()
    made = []
    for _ in range(sentences):
        words = [rng.choice(small if place % 2 else large) for place in range(rng.randint(9, 17))]
        made.append(f"The {' '.join(words)} {rng.choice(large)}.")
    return " ".join(made)


def recipe_of(
    folder: Path, curation: dict[str, Any] | None = None, **sources: list[dict[str, Any]] | dict[str, Any]
) -> Recipe:
    """Return the tiny recipe with these sources: records, or a table with `records` and other settings."""
    data = tiny_recipe(folder).to_data()
    data["sources"] = {}
    for name, given in sources.items():
        table = dict(given) if isinstance(given, dict) else {"records": given}
        file = write_jsonl(folder / f"{name}.jsonl", table.pop("records")) if "records" in table else None
        data["sources"][name] = {"path": str(file), **table} if file else table
    data["stages"] = {"only": {"tokens": 1024, "weights": dict.fromkeys(sources, 1)}}
    data["curation"] = curation or {}
    return parse_recipe(data, "test")


QUICK = {"near_duplicates": False}
"""Settings without the four stages that most tests need not wait for."""


def texts(*contents: str) -> list[dict[str, Any]]:
    return [{"text": content} for content in contents]


def run(recipe: Recipe, folder: Path, workers: int = 1, **more: Any) -> dict[str, Any]:
    return curate(recipe, folder / "curated", workers=workers, quiet=True, **more)


def records(folder: Path, source: str) -> list[dict[str, Any]]:
    """Return what was kept of a source, in order."""
    found = []
    for file in sorted((folder / "curated" / source).glob("*.jsonl.zst")):
        with zstandard.open(file, "rt", encoding="utf-8") as stream:
            found += [json.loads(line) for line in stream]
    return found


def lines(folder: Path, source: str) -> list[int]:
    """Return which lines of a source were kept."""
    return [record["origin"][1] for record in records(folder, source)]


def step(report: dict[str, Any], source: str, name: str) -> dict[str, Any]:
    [found] = [entry for entry in report["sources"][source]["steps"] if entry["step"] == name]
    return dict(found)


def output_bytes(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.glob("*/*.jsonl.zst"))}


def mixed(folder: Path, **more: Any) -> Recipe:
    """Return a recipe whose sources keep every step busy."""
    same = prose(1)
    near = prose(2, 40)
    return recipe_of(
        folder,
        more or None,
        book=texts(same, near, "Lorem ipsum. " + prose(3), *(prose(seed) for seed in range(10, 60))),
        notes={"records": texts(prose(4), same, near.replace("river", "stream", 1)), "register": "casual"},
        talks={"records": [chat("Mail me at a.b@c.org?", prose(5)), chat("hi", "hello")], "register": "conversational"},
    )


def test_good_documents_pass_unchanged_and_know_their_origin(tmp_path: Path) -> None:
    good = [prose(seed) for seed in range(5)]
    talk = chat("What is that?", prose(9))
    report = run(
        recipe_of(tmp_path, book=texts(*good), talks={"records": [talk], "register": "conversational"}), tmp_path
    )
    assert records(tmp_path, "book") == [
        {"text": text, "origin": ["book.jsonl", number + 1]} for number, text in enumerate(good)
    ]
    assert records(tmp_path, "talks") == [{**talk, "origin": ["talks.jsonl", 1]}]
    assert report["sources"]["book"]["kept"] == {"documents": 5, "bytes": sum(map(len, good))}
    assert read_json(tmp_path / "curated/report.json")["hash"] == report["hash"]
    assert not (tmp_path / "curated" / ".work").exists()


def test_other_languages_go(tmp_path: Path) -> None:
    german = "Der alte Mann ging am Abend über die Brücke und sah, wie der Fluss unter ihm rauschte und schäumte. " * 6
    recipe = recipe_of(tmp_path, {**QUICK, "filters": {"formal": []}}, book=texts(prose(1), german, prose(2)))
    report = run(recipe, tmp_path)
    assert lines(tmp_path, "book") == [1, 3]
    [sample] = step(report, "book", "language")["samples"]
    assert sample == {"file": "book.jsonl", "line": 2, "reason": "looks like de", "text": german[:300]}
    with pytest.raises(KeylmError, match=r"curation\.languages: got 'qq'; accepted: "):
        run(recipe_of(tmp_path, {**QUICK, "languages": ["qq"]}, book=texts(prose(1))), tmp_path)


BAD = {
    "gopher_quality": [
        "x9 &$ 11 22 33 44 ## 55 66 77 88 " * 10 + prose(1, 2),
        "Too short to judge for Gopher, though it is good.",
    ],
    "gopher_repetition": ["\n".join([prose(1, 1)] * 20)],
    "c4": [prose(1) + "\nif (x) { return y; } was all that the old program did in the end."],
    "fineweb": ["\n".join(f"{prose(seed, 1)[:-1]} and so on" for seed in range(12))],
}


@pytest.mark.parametrize("name", BAD)
def test_each_quality_filter_drops_its_kind_and_only_where_its_register_has_it(name: str, tmp_path: Path) -> None:
    bad = texts(*BAD[name])
    without = run(recipe_of(tmp_path, {**QUICK, "filters": {"formal": []}}, book=[*texts(prose(50)), *bad]), tmp_path)
    assert without["sources"]["book"]["kept"]["documents"] == 1 + len(bad)
    report = run(
        recipe_of(tmp_path, {**QUICK, "filters": {"formal": [name]}}, book=[*texts(prose(50)), *bad]), tmp_path
    )
    assert lines(tmp_path, "book") == [1]
    assert step(report, "book", name)["dropped"] == len(bad)
    assert len(step(report, "book", name)["samples"]) == len(bad)


def test_repetition_is_judged_as_datatrove_judges_it() -> None:
    from datatrove.data import Document
    from datatrove.pipeline.filters import GopherRepetitionFilter

    from keylm.curate.filters import WORDS, RepetitionFilter

    ours, theirs = RepetitionFilter(), GopherRepetitionFilter(language=WORDS)
    rng = random.Random(3)
    told = set()
    for number in range(300):
        phrases = [prose(seed, 1)[: rng.randint(10, 90)] for seed in range(rng.randint(1, 30))]
        text = prose(number, rng.randint(4, 40)) + " " + " ".join(rng.choices(phrases, k=rng.randint(0, 12)))
        verdict = theirs.filter(Document(text, "0"))
        assert ours.filter(Document(text, "0")) == verdict
        told.add(verdict)
    assert len(told) > 5, "of several kinds"


def test_short_chats_pass_with_the_default_filters(tmp_path: Path) -> None:
    talks = [chat("lol did you see that...", "haha yes!!! so funny..."), chat("what time?", "at 8, by the station")]
    run(recipe_of(tmp_path, talks={"records": talks, "register": "conversational"}), tmp_path)
    assert lines(tmp_path, "talks") == [1, 2]


def test_length_bounds(tmp_path: Path) -> None:
    settings = {**QUICK, "filters": {"formal": []}, "minimum_characters": 100, "maximum_characters": 2000}
    report = run(recipe_of(tmp_path, settings, book=texts(prose(1), prose(2, 1)[:90], prose(3, 80))), tmp_path)
    assert lines(tmp_path, "book") == [1]
    assert step(report, "book", "length")["reasons"] == {"too long": 1, "too short": 1}


def test_addresses_and_phone_numbers_are_masked_also_inside_messages(tmp_path: Path) -> None:
    private = "Write to jane.doe@mail.org or call (212) 555-7788 or +44 20 7946 0958; the host is 8.8.4.4."
    masked = "Write to email@example.com or call 555-0100 or 555-0100; the host is 192.0.2.1."
    harmless = "It took 3.5 to 4.5 hours, 1990-2010, 100 200 3000, version 2.10.4, ISBN 978-3-16-148410-0."
    talk = chat(private, harmless)
    sources: Any = {"book": texts(prose(1) + " " + private), "talks": {"records": [talk], "register": "conversational"}}
    report = run(recipe_of(tmp_path, QUICK, **sources), tmp_path)
    assert records(tmp_path, "book")[0]["text"] == prose(1) + " " + masked
    assert [turn["content"] for turn in records(tmp_path, "talks")[0]["messages"]] == [masked, harmless]
    assert step(report, "talks", "mask_pii")["changed"] == 1
    assert report["sources"]["talks"]["kept"]["bytes"] == len(masked) + len(harmless)
    run(recipe_of(tmp_path, {**QUICK, "mask_pii": False}, **sources), tmp_path)
    assert records(tmp_path, "talks")[0]["messages"] == talk["messages"]


def test_exact_duplicates_go_within_and_across_sources_and_the_first_stays(tmp_path: Path) -> None:
    same, spaced = prose(1), prose(1).replace(" ", "  ", 3)
    sources = {"zebra": texts(prose(2), same, spaced), "apple": texts(same, prose(3))}
    report = run(recipe_of(tmp_path, QUICK, **sources), tmp_path)
    assert (lines(tmp_path, "zebra"), lines(tmp_path, "apple")) == ([1, 2], [2]), "in the recipe's order"
    assert step(report, "apple", "exact_duplicates")["samples"][0]["line"] == 1
    run(recipe_of(tmp_path, {**QUICK, "exact_duplicates": False}, **sources), tmp_path)
    assert len(lines(tmp_path, "zebra") + lines(tmp_path, "apple")) == 5


def test_near_duplicates_go_within_and_across_sources_and_the_first_stays(tmp_path: Path) -> None:
    base = [prose(seed, 30) for seed in range(4)]
    near = [text.replace("summer", "winter", 2) + " The end of it all." for text in base]
    again = [text.replace("kitchen", "cellar", 1) + " And so we went home." for text in base]
    sources = {"zebra": texts(*base, near[0]), "apple": texts(*near[1:], prose(9, 30), *again)}
    report = run(recipe_of(tmp_path, **sources), tmp_path)
    assert (lines(tmp_path, "zebra"), lines(tmp_path, "apple")) == ([1, 2, 3, 4], [4])
    assert step(report, "apple", "near_duplicates")["dropped"] == 7
    run(recipe_of(tmp_path, QUICK, **sources), tmp_path)
    assert len(lines(tmp_path, "zebra") + lines(tmp_path, "apple")) == 13


def test_documents_that_hold_evaluation_items_go_and_the_report_names_them(tmp_path: Path) -> None:
    question = (
        "Which of the seven lighthouses along the northern coast did the retired surveyor photograph first in 1921"
    )
    items = write_jsonl(tmp_path / "quiz.jsonl", [{"question": question + "?", "answer": "the one at Holm"}])
    recipe = recipe_of(
        tmp_path, {**QUICK, "decontaminate": [str(items)]}, book=texts(prose(1), prose(2) + " " + question + ".")
    )
    report = run(recipe, tmp_path)
    assert lines(tmp_path, "book") == [1]
    assert step(report, "book", "decontamination")["reasons"] == {"quiz": 1}
    assert "quiz:0" in step(report, "book", "decontamination")["samples"][0]["reason"]
    assert step(report, "book", "decontamination")["items"] == {"quiz": {"0": 17}}
    assert report["evaluation"] == {"quiz": {"items": 1, "matchable": 1}}


def test_faults_are_counted_and_sources_switched_out_are_left_alone(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, book=texts(prose(1)), raw={"records": texts(prose(2)), "curate": False})
    (tmp_path / "book.jsonl").write_text(json.dumps({"text": prose(1)}) + "\n{broken\n")
    report = run(recipe, tmp_path)
    assert list(report["sources"]) == ["book"]
    assert report["sources"]["book"]["faults"] == {"malformed_json": 1}
    assert report["sources"]["book"]["fault_samples"][0]["line"] == 2


def test_a_source_that_loses_most_is_called_suspicious_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    short = texts(*(f"Short note number {number}, no more than that." for number in range(6)))
    report = run(recipe_of(tmp_path, QUICK, book=[*short, *texts(prose(1))]), tmp_path)
    assert "gopher_quality" in report["sources"]["book"]["suspicious"]
    for _ in range(2):
        with pytest.raises(
            KeylmError, match=r"sources\.book: curation left none of 6 documents, most .* gopher_quality"
        ):
            run(recipe_of(tmp_path, QUICK, book=short), tmp_path)


def test_one_worker_and_two_give_the_same_bytes_also_of_files_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "PART_BYTES", 10_000)
    one = curate(mixed(tmp_path), tmp_path / "one", workers=1, quiet=True)
    two = curate(mixed(tmp_path), tmp_path / "two", workers=2, quiet=True)
    assert one["hash"] == two["hash"]
    assert one["sources"] == two["sources"]
    assert output_bytes(tmp_path / "one") == output_bytes(tmp_path / "two")
    assert len(pipeline.make_units(curated_sources(mixed(tmp_path)))) > 3


def test_files_of_a_folder_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write_jsonl(tmp_path / "deep" / "a.jsonl", texts(prose(1)))
    write_jsonl(tmp_path / "deep" / "er" / "b.jsonl", texts(prose(2), prose(1)))
    run(recipe_of(tmp_path, book={"path": str(tmp_path / "deep")}), tmp_path)
    assert [record["origin"] for record in records(tmp_path, "book")] == [["a.jsonl", 1], ["er/b.jsonl", 1]]


def test_done_and_unchanged_is_not_done_again_and_changed_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(tmp_path, book=texts(prose(1), prose(2)))
    first = run(recipe, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_curate", lambda *_, **__: pytest.fail("curated again"))
        assert run(recipe, tmp_path) == first
    write_jsonl(tmp_path / "book.jsonl", texts(prose(3)))
    assert run(recipe, tmp_path)["hash"] != first["hash"]
    assert records(tmp_path, "book")[0]["text"] == prose(3)


KILLED = """
import sys
from pathlib import Path
from keylm.curate.pipeline import curate
from keylm.recipe.load import load_recipe
if __name__ == "__main__":
    curate(load_recipe(sys.argv[1]), Path(sys.argv[2]), workers=1, quiet=True)
"""


def test_killed_and_started_again_gives_the_same_bytes_and_redoes_no_finished_task(tmp_path: Path) -> None:
    recipe = mixed(tmp_path)
    whole = curate(recipe, tmp_path / "whole", workers=1, quiet=True)
    (tmp_path / "given.toml").write_text(recipe.to_toml())
    (tmp_path / "kill.py").write_text(KILLED)
    folder = tmp_path / "curated"
    command = [sys.executable, str(tmp_path / "kill.py"), str(tmp_path / "given.toml"), str(folder)]
    first_done = folder / ".work" / "logs" / "clean" / "completions" / "00001"
    process = subprocess.Popen(command, start_new_session=True)
    wait_for(lambda: first_done.exists() or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "report.json").exists()
    before = first_done.stat().st_mtime_ns
    units = folder / ".work" / "clean" / "00000.jsonl.zst"
    written = units.stat().st_mtime_ns
    seen = []
    real = pipeline._publish

    def publish(*given: Any) -> None:
        seen.extend([first_done.stat().st_mtime_ns, units.stat().st_mtime_ns])
        real(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_publish", publish)
        again = curate(recipe, folder, workers=1, quiet=True)
    assert seen == [before, written], "a finished task was done again"
    assert again["hash"] == whole["hash"]
    assert output_bytes(folder) == output_bytes(tmp_path / "whole")


def test_a_second_process_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    held = (
        "import fcntl, sys, time\n"
        "f = open(sys.argv[1], 'w')\n"
        "fcntl.lockf(f, fcntl.LOCK_EX)\n"
        "print(1, flush=True)\n"
        "time.sleep(60)"
    )
    (tmp_path / "curated" / ".work").mkdir(parents=True)
    lock = tmp_path / "curated" / ".work" / "run.lock"
    process = subprocess.Popen([sys.executable, "-c", held, str(lock)], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    try:
        with pytest.raises(KeylmError, match="another process curates there"):
            run(recipe_of(tmp_path, book=texts(prose(1))), tmp_path)
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray")
def test_ray_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    for name in ("minhash_buckets", "minhash_hashes"):  # a bucket is a task, which Ray takes long to start
        monkeypatch.setitem(MINHASH, name, 2)
    recipe = mixed(tmp_path)
    local = curate(recipe, tmp_path / "local", workers=1, quiet=True)
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        distributed = curate(recipe, tmp_path / "ray", workers=2, executor="ray", quiet=True)
    finally:
        ray.shutdown()
    assert distributed["hash"] == local["hash"]
    assert output_bytes(tmp_path / "ray") == output_bytes(tmp_path / "local")


SBATCH = """#!/bin/bash
# Runs the job array here, one task after the other.
script="${@: -1}"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
for rank in $(seq 0 "$last"); do
  SLURM_ARRAY_TASK_ID=$rank SLURM_NODELIST=here RUN_OFFSET=0 bash "$script" >> "$SLURM_FAKE_LOG" 2>&1
done
echo "Submitted batch job 7"
"""


def test_slurm_runs_the_same_tasks_through_its_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {"sbatch": SBATCH, "srun": '#!/bin/bash\nshift 3\nexec "$@"\n', "scontrol": "#!/bin/bash\necho here\n"}
    (tmp_path / "bin").mkdir()
    for name, content in scripts.items():
        (tmp_path / "bin" / name).write_text(content)
        (tmp_path / "bin" / name).chmod(0o755)
    recipe = recipe_of(tmp_path, QUICK, book=texts(prose(1), prose(1), prose(2)))
    with pytest.raises(KeylmError, match="SBATCH_PARTITION"):
        curate(recipe, tmp_path / "slurm", workers=1, executor="slurm", quiet=True)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SBATCH_PARTITION", "small")
    monkeypatch.setenv("SLURM_FAKE_LOG", str(tmp_path / "slurm.log"))
    seen = []
    real = pipeline._publish

    def publish(work: Path, *given: Any) -> None:
        seen.append((work.parent / "logs" / "clean" / "launch_script.slurm").read_text())
        real(work, *given)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_publish", publish)
        report = curate(recipe, tmp_path / "slurm", workers=1, executor="slurm", quiet=True)
    assert "#SBATCH --partition=small" in seen[0]
    assert report["hash"] == run(recipe, tmp_path)["hash"]


def test_a_task_that_fails_is_named_and_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(tmp_path, book=texts(prose(1)))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keylm.curate.executors.run_stage", full)
    with pytest.raises(KeylmError, match="the disk is full"):
        run(recipe, tmp_path)


def test_missing_datatrove_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datatrove", None)
    with pytest.raises(KeylmError, match=r"datatrove is not installed; .* pip install -e '\.\[curate\]'"):
        run(recipe_of(tmp_path, book=texts(prose(1))), tmp_path)
