"""The fuzzers find what they look for."""

import json
import time

import pytest
from fuzz import mutation

from keylm.base.errors import KeylmError


def failing(error: BaseException) -> str | None:
    def act() -> None:
        raise error

    return mutation.probe(act)


def test_only_errors_with_a_message_may_come_of_damage():
    assert mutation.probe(lambda: None) is None
    assert failing(KeylmError("x: is damaged")) is None
    assert failing(OSError(2, "No such file")) is None
    assert "without a word" in str(failing(KeylmError(" ")))
    for bug in (KeyError("x"), TypeError("x"), RecursionError("x"), RuntimeError("x"), BaseException("a panic")):
        assert type(bug).__name__ in str(failing(bug))


def test_a_hang_is_a_finding(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mutation, "SECONDS", 1)
    assert "Hang" in str(mutation.probe(lambda: time.sleep(30)))


def test_mutations_are_known_by_their_number():
    value = {"a": [1, {"b": "x"}], "c": 2.5}
    made = [json.dumps(mutation.mutate_json(json.loads(json.dumps(value)), mutation.dice("x", n))) for n in range(200)]
    assert made == [
        json.dumps(mutation.mutate_json(json.loads(json.dumps(value)), mutation.dice("x", n))) for n in range(200)
    ]
    assert len(set(made)) > 100
    with pytest.raises(AssertionError, match="1 findings"):
        mutation.report({"target 3": "Traceback\n  x\nKeyError: 1"})
