"""The structure of src/keylm as facts that tests can check: imports between files, cycles, class names, literals.

Sources are given as {dotted module name without "keylm.": source text}, so that a test can plant a violation.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.docs.module_map import PACKAGES

LAYERS = PACKAGES
"""A package may import only itself and the packages before it."""

Edges = dict[str, dict[str, int]]
"""{importing module: {imported module: line}}."""


def read_sources(package: Path) -> dict[str, str]:
    """Return the source text of each module of a package folder by its dotted name; a package goes by its folder's."""
    return {_name(file.relative_to(package)): file.read_text() for file in sorted(package.rglob("*.py"))}


def _name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(sources: Mapping[str, str], root: str = "keylm") -> Edges:
    """Return what each module imports of the same package, at its top or within a function; typing-only ones count."""
    edges: Edges = defaultdict(dict)
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            for name in _imported(node, module):
                if name == root or name.startswith(f"{root}."):
                    target = _longest_module(name[len(root) + 1 :], sources)
                    if target != module:
                        edges[module].setdefault(target, getattr(node, "lineno", 0))
    return edges


def _imported(node: ast.AST, module: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, f"{module}:{node.lineno}: relative import; import keylm.<package>.<module> instead"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _longest_module(name: str, sources: Mapping[str, str]) -> str:
    """Cut `recipe.load.load_recipe` to the module that exists, `recipe.load`; "" is keylm/__init__.py."""
    while name and name not in sources:
        name = name.rpartition(".")[0]
    return name


def layer_violations(edges: Edges) -> list[str]:
    """Return each import of a package that comes later in LAYERS, and each module whose package LAYERS does not name.

    keylm/__init__.py and __main__.py are outside the layers: the first imports nothing, the second only the last layer.
    """
    found = []
    for module, targets in sorted(edges.items()):
        for target, line in targets.items():
            importer, imported = module.partition(".")[0], target.partition(".")[0]
            if imported == "" or module in ("", "__main__"):
                continue
            place = f"keylm.{module}:{line} imports keylm.{target}"
            if unknown := [name for name in (importer, imported) if name not in LAYERS]:
                found.append(f"{place}: LAYERS does not say where {unknown[0]!r} goes")
            elif LAYERS.index(imported) > LAYERS.index(importer):
                found.append(f"{place}: {importer!r} comes before {imported!r} and may import only what precedes it")
    return found


def cycles(edges: Edges) -> list[list[str]]:
    """Return the groups of modules that reach each other by imports (strongly connected components, Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for target in edges.get(module, {}):
            if target not in order:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], order[target])
        if lowest[module] == order[module]:
            start = stack.index(module)
            group, stack[start:] = stack[start:], []
            if len(group) > 1:
                found.append(sorted(group))

    for module in list(edges):
        if module not in order:
            visit(module)
    return found


def repeated_classes(sources: Mapping[str, str]) -> list[str]:
    """Return each public class name that is defined at the top of two modules or more, with the modules."""
    places = defaultdict(list)
    for module, source in sources.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    return [f"class {name}: {', '.join(modules)}" for name, modules in sorted(places.items()) if len(modules) > 1]


def literal_lines(source: str) -> int:
    """Return how many lines of a module are tables: assignments at its top whose value has literals in it."""
    tables = [node for node in ast.parse(source).body if isinstance(node, ast.Assign | ast.AnnAssign)]
    return sum(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for node in tables
        if node.value is not None and any(isinstance(part, ast.Constant) for part in ast.walk(node.value))
    )
