"""Constants as plain data: none is missed, none is taken for another."""

import re
import sys
import types

import numpy as np
import pytest

from keylm.base.constants import constants_of, plain
from keylm.languages.language import ENGLISH


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made = types.ModuleType("made_up")
    vars(made).update(RATE=0.5, NAMES=("a", "b"), BATCH=3, _HIDDEN=np.arange(3), lower=object(), Mixed=object())
    monkeypatch.setitem(sys.modules, "made_up", made)
    return made


def test_upper_case_names_are_constants_and_no_others(module: types.ModuleType):
    found = constants_of("made_up", apart=("BATCH",))
    assert found == {"made_up.RATE": 0.5, "made_up.NAMES": ["a", "b"], "made_up._HIDDEN": ["int64", [0, 1, 2]]}


def test_a_new_constant_is_found_without_being_listed(module: types.ModuleType):
    module.MORE = re.compile("a+")
    assert constants_of("made_up")["made_up.MORE"] == ["a+", re.compile("a+").flags]


def test_all_modules_of_a_package_are_read():
    modules = {name.rpartition(".")[0] for name in constants_of("keylm.typos", apart=("ENGLISH",))}
    assert {
        f"keylm.typos.{name}" for name in ("finger_slips", "keys", "kinds", "model", "word_slips", "words")
    } <= modules


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (np.int8(1), np.int16(1)),
        (np.arange(3), np.arange(3) + 1),
        (b"ab", b"ac"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (frozenset("ab"), frozenset("ac")),
        (re.compile("a"), re.compile("a", re.IGNORECASE)),
        (ENGLISH.words, ENGLISH.channel),
        ((1, 2), (1, 3)),
    ],
)
def test_different_values_have_different_plain_forms(left: object, right: object):
    assert plain(left) != plain(right)
    assert plain(left) == plain(left)


def test_a_constant_without_a_plain_form_is_an_error_not_a_gap(module: types.ModuleType):
    module.ODD = object()
    with pytest.raises(TypeError, match="constant of type object"):
        constants_of("made_up")
