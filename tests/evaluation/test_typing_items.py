import hashlib
import json
from pathlib import Path

import pytest
import zstandard

from keylm.base.errors import KeylmError
from keylm.data.documents import Document, content_hash, document_texts, is_held_out
from keylm.data.sources import read_source
from keylm.evaluation import typing_items
from keylm.evaluation.touch import Typist
from keylm.evaluation.typing_items import (
    EMBEDDED,
    PASSAGE,
    TypingItem,
    TypingSet,
    embedded_set,
    git_fixes_set,
    load_sets,
    record,
)
from keylm.recipe.load import load_recipe

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason="the shared corpus is not beside this checkout")
NANO = Path(__file__).parents[2] / "recipes" / "nano.toml"


def wrong_words(found):
    pairs = [pair for item in found.items for pair in zip(item.clean.split(), item.typed.split(), strict=True)]
    return sum(clean != typed for clean, typed in pairs) / len(pairs)


def test_the_packaged_set_is_the_frozen_one():
    found = load_sets(None)
    assert list(found) == ["embedded"]
    assert found["embedded"].digest == embedded_set().digest


def test_all_packaged_passages_are_kept_from_nanos_training():
    recipe = load_recipe(NANO)
    trained, held_out = [], []
    for name in EMBEDDED:
        for item in read_source(name, recipe.sources[name]):
            assert isinstance(item, Document)
            kept = is_held_out(content_hash(item), recipe.evaluation.holdout)
            (held_out if kept else trained).append("\n".join(document_texts(item)))
    for item in load_sets(None)["embedded"].items:
        assert any(item.clean in text for text in held_out)
        assert not any(item.clean in text for text in trained)


def test_passages_are_short_and_typed_words_stand_where_clean_ones_do():
    for item in load_sets(None)["embedded"].items:
        assert len(item.clean) <= PASSAGE
        assert len(item.clean.split()) == len(item.typed.split())


def test_about_a_tenth_of_the_words_is_mistyped_and_more_by_an_unsteadier_hand():
    assert 0.06 < wrong_words(embedded_set()) < 0.15
    assert wrong_words(embedded_set(0.6)) < wrong_words(embedded_set()) < wrong_words(embedded_set(1.4))


def test_a_steady_hand_types_what_is_meant_and_spaces_and_signs_are_never_touched():
    text = "It's 5 o'clock, said the QUICK brown fox;\nnaïve jumps over 12 lazy dogs -- again!"
    assert Typist(1, 0.0).type(text) in (text,)
    for seed in range(30):
        typed = Typist(seed, 1.5).type(text)
        assert [c for c in typed if not c.isascii() or not c.isalpha()] == [
            c for c in text if not c.isascii() or not c.isalpha()
        ]
        assert typed == Typist(seed, 1.5).type(text)


def test_the_first_documents_come_with_all_their_passages():
    found = TypingSet("a", tuple(TypingItem(n // 2, f"t{n}", "") for n in range(8)))
    assert [item.document for item in found.first(2).items] == [0, 0, 1, 1]
    assert found.first(None) is found
    assert found.first(2).documents == 2


def test_a_set_that_is_not_the_frozen_one_is_refused(monkeypatch):
    monkeypatch.setattr(typing_items, "SEED", 5)
    with pytest.raises(KeylmError, match=r"typing set 'embedded'.*accepted"):
        load_sets(None)


def test_a_corpus_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(KeylmError, match=r"git_fixes.jsonl.zst: is missing; accepted"):
        load_sets(tmp_path)


@needs_corpus
def test_the_sets_of_the_corpus_are_the_frozen_ones_and_of_the_half_that_nothing_was_fitted_to():
    found = load_sets(CORPUS)
    recorded = json.loads((Path(typing_items.__file__).parent / "typing_sets" / "sets.json").read_text())
    assert record(list(found.values())) == recorded
    fixes = list(typing_items._rows(CORPUS / "typo" / "git_fixes.jsonl.zst"))
    clean = {typing_items._plain(row["clean"]): row for row in fixes}
    for item in found["git_fixes"].items:
        row = clean[item.clean]
        assert not hashlib.sha256(row["clean"].encode()).digest()[0] & 1
        assert row["repo"] not in typing_items.TRAINED_ON


@pytest.mark.parametrize(
    ("line", "says"), [("{", "cannot be read"), ("3", "no correction"), ('{"repo": "a"}', "no co")]
)
def test_a_damaged_file_of_corrections_is_one_clear_error(tmp_path, line, says):
    (tmp_path / "typo").mkdir()
    file = tmp_path / "typo/git_fixes.jsonl.zst"
    file.write_bytes(zstandard.compress(f"{line}\n".encode()))
    with pytest.raises(KeylmError, match=f"line 1: {says}"):
        git_fixes_set(tmp_path)
