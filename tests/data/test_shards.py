"""What goes into shards comes out of the windows, with labels that a slow and obvious reading agrees with."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keylm.base.errors import KeylmError
from keylm.base.files import read_json, write_json
from keylm.data import pieces as packed
from keylm.data.manifest import FORMAT, ShardManifest, SourceRecord, SplitRecord, WindowOrder, read_manifest
from keylm.data.shards import RepackedShard, Shard, ShardWriter, Window
from keylm.data.store import ShardStore, finished_store
from keylm.text.tokenizer import IM_START, PAD, TYPO

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
def corpora(draw: st.DrawFn, *, texts_alone: bool = False) -> tuple[int, int, list[Piece]]:
    """Draw (context, tokens in a full shard, documents); every token of a corpus is another one."""
    context = draw(st.sampled_from([4, 5, 8, 13, 16]))
    pieces: list[Piece] = []
    first = 20
    for number in range(draw(st.integers(1, 12))):
        whole = not texts_alone and draw(st.booleans())
        length = draw(st.integers(1, context if whole else 4 * context))
        mask = draw(st.integers(0, 2**length - 1))
        trained = [bool(mask >> bit & 1) for bit in range(length)]
        pieces.append(Piece(list(range(first, first + length)), trained, whole, number % 2, number + 1))
        first += length
    return context, draw(st.integers(1, 6 * context)), pieces


def build(folder: Path, context: int, shard_tokens: int, pieces: list[Piece]) -> ShardStore:
    """Write `pieces` as source `s`, a new shard whenever one is full, and return the opened store."""
    (folder / "s").mkdir(parents=True)
    byte_lengths = np.arange(VOCABULARY) % 7
    byte_lengths[PAD] = 0
    records = []
    for number, group in enumerate(grouped(context, shard_tokens, pieces)):
        writer = ShardWriter(context)
        for piece in group:
            tokens, trained = np.array(piece.tokens, np.uint16), np.array(piece.trained, np.bool_)
            writer.add(packed.Piece(tokens, trained, whole=piece.whole), piece.file, piece.line)
        records.append(writer.close(folder / "s" / f"train-{number:05d}.safetensors", byte_lengths))
    source = SourceRecord(
        settings={},
        train=SplitRecord.of(records),
        validation=SplitRecord.of([]),
        exhausted=True,
        files=FILES,
        faults={},
    )
    manifest = ShardManifest(
        format=FORMAT,
        seed=0,
        context=context,
        shard_tokens=shard_tokens,
        holdout=0.1,
        tokenizer_sha256="",
        curation=None,
        order=WindowOrder(batch_windows=1, sources=["s"], stages=[]),
        origins={},
        sources={"s": source},
    )
    manifest.sealed().write(folder)
    return finished_store(folder)


def grouped(context: int, shard_tokens: int, pieces: list[Piece]) -> list[list[Piece]]:
    """Part pieces into shards: one that holds `shard_tokens`, or its last piece more, is full."""
    groups: list[list[Piece]] = [[]]
    for piece in pieces:
        if len(laid_out(context, groups[-1], last=False)) >= shard_tokens:
            groups.append([])
        groups[-1].append(piece)
    return groups


def windows(store: ShardStore) -> list[Window]:
    shards = store.layout("s", 10**9)
    return [store.window("s", shard, index) for shard, size in enumerate(shards) for index in range(size)]


def laid_out(context: int, pieces: list[Piece], *, last: bool = True) -> list[tuple[int, bool, int, Piece]]:
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
    if last:
        pad()
    return places


def expected_window(
    context: int, places: list[tuple[int, bool, int, Piece]], index: int
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
        # The last place of a shard has nothing after it in its file, so it carries no loss.
        ends_shard = place + 1 == len(places)
        following, trained, next_number, _ = places[0] if ends_shard else places[place + 1]
        labels.append(following if trained and next_number == number and not ends_shard else -100)
    return Window(np.array(tokens), np.array(labels), np.array(documents)), origins


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(corpus=corpora())
def test_every_window_is_what_a_slow_reading_of_all_documents_gives(
    corpus: tuple[int, int, list[Piece]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    context, shard_tokens, pieces = corpus
    folder = tmp_path_factory.mktemp("shards")
    store = build(folder, context, shard_tokens, pieces)
    for shard, group in enumerate(grouped(context, shard_tokens, pieces)):
        places = laid_out(context, group)
        assert store.layout("s", 10**9)[shard] == len(places) // context
        for index in range(len(places) // context):
            expected, origins = expected_window(context, places, index)
            window = store.window("s", shard, index)
            assert window.tokens.tolist() == expected.tokens.tolist()
            assert window.labels.tolist() == expected.labels.tolist()
            assert window.documents.tolist() == expected.documents.tolist()
            assert store.shard("s", shard).origins(index) == origins
    entry = read_manifest(folder).sources["s"].train
    assert entry.documents == len(pieces)
    assert entry.tokens == sum(len(piece.tokens) for piece in pieces)
    assert entry.trained_tokens == sum(sum(piece.trained) for piece in pieces)
    assert entry.bytes == sum(token % 7 for piece in pieces for token in piece.tokens)


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


def test_a_shard_begins_and_ends_with_a_document(tmp_path: Path) -> None:
    store = build(tmp_path, 4, 8, [text(20, 3), text(23, 30, line=9), text(53, 2, line=10)])
    assert store.layout("s", 10**9) == [9, 1]
    found = windows(store)
    tokens = [*range(20, 53), PAD, PAD, PAD, 53, 54, PAD, PAD]
    assert np.concatenate([window.tokens for window in found]).tolist() == tokens
    assert store.shard("s", 0).origins(0) == [("a.jsonl", 1, 0), ("a.jsonl", 9, 3)]
    assert store.shard("s", 0).origins(1) == [("a.jsonl", 9, 0)]
    assert store.shard("s", 0).origins(8) == [("a.jsonl", 9, 0), ("", 0, 1)]
    assert store.shard("s", 1).origins(0) == [("a.jsonl", 10, 0), ("", 0, 2)]
    assert found[0].labels.tolist() == [21, 22, -100, 24], "nothing is learnt across the documents' edge"
    assert found[9].labels.tolist() == [54, -100, -100, -100]


def test_partners_point_back_within_their_window(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    writer = ShardWriter(8)
    back = np.array([0, 0, 0, 0, 3, 0], np.uint16)
    ones = np.ones(6, np.bool_)
    writer.add(packed.Piece(np.arange(20, 26, dtype=np.uint16), ones), 0, 1)
    writer.add(packed.Piece(np.arange(30, 36, dtype=np.uint16), ones, (0, 3), whole=True, partners=back), 0, 2)
    path = tmp_path / "s" / "train-00000.safetensors"
    writer.close(path, np.ones(99, np.int64))
    shard = Shard(path, 8, FILES)
    assert shard.window(0).partners.tolist() == [-1] * 8
    assert shard.window(1).partners.tolist() == [-1, -1, -1, -1, 1, -1, -1, -1]
    assert shard.window(1).documents.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert shard.repacked("any") is shard


def learnt(shard: Shard, count: int) -> Counter[tuple[int, int]]:
    """Return how often each token has each label in `count` windows."""
    read = [shard.window(index) for index in range(count)]
    return Counter(pair for w in read for pair in zip(w.tokens.tolist(), w.labels.tolist(), strict=True))


def read_back(shard: Shard, count: int) -> dict[tuple[str, int], list[int]]:
    """Return the tokens of each document, by the file and line that the windows' origins name."""
    found: dict[tuple[str, int], list[int]] = {}
    for index in range(count):
        window = shard.window(index)
        for number, (file, line, start) in enumerate(shard.origins(index)):
            places = np.flatnonzero(window.documents == number)
            assert places[0] == start
            found.setdefault((file, line), []).extend(window.tokens[places].tolist())
    return {origin: tokens for origin, tokens in found.items() if origin[0]}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(corpus=corpora(texts_alone=True), order=st.text(min_size=1, max_size=4))
def test_a_repacked_shard_holds_the_same_documents_with_the_same_labels(
    corpus: tuple[int, int, list[Piece]], order: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    context, shard_tokens, pieces = corpus
    store = build(tmp_path_factory.mktemp("shards"), context, shard_tokens, pieces)
    for shard, group in enumerate(grouped(context, shard_tokens, pieces)):
        count = store.layout("s", 10**9)[shard]
        plain, repacked = store.shard("s", shard), store.shard("s", shard, packing=order)
        assert isinstance(repacked, RepackedShard)
        assert learnt(repacked, count) == learnt(plain, count)
        assert read_back(repacked, count) == {(FILES[piece.file or 0], piece.line): piece.tokens for piece in group}


def test_the_order_of_a_repacked_shard_is_the_same_everywhere(tmp_path: Path) -> None:
    store = build(tmp_path, 4, 99, [text(10 * n, 2 + n % 4, line=n) for n in range(2, 8)])
    repacked = store.shard("s", 0, packing="7/s/1/0")
    read = np.concatenate([repacked.window(index).tokens for index in range(6)])
    documents = [*range(50, 53), *range(70, 75), *range(20, 24), *range(30, 35), *range(60, 64), *range(40, 42)]
    assert read.tolist() == [*documents, PAD]
    assert repacked.origins(4) == [("a.jsonl", 3, 0), ("a.jsonl", 6, 1)]
    assert repacked.origins(5) == [("a.jsonl", 6, 0), ("a.jsonl", 4, 1), ("", 0, 3)]


@pytest.mark.parametrize(
    "pieces",
    [
        [text(20, 3), Piece([30, 31], [True, True], True, 0, 2)],
        [Piece([IM_START, 31], [True, True], True, 0, 1), text(20, 6, 2)],
        [text(20, 6, 1), Piece([TYPO, 31], [True, True], True, 0, 2)],
    ],
    ids=["padding between documents", "conversation", "correction"],
)
def test_a_shard_with_pieces_that_stand_whole_in_their_windows_stays_as_it_is(
    pieces: list[Piece], tmp_path: Path
) -> None:
    store = build(tmp_path, 4, 99, pieces)
    assert store.shard("s", 0, packing="any") is store.shard("s", 0)


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    pieces = [text(20 + 9 * n, 9, n) for n in range(9)]
    for name in ("one", "two"):
        build(tmp_path / name, 8, 16, pieces)
    files = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*.*"))
    assert len(files) > 4
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_there_is_no_shard_beyond_the_last(tmp_path: Path) -> None:
    store = build(tmp_path, 4, 8, [text(20, 12)])
    with pytest.raises(IndexError, match="s has no train shard 1"):
        store.window("s", 1, 0)
    with pytest.raises(IndexError, match="s has no validation shard 0"):
        store.window("s", 0, 0, "validation")


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_one_altered_byte_is_refused_with_the_files_name(place: float, tmp_path: Path) -> None:
    build(tmp_path, 8, 16, [text(20 + 9 * n, 9, n) for n in range(9)])
    file = tmp_path / "s" / "train-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    file.write_bytes(content)
    with pytest.raises(KeylmError, match=rf"{file}: the manifest says SHA-256 .* put the shard back"):
        finished_store(tmp_path)


def test_a_missing_shard_is_refused_with_its_name(tmp_path: Path) -> None:
    build(tmp_path, 8, 16, [text(20 + 9 * n, 9, n) for n in range(9)])
    (tmp_path / "s" / "train-00002.safetensors").unlink()
    with pytest.raises(KeylmError, match=r"train-00002.safetensors: .* but it is missing"):
        finished_store(tmp_path)


def test_an_altered_manifest_is_refused(tmp_path: Path) -> None:
    build(tmp_path, 8, 16, [text(20 + 9 * n, 9, n) for n in range(9)])
    manifest = read_json(tmp_path / "manifest.json")
    manifest["sources"]["s"]["train"]["shards"][0]["windows"] += 1
    write_json(tmp_path / "manifest.json", manifest)
    with pytest.raises(KeylmError, match=r"manifest.json: .*altered"):
        finished_store(tmp_path)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeylmError, match=r"manifest.json: no such file; accepted: "):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", ['{"context": 8, "sour', "[]"])
def test_a_damaged_manifest_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(KeylmError, match=r"manifest.json"):
        read_manifest(tmp_path)
