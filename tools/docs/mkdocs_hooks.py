"""What mkdocs needs so that pages written for a repository also work as a site.

Links that leave docs/ (to code, recipes, results) would lead nowhere on a site; the files that they name are put on it
as text under files/, and the links go there. A folder stands for its __init__.py, which says what it is for.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add every file outside docs/ that a page links to."""
    linked = {
        name
        for page in files.documentation_pages()
        for match in LINK.finditer(page.content_string)
        if (name := _named(page.src_uri, match[1]))
    }
    for name in sorted(linked):
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, _place(name), content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Return a page with its links to such files going to their places on the site."""

    def placed(match: re.Match[str]) -> str:
        name = _named(page.file.src_uri, match[1])
        if name is None:
            return match[0]  # --strict says so
        return f"]({posixpath.relpath(_place(name), posixpath.dirname(page.file.src_uri) or '.')})"

    return LINK.sub(placed, markdown)


def _named(page: str, link: str) -> str | None:
    """Return the file in the repository that a page's link names; None where there is none."""
    path = os.path.normpath(ROOT / "docs" / posixpath.dirname(page) / link)
    for file in (Path(path), Path(path) / "__init__.py", Path(path) / "README.md"):
        if file.is_file() and file.is_relative_to(ROOT):
            return file.relative_to(ROOT).as_posix()
    return None


def _place(name: str) -> str:
    return f"files/{name}.txt"
