"""The code stays readable: layers, names, sizes of files and functions, every dependency used, no machine's paths."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from support.source_rules import (
    cycles,
    imports,
    layer_violations,
    literal_lines,
    read_sources,
    repeated_classes,
)

ROOT = Path(__file__).parents[1]
FILES = (
    sorted((ROOT / "src").rglob("*.py"))
    + sorted((ROOT / "tests").rglob("*.py"))
    + sorted((ROOT / "tools").rglob("*.py"))
)
SOURCES = read_sources(ROOT / "src" / "keylm")
LONGEST_FILE, LONGEST_FUNCTION, MOST_LITERALS = 600, 100, 60


def test_a_package_imports_only_packages_before_it():
    violations = layer_violations(imports(SOURCES))
    assert not violations, "\n".join(violations)


def test_no_files_import_each_other_in_a_circle():
    assert not cycles(imports(SOURCES))


@pytest.mark.parametrize(
    "line",
    [
        "from keylm.serving.server import Routes",
        "import keylm.serving.server",
        "def late():\n    from keylm.serving import server",
    ],
)
def test_a_planted_import_breaks_the_layers_and_closes_a_circle(line):
    planted = {**SOURCES, "data.store": f"{SOURCES['data.store']}\n{line}\n"}
    (violation,) = layer_violations(imports(planted))
    assert "keylm.data.store:" in violation
    assert violation.endswith(
        "imports keylm.serving.server: 'data' comes before 'serving' and may import only what precedes it"
    )
    circle = {"base.errors": "import keylm.base.files", "base.files": line.replace("serving.server", "base.errors")}
    circle["base.files"] = circle["base.files"].replace("keylm.serving import server", "keylm.base import errors")
    assert cycles(imports(circle)) == [["base.errors", "base.files"]]


def test_a_package_that_no_layer_names_is_refused():
    planted = {**SOURCES, "extras.new": "from keylm.base.errors import KeylmError"}
    assert layer_violations(imports(planted)) == [
        "keylm.extras.new:1 imports keylm.base.errors: LAYERS does not say where 'extras' goes"
    ]


def test_library_and_tools_keep_their_direction():
    for file in FILES:
        if "src" in file.parts:
            assert not re.search(r"^\s*(from|import) (tools|tests)\b", file.read_text(), re.MULTILINE), file
        elif "tools" in file.relative_to(ROOT).parts[:1]:
            assert not re.search(r"^\s*(from|import) tests\b|sys\.path", file.read_text(), re.MULTILINE), file


def test_a_public_class_name_is_used_once():
    assert not repeated_classes(SOURCES), "\n".join(repeated_classes(SOURCES))
    planted = {**SOURCES, "cli.main": f"{SOURCES['cli.main']}\nclass KeylmError: ..."}
    assert repeated_classes(planted) == ["class KeylmError: base.errors, cli.main"]


def test_data_are_not_written_as_code():
    sizes = sorted(((literal_lines(source), module) for module, source in SOURCES.items()), reverse=True)
    print("\n".join(f"{lines:5} {module}" for lines, module in sizes[:10]))
    large = [(lines, module) for lines, module in sizes if lines > MOST_LITERALS]
    assert not large, f"move to a data file beside the module: {large}"
    assert literal_lines('WORDS = (\n    "a",\n    "b",\n)\nprint([\n1\n])\n') == 4


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
