"""Error messages about an invalid recipe: field, value, what is accepted."""

import difflib
import json
import types
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

NAMES = "letters, digits, _ and -, beginning with a letter or digit"


def explain(problem: Any, root: type[BaseModel] | None = None, *above: str) -> str:
    """Return one of pydantic's errors about a table `root` at `above` as `field: got value; accepted: …`."""
    field = ".".join(map(str, (*above, *problem["loc"]))) or "recipe"
    if problem["type"] == "extra_forbidden" and root:
        accepted = accepted_keys(root, problem["loc"][:-1])
        return f"{field}: unknown key{near(str(problem['loc'][-1]), accepted)}; accepted: {', '.join(accepted)}"
    if problem["type"] == "missing":
        return f"{field}: is missing; it has no default"
    if problem["type"] == "value_error":
        return f"{field}: {problem['ctx']['error']}"
    message = problem["msg"].removeprefix("Input should be ")
    if problem["type"] == "string_pattern_mismatch":
        message = NAMES
    value = json.dumps(problem["input"], ensure_ascii=False, default=str)
    return f"{field}: got {value if len(value) <= 200 else value[:200] + ' …'}; accepted: {message}"


def accepted_keys(root: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    """Return the keys that the table at `location` of a model `root` takes."""
    kind: Any = root
    for part in location:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(part)].annotation
        elif typing.get_origin(kind) is dict:
            kind = typing.get_args(kind)[1]
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            kind = typing.get_args(kind)[0]
    return [info.alias or key for key, info in kind.model_fields.items()]


def near(word: str, accepted: Iterable[str]) -> str:
    """Return a hint where `word` looks like a slip of something accepted."""
    match = difflib.get_close_matches(word, list(accepted), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
