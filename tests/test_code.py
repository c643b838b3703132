"""The code stays readable: sizes of files and functions, every dependency used, no machine's paths."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = (
    sorted((ROOT / "src").rglob("*.py"))
    + sorted((ROOT / "tests").rglob("*.py"))
    + sorted((ROOT / "tools").rglob("*.py"))
)
LONGEST_FILE, LONGEST_FUNCTION = 600, 100


def test_no_file_is_too_long():
    sizes = sorted(((len(file.read_text().splitlines()), str(file.relative_to(ROOT))) for file in FILES), reverse=True)
    print("\n".join(f"{lines:5} {name}" for lines, name in sizes[:10]))
    assert sizes[0][0] <= LONGEST_FILE, sizes[0]


def test_no_function_is_too_long():
    sizes = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                sizes.append(((node.end_lineno or 0) - node.lineno + 1, f"{file.relative_to(ROOT)}:{node.name}"))
    sizes.sort(reverse=True)
    print("\n".join(f"{lines:5} {name}" for lines, name in sizes[:10]))
    assert sizes[0][0] <= LONGEST_FUNCTION, sizes[0]


def test_every_dependency_is_imported_pinned_and_justified():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    source = "\n".join(file.read_text() for file in FILES if "src" in file.parts)
    pins = (ROOT / "constraints.txt").read_text()
    architecture = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=!~ ]", requirement)[0]
        module = name.replace("-", "_")
        assert re.search(rf"^\s*(import|from) {module}\b", source, re.MULTILINE), f"{name} is never imported"
        assert re.search(rf"^{name.replace('-', '[-_]')}==", pins, re.MULTILINE | re.IGNORECASE), (
            f"{name} has no pin in constraints.txt"
        )
        assert f"`{name}`" in architecture, f"docs/ARCHITECTURE.md gives no reason for {name}"


def test_no_path_of_one_machine_stands_in_the_repository():
    for file in [*FILES, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*.toml")]:
        if file.name != Path(__file__).name:
            assert not re.search(r"/work/|/root/|/home/\w", file.read_text()), file
