"""Noise: exact truth about every word, the same noise everywhere, rates that hold, errors like people's."""

import gzip
import importlib.util
import json
import os
import pickle
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from support.typo_examples import KINDS_BY_EXAMPLE

from keylm.base.errors import KeylmError
from keylm.languages.language import ENGLISH
from keylm.recipe.schema import Typos
from keylm.typos.keys import keys_of
from keylm.typos.kinds import KINDS, classify, distance
from keylm.typos.model import Edit, Noisy, TypoModel
from keylm.typos.word_slips import KINDS_MADE

ROOT = Path(__file__).parents[2]
CORPUS = ROOT.parent / "shared/corpus"
MODEL = TypoModel(Typos())
PROSE = (
    "The committee received a separate letter; they're sure it's their own. Don't accept the accommodation, "
    "she said, until you're quite certain. In the beginning I believed that necessary changes were possible. "
    "Writing quickly on a telephone keyboard is different from knowing which words occurred then."
)
WORDS = PROSE.split()

GOLDEN = (
    "Then commyttee received sa seperate letter; they're sure it's their own. Don't accept the accommodation, "
    "she said, until you're quites certayn. In te beginning I believed that necessary change were possible. "
    "Writing quickly on a telephone key pard is diferent from knowing which wrdds occurred then.",
    11,
)
"""What test_known_outputs… expects; changes only together with VERSION or the figures."""

needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason="the shared corpus is not on this machine")


def realistic(rng: random.Random, words: int) -> str:
    """Return prose with line ends, markup, numbers, addresses and other scripts in between."""
    odd = [
        "https://a.example/b?c=d",
        "foo_bar(x)",
        "3.14",
        "naïve",
        "日本語",
        "🙂",
        "*so*",
        "USA",
        "iPhone",
        "a\tb",
        "",
    ]
    return "".join(
        (rng.choice(WORDS) if rng.random() < 0.9 else rng.choice(odd)) + rng.choice([" ", " ", " ", "\n", "  ", "\n\n"])
        for _ in range(words)
    )


def assert_exact(clean: str, noisy: Noisy) -> None:
    """Assert that the edits rebuild the clean text, in order, apart, each of them around whole words."""
    rebuilt, at, clean_at = [], 0, 0
    for edit in noisy.edits:
        assert at <= edit.start < edit.end <= len(noisy.text)
        assert clean_at <= edit.clean_start < edit.clean_end <= len(clean)
        between = noisy.text[at : edit.start]
        assert between == clean[clean_at : edit.clean_start]
        words = clean[edit.clean_start : edit.clean_end]
        assert noisy.text[edit.start : edit.end] != words
        for text, start, end in ((noisy.text, edit.start, edit.end), (clean, edit.clean_start, edit.clean_end)):
            assert not text[start - 1 : start].isalnum() if start else True
            assert not text[end : end + 1].isalnum()
        rebuilt += [between, words]
        at, clean_at = edit.end, edit.clean_end
    assert "".join(rebuilt) + noisy.text[at:] == clean


def test_the_truth_is_exact_on_ten_thousand_realistic_documents():
    rng = random.Random(0)
    for rate in (None, 0.05, 0.2, 0.5):
        texts = [realistic(rng, rng.randint(1, 40)) for _ in range(2500)]
        for text, noisy in zip(texts, MODEL.corrupt_many(texts, 1, range(2500), [0] * 2500, rate), strict=True):
            assert_exact(text, noisy)


ALPHABET = st.sampled_from(
    [*"abcdeilnorstuy AEIT'’.,\n\t-_/@0\"(", "é", "e\u0301", "日", "ש", "ا", "🙂", "\u200d", "\xa0"]
)


@settings(max_examples=500)
@given(
    st.one_of(st.text(), st.lists(ALPHABET).map("".join), st.lists(st.sampled_from(WORDS)).map(" ".join)),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(0, 1),
)
def test_the_truth_is_exact_on_any_text(text: str, document: int, rate: float):
    assert_exact(text, MODEL.corrupt(text, 3, document, 1, rate))


def test_what_is_no_plain_word_stays_as_it_is():
    text = (
        "foo_bar(x) https://a.b/c 12th v2.0 <b>bold</b> HTTP naïve ملف 日本語 שלום e\u0301te\u0301 👩‍🚀 `code` a@b.de "
        * 40
    )
    assert MODEL.corrupt(text, 1, 2, 3, 0.5) == Noisy(text, ())


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(st.text(), st.lists(ALPHABET).map("".join), st.lists(st.sampled_from(WORDS)).map(" ".join)),
        max_size=8,
    ),
    st.one_of(st.none(), st.floats(0, 1)),
)
def test_many_texts_at_once_get_what_each_gets_alone(texts: list[str], rate: float | None):
    documents = [2**64 - 1 - number * 7 for number in range(len(texts))]
    alone = [MODEL.corrupt(text, 3, document, 1, rate) for text, document in zip(texts, documents, strict=True)]
    assert MODEL.corrupt_many(texts, 3, documents, [1] * len(texts), rate) == alone


def test_many_texts_at_once_are_many_batches(monkeypatch: pytest.MonkeyPatch):
    rng = random.Random(1)
    texts = [realistic(rng, rng.randint(0, 60)) for _ in range(200)]
    whole = MODEL.corrupt_many(texts, 1, range(200), [0] * 200, 0.2)
    monkeypatch.setattr("keylm.typos.model.BATCH", 1000)
    assert MODEL.corrupt_many(texts, 1, range(200), [0] * 200, 0.2) == whole
    assert [MODEL.corrupt(text, 1, number, 0, 0.2) for number, text in enumerate(texts)] == whole
    for text, noisy in zip(texts, whole, strict=True):
        assert_exact(text, noisy)


def test_lone_surrogates_and_astral_characters_stay_where_they_are():
    text = "the \ud800 receive🙂 🙂 separate\udfff letter " * 30
    noisy = MODEL.corrupt(text, 1, 1, 0, 0.5)
    assert_exact(text, noisy)
    assert noisy.edits
    assert not any(re.search("[^a-z ]", text[edit.clean_start : edit.clean_end]) for edit in noisy.edits)


def test_words_are_run_together_across_spaces_and_never_across_lines_or_texts():
    joined = [MODEL.corrupt("maybe so\nmaybe so\n" * 20, 1, document, 0, 0.5) for document in range(100)]
    spans = [edit for noisy in joined for edit in noisy.edits if edit.kind == "space_missing"]
    assert spans
    assert all(edit.clean_end - edit.clean_start == len("maybe so") for edit in spans)
    alone = MODEL.corrupt_many(["maybe", "so"] * 2000, 1, range(4000), [0] * 4000, 1.0)
    assert not any(edit.kind == "space_missing" for noisy in alone for edit in noisy.edits)


def test_capitals_stay_in_front_whatever_happens_to_the_first_letter():
    text = "Their Seller Although Our " * 100
    words = set()
    for noisy in MODEL.corrupt_many([text] * 40, 1, range(40), [0] * 40, 0.5):
        for start, end, _, _, kind in noisy.edits:
            if kind not in ("case", "space_missing"):
                words.add(noisy.text[start:end])
    assert all(word[0].isupper() and word[1:] == word[1:].lower() for word in words)
    assert {"Heir", "Hteir"} <= words, "dropped, swapped"
    assert any(re.fullmatch("[A-Z](their|seller|although|our)", word) for word in words), "put in front"


def test_the_same_in_another_process_whatever_the_hash_seed():
    program = (
        "import random, sys; from keylm.typos.model import TypoModel; from keylm.recipe.schema import Typos\n"
        "model = TypoModel(Typos()); text = sys.stdin.read()\n"
        "print(model.fingerprint(), ascii([model.corrupt(text, 1, n, 2) for n in range(30)]))"
    )
    text = realistic(random.Random(4), 120)
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=text,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
            encoding="utf-8",
        ).stdout
        for seed in ("0", "1234")
    }
    here = ascii([MODEL.corrupt(text, 1, n, 2) for n in range(30)])
    assert outputs == {f"{MODEL.fingerprint()} {here}\n"}


def test_known_outputs_hold_on_every_platform_and_python():
    noisy = MODEL.corrupt(PROSE, 1, 2**63 + 5, 0, 0.25)
    assert (noisy.text, len(noisy.edits)) == GOLDEN


def test_seed_document_epoch_and_rate_each_change_the_noise():
    texts = [MODEL.corrupt(PROSE, *key, 0.2).text for key in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2))]
    texts.append(MODEL.corrupt(PROSE, 1, 1, 1, 0.4).text)
    assert len(set(texts)) == 5
    assert MODEL.corrupt(PROSE, 1, 1, 1, 0.2).text == texts[0]


def test_rate_zero_changes_nothing():
    assert MODEL.corrupt(PROSE, 1, 1, 1, 0.0) == Noisy(PROSE, ())


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.2])
def test_the_rate_is_the_share_of_words_with_an_error(rate: float):
    text = " ".join([PROSE] * 20)
    errors = sum(len(MODEL.corrupt(text, 1, document, 0, rate).edits) for document in range(20))
    assert errors / (20 * len(text.split())) == pytest.approx(rate, rel=0.03)


def test_documents_draw_rates_from_nothing_to_the_highest_and_most_are_low():
    text = " ".join([PROSE] * 10)
    rates = [len(MODEL.corrupt(text, 1, n, 0).edits) / len(text.split()) for n in range(1000)]
    assert min(rates) < 0.005
    assert 0.18 < max(rates) <= 0.201
    assert sum(rate <= 0.05 for rate in rates) / 1000 == pytest.approx(0.6 + 0.4 / 4, abs=0.05)
    half = TypoModel(Typos(highest_rate=0.1))
    assert max(len(half.corrupt(text, 1, n, 0).edits) for n in range(200)) <= 0.101 * len(text.split())


def test_all_kinds_occur_and_by_far_most_are_named_as_they_were_meant():
    meant: Counter[str] = Counter()
    named: Counter[str] = Counter()
    for document in range(800):
        noisy = MODEL.corrupt(PROSE, 1, document, 0, 0.3)
        for edit in noisy.edits:
            kind = classify(noisy.text[edit.start : edit.end], PROSE[edit.clean_start : edit.clean_end]).kind
            meant[edit.kind] += 1
            named[kind] += kind == edit.kind
    assert set(meant) == {*KINDS, "taps"}
    assert named.total() > 0.85 * meant.total()


@pytest.mark.parametrize(
    ("noisy", "clean", "kind"),
    [
        *KINDS_BY_EXAMPLE,
        ("it's", "its", "apostrophe"),
        ("ONe", "One", "case"),
        ("alot", "a lot", "space_missing"),
        ("with in", "within", "space_extra"),
        ("minor", "major", "multiple"),
    ],
)
def test_kinds_by_example(noisy: str, clean: str, kind: str):
    assert classify(noisy, clean).kind == kind


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_distance_is_symmetric_and_zero_only_between_equals(left: str, right: str):
    assert distance(left, right) == distance(right, left)
    assert (distance(left, right) == 0) == (left == right)
    assert abs(len(left) - len(right)) <= distance(left, right) <= max(len(left), len(right))


def write_list(folder: Path, *lines: str) -> str:
    file = folder / "pairs.jsonl.zst"
    file.write_bytes(zstandard.compress("".join(f"{line}\n" for line in lines).encode()))
    return str(file)


def test_word_lists_give_their_errors_and_change_the_fingerprint(tmp_path: Path):
    pairs = [{"noisy": noisy, "clean": "necessary"} for noisy in ("nesseserry", "necccessarry")]
    path = write_list(tmp_path, *map(json.dumps, pairs))
    model = TypoModel(Typos(word_lists=(path,)))
    text = "Necessary, " + "necessary " * 200
    made = " ".join(model.corrupt(text, 1, n, 0, 0.5).text for n in range(20))
    assert "nesseserry" in made
    assert "Nesseserry" in made
    assert model.fingerprint() != MODEL.fingerprint()
    copied = pickle.loads(pickle.dumps(model))
    assert copied.fingerprint() == model.fingerprint()
    assert copied.corrupt(text, 1, 2, 3) == model.corrupt(text, 1, 2, 3)


def test_word_lists_give_half_of_the_errors_of_a_kind_where_they_have_one(tmp_path: Path):
    listed = {"omission": "probaly", "multiple": "probbally", "phonetic": "probablee"}
    path = write_list(tmp_path, *(json.dumps({"noisy": noisy, "clean": "probably"}) for noisy in listed.values()))
    assert [classify(noisy, "probably").kind for noisy in listed.values()] == ["omission", "multiple", "multiple"]
    model, text = TypoModel(Typos(word_lists=(path,))), "probably " * 1000
    made = [model.corrupt(text, 1, document, 0, 0.2) for document in range(60)]
    shares = Counter((edit.kind, noisy.text[edit.start : edit.end]) for noisy in made for edit in noisy.edits)
    for kind, words in (("omission", {"probaly"}), ("multiple", {"probbally", "probablee"})):
        total = sum(count for (named, _), count in shares.items() if named == kind)
        from_list = sum(count for (named, word), count in shares.items() if named == kind and word in words)
        assert total > 300
        assert 0.45 < from_list / total < 0.75  # some of the others hit on the same by chance or fail


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line"),
        ("[]", "line 1: no pair"),
        ('{"noisy": "teh"}', "line 1: no pair"),
        ('{"noisy": 1, "clean": "the"}', "line 1: no pair"),
    ],
)
def test_a_list_of_anything_but_pairs_is_refused(tmp_path: Path, line: str, words: str):
    with pytest.raises(KeylmError, match=words):
        TypoModel(Typos(word_lists=(write_list(tmp_path, line),)))


def test_lists_that_are_missing_empty_or_no_archive_are_refused(tmp_path: Path):
    broken = tmp_path / "broken.jsonl.zst"
    broken.write_bytes(gzip.compress(b"{}", mtime=0))
    for path in (str(tmp_path / "none.jsonl.zst"), write_list(tmp_path), str(broken), str(tmp_path)):
        with pytest.raises(KeylmError, match=r"\.jsonl|holds no word pairs"):
            TypoModel(Typos(word_lists=(path,)))


def test_neighbours_are_mutual_and_taps_miss_as_often_as_measured():
    keys = keys_of(ENGLISH.layout)
    assert keys.neighbours("g") == "bcfhtvy"
    letters = [key for key in keys.centres if key != " "]
    assert all(a in keys.neighbours(b) for a in letters for b in keys.neighbours(a))
    inner = [keys.miss_share(letter) for letter in "sdfghjk"]
    assert all(0.08 <= share <= 0.09 for share in inner)


@needs_corpus
def test_the_keyboard_is_the_measured_one():
    layout = json.loads((CORPUS / "typo/phone_layout_en-US.json").read_text(encoding="utf-8"))["layout"][0]
    ours, centres, measured = ENGLISH.layout, keys_of(ENGLISH.layout).centres, {}
    for button in layout["buttons"]:
        label = {"spacebar": " "}.get(button["labels"][0], button["labels"][0])
        if label in centres:
            measured[label] = (button["centerPoint"]["x"], button["centerPoint"]["y"])
            rect = button["boundingRect"]
            size = (rect["right"] - rect["left"], rect["bottom"] - rect["top"])
            width = ours.space.width if label == " " else 1
            assert size == (width * ours.key_width, ours.key_height)
    assert measured == centres


def fit_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fit_typos", ROOT / "tools/corpus/fit_typos.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_corpus
def test_generated_kinds_are_ten_times_nearer_to_held_out_real_errors_than_uniform_ones():
    fit = fit_script()
    errors, sentences, _ = fit.read_errors(CORPUS / "typo/git_fixes.jsonl.zst")
    real = fit.views(errors["held out"])
    made = fit.views([error for _, error in fit.generate(MODEL, sentences["held out"], 8000)])
    uniform = fit.views(list(fit.uniform_errors(sentences["held out"], 8000)))
    times = {view: fit.divergence(real[view], uniform[view]) / fit.divergence(real[view], made[view]) for view in real}
    assert times["kind"] > 10
    assert times["token length"] > 4
    assert times["place in word"] > 4
    assert times["letters"] > 1.5


def test_an_edit_says_where_it_stands_in_both_texts():
    noisy = MODEL.corrupt(PROSE, 1, 7, 0, 0.2)
    edit = noisy.edits[0]
    assert isinstance(edit, Edit)
    assert (edit.start, edit.end, edit.clean_start, edit.clean_end, edit.kind) == tuple(edit)
    assert [(*span[:4], KINDS_MADE[span[4]]) for span in noisy.spans.tolist()] == [tuple(edit) for edit in noisy.edits]
    assert pickle.loads(pickle.dumps(noisy)) == noisy
    assert noisy != MODEL.corrupt(PROSE, 1, 8, 0, 0.2)
