"""Pages of keylm: one self-contained HTML file from a template, without a script and without the network."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from keylm.report.drawing import human

DASH = "–"
"""Stands where there is no figure."""


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a swatch in the CSS variable `colour`, a name, a value."""

    colour: str
    name: str
    value: str = ""
    dashed: bool = False
    mark: str = ""
    """A letter instead of the swatch: the shape that the chart draws."""


@dataclass(frozen=True)
class Chart:
    """A figure: `wide` for full width (may be ""), `narrow` for less, which alone has `keys` unless `keep_keys`."""

    narrow: Markup
    wide: Markup
    keys: tuple[Key, ...] = ()
    note: str = ""
    keep_keys: bool = False


def render(template: str, **values: Any) -> bytes:
    """Return a page of the template `template` of this package, UTF-8; everything in it is escaped but Markup."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_template),
    )
    environment.filters |= {
        "human": _shown(human),
        "count": _shown("{:,.0f}".format),
        "fixed": _shown("{:.3f}".format),
        "in_unit": in_unit,
        "unit_words": unit_words,
        "megabytes": _shown(lambda size: f"{size / 1e6:,.1f}"),
    }
    return environment.get_template(template).render(DASH=DASH, **values).encode()


def _template(name: str) -> str:
    return files("keylm.report").joinpath(name).read_text(encoding="utf-8")


def _shown(show: Callable[[float], str]) -> Callable[[Any], str]:
    """A template filter that shows a number, and nothing if a file has none."""
    return lambda value: show(value) if isinstance(value, int | float) else ""


def signed(value: float, digits: int) -> str:
    """Return a difference with its sign, the minus as typographers set it: "+1.2", "−0.3"."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"


def in_unit(value: float, unit: str) -> str:
    """Return a value as its unit is read: shares in per cent without the sign, bits in three decimals."""
    digits = 1 if is_share(unit) else {"bits": 3, "tokens": 2, "ms": 1}.get(re.split(r"\W", unit)[0])
    if digits is None:
        return human(value).replace("-", "−")
    text = f"{100 * value if is_share(unit) else value:.{digits}f}"
    return text.replace("-", "−" if float(text) else "")


def unit_words(unit: str) -> str:
    """Return a unit's name as a reader knows it."""
    return "per cent" if is_share(unit) else unit.replace("/", " per ")


def is_share(unit: str) -> bool:
    """Return whether a unit is that of a fraction; one without a name is."""
    return unit in ("share", "")
