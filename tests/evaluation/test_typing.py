import importlib
import json
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.shapes import random_qwen3
from transformers import AutoTokenizer

from keylm.base.errors import KeylmError
from keylm.evaluation import typing as typing_evaluation
from keylm.evaluation import typing_jobs
from keylm.evaluation.statistics import Tallies
from keylm.evaluation.typing import evaluate_typing
from keylm.evaluation.typing_items import TypingItem, TypingSet, embedded_set
from keylm.evaluation.typing_jobs import done_jobs, jobs_of
from keylm.evaluation.typing_robustness import KINDS, measure_cost, measure_tokens, split
from keylm.languages.language import ENGLISH
from keylm.model.folder import model_fingerprint
from keylm.text.tokenizer import train_tokenizer

BRIEF = 340
CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason="the shared corpus is not beside this checkout")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "model"
    train_tokenizer(iter([item.clean for item in embedded_set().items]), 700, folder, 256)
    random_qwen3(1, 700, num_hidden_layers=1, max_position_embeddings=512).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def brief():
    """The beginnings of two documents: what a test of the whole evaluation needs no more than."""
    items = tuple(
        TypingItem(n, item.clean[:BRIEF], item.typed[:BRIEF]) for n, item in enumerate(embedded_set().items[:2])
    )
    return TypingSet("embedded", items)


@pytest.fixture
def brief_sets(brief, monkeypatch):
    monkeypatch.setattr(typing_evaluation, "load_sets", lambda _: {"embedded": brief})


@pytest.fixture(scope="module")
def result(folder, brief):
    pytest.importorskip("symspellpy", reason="symspellpy is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typing_evaluation, "load_sets", lambda _: {"embedded": brief})
        return evaluate_typing(folder, corpus=None, items=2, quiet=True, workers=1)


class Remembers:
    """A model that expects the tokens that it has seen, by how often."""

    device = torch.device("cpu")

    def __call__(self, input_ids):
        seen = torch.nn.functional.one_hot(input_ids, 700).float().cumsum(dim=1)
        return types.SimpleNamespace(logits=(seen + 0.01).log())


def costs(tokenizer, items):
    tallies = Tallies()
    assert list(measure_cost(Remembers(), tokenizer, 512, items, tallies))[-1] <= len(items)
    return {row["measure"]: row for row in tallies.rows("set", 0)}


def test_all_measures_come_with_intervals_and_can_be_written_as_json(result, brief):
    rows = json.loads(json.dumps(result))["rows"]
    measures = {row["measure"] for row in rows}
    assert {"next word top-1", "completion top-3 after 2 letters", "keystroke savings", "false corrections"} <= measures
    assert {"error reduction", "cost of typos: touch", *(f"cost of typos: {kind}" for kind in KINDS)} <= measures
    assert {"tokens per word: mistyped", "tokens per word: as meant"} <= measures
    for row in rows:
        assert list(row) == ["measure", "set", "system", "value", "low", "high", "stderr", "n", "unit"]
        assert row["n"] in (1, 2)
        assert row["n"] == 1 or row["low"] <= row["value"] <= row["high"]
    assert result["sets"]["embedded"] == {
        "items": 2,
        "hash": brief.digest,
        "licence": "public domain, CC0-1.0",
    }
    assert result["latency"]["threads"] == 1
    assert 0 < result["latency"]["p50_ms"] <= result["latency"]["p95_ms"]


@pytest.mark.parametrize(
    "constant",
    [
        "keyboard.corrector.CANDIDATES",
        "keyboard.edit_model.SMOOTHING",
        "keyboard.lexicon.DISTANCE",
        "keyboard.search.ROUNDS",
        "evaluation.keystrokes.SHOWN",
        "evaluation.statistics.DRAWS",
        "evaluation.touch.BIAS",
        "evaluation.typing_items.SEED",
        "evaluation.typing_robustness.MISTYPED",
        "typos.keys.LEAST_SHARE",
    ],
)
def test_constants_that_decide_figures_are_in_the_fingerprint(constant, monkeypatch):
    before = typing_evaluation.typing_fingerprint()
    name = f"keylm.{constant}"
    monkeypatch.setattr(name, vars(importlib.import_module(name.rpartition(".")[0]))[name.rpartition(".")[2]] + 1)
    assert typing_evaluation.typing_fingerprint() != before


def test_the_language_is_in_the_fingerprint_and_the_latency_is_not(result, monkeypatch):
    before = typing_evaluation.typing_fingerprint()
    assert result["fingerprint"] == before
    monkeypatch.setattr("keylm.evaluation.keystrokes.TIMED", 1)
    assert typing_evaluation.typing_fingerprint() == before
    channel = replace(ENGLISH.channel, mistyped=0.06)
    monkeypatch.setattr(typing_evaluation, "ENGLISH", replace(ENGLISH, channel=channel))
    assert typing_evaluation.typing_fingerprint() != before


def test_the_same_again_gives_the_same_figures(folder, result, brief_sets):
    assert evaluate_typing(folder, corpus=None, items=2, quiet=True, workers=1)["rows"] == result["rows"]


def test_every_system_answers_for_the_same_items(result):
    systems = {}
    for row in result["rows"]:
        systems.setdefault(row["measure"], {})[row["system"]] = row["n"]
    assert set(systems["error reduction"]) >= {"model", "typed text", "symspell"}
    assert set(systems["next word top-1"]) == {"model", "word frequency"}
    assert all(len(set(found.values())) == 1 for found in systems.values())


def test_workers_change_no_figure(folder, brief):
    pytest.importorskip("symspellpy", reason="symspellpy is not installed")
    every = jobs_of(model_fingerprint(folder), {"embedded": brief}, [])
    jobs = [job for job in every if job.group in ("typos before", "correction")]  # dictionaries for one worker alone
    alone, helped = (dict(done_jobs(folder, jobs, workers)) for workers in (1, 2))
    assert len(alone) == 2
    assert helped == alone


def test_a_stopped_evaluation_goes_on_where_it_was(folder, result, brief_sets, tmp_path, monkeypatch):
    kept, asked = tmp_path / "unfinished.json", []

    def measure(folder, job):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(job.key)
        return typing_jobs_measure(folder, job)

    typing_jobs_measure = typing_jobs.measure
    again = {"corpus": None, "items": 2, "quiet": True, "workers": 1, "unfinished": kept}
    monkeypatch.setattr(typing_jobs, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        evaluate_typing(folder, **again)
    first, asked[:] = list(asked), ["room for one more"]
    with pytest.raises(KeyboardInterrupt):
        evaluate_typing(folder, **again)
    assert asked[1] not in first
    monkeypatch.setattr(typing_jobs, "measure", typing_jobs_measure)
    assert evaluate_typing(folder, **again)["rows"] == result["rows"]
    monkeypatch.setattr(typing_jobs, "measure", measure)
    assert evaluate_typing(folder, **again)["rows"] == result["rows"]  # all is there
    with pytest.raises(KeyboardInterrupt):  # other items are other figures
        evaluate_typing(folder, **{**again, "items": 1})


def test_typos_of_which_more_are_made_cost_more(folder, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    again = "The old king gave the horse a golden apple, and the horse carried the old king over the wide river. "
    items = [TypingItem(n, (again * 5)[17 * n : 17 * n + 480], (again * 5)[17 * n : 17 * n + 480]) for n in range(5)]
    few = costs(tokenizer, items)
    monkeypatch.setattr("keylm.evaluation.typing_robustness.MISTYPED", 0.6)
    many = costs(tokenizer, items)
    for kind in ("transposition", "omission", "neighbour"):
        name = f"cost of typos: {kind}"
        assert 0 < few[name]["value"] < many[name]["value"], kind
        assert few[name]["unit"] == "bits per byte"


def test_an_unsteadier_hand_costs_more(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    name = "cost of typos: touch"
    calm, wild = (costs(tokenizer, embedded_set(noise).items)[name]["value"] for noise in (0.8, 1.8))
    assert calm < wild


def test_a_prefix_and_its_continuation_are_the_text_cut_before_a_word():
    text = embedded_set().items[0].clean
    before, after = split(text)
    assert text.startswith(before + after)
    assert after[0] == " "
    assert after[1].isalpha()
    assert split("too short") is None


def test_tokens_are_counted_of_mistyped_words_alone(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tallies = Tallies()
    measure_tokens(
        tokenizer, [TypingItem(0, "said the king", "said tjhe king"), TypingItem(1, "king", "king")], tallies
    )
    rows = {row["measure"]: (row["value"], row["n"]) for row in tallies.rows("set", 0)}
    assert rows == {
        "tokens per word: mistyped": (len(tokenizer(" tjhe")["input_ids"]), 1),
        "tokens per word: as meant": (len(tokenizer(" the")["input_ids"]), 1),
    }


def test_without_spylls_its_row_is_missing_and_the_reason_is_told(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(typing_evaluation.importlib, "import_module", missing)
    assert "spylls is not installed" in typing_evaluation.skipped_systems()["hunspell"]


@pytest.mark.parametrize("items", [0, -3])
def test_a_senseless_number_of_items_is_refused(folder, items):
    with pytest.raises(KeylmError, match="accepted: a whole number from 1 on"):
        evaluate_typing(folder, corpus=None, items=items, quiet=True)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(KeylmError, match=r"no config\.json"):
        evaluate_typing(tmp_path, corpus=None, items=1, quiet=True, workers=1)


@needs_corpus
def test_the_corpus_brings_the_other_sets(folder):
    found = evaluate_typing(folder, corpus=CORPUS, items=1, quiet=True, workers=1)
    assert set(found["sets"]) == {"embedded", "git_fixes", "casual"}
    measured = {(row["set"], row["measure"]) for row in found["rows"]}
    assert {("git_fixes", "false corrections"), ("casual", "keystroke savings")} <= measured
