"""One table of cases (cases.toml) for both engines, so that they cannot drift apart."""

import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.keyboards import BrowsersEngine, ServersEngine, StandIn, browsers_engine

pytest.importorskip("symspellpy", reason="symspellpy is not installed")
CASES: dict[str, Any] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text(encoding="utf-8"))
RELEASED = Path(__file__).parents[2] / "models" / "keylm-75m"
Engine = ServersEngine | BrowsersEngine


def put(engine: Engine, texts: list[str]) -> dict[str, Any]:
    return {text: engine.shown(text) for text in dict.fromkeys(texts)}


@pytest.fixture(scope="module")
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture(scope="module", params=["server", "browser"])
def simple(request: pytest.FixtureRequest, stand_in: StandIn, tmp_path_factory: Any) -> Iterator[Engine]:
    """Return an engine on a model that expects the words that a correction must not be."""
    if request.param == "server":
        yield ServersEngine(stand_in, stand_in)
        return
    if shutil.which("node") is None:
        pytest.skip("needs Node.js to run the page's JavaScript")
    with browsers_engine(tmp_path_factory.mktemp("page"), stand_in, stand_in) as engine:
        yield engine


@pytest.fixture(scope="module", params=["server", "browser"])
def released(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Engine]:
    """Return an engine on a released model."""
    from transformers import AutoTokenizer

    from keylm.runtimes.cached_decoder import CachedDecoder, load_weights

    if not list(RELEASED.glob("*.safetensors")):
        pytest.skip(f"the clone left out the weights of {RELEASED.name}: git sparse-checkout disable")
    decoder, tokenizer = CachedDecoder(load_weights(RELEASED)), AutoTokenizer.from_pretrained(RELEASED)
    if request.param == "server":
        yield ServersEngine(decoder, tokenizer)
        return
    if shutil.which("node") is None:
        pytest.skip("needs Node.js to run the page's JavaScript")
    with browsers_engine(tmp_path_factory.mktemp("page"), decoder, tokenizer) as engine:
        yield engine


def check(engine: Engine) -> None:
    """Put all cases to an engine that hold whatever its model expects."""
    wrong = {}
    for text, meant in CASES["corrected"]:
        if (found := engine.shown(text).correction) != meant:
            wrong[text] = (found, meant)
    for text in CASES["kept"]:
        if (found := engine.shown(text).correction) is not None:
            wrong[text] = (found, None)
    for text, harm in CASES["never"]:
        if (found := engine.shown(text).correction) == harm:
            wrong[text, harm] = (found, "anything else")
    for text, harm in CASES["never_suggested"]:
        if harm in (found := engine.shown(text)).words:
            wrong[text, harm] = (found, "anything else")
    for text, other in CASES["alternatives"]:
        if (found := engine.shown(text).correction) == other:
            wrong[text] = (found, "at most suggested")
    assert not wrong, "\n".join(f"{text!r}: {found!r}, not {meant!r}" for text, (found, meant) in wrong.items())


def test_what_no_model_can_change(simple: Engine, stand_in: StandIn):
    stand_in.expects("was", "that", "have", "want", "the", "now", "on", "in", "can", "does", "did", "would", "were")
    check(simple)
    stand_in.expects("the", "ten", "tea", "note", "fever", "ever", "haunt", "dost", "should", "some", "not")
    check(simple)


def test_the_released_model_too(released: Engine):
    check(released)
    certain = CASES["expected"] + CASES["slips"]
    wrong = [(text, found) for text, word in certain if (found := released.shown(text).correction) != word]
    wrong += [(text, found) for text, word in CASES["suggested"] if word not in (found := released.shown(text)).words]
    assert not wrong


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
