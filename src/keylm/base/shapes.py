"""Plain values of a file against the shape that its readers rely on."""

import json
import re
from typing import Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, create_model

from keylm.base.files import DamagedFile


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
        field, entry = _walk(value, problems[0]["loc"])
        same = [one for one in problems if _walk(value, one["loc"])[0] == field]
        accepted = list(dict.fromkeys(re.sub(r"^(Input should be|Value error,) ", "", one["msg"]) for one in same))
        got = json.dumps(entry, default=str, ensure_ascii=False)
        if problems[0]["type"] == "missing":
            field, got, accepted = f"{field}.{problems[0]['loc'][-1]}", "nothing", ["this entry"]
        place = ": ".join(part for part in (where, field.lstrip(".")) if part) or "it"
        got = got if len(got) <= 100 else f"{got[:100]} …"
        raise DamagedFile(f"{place}: got {got}; accepted: {' or '.join(accepted)}") from None


def _walk(value: Any, location: tuple[int | str, ...]) -> tuple[str, Any]:
    """Return the path that a location means in `value`, without pydantic's names of alternatives; and what is there."""
    path = []
    for part in location:
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            value = value[part]  # type: ignore[index]
            path.append(str(part))
    return ".".join(path), value
