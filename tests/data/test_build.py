"""The manifest depends on documents, tokenizer and settings alone; nothing is built twice, nothing is lost."""

import contextlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.recipes import chat, tiny_recipe, write_jsonl

from keylm.base.errors import KeylmError
from keylm.data import build, source_builder
from keylm.data.build import build_shards
from keylm.data.documents import content_hash, is_held_out
from keylm.data.manifest import ShardManifest, read_manifest
from keylm.data.provenance import DataProvenance, bytes_read
from keylm.data.shards import Window
from keylm.data.sources import read_source
from keylm.data.store import finished_store
from keylm.data.tokenizer_sample import tokenizer_sample
from keylm.recipe.load import Recipe, load_recipe
from keylm.recipe.schema import Source
from keylm.text.tokenizer import END_OF_TEXT, PAD, DocumentTokenizer, Tokens

ENDINGS = "<|endoftext|>"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make several batches of every source; its several shards come from `make`."""
    monkeypatch.setattr(source_builder, "BATCH_BYTES", 4096)


def make(recipe: Recipe, tokenizer: Path, folder: Path) -> ShardManifest:
    """Build all that the sources have, in small shards, whatever the recipe takes of them."""
    small = recipe.model_copy(update={"data": recipe.data.model_copy(update={"shard_tokens": 2048})})
    everything = dict.fromkeys(recipe.used_sources, 10**9)
    return build_shards(small, DataProvenance.of(small), tokenizer, folder / "shards", windows=everything, quiet=True)


def windows(folder: Path, source: str, split: str) -> Iterator[tuple[Window, list[tuple[str, int, int]]]]:
    """Yield every window of a source with its documents' origins."""
    store = finished_store(folder / "shards")
    for shard, record in enumerate(read_manifest(folder / "shards").sources[source].split(split).shards):
        for index in range(record.windows):
            yield store.window(source, shard, index, split), store.shard(source, shard, split).origins(index)


def as_it_lies(folder: Path, *overrides: str) -> Recipe:
    """Return the recipe in `folder` without writing its sources again."""
    with contextlib.chdir(folder):
        return load_recipe(folder / "recipe.toml", list(overrides))


def chat_recipe(folder: Path, records: list[dict[str, Any]], *overrides: str) -> Recipe:
    """Return the tiny recipe with `records` as its chat source, and no other source in use."""
    tiny_recipe(folder)
    file = write_jsonl(folder / "chats.jsonl", records)
    only = ["stages={chat={tokens=512, weights={chat=1}}}", f'sources.chat.path="{file}"']
    return tiny_recipe(folder, [*only, "evaluation.holdout=0.000001", *overrides])


def documents(folder: Path, source: str, split: str) -> dict[tuple[str, int], list[int]]:
    """Return the tokens of each document, by (file, line), put together from the windows."""
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    for window, origins in windows(folder, source, split):
        for number, (file, line, _) in enumerate(origins):
            tokens = window.tokens[window.documents == number].tolist()
            if file:
                found[file, line] += tokens
            else:
                assert set(tokens) == {PAD}
    return found


def learnt(folder: Path, source: str, split: str = "train") -> list[int]:
    """Return all tokens that carry loss, in order."""
    labels = np.concatenate([window.labels for window, _ in windows(folder, source, split)])
    return [int(label) for label in labels if label != -100]


def times(folder: Path) -> dict[str, int]:
    files = (folder / "shards").glob("*/*")
    return {f"{file.parent.name}/{file.name}": file.stat().st_mtime_ns for file in files}


def test_all_documents_stand_in_the_shards_as_they_were(tokenizer: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    manifest = make(recipe, tokenizer, tmp_path)
    decode = DocumentTokenizer(tokenizer).decode
    for name in ("tales", "notes"):
        train, held = (documents(tmp_path, name, split) for split in ("train", "validation"))
        expected = [json.loads(line)["text"] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        every = {**train, **held}
        assert [decode(every[f"{name}.jsonl", n + 1]).replace(ENDINGS, "") for n in range(len(expected))] == expected
        assert all(tokens[-1] == END_OF_TEXT for tokens in every.values())
        opened = sum(tokens[0] == END_OF_TEXT for tokens in every.values())
        assert 0.3 < opened / len(every) < 0.7, "about every other text begins with it too"
        entry = manifest.sources[name]
        assert entry.train.documents + entry.validation.documents == len(expected)
        assert entry.train.bytes + entry.validation.bytes == sum(map(len, expected))
    assert len(manifest.sources["tales"].train.shards) > 3


def test_what_is_held_out_is_never_trained_on(tokenizer: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    make(recipe, tokenizer, tmp_path)
    for name, source in recipe.used_sources.items():
        train, held = (set(documents(tmp_path, name, split)) for split in ("train", "validation"))
        expected = {(d.file, d.line) for d in read_source(name, source) if is_held_out(content_hash(d), 0.1)}
        assert held == expected
        assert train.isdisjoint(held)
        assert 0.03 < len(held) / len(train | held) < 0.2


def test_the_same_text_in_two_files_stands_on_the_same_side(tokenizer: Path, tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    lines = (tmp_path / "tales.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "a.jsonl").write_text("".join(lines))
    (tmp_path / "both" / "b.jsonl").write_text("".join(reversed(lines)))
    recipe = tiny_recipe(tmp_path, ["sources.tales.path=both"])
    make(recipe, tokenizer, tmp_path)
    held = documents(tmp_path, "tales", "validation")
    one = {line for file, line in held if file == "a.jsonl"}
    other = {len(lines) + 1 - line for file, line in held if file == "b.jsonl"}
    assert one == other != set()


def test_the_tokenizer_never_sees_what_is_held_out(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, ["tokenizer.sample_bytes=9_000_000"])
    held = {d.text for d in read_source("tales", recipe.sources["tales"]) if is_held_out(content_hash(d), 0.1)}
    sample = set(tokenizer_sample(recipe, recipe.sources))
    assert held
    assert held.isdisjoint(sample)
    assert len(sample) > 300


def test_building_again_changes_no_file_and_elsewhere_gives_the_same_hash(tokenizer: Path, tmp_path: Path) -> None:
    first = make(tiny_recipe(tmp_path / "one"), tokenizer, tmp_path / "one")
    before = times(tmp_path / "one")
    assert make(as_it_lies(tmp_path / "one"), tokenizer, tmp_path / "one") == first
    assert times(tmp_path / "one") == before
    assert make(tiny_recipe(tmp_path / "two"), tokenizer, tmp_path / "two").hash == first.hash


class Killed(BaseException):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize(("call", "shards"), [(2, 0), (120, 2), (230, 5)])
def test_an_interrupted_build_goes_on_and_ends_the_same(
    call: int, shards: int, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make(tiny_recipe(tmp_path / "straight"), tokenizer, tmp_path / "straight")
    recipe = tiny_recipe(tmp_path)
    calls = 0
    encode = DocumentTokenizer.encode_texts

    def killed(self: DocumentTokenizer, texts: Sequence[str]) -> list[Tokens]:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return encode(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(DocumentTokenizer, "encode_texts", killed)
        with pytest.raises(Killed):
            make(recipe, tokenizer, tmp_path)
    assert not (tmp_path / "shards" / "manifest.json").exists()
    before = {name: time for name, time in times(tmp_path).items() if name.endswith(".safetensors")}
    assert len(before) >= shards
    assert make(recipe, tokenizer, tmp_path) == expected
    assert before.items() <= times(tmp_path).items(), "a finished shard is not built again"
    finished_store(tmp_path / "shards")


def test_what_a_killed_build_left_is_swept(tokenizer: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    for name in (".tmp-1-source.json", "train-00099.safetensors", "faults.jsonl"):
        (tmp_path / "shards" / "tales").mkdir(parents=True, exist_ok=True)
        (tmp_path / "shards" / "tales" / name).write_bytes(b"half")
    make(recipe, tokenizer, tmp_path)
    left = {file.name for file in (tmp_path / "shards" / "tales").iterdir()}
    assert left.isdisjoint({".tmp-1-source.json", "train-00099.safetensors"})
    assert (tmp_path / "shards" / "tales" / "faults.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("overrides", "rebuilt"),
    [
        ("training.clip_norm=2.0", set()),
        ("sources.chat.loss=all", {"chat"}),
        ("sources.notes.max_bytes=9000", {"notes"}),
        ("evaluation.holdout=0.2", {"tales", "notes", "chat"}),
        ("model.max_position_embeddings=64 training.context=64", {"tales", "notes", "chat"}),
    ],
)
def test_a_changed_setting_builds_what_depends_on_it_and_nothing_else(
    overrides: str, rebuilt: set[str], tokenizer: Path, tmp_path: Path
) -> None:
    first = make(tiny_recipe(tmp_path), tokenizer, tmp_path)
    before = times(tmp_path)
    manifest = make(as_it_lies(tmp_path, *overrides.split()), tokenizer, tmp_path)
    after = times(tmp_path)
    changed = {name.split("/")[0] for name in before.keys() | after if before.get(name) != after.get(name)}
    assert changed == rebuilt
    assert (manifest.hash == first.hash) == (not rebuilt)


def test_changed_and_lost_files_are_built_anew(tokenizer: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    first = make(recipe, tokenizer, tmp_path)
    (tmp_path / "shards" / "tales" / "train-00001.safetensors").unlink()
    os.utime(tmp_path / "chat.jsonl", ns=(0, 0))
    assert make(recipe, tokenizer, tmp_path) == first
    finished_store(tmp_path / "shards")
    notes = tmp_path / "notes.jsonl"
    notes.write_text(notes.read_text().replace("cat", "dog"))  # as long as before
    changed = make(recipe, tokenizer, tmp_path)
    assert changed.hash != first.hash
    assert {n for n in recipe.sources if changed.sources[n] != first.sources[n]} == {"notes"}


def test_a_renamed_subfolder_is_noticed(tokenizer: Path, tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    (tmp_path / "texts" / "old").mkdir(parents=True)
    shutil.copy2(tmp_path / "tales.jsonl", tmp_path / "texts" / "old")
    recipe = tiny_recipe(tmp_path, ["sources.tales.path=texts"])
    make(recipe, tokenizer, tmp_path)
    (tmp_path / "texts" / "old").rename(tmp_path / "texts" / "new")
    again = make(as_it_lies(tmp_path, "sources.tales.path=texts"), tokenizer, tmp_path)
    assert again.sources["tales"].files == ["new/tales.jsonl"]


def test_faults_are_counted_and_written_down(tokenizer: Path, tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    with (tmp_path / "notes.jsonl").open("ab") as file:
        file.write(b'{"text": "\xff"}\n{"text": 5}\n\n{"text": "\\ud800"}\n{"text":\n{"text": ""}\n')
    manifest = make(as_it_lies(tmp_path), tokenizer, tmp_path)
    counted = {"invalid_utf8": 1, "no_text_or_messages": 1, "empty": 2, "lone_surrogate": 1, "malformed_json": 1}
    assert manifest.sources["notes"].faults == counted
    assert manifest.sources["tales"].faults == {}
    log = [json.loads(line) for line in (tmp_path / "shards/notes/faults.jsonl").read_text().splitlines()]
    assert [entry["line"] for entry in log] == [81, 82, 83, 84, 85, 86]
    assert {entry["file"] for entry in log} == {"notes.jsonl"}


def test_no_line_of_input_stops_a_build(tokenizer: Path, tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    with (tmp_path / "notes.jsonl").open("a") as file:
        file.write('{"\\ud800": 1}\n')
    manifest = make(as_it_lies(tmp_path), tokenizer, tmp_path)
    assert manifest.sources["notes"].faults == {"no_text_or_messages": 1}


@pytest.mark.parametrize(("loss", "expected"), [("assistant", "{1}<|im_end|>"), ("all", None)])
def test_loss_is_taken_on_answers_alone_or_on_all(
    loss: str, expected: str | None, tokenizer: Path, tmp_path: Path
) -> None:
    pairs = [(f"{word}?", f"The {word}.") for word in ("sea", "fox", "cat", "man")]
    make(chat_recipe(tmp_path, [chat(*pair) for pair in pairs], f"sources.chat.loss={loss}"), tokenizer, tmp_path)
    decode = DocumentTokenizer(tokenizer).decode
    # The first token of a document is never learnt; it is `<|im_start|>`.
    whole = "user\n{0}<|im_end|>\n<|im_start|>assistant\n{1}<|im_end|>\n"
    assert decode(learnt(tmp_path, "chat")) == "".join((expected or whole).format(*pair) for pair in pairs)


def test_a_long_conversation_is_cut_behind_the_last_answer_that_fits(tokenizer: Path, tmp_path: Path) -> None:
    short = ["fox?", "A fox."]
    records = [chat(*short * 6), chat("The sea." * 40, "A fox."), chat(*short), chat("fox?", "the sea " * 40)]
    recipe = chat_recipe(tmp_path, records, "sources.chat.loss=all")
    manifest = make(recipe, tokenizer, tmp_path)
    decode = DocumentTokenizer(tokenizer).decode
    assert manifest.sources["chat"].faults == {"conversation_cut": 1, "conversation_too_long": 2}
    found = documents(tmp_path, "chat", "train")
    assert list(found) == [("chats.jsonl", 1), ("chats.jsonl", 3)]
    assert all(len(tokens) <= 32 for tokens in found.values())
    assert decode(found["chats.jsonl", 1]) == decode(found["chats.jsonl", 3])
    log = [json.loads(line) for line in (tmp_path / "shards/chat/faults.jsonl").read_text().splitlines()]
    assert [(entry["line"], entry["kind"]) for entry in log] == [
        (1, "conversation_cut"),
        (2, "conversation_too_long"),
        (4, "conversation_too_long"),
    ]


def test_a_conversation_that_just_fits_is_neither_cut_nor_counted(tokenizer: Path, tmp_path: Path) -> None:
    encode = DocumentTokenizer(tokenizer).encode_chat
    talks = [chat("fox?", "sea" + "!" * length) for length in range(40)]
    sizes = [len(encode(talk["messages"])[0]) for talk in talks]
    fitting = [size for size in sizes if size <= 32]
    assert 32 in fitting
    manifest = make(chat_recipe(tmp_path, talks), tokenizer, tmp_path)
    assert manifest.sources["chat"].faults == {"conversation_too_long": len(sizes) - len(fitting)}
    assert [len(tokens) for tokens in documents(tmp_path, "chat", "train").values()] == fitting


def test_a_conversation_never_crosses_a_windows_edge(tokenizer: Path, tmp_path: Path) -> None:
    make(tiny_recipe(tmp_path), tokenizer, tmp_path)
    origins = [place[:2] for _, places in windows(tmp_path, "chat", "train") for place in places if place[0]]
    documents_built = read_manifest(tmp_path / "shards").sources["chat"].train.documents
    assert len(origins) == len(set(origins)) == documents_built


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", r"faults: none"),
        ('{"text": ""}\n{"no": 1}\n', r"'empty': 1, 'no_text_or_messages': 1"),
        (json.dumps(chat("fox?", "the sea " * 99)) + "\n", r"'conversation_too_long': 1"),
        (json.dumps(chat("fox?")) + "\n", "gives no answer to train on with loss = 'assistant'"),
    ],
)
def test_a_source_with_nothing_to_train_on_is_refused(content: str, told: str, tokenizer: Path, tmp_path: Path) -> None:
    recipe = chat_recipe(tmp_path, [])
    (tmp_path / "chats.jsonl").write_text(content)
    with pytest.raises(KeylmError, match=rf"sources\.chat: .*{told}"):
        make(recipe, tokenizer, tmp_path)
    assert not (tmp_path / "shards" / "manifest.json").exists()


def test_max_bytes_bounds_the_text_that_is_taken(tokenizer: Path, tmp_path: Path) -> None:
    manifest = make(tiny_recipe(tmp_path, ["sources.notes.max_bytes=9000"]), tokenizer, tmp_path)
    entry = manifest.sources["notes"]
    assert 8000 < entry.train.bytes + entry.validation.bytes <= 9000


class Shown:
    """What a build reported to its `Status`; `updates` are (bytes read, bytes in the end)."""

    def __init__(self, _label: str, total: int, *, start: int, quiet: bool) -> None:
        self.updates = [(start, total)]

    def __enter__(self) -> "Shown":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, completed: int, _facts: str, total: int) -> None:
        self.updates.append((completed, total))


def shown_of(recipe: Recipe, tokenizer: Path, folder: Path, **windows: int) -> list[tuple[int, int]]:
    """Build, and return what its progress showed."""
    shown: list[Shown] = []
    small = recipe.model_copy(update={"data": recipe.data.model_copy(update={"shard_tokens": 1024})})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "Status", lambda *given, **named: shown.append(Shown(*given, **named)) or shown[-1])
        build_shards(small, DataProvenance.of(small), tokenizer, folder, windows=windows)
    return shown[0].updates


def test_progress_counts_what_will_be_read(tokenizer: Path, tmp_path: Path) -> None:
    """Neither what lies behind `max_bytes` nor what no stage needs is waited for, and typos' text is counted."""
    noisy = 'sources.noisy={typos_of=["tales", "notes"], passes=2}'
    only = "stages={all={tokens=512, weights={tales=1, noisy=1}}}"
    limits = ["sources.tales.max_bytes=20_000", "sources.notes.max_bytes=3000"]
    recipe = tiny_recipe(tmp_path, [noisy, only, *limits])
    assert (tmp_path / "tales.jsonl").stat().st_size > 40_000
    assert {name: bytes_read(recipe.sources, name) for name in recipe.sources} == {
        "tales": 20_000,
        "notes": 3000,
        "chat": (tmp_path / "chat.jsonl").stat().st_size,
        "noisy": 2 * 23_000,
    }
    updates = shown_of(recipe, tokenizer, tmp_path / "shards", tales=10**9, noisy=10**9)
    assert updates[0][0] == 0
    assert 15_000 < updates[0][1] <= 66_000, "a token is taken for four bytes at first"
    assert all(done <= total <= 66_000 for done, total in updates)
    assert updates[-1][0] == pytest.approx(66_000, rel=0.05)
    assert updates[-1][1] == pytest.approx(updates[-1][0], rel=0.05)


def test_progress_ends_where_training_needs_no_more(tokenizer: Path, tmp_path: Path) -> None:
    """The text of whole shards is counted, at the bytes a token has; an earlier build's text counts as done."""
    recipe = tiny_recipe(tmp_path, ["stages={all={tokens=512, weights={tales=1}}}"])
    wanted = {"tales": 3 * 32}
    updates = shown_of(recipe, tokenizer, tmp_path / "shards", **wanted)
    assert updates[-1][1] == pytest.approx(updates[-1][0], rel=0.1)
    assert updates[-1][1] < (tmp_path / "tales.jsonl").stat().st_size * 0.8
    longer = shown_of(recipe, tokenizer, tmp_path / "shards", tales=4 * 32)
    assert longer[0][0] == updates[-1][0], "its start: what is built"
    assert longer[0][1] > updates[-1][1]


def test_a_hub_source_has_a_total_only_through_its_limit() -> None:
    sources = {"web": Source(hub="our/web"), "some": Source(hub="our/web", max_bytes=900)}
    sources["noisy"] = Source(typos_of=("web", "some"))
    assert {name: bytes_read(sources, name) for name in sources} == {"web": None, "some": 900, "noisy": None}
