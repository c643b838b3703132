"""Plain values of a file or a recipe against a shape: what pydantic found wrong, as field, value, what is accepted."""

import difflib
import json
import re
import types
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from keylm.base.files import DamagedFile

NAMES = "letters, digits, _ and -, beginning with a letter or digit"
LONGEST = 200
"""Characters that a message shows of a value."""


def json_object(needed: str = "", /, **entries: Any) -> Any:
    """Return the type of a JSON object with these entries; those that are not `needed` may be absent."""
    fields: dict[str, Any] = {
        f"{name}_": (kind, Field(... if name in needed.split() else None, alias=name)) for name, kind in entries.items()
    }
    return create_model("Object", __config__=ConfigDict(strict=True), **fields)


def list_of(kind: Any) -> Any:
    """Return the type of a JSON array of values of a type that is made when the program runs."""
    return list[kind]


def check(kind: Any, value: Any, where: str) -> None:
    """Raise DamagedFile where plain values are not of a `kind` that pydantic knows: the entry, and what is accepted."""
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        path, entry = _walk(value, problems[0]["loc"])
        if problems[0]["type"] == "missing":
            path.append(str(problems[0]["loc"][-1]))
        # Of alternatives, each has its own error.
        messages = dict.fromkeys(one["msg"] for one in problems if _walk(value, one["loc"])[0] == path)
        problem = {**problems[0], "input": entry, "msg": " or ".join(map(_plain, messages))}
        place = ": ".join(part for part in (where, ".".join(path)) if part) or "it"
        raise DamagedFile(f"{place}: {_fault(problem)}") from None


def explain(problem: Any, root: type[BaseModel] | None = None, *above: str) -> str:
    """Return one of pydantic's errors about a table `root` at `above` as `field: got value; accepted: …`."""
    field = ".".join(map(str, (*above, *problem["loc"]))) or "recipe"
    if problem["type"] == "extra_forbidden" and root:
        accepted = accepted_keys(root, problem["loc"][:-1])
        return f"{field}: unknown key{near(str(problem['loc'][-1]), accepted)}; accepted: {', '.join(accepted)}"
    if problem["type"] == "value_error":
        return f"{field}: {problem['ctx']['error']}"
    if problem["type"] == "string_pattern_mismatch":  # of a recipe, only names have a pattern
        problem = {**problem, "msg": NAMES}
    return f"{field}: {_fault(problem)}"


def _fault(problem: Any) -> str:
    """Return what is wrong with a value, and what is accepted."""
    if problem["type"] == "missing":
        return "is missing; it has no default"
    value = json.dumps(problem["input"], ensure_ascii=False, default=str)
    return f"got {value if len(value) <= LONGEST else value[:LONGEST] + ' …'}; accepted: {_plain(problem['msg'])}"


def _plain(message: str) -> str:
    return re.sub(r"^(Input should be|Value error,) ", "", message)


def _walk(value: Any, location: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """Return the path that a location means in `value`, without pydantic's names of alternatives; and what is there."""
    path = []
    for part in location:
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            value = value[part]  # type: ignore[index]
            path.append(str(part))
    return path, value


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
