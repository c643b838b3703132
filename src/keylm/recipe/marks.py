"""What a recipe field says about itself beside its type: that it holds a path, that a run may change it.

Invariant: a mark is written once, at the field; code that treats such fields differently looks them up here.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel

Mark = TypeVar("Mark")
Location = tuple[str, ...]
"""A field's keys from the root down; `*` matches any name in a table of tables or values."""


@dataclass(frozen=True)
class IsPath:
    """The field holds a path, or several; a relative one counts from the recipe's folder.

    `to` says what a build expects there: "text" (read as it is), a "tokenizer" folder, a published "build" (which may
    be an address), or "folder", which other paths may begin with.
    """

    to: Literal["text", "tokenizer", "build", "folder"] = "text"


@dataclass(frozen=True)
class IsFree:
    """A run may change the field between two starts: it decides nothing, or rounding alone, as the world size does."""


FREE = IsFree()


def marked(model: type[BaseModel], mark: type[Mark]) -> dict[Location, Mark]:
    """Return the fields of `model` and of its tables that carry a `mark`, by location, in the order of the fields."""
    return dict(_marked(model, mark, ()))


def _marked(model: type[BaseModel], mark: type[Mark], above: Location) -> Iterator[tuple[Location, Mark]]:
    for name, field in model.model_fields.items():
        here = (*above, field.alias or name)
        yield from ((here, found) for found in field.metadata if isinstance(found, mark))
        table, several = _table(field.annotation)
        if table is not None:
            yield from _marked(table, mark, (*here, "*") if several else here)


def _table(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the type of the table that a field holds, and whether it holds several by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    tables = [table for part in get_args(annotation) if (table := _table(part)[0]) is not None]
    return (tables[0] if tables else None), get_origin(annotation) is dict


def covers(locations: Iterable[Location], key: Location) -> bool:
    """Return whether one of `locations` is the field at `key`, or a table around it."""
    return any(
        len(location) <= len(key) and all(ours in ("*", theirs) for ours, theirs in zip(location, key, strict=False))
        for location in locations
    )


def map_texts(
    data: Any, locations: Iterable[Location], change: Callable[[str, str], object], above: Location = ()
) -> Any:
    """Return plain values with each text at `locations` replaced by `change(text, field)`.

    The texts of a list carry the list's field, `typos.word_lists`; those of a table their own, `paths.corpus`. `above`
    is where `data` itself is defined. What is no text stays as it is.
    """
    wanted = list(locations)
    if covers(wanted, above):
        return _changed(data, change, above)
    if not isinstance(data, dict):
        return data
    return {key: map_texts(value, wanted, change, (*above, key)) for key, value in data.items()}


def _changed(value: Any, change: Callable[[str, str], object], field: Location) -> Any:
    if isinstance(value, str):
        return change(value, ".".join(field))
    if isinstance(value, list):
        return [_changed(part, change, field) for part in value]
    if isinstance(value, dict):
        return {key: _changed(part, change, (*field, key)) for key, part in value.items()}
    return value
