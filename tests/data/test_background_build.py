"""Training while shards are still built, or fetched as they are needed, gives what training afterwards gives."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from support.programs import Program
from support.programs import run as run_program
from support.recipes import tiny_recipe, write_jsonl

from keylm.base.errors import KeylmError
from keylm.data import background_build as streaming
from keylm.data.background_build import FetchedShards
from keylm.data.build import build_shards
from keylm.data.curriculum import BatchLoader, Curriculum
from keylm.data.manifest import read_manifest
from keylm.data.provenance import DataProvenance
from keylm.data.store import ShardStore, finished_store
from keylm.pipeline.run import run
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder, checkpoint_paths

# Some ten shards are read from, and one source is gone through twice, repacked the second time.
SETTINGS = [
    "data.repack=true",
    "data.shard_tokens=1024",
    "stages.pretrain.tokens=5120",
    "stages.chat.tokens=2048",
    "sources.notes.max_bytes=1500",
]
STEPS = 28


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose shards were all there before training began."""
    folder = tmp_path_factory.mktemp("trained")
    return run(tiny_recipe(folder, SETTINGS), folder / "run", until="train", quiet=True)


def assert_same_training(one: RunFolder, two: RunFolder) -> None:
    assert one.metrics.read_bytes() == two.metrics.read_bytes()
    [first, second] = [checkpoint_paths(folder.checkpoints)[-1] for folder in (one, two)]
    assert first.name == second.name == f"step-{STEPS:08d}"
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert read_manifest(one.shards) == read_manifest(two.shards)


def test_training_while_the_shards_are_built_leaves_the_same_bytes(trained: RunFolder, tmp_path: Path) -> None:
    shards = read_manifest(trained.shards).sources["tales"].train.shards
    assert len(shards) > 3
    folder = run(tiny_recipe(tmp_path, [*SETTINGS, "data.stream=true"]), tmp_path / "run", until="train", quiet=True)
    assert_same_training(trained, folder)


# A shard takes a while, so that training has to wait for it; the build in the background is slowed down as well,
# because its process imports this file.
SLOW = """
import sys, time
from keylm.data import shards
close = shards.ShardWriter.close
def slow(self, path, lengths):
    time.sleep(0.4)
    return close(self, path, lengths)
shards.ShardWriter.close = slow
if __name__ == "__main__":
    from keylm.cli.main import main
    main()
"""


def slow_run(folder: Path, *extra: str) -> list[str]:
    (folder / "slow.py").write_text(SLOW)
    sets = [part for item in (*SETTINGS, "data.stream=true", *extra) for part in ("--set", item)]
    recipe, target = str(folder / "recipe.toml"), str(folder / "run")
    return [sys.executable, str(folder / "slow.py"), "run", recipe, "--run-dir", target, "--until", "train", *sets]


def rows_written(folder: RunFolder) -> int:
    return len(folder.metrics.read_bytes().splitlines()) if folder.metrics.exists() else 0


def wait_for_rows(process: Program, folder: RunFolder, count: int) -> None:
    deadline = time.monotonic() + 120
    while rows_written(folder) < count:
        assert process.poll() is None, "the process has ended before"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_kill_9_while_shards_are_built_and_resume_leaves_no_trace(trained: RunFolder, tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    folder = RunFolder(tmp_path / "run")
    for count in (1, 12):
        process = Program(slow_run(tmp_path))
        wait_for_rows(process, folder, count)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert count > 1 or not (folder.shards / "manifest.json").exists(), "training began before all was built"
    run_program(slow_run(tmp_path), check=True)
    assert_same_training(trained, folder)


def test_a_stop_signal_ends_the_build_too_and_resume_leaves_no_trace(trained: RunFolder, tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    folder = RunFolder(tmp_path / "run")
    process = Program(slow_run(tmp_path))
    wait_for_rows(process, folder, 4)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate()
    assert process.returncode == 130, told
    assert "the same command goes on from there" in told
    files = set(folder.shards.rglob("*.safetensors"))
    time.sleep(1)
    assert set(folder.shards.rglob("*.safetensors")) == files
    run_program(slow_run(tmp_path), check=True)
    assert_same_training(trained, folder)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_a_build_that_is_killed_is_told(tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    folder = RunFolder(tmp_path / "run")
    process = Program(slow_run(tmp_path))
    wait_for_rows(process, folder, 1)
    found = [int(n) for n in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    [build] = [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(build, signal.SIGKILL)
    _, told = process.communicate()
    assert process.returncode == 2
    assert told.count("error: ") == 1
    assert "the build of the shards was killed; the same command goes on" in told


def test_what_the_build_cannot_do_is_told_and_a_mended_source_goes_on(trained: RunFolder, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, [*SETTINGS, "data.stream=true"])
    sound = (tmp_path / "notes.jsonl").read_bytes()
    write_jsonl(tmp_path / "notes.jsonl", [{"title": "no text"}, {"text": ""}])
    with pytest.raises(KeylmError, match=r"sources\.notes: gives no document to train on .*'no_text_or_messages': 1"):
        run(recipe, tmp_path / "run", until="train", quiet=True)
    (tmp_path / "notes.jsonl").write_bytes(sound)
    assert_same_training(trained, run(recipe, tmp_path / "run", until="train", quiet=True))


def test_what_the_build_cannot_do_ends_the_command_with_its_exit_code(tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    write_jsonl(tmp_path / "chat.jsonl", [{"text": ""}])
    done = run_program(slow_run(tmp_path))
    assert done.returncode == 2
    assert "error: sources.chat: gives no document to train on" in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr


def test_a_source_without_a_window_is_told_when_its_stage_comes_too(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, ["data.stream=true"])  # one shard holds each source, so nothing waits for another
    write_jsonl(tmp_path / "chat.jsonl", [{"text": ""}])
    with pytest.raises(KeylmError, match=r"sources\.chat: gives no document to train on"):
        run(recipe, tmp_path / "run", until="train", quiet=True)


def test_shards_of_sources_that_have_changed_since_are_not_trained_on(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, [*SETTINGS, "data.stream=true"])
    folder = run(recipe, tmp_path / "run", until="tokenizer", quiet=True)
    build_shards(
        recipe,
        DataProvenance.of(recipe),
        folder.tokenizer,
        folder.shards,
        windows=dict.fromkeys(recipe.sources, 1),
        quiet=True,
    )
    (folder.shards / "manifest.json").unlink()  # a streaming run that was killed leaves no more
    tales = (tmp_path / "tales.jsonl").read_text()
    (tmp_path / "tales.jsonl").write_text(tales.replace("fox", "dog"))
    plain = recipe.model_copy(update={"data": recipe.data.model_copy(update={"stream": False})})
    expected = run(plain, tmp_path / "plain", until="train", quiet=True)
    assert_same_training(expected, run(recipe, tmp_path / "run", until="train", quiet=True))


def test_stream_and_plain_runs_can_take_each_other_up(trained: RunFolder, tmp_path: Path) -> None:
    plain, streamed = tiny_recipe(tmp_path, SETTINGS), tiny_recipe(tmp_path, [*SETTINGS, "data.stream=true"])
    run(plain, tmp_path / "run", until="shards", quiet=True)
    assert_same_training(trained, run(streamed, tmp_path / "run", until="train", quiet=True))


@pytest.fixture(scope="module")
def published(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards as somebody else would offer them."""
    folder = tmp_path_factory.mktemp("published") / "shards"
    shutil.copytree(trained.shards, folder)
    shutil.copytree(trained.tokenizer, folder / "tokenizer")
    for own in [*folder.glob("*/source.json"), *folder.glob("*/faults.jsonl")]:
        own.unlink()
    return folder


@pytest.fixture(params=["path", "http"])
def url(request: pytest.FixtureRequest, published: Path) -> Iterator[str]:
    if request.param == "path":
        yield str(published)
        return
    pytest.importorskip("aiohttp", reason="fsspec opens http:// with it")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(published))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def fetching(folder: Path, url: str, *overrides: str) -> Recipe:
    return tiny_recipe(folder, [*SETTINGS, f'data.shards="{url}"', *overrides])


def test_training_on_fetched_shards_leaves_the_same_bytes(url: str, trained: RunFolder, tmp_path: Path) -> None:
    recipe = fetching(tmp_path, url, "data.cache_bytes=6000")
    for name in recipe.sources:
        (tmp_path / f"{name}.jsonl").write_text("")  # the sources are not read
    folder = run(recipe, tmp_path / "run", until="train", quiet=True)
    assert_same_training(trained, folder)
    assert (folder.tokenizer / "tokenizer.json").read_bytes() == (trained.tokenizer / "tokenizer.json").read_bytes()
    everything = {file.name for file in (trained.shards / "tales").glob("train-*")}
    assert {file.name for file in (folder.shards / "tales").glob("train-*")} < everything, "room was made"


def test_fetched_batches_are_the_same_and_the_disk_holds_no_more_than_allowed(published: Path, tmp_path: Path) -> None:
    allowed = 6000
    recipe = fetching(tmp_path, str(published), f"data.cache_bytes={allowed}")
    (tmp_path / "cache").mkdir()
    shutil.copy(published / "manifest.json", tmp_path / "cache")
    straight = finished_store(published)
    ours = BatchLoader(Curriculum(recipe, straight.layout), straight)
    store = ShardStore(FetchedShards(recipe, tmp_path / "cache"), recipe.training.context)
    theirs = BatchLoader(Curriculum(recipe, store.layout), store)
    seen: set[Path] = set()
    most = 0
    for step in range(STEPS):
        store.expect(step)
        batch, expected = theirs.batch(step), ours.batch(step)
        for name in ("tokens", "labels", "documents", "sources"):
            np.testing.assert_array_equal(getattr(batch, name), getattr(expected, name))
        in_use = {(pick.source, pick.shard) for pick in ours.curriculum.picks(step)}
        before = {(pick.source, pick.shard) for pick in ours.curriculum.picks(max(0, step - 1))}
        files = list((tmp_path / "cache").glob("*/train-*.safetensors"))
        seen |= set(files)
        # What was in use a moment ago may be there still: room is made in the background.
        used = {tmp_path / "cache" / source / f"train-{shard:05d}.safetensors" for source, shard in in_use | before}
        sizes = {file: file.stat().st_size for file in files if file.exists()}
        spare = sum(size for file, size in sizes.items() if file not in used)
        assert spare <= allowed
        most = max(most, len(sizes))
    everything = len(list(published.glob("*/train-*.safetensors")))
    assert most < len(seen) <= everything
    assert any(pick.packing for step in range(STEPS) for pick in ours.curriculum.picks(step)), "none is repacked"
    for name in recipe.used_sources:
        assert store.held_out(name) == straight.held_out(name)
        for index in range(store.held_out(name)):
            windows = [each.window(name, 0, index, "validation") for each in (store, straight)]
            np.testing.assert_array_equal(windows[0].labels, windows[1].labels)


def copied(published: Path, folder: Path) -> Path:
    return Path(shutil.copytree(published, folder / "published"))


def test_a_damaged_shard_is_refused(published: Path, tmp_path: Path) -> None:
    damaged = copied(published, tmp_path)
    file = damaged / "tales" / "train-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(KeylmError, match=r"train-00001\.safetensors: the manifest says SHA-256"):
        run(fetching(tmp_path, str(damaged)), tmp_path / "run", until="train", quiet=True)
    kept = {file.name for file in (tmp_path / "run" / "shards" / "tales").iterdir()}
    assert "train-00001.safetensors" not in kept
    assert not [name for name in kept if name.startswith(".tmp-")]


@pytest.mark.parametrize("lost", ["manifest.json", "tokenizer/tokenizer.json", "notes/train-00000.safetensors"])
def test_what_is_missing_is_one_clear_error(
    lost: str, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "TRIES", 1)
    partly = copied(published, tmp_path)
    (partly / lost).unlink()
    with pytest.raises(KeylmError, match=rf"data\.shards: .*published/{lost} cannot be fetched: "):
        run(fetching(tmp_path, str(partly)), tmp_path / "run", until="train", quiet=True)


def test_a_passing_failure_is_tried_again(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, waited = streaming.fsspec.open, []
    failures = iter([OSError("reset"), TimeoutError("slow")])

    def flaky(*arguments: object) -> object:
        if failure := next(failures, None):
            raise failure
        return opened(*arguments)

    monkeypatch.setattr(streaming.fsspec, "open", flaky)
    monkeypatch.setattr(streaming.time, "sleep", waited.append)
    streaming.fetch(str(published / "manifest.json"), tmp_path / "manifest.json")
    assert (tmp_path / "manifest.json").read_bytes() == (published / "manifest.json").read_bytes()
    assert waited == [1, 2]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stages.pretrain.tokens=2000000", r"sources\.tales: the published build has \d+ windows of it, .* takes \d+"),
        (
            "training.context=16 stages.pretrain.tokens=512 stages.chat.tokens=512",
            r"training\.context: got 16, the published build has windows of 32; accepted",
        ),
        (
            'sources.more={path="tales.jsonl"} stages.chat.weights={chat=1,more=1}',
            r"sources\.more: not in the published build; it has: tales, notes, chat",
        ),
        ("tokenizer.vocab_size=390", r"tokenizer\.vocab_size: got 390.*400"),
    ],
)
def test_a_published_build_that_does_not_fit_the_recipe_is_refused(
    override: str, told: str, published: Path, tmp_path: Path
) -> None:
    recipe = fetching(tmp_path, str(published), *override.split())
    with pytest.raises(KeylmError, match=told):
        run(recipe, tmp_path / "run", until="train", quiet=True)


def test_a_tokenizer_that_the_shards_were_not_made_with_is_refused(published: Path, tmp_path: Path) -> None:
    foreign = copied(published, tmp_path)
    file = foreign / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"]["merges"].reverse()
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(KeylmError, match=r"tokenizer"):
        run(fetching(tmp_path, str(foreign)), tmp_path / "run", until="train", quiet=True)
