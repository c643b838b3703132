"""The fingerprint of the typo engine covers every constant and table that decides noise."""

import importlib
from typing import Any

import numpy as np
import pytest

from keylm.base.constants import constants_of
from keylm.recipe.schema import Typos
from keylm.typos.model import UNDECISIVE, TypoModel

MODEL = TypoModel(Typos())
CONSTANTS = sorted(constants_of("keylm.typos", apart=UNDECISIVE))


def altered(value: Any) -> Any:
    """Return a value of the same type with another plain form."""
    if isinstance(value, np.ndarray | np.generic):
        return value + np.asarray(value).dtype.type(1)
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, bytes):
        return value + b"x"
    if isinstance(value, dict):
        return {**value, "x": 1}
    assert isinstance(value, tuple)
    return type(value)(altered(part) for part in value) if type(value) is tuple else value._replace(at=np.ones(1))


@pytest.mark.parametrize("name", CONSTANTS)
def test_every_constant_is_in_the_fingerprint(name: str, monkeypatch: pytest.MonkeyPatch):
    module, _, constant = name.rpartition(".")
    before = MODEL.fingerprint()
    owner = importlib.import_module(module)
    monkeypatch.setattr(owner, constant, altered(getattr(owner, constant)))
    assert MODEL.fingerprint() != before


def test_constants_that_were_once_forgotten_are_covered():
    known = {name.removeprefix("keylm.typos.") for name in CONSTANTS}
    assert {"model.CALM_SHARE", "model.LENGTH_CLASSES", "model.VERSION", "keys.TAP_SLOTS"} <= known
    assert {"finger_slips.SHORTEST", "finger_slips._CUTS"} <= known
    assert {"words._FLAGS", "kinds.POSITIONS", "model._DRAWS", "word_slips.WORD_KINDS"} <= known


def test_what_decides_no_noise_is_left_out(monkeypatch: pytest.MonkeyPatch):
    before = MODEL.fingerprint()
    monkeypatch.setattr("keylm.typos.model.BATCH", 1)
    assert MODEL.fingerprint() == before


def test_settings_are_in_the_fingerprint():
    assert TypoModel(Typos(highest_rate=0.1)).fingerprint() != MODEL.fingerprint()
