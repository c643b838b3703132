"""Contrastive typos in all their forms: what is noisy is read and never written."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.recipes import chat, sentence, tiny_recipe, write_jsonl

from keylm.data.contrast import Contrast
from keylm.data.documents import Document, Fault, Record, content_hash, is_held_out
from keylm.data.encode import Encoder, text_piece
from keylm.data.manifest import read_manifest
from keylm.data.pieces import Piece
from keylm.data.shards import Shard, ShardWriter, Window
from keylm.data.store import finished_store
from keylm.pipeline.run import run
from keylm.recipe.load import Recipe
from keylm.text.tokenizer import END_OF_TEXT, FIX, IM_END, IM_START, PAD, SPECIAL_TOKENS, TYPO, DocumentTokenizer
from keylm.typos.model import Noisy, TypoModel

CONTEXT = 512
FORMS = ("masked", "correction", "pair")
BIG = [
    f"model.max_position_embeddings={CONTEXT}",
    f"training.context={CONTEXT}",
    f"training.batch_tokens={2 * CONTEXT}",
]


def noisy_recipe(folder: Path, forms: str, *overrides: str) -> Recipe:
    origin = f'sources.noisy={{typos_of=["tales", "chat"], forms={{{forms}}}}}'
    only = "stages={all={tokens=8192, weights={tales=1, noisy=3}}}"
    return tiny_recipe(folder, [*BIG, origin, only, "typos.highest_rate=0.5", *overrides])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tokenizer of a run in it."""
    folder = tmp_path_factory.mktemp("contrast")
    run(noisy_recipe(folder, "masked=1"), folder / "run", until="tokenizer", quiet=True)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> DocumentTokenizer:
    return DocumentTokenizer(folder / "run" / "tokenizer")


@pytest.fixture(scope="module")
def makers(folder: Path, tokenizer: DocumentTokenizer) -> dict[str, Contrast]:
    return {form: Contrast(noisy_recipe(folder, f"{form}=1"), "noisy", tokenizer) for form in FORMS}


class Recorder:
    """Keeps what the noise model gave, so that a test knows where the corrupted words are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, Noisy]] = []
        corrupt_many = TypoModel.corrupt_many

        def recorded(model: TypoModel, texts: list[str], *rest: Any, **more: Any) -> list[Noisy]:
            noisy = corrupt_many(model, texts, *rest, **more)
            self.made += zip(texts, noisy, strict=True)
            return noisy

        monkeypatch.setattr(TypoModel, "corrupt_many", recorded)


def pieces_of(maker: Contrast, document: Document, content: int, epoch: int) -> list[Piece | Fault]:
    """Return what one document becomes."""
    [made] = maker.pieces([(document, content, epoch)])
    return made


def english(seed: int, sentences: int) -> str:
    rng = random.Random(seed)
    return " ".join(sentence(rng, rng.randint(3, 14)) for _ in range(sentences))


ODD_WORDS = """the receive Because don't NASA x1 žluť 日本 👋 http://a.b/c 3.14 (and) "their" it's’s"""
words = st.sampled_from(ODD_WORDS.split())
gaps = st.sampled_from([" ", " ", " ", ". ", ", ", "\n", "\n\n", "  ", "\t", "! "])
odd = st.lists(st.tuples(words, gaps), max_size=60).map(lambda parts: "".join(word + gap for word, gap in parts))
texts = st.tuples(st.integers(0, 10**6), st.integers(1, 12)).map(lambda pair: english(*pair)) | odd
plain_texts = texts.filter(lambda text: bool(text.strip()))


def corrupted_mask(tokenizer: DocumentTokenizer, noisy: Noisy) -> npt.NDArray[np.bool_]:
    """Return for each token of the noisy text whether it holds a character of a corrupted word."""
    ids, _, _ = tokenizer.encode_words(noisy.text)
    lengths = tokenizer.byte_lengths()[ids]
    ends = np.cumsum(lengths)
    mask = np.zeros(len(ids), np.bool_)
    for edit in noisy.edits:
        first, last = (len(noisy.text[:place].encode()) for place in (edit.start, edit.end))
        mask |= (ends - lengths < last) & (ends > first)
    return mask


def windows_of(piece: Piece, folder: Path, before: int = 0) -> list[Window]:
    """Return a piece as training sees it, after so many tokens of another document."""
    writer = ShardWriter(CONTEXT)
    if before:
        writer.add(text_piece(np.full(before, 300, np.uint16), 0), 0, 1)
    writer.add(piece, 0, 2)
    writer.close(folder / "piece.safetensors", np.ones(70_000, np.int64))
    count = -(-writer.size // CONTEXT)
    return [Shard(folder / "piece.safetensors", CONTEXT, ["f"]).window(index) for index in range(count)]


def labelled(windows: list[Window], length: int) -> npt.NDArray[np.bool_]:
    """Return for each of the first `length` places whether the token there is somebody's label."""
    found = np.zeros(sum(len(window.tokens) for window in windows), np.bool_)
    for number, window in enumerate(windows):
        for place in np.flatnonzero(window.labels >= 0):
            at = number * CONTEXT + int(place) + 1
            found[at] = True
            if place + 1 < CONTEXT:
                assert window.tokens[place + 1] == window.labels[place]
    return found[:length]


def only(found: Iterator[Piece | Fault]) -> list[Piece]:
    pieces = list(found)
    assert all(isinstance(piece, Piece) for piece in pieces)
    for piece in pieces:
        assert len(piece.tokens) == len(piece.trained)
        assert (piece.tokens != PAD).all()
    return pieces  # type: ignore[return-value]


@settings(max_examples=60)
@given(text=plain_texts, content=st.integers(0, 2**64 - 1), epoch=st.integers(0, 3))
def test_a_noisy_text_is_whole_and_none_of_its_corrupted_words_is_a_label(
    text: str,
    content: int,
    epoch: int,
    makers: dict[str, Contrast],
    tokenizer: DocumentTokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch)
        [piece] = only(pieces_of(makers["masked"], Document("f", 1, text=text), content, epoch))
    [(clean, noisy)] = recorder.made
    assert clean == text
    assert tokenizer.decode(piece.tokens) == noisy.text + "<|endoftext|>"
    wrong = corrupted_mask(tokenizer, noisy)
    assert not piece.trained[: len(wrong)][wrong].any()
    assert piece.trained[-1]
    words_hit = tokenizer.decode(piece.tokens[:-1][~piece.trained[:-1]])
    assert len(words_hit) <= sum(edit.end - edit.start + 4 for edit in noisy.edits), "no more than those words"
    folder = tmp_path_factory.mktemp("piece")
    label = labelled(windows_of(piece, folder), len(piece.tokens))
    assert not label[: len(wrong)][wrong].any()
    assert label[1:].tolist() == piece.trained[1:].tolist()


@settings(max_examples=60)
@given(text=plain_texts, content=st.integers(0, 2**64 - 1))
def test_a_correction_is_learnt_on_its_clean_side_alone(
    text: str, content: int, makers: dict[str, Contrast], tokenizer: DocumentTokenizer, tmp_path_factory: Any
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch)
        pieces = only(pieces_of(makers["correction"], Document("f", 1, text=text), content, 0))
    assert len(pieces) == len(recorder.made), "every passage is one"
    if len(text) < 150:
        assert unspaced("".join(clean for clean, _ in recorder.made)) == unspaced(text), "short texts are whole"
    for piece, (clean, noisy) in zip(pieces, recorder.made, strict=True):
        assert piece.whole
        assert len(piece.tokens) <= CONTEXT
        [fix] = np.flatnonzero(piece.tokens == FIX)
        assert piece.tokens[0] == TYPO
        assert piece.tokens[-1] == END_OF_TEXT
        assert tokenizer.decode(piece.tokens[1:fix]) == noisy.text
        assert tokenizer.decode(piece.tokens[fix + 1 : -1]) == clean
        assert unspaced(clean) in unspaced(text)
        [window] = windows_of(piece, tmp_path_factory.mktemp("piece"), before=3)
        learnt = window.labels[window.labels >= 0][3:]  # three are of the document before it
        assert tokenizer.decode(learnt) == f"{clean}<|endoftext|>"


def unspaced(text: str) -> str:
    return "".join(text.split())


def last_token(tokenizer: DocumentTokenizer, text: str, end: int, byte_ends: npt.NDArray[np.int64]) -> int:
    """Return the last token of the pre-token in which a word ends, the word's own last one but beside punctuation."""
    _, characters, ends = tokenizer.encode_words(text)
    holder = int(np.searchsorted(characters, end))
    found = int(ends[holder]) - 1
    if characters[holder] == end:
        # The first token whose end is at or after the word's end, in bytes.
        assert found == int(np.searchsorted(byte_ends, len(text[:end].encode())))
    return found


@settings(max_examples=60)
@given(text=plain_texts, content=st.integers(0, 2**64 - 1), before=st.integers(0, 700))
@example(text="the the don't. the the the the ", content=35, before=0)  # the apostrophe moves beside the full stop
def test_the_partner_of_a_corrupted_word_is_the_end_of_the_clean_one(
    text: str,
    content: int,
    before: int,
    makers: dict[str, Contrast],
    tokenizer: DocumentTokenizer,
    tmp_path_factory: Any,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch)
        pieces = only(pieces_of(makers["pair"], Document("f", 1, text=text), content, 0))
    made = [(clean, noisy) for clean, noisy in recorder.made if noisy.edits]
    assert len(pieces) == len(made), "twins without a difference are left out"
    lengths = tokenizer.byte_lengths()
    for piece, (clean, noisy) in zip(pieces, made, strict=True):
        start, shift = piece.starts
        assert start == 0
        assert tokenizer.decode(piece.tokens[: shift - 1]) == clean
        assert tokenizer.decode(piece.tokens[shift:-1]) == noisy.text
        assert piece.tokens[shift - 1] == piece.tokens[-1] == END_OF_TEXT
        wrong = corrupted_mask(tokenizer, noisy)
        assert piece.trained[:shift].all()
        assert not piece.trained[shift:-1][wrong].any()
        assert piece.partners is not None
        clean_ends = np.cumsum(lengths[piece.tokens[: shift - 1]])
        noisy_ends = np.cumsum(lengths[piece.tokens[shift:-1]])
        for edit in noisy.edits:
            twin = shift + last_token(tokenizer, noisy.text, edit.end, noisy_ends)
            home = last_token(tokenizer, clean, edit.clean_end, clean_ends)
            assert piece.partners[twin] == twin - home
        assert np.count_nonzero(piece.partners) <= len(noisy.edits)
        windows = windows_of(piece, tmp_path_factory.mktemp("piece"), before)
        inside = [window for window in windows if window.partners is not None and (window.partners >= 0).any()]
        assert len(inside) == 1, "a pair stands in one window"
        window = inside[0]
        places = np.flatnonzero(window.partners >= 0)
        assert len(places) == np.count_nonzero(piece.partners)
        for place in places:
            home = int(window.partners[place])
            assert 0 <= home < place
            assert window.documents[home] == window.documents[place] - 1, "the clean twin is the document before"


@given(
    st.lists(plain_texts.map(lambda text: text[:120].strip() or "x"), min_size=2, max_size=6),
    st.integers(0, 2**64 - 1),
    st.sampled_from(FORMS),
)
@settings(max_examples=60)
def test_what_assistants_say_stays_clean_and_users_errors_are_no_labels(
    makers: dict[str, Contrast], tokenizer: DocumentTokenizer, contents: list[str], content: int, form: str
) -> None:
    messages = tuple(chat(*contents)["messages"])
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch)
        [piece] = list(pieces_of(makers[form], Document("f", 1, messages=messages), content, 0))
    if isinstance(piece, Fault):
        assert piece.kind == "conversation_too_long"
        return
    assert piece.whole
    assert len(piece.tokens) <= CONTEXT
    turns = tokenizer.decode(piece.tokens).split("<|im_end|>\n")
    assert turns.pop() == ""
    assert len(turns) in (len(messages), len(turns) // 2 * 2), "it is whole, or ends behind an answer"
    said_by_users = iter(recorder.made)
    ends = np.flatnonzero(piece.tokens == IM_END)
    starts = np.flatnonzero(piece.tokens == IM_START)
    for number, (turn, message) in enumerate(zip(turns, messages, strict=False)):
        clean, noisy = message["content"], Noisy(message["content"], ())
        if message["role"] == "user":
            said, noisy = next(said_by_users)
            assert said == clean
        heard = noisy.text
        assert turn == f"<|im_start|>{message['role']}\n{heard}"
        trained = piece.trained[starts[number] : ends[number] + 1]
        if message["role"] == "assistant":
            assert trained.all()
        else:
            wrong = corrupted_mask(tokenizer, noisy)
            assert not trained[-1 - len(wrong) : -1][wrong].any()
            assert trained.sum() < len(trained) or not noisy.edits


def test_a_real_share_of_what_is_made_is_noisy(makers: dict[str, Contrast], monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    for form in FORMS:
        before = len(recorder.made)
        for seed in range(40):
            text = english(seed, 8)
            list(pieces_of(makers[form], Document("f", 1, text=text), content_hash(Document("f", 1, text=text)), 0))
        edits = [len(noisy.edits) for _, noisy in recorder.made[before:]]
        assert sum(map(bool, edits)) > len(edits) / 4, form


def test_each_form_comes_as_often_as_its_weight_says(folder: Path, tokenizer: DocumentTokenizer) -> None:
    maker = Contrast(noisy_recipe(folder, "masked=3, correction=1"), "noisy", tokenizer)
    texts_given = [english(seed, 3) for seed in range(300)]
    first = [
        next(iter(pieces_of(maker, Document("f", 1, text=text), seed, 0))) for seed, text in enumerate(texts_given)
    ]
    corrections = sum(piece.tokens[0] == TYPO for piece in first if isinstance(piece, Piece))
    assert 50 < corrections < 100


def test_another_pass_gives_other_noise_and_the_same_pass_the_same(makers: dict[str, Contrast]) -> None:
    text = english(1, 10)
    passes = [
        [piece.tokens.tolist() for piece in only(pieces_of(makers["masked"], Document("f", 1, text=text), 5, epoch))]
        for epoch in (0, 1, 0)
    ]
    assert passes[0] == passes[2] != passes[1]


def test_a_sources_language_decides_which_words_are_mistyped(folder: Path, tokenizer: DocumentTokenizer) -> None:
    text = "Schöne größere Häuser über müden Gärten für fünf Söhne. " * 20
    for language, is_clean in ("en", True), ("de", False):
        recipe = noisy_recipe(folder, "masked=1")
        recipe = recipe.model_copy(update={"language": (language,)})
        [piece] = pieces_of(Contrast(recipe, "noisy", tokenizer), Document("f", 1, text=text), 5, 0)
        assert isinstance(piece, Piece)
        clean = tokenizer.encode_texts([text])[0].tolist()
        assert (piece.tokens.tolist()[:-1] == clean) == is_clean


def test_special_tokens_come_from_the_form_alone(makers: dict[str, Contrast]) -> None:
    text = "<|fix|> the receive <|typo|> and <|endoftext|> because <|im_end|>. " * 3
    for form in FORMS:
        for piece in only(pieces_of(makers[form], Document("f", 1, text=text), 7, 0)):
            special = [int(token) for token in piece.tokens if token < len(SPECIAL_TOKENS)]
            assert special in ([END_OF_TEXT], [TYPO, FIX, END_OF_TEXT], [END_OF_TEXT, END_OF_TEXT])


# Prints a hash of what a typo source's records become.
ENCODE = """
import hashlib, json, sys
from pathlib import Path
from keylm.data.encode import Encoder
from keylm.data.sources import open_records
from keylm.recipe.load import parse_recipe
recipe = parse_recipe(json.loads(sys.argv[1]), "test")
encoded = Encoder(recipe, "noisy", Path(sys.argv[2])).encode(open_records(recipe.sources, "noisy"))
parts = encoded.tokens + encoded.trained + encoded.partners + repr(encoded.pieces).encode()
print(hashlib.sha256(parts).hexdigest(), len(encoded.pieces))
"""


def test_any_process_makes_the_same_pieces(folder: Path) -> None:
    recipe = noisy_recipe(folder, "masked=1, correction=1, pair=1")
    command = [sys.executable, "-c", ENCODE, json.dumps(recipe.to_data()), str(folder / "run" / "tokenizer")]
    told = {
        subprocess.run(command, check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
    assert int(told.pop().split()[1]) > 200


def test_what_is_held_out_is_held_out_with_its_noise(tmp_path: Path) -> None:
    recipe = noisy_recipe(tmp_path, "masked=1, correction=1, pair=1")
    texts_given = [" ".join(f"word{n}" for n in range(4)) + " " + english(n, 4) for n in range(150)]
    write_jsonl(tmp_path / "tales.jsonl", [{"text": text} for text in texts_given])
    folder = run(recipe, tmp_path / "run", until="shards", quiet=True)
    store = finished_store(folder.shards)
    held = {n + 1 for n, text in enumerate(texts_given) if is_held_out(content_hash(Document("", 1, text=text)), 0.1)}
    assert held
    for name, prefix in (("tales", ""), ("noisy", "tales/")):
        lines = {}
        for split in ("train", "validation"):
            shards = read_manifest(folder.shards).sources[name].split(split).shards
            origins = [
                place
                for shard, record in enumerate(shards)
                for index in range(record.windows)
                for place in store.shard(name, shard, split).origins(index)
            ]
            lines[split] = {line for file, line, _ in origins if file == f"{prefix}tales.jsonl"}
        assert lines["validation"] <= held
        assert lines["train"].isdisjoint(held)
        assert lines["validation"], name


def test_a_record_of_each_pass_is_counted_as_a_document_of_its_source(folder: Path) -> None:
    recipe = noisy_recipe(folder, "pair=1")
    text = english(3, 12)
    encoder = Encoder(recipe, "noisy", folder / "run" / "tokenizer")
    encoded = encoder.encode([Record("tales/t.jsonl", 4, {"text": text}, "tales", epoch) for epoch in range(3)])
    assert len(encoded.pieces) > 6
    assert [facts.text_bytes for facts in encoded.pieces if facts.text_bytes] == [len(text)] * 3
    assert encoded.partners
    assert all(facts.file == "tales/t.jsonl" and facts.line == 4 and facts.whole for facts in encoded.pieces)
