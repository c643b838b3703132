"""One table of cases (cases.toml) for both engines, so that they cannot drift apart."""

import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.keyboards import BrowsersEngine, ServersEngine, StandIn, browsers_engine

from keylm.model.released import DEFAULT

pytest.importorskip("symspellpy", reason="symspellpy is not installed")
CASES: dict[str, Any] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text(encoding="utf-8"))
RELEASED = Path(__file__).parents[2] / "models" / DEFAULT
Engine = ServersEngine | BrowsersEngine


@pytest.fixture(scope="module")
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture(scope="module", params=["server", "browser"])
def simple(request: pytest.FixtureRequest, stand_in: StandIn, tmp_path_factory: Any) -> Iterator[Engine]:
    """Return an engine on a model that expects the words that a correction must not be."""
    yield from engine_on(request.param, stand_in, stand_in, tmp_path_factory)


@pytest.fixture(scope="module", params=["server", "browser"])
def released(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Engine]:
    """Return an engine on a released model."""
    from transformers import AutoTokenizer

    from keylm.runtimes.cached_decoder import CachedDecoder, load_weights

    if not list(RELEASED.glob("*.safetensors")):
        pytest.skip(f"the clone left out the weights of {RELEASED.name}: git sparse-checkout disable")
    decoder, tokenizer = CachedDecoder(load_weights(RELEASED)), AutoTokenizer.from_pretrained(RELEASED)
    yield from engine_on(request.param, decoder, tokenizer, tmp_path_factory)


def engine_on(kind: str, model: Any, tokenizer: Any, folders: Any) -> Iterator[Engine]:
    """Yield the "server" or the "browser" engine on a model; skip where the browser's cannot be run."""
    if kind == "server":
        yield ServersEngine(model, tokenizer)
        return
    if shutil.which("node") is None:
        pytest.skip("needs Node.js to run the page's JavaScript")
    with browsers_engine(folders.mktemp("page"), model, tokenizer) as engine:
        yield engine


RULES = {
    "corrected": lambda shown, word: shown.correction == word,
    "kept": lambda shown, _: shown.correction is None,
    "never": lambda shown, harm: shown.correction != harm,
    "never_suggested": lambda shown, harm: harm not in shown.words,
    "alternatives": lambda shown, other: shown.correction != other,
}
"""Tables that hold whatever a model expects."""
MODELS = {
    "expected": lambda shown, word: shown.correction == word,
    "slips": lambda shown, word: shown.correction == word,
    "suggested": lambda shown, word: word in shown.words,
}
"""Tables that hold with a model of English."""


def broken(engine: Engine, tables: dict[str, Any]) -> list[Any]:
    """Put tables of cases to an engine; return the cases that do not hold, with what it shows."""
    cases = [(name, *(case if isinstance(case, list) else (case, None))) for name in tables for case in CASES[name]]
    shown = {text: engine.shown(text) for text in dict.fromkeys(text for _, text, _ in cases)}
    return [(name, text, word, shown[text]) for name, text, word in cases if not tables[name](shown[text], word)]


def test_what_no_model_can_change(simple: Engine, stand_in: StandIn):
    stand_in.expects("was", "that", "have", "want", "the", "now", "on", "in", "can", "does", "did", "would", "were")
    assert not broken(simple, RULES)
    stand_in.expects("the", "ten", "tea", "note", "fever", "ever", "haunt", "dost", "should", "some", "not")
    assert not broken(simple, RULES)


def test_the_released_model_too(released: Engine):
    found = {name: rule for name, rule in RULES.items() if name not in ("corrected", "kept")}  # no model is asked there
    assert not broken(released, found | MODELS)


def test_expected_words_are_corrected_in_prose(simple: Engine, stand_in: StandIn):
    stand_in.expects("the")
    assert {text: simple.shown(text).correction for text, _ in CASES["expected"]} == dict(CASES["expected"])


def test_contractions_begun_are_completed_with_the_texts_apostrophe(simple: Engine, stand_in: StandIn):
    stand_in.expects("don", "it")
    for text, word in CASES["suggested"]:
        found = simple.shown(text)
        assert word in found.words, text
        assert text.endswith(found.partial)


def test_a_word_that_is_a_contraction_too_is_left_and_the_contraction_shown_where_likelier(
    simple: Engine, stand_in: StandIn
):
    for text, other in CASES["alternatives"]:
        typed = text.split()[-1]
        stand_in.expects(*{other.replace("’", "'").split("'")[0], "can", "won"}, hardly=[typed])
        found = simple.shown(text)
        assert found.words[0] == other, text
        assert found.correction != other
        stand_in.expects(typed)
        assert other not in simple.shown(text).words, text
        assert simple.shown(text).correction is None, text
