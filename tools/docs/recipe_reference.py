"""Write docs/recipe_reference.md from the recipe's types: every table, field, type, range, default and docstring.

python -m tools.docs.recipe_reference           # writes the page; a test says where it is not current
"""

import ast
import inspect
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from keylm.recipe.load import Recipe
from keylm.recipe.marks import IsFree, IsPath
from keylm.recipe.schema import Curation

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "recipe_reference.md"
SOURCE = ROOT / "src" / "keylm"
INTRODUCTION = """# The recipe

<!-- Written by tools/docs/recipe_reference.py from src/keylm/recipe/{load,schema,stage}.py; change those. -->

A recipe is a TOML file with everything that determines a model. Unknown fields, values of another type and values
out of range are refused, with the field and what is accepted. Fields without a default must be given. Any field can be
set on the command line, `--set training.batch_tokens=65536`. The resolved recipe, every default written out, is in the
run folder.

Paths count from the recipe's folder (on the command line, from where you are) and may begin with a folder of `[paths]`:
`path = "{corpus}/tales.jsonl"`. [recipes/nano.toml](../recipes/nano.toml) is a small complete recipe;
[data](data.md), [curation](curation.md) and [more GPUs](more_gpus.md) say more about their parts.

A run can be resumed with other values of the fields marked *free*; with other values of any other field it is another
run. Fields marked *path* hold one.
"""
FREE_TABLE = "All of it is *free*."
DECORATION = {"int": "integer", "float": "number", "str": "text", "bool": "true or false"}


def reference() -> str:
    """Return the page."""
    parts = [INTRODUCTION, _table("", Recipe, "## At the top\n")]
    for name, field in Recipe.model_fields.items():
        section, repeated = _section(field.annotation)
        if section is not None:
            title = f"{name}.NAME" if repeated else name
            free = f"\n\n{FREE_TABLE}" if _has(field, IsFree) else ""
            parts.append(_table(title, section, f"## [{title}]\n\n{_docstring(section)}{free}\n"))
    return "\n".join(parts)


def _table(title: str, section: type[BaseModel], head: str) -> str:
    """Return a section's heading and the table of its fields, except those that are sections themselves."""
    notes = _notes(section)
    rows = ["| field | type | default | what it is |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        if _section(field.annotation)[0] is None:
            said = notes.get(name)
            if said is None:
                raise SystemExit(f"{section.__name__}.{name} has no docstring; accepted: one below the field")
            cells = [f"`{field.alias or name}`", _type(field), _default(section, name, field), said + _marks(field)]
            rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return f"{head}\n" + "\n".join(rows) + "\n"


def _marks(field: FieldInfo) -> str:
    """Return what a field's marks add to its description."""
    marks = [("path", IsPath), ("free", IsFree)]
    return "".join(f"; *{words}*" for words, mark in marks if _has(field, mark))


def _has(field: FieldInfo, mark: type) -> bool:
    return any(isinstance(found, mark) for found in field.metadata)


def _section(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the table's type that a field holds, and whether it holds several by name."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation, False
    found = [_section(part)[0] for part in typing.get_args(annotation)]
    section = next((part for part in found if part is not None), None)
    return section, typing.get_origin(annotation) is dict


def _notes(section: type[BaseModel]) -> dict[str, str]:
    """Return the docstrings that stand below a section's fields."""
    tree = ast.parse(inspect.getsource(section))
    [definition] = tree.body
    assert isinstance(definition, ast.ClassDef)
    notes = {}
    for field, following in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(following, ast.Expr):
            assert isinstance(following.value, ast.Constant)
            notes[field.target.id] = _linked(str(following.value.value))
    return notes


def _docstring(section: type[BaseModel]) -> str:
    """Return what a section says of itself, its files as links."""
    return _linked(inspect.cleandoc(section.__doc__ or ""))


def _linked(text: str) -> str:
    """Return a text whose mentions of files are links from docs/."""
    text = re.sub(r"\bdocs/(\w+\.md)", r"[\1](\1)", text)
    packages = "|".join(sorted(folder.parent.name for folder in SOURCE.glob("*/__init__.py")))
    return re.sub(rf"\b(?:{packages})/[\w/]+\.py", lambda match: f"[{match[0]}](../src/keylm/{match[0]})", text)


def _default(section: type[BaseModel], name: str, field: FieldInfo) -> str:
    if section is Curation and name == "filters":
        return "by register"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "**required**"
    if value is None:
        return "none"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    """Return a value as TOML."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case int():
            return f"{value:_}" if value >= 10_000 else str(value)
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return f"{{ {', '.join(f'{key} = {_toml(part)}' for key, part in value.items())} }}" if value else "{}"
        case _:
            return str(value)


def _type(field: FieldInfo) -> str:
    ranges = [*field.metadata, *_metadata(field.annotation)]
    return ", ".join([_name(field.annotation), *filter(None, [_range(ranges)])])


def _metadata(annotation: Any) -> Iterator[Any]:
    """Yield the limits of a type that may be missing: `Annotated[…] | None`."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        for part in typing.get_args(annotation):
            if typing.get_origin(part) is Annotated:
                yield from _flat(part)


def _flat(annotated: Any) -> list[Any]:
    """Return the limits of an Annotated type, taken out of pydantic's Field."""
    return [limit for info in annotated.__metadata__ for limit in getattr(info, "metadata", [info])]


def _name(annotation: Any) -> str:
    """Return what a type is called in the reference."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        limits = _range(_flat(annotation))
        return _name(arguments[0]) + (f" ({limits})" if limits else "")
    if origin is Literal:
        return " or ".join(f"`{_toml(value)}`" for value in arguments)
    if origin in (Union, types.UnionType):
        [kind] = [part for part in arguments if part is not type(None)]
        return _name(typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {_plural(arguments[0])}"
        return f"list of {len(arguments)}: {_name(arguments[0])}"
    if origin is dict:
        key, value = arguments
        keys = _name(key) if typing.get_origin(key) is Literal else "name"
        return f"table, {keys} = {_name(value)}"
    return DECORATION.get(getattr(annotation, "__name__", ""), str(annotation))


def _plural(annotation: Any) -> str:
    return _name(annotation).replace("text", "texts", 1)


def _range(metadata: list[Any]) -> str:
    """Return what limits say, such as "1 to 100", "over 0", "at most 80 characters"."""
    limits = {type(limit): limit for limit in metadata}
    least, above = limits.get(annotated_types.Ge), limits.get(annotated_types.Gt)
    most, below = limits.get(annotated_types.Le), limits.get(annotated_types.Lt)
    low = f"from {_number(least.ge)}" if least else f"over {_number(above.gt)}" if above else ""
    high = f"to {_number(most.le)}" if most else f"under {_number(below.lt)}" if below else ""
    words = low if below and below.lt == 2**53 else " ".join(filter(None, [low, high]))  # whole numbers of JSON
    longest = limits.get(annotated_types.MaxLen)
    return ", ".join(filter(None, [words, f"at most {longest.max_length} characters" if longest else ""]))


def _number(number: float) -> str:
    return "2⁶³" if number == 2**63 else f"{number:,}" if isinstance(number, int) else f"{number:g}"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
    print(PAGE)
