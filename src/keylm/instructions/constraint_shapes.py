"""The parameters of constraints: what each type needs (constraint_parameters.toml), and the kind of each."""

import functools
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from keylm.base.errors import KeylmError
from keylm.base.shapes import json_object

PARAMETERS: dict[str, str] = tomllib.loads(
    (files("keylm.instructions") / "constraint_parameters.toml").read_text(encoding="utf-8")
)
"""What each type needs; types that are not here need nothing."""
_COUNT = Annotated[int, Field(ge=0, le=1_000_000)]
_TEXT = Annotated[str, Field(min_length=1)]
_SHAPES: dict[str, Any] = {
    **dict.fromkeys(("count", "most", "paragraph", "sentences"), _COUNT),
    **dict.fromkeys(("word", "letter", "text", "marker", "phrase"), _TEXT),
    **dict.fromkeys(("words", "options"), Annotated[list[_TEXT], Field(min_length=1)]),
    **{"keys": list[str], "relation": Literal["at_least", "at_most", "exactly", "between"]},
}
"""Parameters by name; a name means the same in each type, but for the words of short_words, which are a number."""


def check_parameters(kind: str, constraint: Mapping[str, Any], place: str) -> None:
    """Raise KeylmError, which names `place`, where a constraint's parameters are not those of its type `kind`."""
    try:
        _parameters(kind).validate_python(constraint)
    except ValidationError as error:
        [fault, *_] = error.errors(include_url=False)
        name = ".".join(map(str, fault["loc"]))
        raise KeylmError(f"{place}: {constraint!a:.200}: {name}: {fault['msg']}") from None
    if constraint.get("relation") == "between" and "most" not in constraint:
        raise KeylmError(f"{place}: {constraint!a:.200}: most: is missing; accepted: the upper end of between")


@functools.cache
def _parameters(kind: str) -> "TypeAdapter[Any]":
    own = {"words": _COUNT} if kind == "short_words" else {}
    return TypeAdapter(json_object(PARAMETERS.get(kind, ""), **{**_SHAPES, **own}))
