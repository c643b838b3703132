"""What the repository's Markdown holds: blocks, commands, links and headings, for tests/test_docs.py."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "space/README.md")),
    *sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("results/*.md")]),
]
"""The pages that people read for what to do, and those that say how figures were made. LOG.md is history: left out."""
PROGRAMS = (
    "git",
    "keylm",
    "torchrun",
    "python",
    "pip",
    "make",
    "hf",
    "cp",
    "mkdocs",
    "lm_eval",
    "curl",
    "ollama",
    "llama-server",
)
SHELL = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:\S*/bin/)?(?:{'|'.join(PROGRAMS)}) ")


@dataclass(frozen=True)
class Block:
    """A code block, without its indentation or fence."""

    page: str
    line: int
    text: str

    @property
    def kind(self) -> str:
        """shell, toml, python or other: judged by the text, as most blocks are indented and name no language."""
        first = self.text.split("\n", 1)[0]
        if SHELL.match(first):
            return "shell"
        if re.match(r"\[[\w.]+\]", first):
            return "toml"
        try:
            tree = ast.parse(self.text)
        except SyntaxError:
            return "other"
        return (
            "python"
            if any(isinstance(node, ast.Import | ast.ImportFrom | ast.Call) for node in ast.walk(tree))
            else "other"
        )


@dataclass(frozen=True)
class Command:
    """A line that a reader would type."""

    page: str
    line: int
    words: tuple[str, ...]

    @property
    def keylm(self) -> tuple[str, ...] | None:
        """What keylm is called with, also through torchrun; None where another program is called."""
        name = self.words[0].rsplit("/", 1)[-1]
        if name == "keylm":
            return self.words[1:]
        if "-m" in self.words and self.words[self.words.index("-m") + 1] == "keylm":
            return self.words[self.words.index("-m") + 2 :]
        return None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


def blocks(file: Path) -> Iterator[Block]:
    """Yield a page's fenced and indented blocks."""
    page = file.relative_to(ROOT).as_posix()
    lines = [*file.read_text(encoding="utf-8").split("\n"), ""]
    number = 0
    while number < len(lines):
        if lines[number].startswith("```"):
            end = next(n for n in range(number + 1, len(lines)) if lines[n].startswith("```"))
            yield Block(page, number + 2, "\n".join(lines[number + 1 : end]))
            number = end + 1
        elif lines[number].startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield Block(page, number + 1, "\n".join(line[4:] for line in lines[number:end]).rstrip())
            number = end
        else:
            number += 1


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a shell block: comments gone, lines joined, optional parts ([--x 1]) taken as given."""
    lines = block.text.split("\n")
    number = 0
    while number < len(lines):
        start, text = number, lines[number]
        while text.endswith("\\"):
            number += 1
            text = text[:-1] + lines[number].strip()
        number += 1
        text = re.sub(r"\[(--[^\]]*)\]", r"\1", text)
        for part in re.split(r" && ", text):
            words = [word for word in shlex.split(part, comments=True) if not re.match(r"[A-Z_]+=\S", word)]
            if words:
                yield Command(block.page, block.line + start, tuple(words))


def prose(file: Path) -> str:
    """Return a page without its blocks."""
    text = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<=\n\n)(?:(?: {4}.*)?\n)+", "\n", text)


def defined(file: Path) -> set[str]:
    """Return the functions, classes and methods (as Class.method) of a Python file."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            names |= {
                f"{node.name}.{part.name}" for part in inner if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return names


def links(file: Path) -> list[str]:
    """Return where a page's links go."""
    return re.findall(r"\]\(([^()\s]+)\)", prose(file))


def anchors(file: Path) -> set[str]:
    """Return what a page's headings are called in links, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", prose(file), re.MULTILINE)
    shown = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in found]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in shown}
