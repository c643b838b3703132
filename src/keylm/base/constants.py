"""The constants of a package as plain data, for fingerprints: a new constant is covered without being listed."""

import importlib
import pkgutil
import re
from collections.abc import Collection
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np


def constants_of(*modules: str, apart: Collection[str] = ()) -> dict[str, Any]:
    """Return {"module.NAME": value} of all upper-case names in modules, or in all modules of packages, ready for JSON.

    Names in `apart` are left out: what decides no result, such as the size of a batch. Raises TypeError for a constant
    that has no plain form.
    """
    found = {}
    for name in [below for module in modules for below in _with_submodules(module)]:
        for constant, value in vars(importlib.import_module(name)).items():
            if constant.isupper() and constant not in apart:
                found[f"{name}.{constant}"] = plain(value)
    return found


def plain(value: Any) -> Any:
    """Return numbers, strings and lists of them for a constant. Raises TypeError where there is no such form."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return [str(value.dtype), value.tolist()]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, re.Pattern):
        return [value.pattern, value.flags]
    if isinstance(value, dict):
        return [[plain(key), plain(item)] for key, item in value.items()]
    if isinstance(value, frozenset | set):
        return sorted(map(plain, value))
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    raise TypeError(f"constant of type {type(value).__name__}; accepted: numbers, texts, arrays, patterns, dataclasses")


def _with_submodules(name: str) -> list[str]:
    paths = getattr(importlib.import_module(name), "__path__", None)
    return [name, *(f"{name}.{found.name}" for found in pkgutil.iter_modules(paths))] if paths else [name]
