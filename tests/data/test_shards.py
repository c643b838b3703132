"""What goes into shards comes out of the windows, with labels that a slow and obvious reading agrees with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keylm.data import shards
from keylm.data.shards import ShardStore, ShardWriter, Window, manifest_hash, read_manifest, split_entry
from keylm.errors import KeylmError
from keylm.files import read_json, write_json
from keylm.tokenizer import PAD

VOCABULARY = 60_000
FILES = ["a.jsonl", "b.jsonl"]


@dataclass(frozen=True)
class Piece:
    """A document, or (`file` is None) padding."""

    tokens: list[int]
    trained: list[bool]
    whole: bool
    file: int | None
    line: int


@st.composite
def corpora(draw: st.DrawFn) -> tuple[int, int, list[Piece]]:
    """Draw (context, SHARD_TOKENS, documents); every token of a corpus is another one."""
    context = draw(st.sampled_from([4, 5, 8, 13, 16]))
    pieces: list[Piece] = []
    first = 20
    for number in range(draw(st.integers(1, 12))):
        whole = draw(st.booleans())
        length = draw(st.integers(1, context if whole else 4 * context))
        mask = draw(st.integers(0, 2**length - 1))
        trained = [bool(mask >> bit & 1) for bit in range(length)]
        pieces.append(Piece(list(range(first, first + length)), trained, whole, number % 2, number + 1))
        first += length
    return context, draw(st.integers(1, 6 * context)), pieces


def build(folder: Path, context: int, shard_tokens: int, pieces: list[Piece]) -> ShardStore:
    """Write `pieces` as source `s` and return the opened store."""
    (folder / "s").mkdir(parents=True)
    byte_lengths = np.arange(VOCABULARY) % 7
    byte_lengths[PAD] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_TOKENS", shard_tokens)
        writer = ShardWriter(folder / "s", "train", context, byte_lengths)
        for piece in pieces:
            tokens, trained = np.array(piece.tokens, np.uint16), np.array(piece.trained, np.bool_)
            writer.add(tokens, trained, piece.file, piece.line, whole=piece.whole)
        records = writer.close()
    manifest = {"context": context, "sources": {"s": {"train": split_entry(records), "validation": split_entry([])}}}
    manifest["sources"]["s"]["files"] = FILES
    write_json(folder / "manifest.json", {**manifest, "hash": manifest_hash(manifest)})
    return ShardStore(folder)


def windows(store: ShardStore) -> list[Window]:
    return [store.window("s", index) for index in range(store.windows("s"))]


def laid_out(context: int, pieces: list[Piece]) -> list[tuple[int, bool, int, Piece]]:
    """Return (token, trained, number of its piece, piece) of every place, in order, padding included."""
    places: list[tuple[int, bool, int, Piece]] = []
    number = 0

    def put(piece: Piece) -> None:
        nonlocal number
        places.extend(
            (token, trained, number, piece) for token, trained in zip(piece.tokens, piece.trained, strict=True)
        )
        number += 1

    def pad() -> None:
        left = -len(places) % context
        put(Piece([PAD] * left, [False] * left, False, None, 0))

    for piece in pieces:
        if piece.whole and len(places) % context + len(piece.tokens) > context:
            pad()
        put(piece)
    pad()
    return places


def expected_window(
    context: int, capacity: int, places: list[tuple[int, bool, int, Piece]], index: int
) -> tuple[Window, list[tuple[str, int, int]]]:
    """Read one window and its documents' origins off all places, token by token."""
    tokens, labels, documents, origins = [], [], [], []
    for place in range(index * context, (index + 1) * context):
        token, _, number, piece = places[place]
        if not origins or number != places[place - 1][2]:
            name = "" if piece.file is None else FILES[piece.file]
            origins.append((name, piece.line, place - index * context))
        tokens.append(token)
        documents.append(len(origins) - 1)
        # The last place of a shard has nothing behind it in its file, so it carries no loss.
        ends_shard = (place + 1) % capacity == 0 or place + 1 == len(places)
        following, trained, next_number, _ = places[0] if ends_shard else places[place + 1]
        labels.append(following if trained and next_number == number and not ends_shard else -100)
    return Window(np.array(tokens), np.array(labels), np.array(documents)), origins


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(corpus=corpora())
def test_every_window_is_what_a_slow_reading_of_all_documents_gives(
    corpus: tuple[int, int, list[Piece]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    context, shard_tokens, pieces = corpus
    store = build(tmp_path_factory.mktemp("shards"), context, shard_tokens, pieces)
    places = laid_out(context, pieces)
    capacity = max(1, shard_tokens // context) * context
    found = windows(store)
    assert len(found) == len(places) // context
    for index, window in enumerate(found):
        expected, origins = expected_window(context, capacity, places, index)
        assert window.tokens.tolist() == expected.tokens.tolist()
        assert window.labels.tolist() == expected.labels.tolist()
        assert window.documents.tolist() == expected.documents.tolist()
        assert store.origins("s", index) == origins
    entry = store.manifest["sources"]["s"]["train"]
    assert entry["documents"] == len(pieces)
    assert entry["tokens"] == sum(len(piece.tokens) for piece in pieces)
    assert entry["trained_tokens"] == sum(sum(piece.trained) for piece in pieces)
    assert entry["bytes"] == sum(token % 7 for piece in pieces for token in piece.tokens)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(corpus=corpora())
def test_a_whole_document_stands_in_one_window(
    corpus: tuple[int, int, list[Piece]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    context, shard_tokens, pieces = corpus
    found = windows(build(tmp_path_factory.mktemp("shards"), context, shard_tokens, pieces))
    for piece in pieces:
        if piece.whole:
            [home] = [
                set(piece.tokens) & set(window.tokens.tolist()) for window in found if piece.tokens[0] in window.tokens
            ]
            assert home == set(piece.tokens)


def text(first: int, length: int, line: int = 1) -> Piece:
    return Piece(list(range(first, first + length)), [True] * length, False, 0, line)


def test_a_document_runs_on_over_several_shards_and_keeps_its_origin(tmp_path: Path) -> None:
    store = build(tmp_path, 4, 8, [text(20, 3), text(23, 30, line=9)])
    assert len(store.manifest["sources"]["s"]["train"]["shards"]) == 5
    found = windows(store)
    assert np.concatenate([window.tokens for window in found]).tolist() == [*range(20, 53), PAD, PAD, PAD]
    assert [store.origins("s", index) for index in range(3)] == [
        [("a.jsonl", 1, 0), ("a.jsonl", 9, 3)],
        [("a.jsonl", 9, 0)],
        [("a.jsonl", 9, 0)],
    ]
    assert store.origins("s", len(found) - 1) == [("a.jsonl", 9, 0), ("", 0, 1)]
    assert found[0].labels.tolist() == [21, 22, -100, 24], "nothing is learnt across the documents' edge"
    assert found[1].labels.tolist() == [25, 26, 27, -100], "the shard ends here"


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    pieces = [text(20 + 9 * n, 9, n) for n in range(9)]
    for name in ("one", "two"):
        build(tmp_path / name, 8, 16, pieces)
    files = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*.*"))
    assert len(files) > 4
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_there_is_no_window_beyond_the_last(tmp_path: Path) -> None:
    store = build(tmp_path, 4, 8, [text(20, 12)])
    assert store.windows("s") == 3
    with pytest.raises(IndexError, match="s has no train window"):
        store.window("s", 3)
    with pytest.raises(IndexError, match="s has no validation window"):
        store.window("s", 0, "validation")


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_one_altered_byte_is_refused_with_the_files_name(place: float, tmp_path: Path) -> None:
    build(tmp_path, 8, 16, [text(20, 50)])
    file = tmp_path / "s" / "train-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    file.write_bytes(content)
    with pytest.raises(KeylmError, match=rf"{file}: the manifest says SHA-256 .* put the shard back"):
        ShardStore(tmp_path)


def test_a_missing_shard_is_refused_with_its_name(tmp_path: Path) -> None:
    build(tmp_path, 8, 16, [text(20, 50)])
    (tmp_path / "s" / "train-00002.safetensors").unlink()
    with pytest.raises(KeylmError, match=r"train-00002.safetensors: .* but it is missing"):
        ShardStore(tmp_path)


def test_an_altered_manifest_is_refused(tmp_path: Path) -> None:
    build(tmp_path, 8, 16, [text(20, 50)])
    manifest = read_json(tmp_path / "manifest.json")
    manifest["sources"]["s"]["train"]["shards"][0]["windows"] += 1
    write_json(tmp_path / "manifest.json", manifest)
    with pytest.raises(KeylmError, match=r"manifest.json: .*altered"):
        ShardStore(tmp_path)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeylmError, match=r"manifest.json: no such file; accepted: "):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", ['{"context": 8, "sour', "[]"])
def test_a_damaged_manifest_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(KeylmError, match=r"manifest.json"):
        read_manifest(tmp_path)
