"""Write docs/modules.md, and the table of packages in docs/ARCHITECTURE.md, from what each module says first.

python -m tools.docs.module_map                 # writes both; a test says where they are not current
"""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "keylm"
PAGE = ROOT / "docs" / "modules.md"
ARCHITECTURE = ROOT / "docs" / "ARCHITECTURE.md"
# fmt: off
PACKAGES = [
    "base", "recipe", "text", "model", "languages", "typos", "data", "curate", "instructions", "runtimes", "training",
    "keyboard", "evaluation", "report", "page", "export", "serving", "pipeline", "tuning", "cli",
]
# fmt: on
"""In import order: a package imports only those before it."""
BEGIN, END = "<!-- packages: written by tools/docs/module_map.py -->", "<!-- end of packages -->"
INTRODUCTION = """# Modules

<!-- Written by tools/docs/module_map.py from what each file says first; change that. -->

Every module and table of `src/keylm`, by package in import order: a package imports only those above it
([why](ARCHITECTURE.md#packages)).
"""


def modules_page() -> str:
    """Return docs/modules.md."""
    parts = [INTRODUCTION]
    for package in packages():
        files = [f"- [{name}](../src/keylm/{package}/{name}): {line}" for name, line in modules(package)]
        parts.append("\n".join([f"## {package}", "", described(package), "", *files, ""]))
    return "\n".join(parts)


def architecture_page() -> str:
    """Return docs/ARCHITECTURE.md with its table of packages written anew."""
    rows = [f"| [{package}](modules.md#{package}) | {described(package)} |" for package in packages()]
    table = "\n".join([BEGIN, "", "| package | what it is |", "|---|---|", *rows, "", END])
    before, _, rest = ARCHITECTURE.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{ARCHITECTURE}: no table of packages; accepted: one between {BEGIN!r} and {END!r}")
    return before + table + after


def packages() -> Iterator[str]:
    """Yield the packages that exist, in import order. Raises SystemExit where one has no place in it."""
    there = {folder.parent.name for folder in SOURCE.glob("*/__init__.py")}
    if unknown := sorted(there - set(PACKAGES)):
        raise SystemExit(f"PACKAGES does not say where {', '.join(unknown)} goes")
    yield from (package for package in PACKAGES if package in there)


def modules(package: str) -> Iterator[tuple[str, str]]:
    """Yield a package's Python, JavaScript and TOML files, by their names in it, with what they say of themselves."""
    folder = SOURCE / package
    for file in sorted([*folder.glob("*.py"), *folder.glob("*.js"), *folder.rglob("*.toml")]):
        if file.name != "__init__.py":
            yield file.relative_to(folder).as_posix(), first_line(file)


def described(package: str) -> str:
    """Return what a package says of itself."""
    return first_line(SOURCE / package / "__init__.py")


def first_line(file: Path) -> str:
    """Return the first line of a docstring, the first sentence of a comment; fit for a cell of a table."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        said = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    else:
        mark = "//" if file.suffix == ".js" else "#"
        comment = itertools.takewhile(lambda line: line.startswith(mark), text.splitlines())
        said = re.split(r"(?<=\.) ", " ".join(line.removeprefix(mark).strip() for line in comment))[0]
    if not said:
        raise SystemExit(f"{file}: says nothing of itself; accepted: a docstring or comment at the top")
    said = re.sub(r"\bdocs/(\w+\.md)", r"[\1](\1)", said)
    return said.replace("|", r"\|")


if __name__ == "__main__":
    ARCHITECTURE.write_text(architecture_page(), encoding="utf-8")
    PAGE.write_text(modules_page(), encoding="utf-8")
    print(ARCHITECTURE, PAGE, sep="\n")
