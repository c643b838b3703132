"""Other languages: one table of cases (language_cases.toml) for both engines, so that they cannot drift apart."""

import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.keyboards import BrowsersEngine, ByteLevelStandIn, ServersEngine, browsers_engine

from keylm.languages.language import language_of

pytest.importorskip("symspellpy", reason="symspellpy is not installed")
CASES: dict[str, Any] = tomllib.loads((Path(__file__).parent / "language_cases.toml").read_text(encoding="utf-8"))
Engine = ServersEngine | BrowsersEngine


@pytest.fixture(scope="module", params=["server", "browser"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "browser" and shutil.which("node") is None:
        pytest.skip("needs Node.js to run the page's JavaScript")
    return request.param


@pytest.fixture(scope="module", params=CASES)
def engine(request: pytest.FixtureRequest, kind: str, tmp_path_factory: Any) -> Iterator[tuple[str, Engine]]:
    """Return a language, and an engine on a model that expects its words, small and with a capital."""
    language, words = language_of(request.param), CASES[request.param]["words"].split()
    model = ByteLevelStandIn(dict.fromkeys([*words, *(word[0].upper() + word[1:] for word in words)]))
    model.expects(*words)
    if kind == "server":
        yield request.param, ServersEngine(model, model, language)
        return
    with browsers_engine(tmp_path_factory.mktemp("page"), model, model, language) as browser:
        yield request.param, browser


def test_words_beyond_ascii(engine: tuple[str, Engine]):
    code, keyboard = engine
    rules = {
        "corrected": lambda shown, word: shown.correction == word,
        "suggested": lambda shown, word: word in shown.words,
        "kept": lambda shown, _: shown.correction is None,
    }
    cases = [
        (name, *(case if isinstance(case, list) else (case, None))) for name in rules for case in CASES[code][name]
    ]
    shown = [(name, text, word, keyboard.shown(text)) for name, text, word in cases]
    assert not [case for case in shown if not rules[case[0]](case[3], case[2])]
    assert all(text.endswith(found.partial) for _, text, _, found in shown)
