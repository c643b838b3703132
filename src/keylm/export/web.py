"""The page of `keylm serve` as a folder for any static host; the model runs in the visitor's browser.

    web/index.html, *.js, *.css    the page; index.html names models.json as the list of models
    web/language_table.js          the keyboard's layout, words and error rates (page/language.py)
    web/transformers.js/           a copy of the library, where one was given; otherwise the page loads it from a CDN
    web/models.json, models/NAME/  written by exporter.py

Invariant: the library that a visitor's browser loads has one version, TRANSFORMERS_JS, or is the copy.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keylm.base.errors import KeylmError
from keylm.base.files import atomic_write, read_json
from keylm.languages.language import ENGLISH, Language
from keylm.page import PAGE_POLICY, page_files
from keylm.page.language import LANGUAGE_FILE, language_script

TRANSFORMERS_JS = "4.3.1"
CDN = f"https://cdn.jsdelivr.net/npm/@huggingface/transformers@{TRANSFORMERS_JS}/dist/"
COPY = "transformers.js"
MARK = "<!-- keylm:web -->"
POLICY = f"{PAGE_POLICY}; worker-src 'self'"
"""For the page. Its worker, which loads the library, has the policy that the host sends with worker.js."""
RUNTIMES = ("ort-wasm-simd-threaded", "ort-wasm-simd-threaded.asyncify")
"""onnxruntime's builds: the plain one, and the larger one that WebGPU needs."""


@dataclass(frozen=True)
class Library:
    """Copies of transformers.js and of the onnxruntime-web that it was built with."""

    transformers: Path
    onnxruntime: Path

    @property
    def files(self) -> list[Path]:
        """Return the files that the page needs, licences included."""
        runtimes = [self.onnxruntime / "dist" / f"{name}{end}" for name in RUNTIMES for end in (".mjs", ".wasm")]
        return [self.transformers / "dist" / "transformers.min.js", self.transformers / "LICENSE", *runtimes]


def find_library(folder: Path) -> Library:
    """Return the library in an npm project, its node_modules, or the package's own folder. Raises KeylmError."""
    package = "@huggingface/transformers"
    accepted = f"a folder where `npm install --ignore-scripts {package}@{TRANSFORMERS_JS}` was run"
    places = (folder, folder / package, folder / "node_modules" / package)
    found = next((place for place in places if _named(place).get("name") == package), None)
    if found is None:
        raise KeylmError(f"--transformers-js {folder}: no {package}; accepted: {accepted}")
    wanted = _named(found)
    if wanted.get("version") != TRANSFORMERS_JS:
        raise KeylmError(f"--transformers-js {found}: version {wanted.get('version')}; accepted: {TRANSFORMERS_JS}")
    version = wanted.get("dependencies", {}).get("onnxruntime-web")
    for place in (found / "node_modules" / "onnxruntime-web", found.parent.parent / "onnxruntime-web"):
        if _named(place).get("version") == version:
            library = Library(found, place)
            missing = [file for file in library.files if not file.is_file()]
            if missing:
                raise KeylmError(f"--transformers-js: {missing[0]} is missing; accepted: {accepted}")
            return library
    raise KeylmError(f"--transformers-js {folder}: no onnxruntime-web {version} beside it; accepted: {accepted}")


def write_page(web: Path, library: Library | None, language: Language = ENGLISH) -> None:
    """Write the page into `web`, for a language, with a copy of the library or the CDN's address."""
    web.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(web / COPY, ignore_errors=True)
    if library:
        (web / COPY).mkdir()
        for file in library.files:
            shutil.copyfile(file, web / COPY / file.name)
    settings = {"keylm-models": "models.json", "keylm-transformers": f"{COPY}/" if library else CDN}
    head = [f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">']
    head += [f'<meta name="{name}" content="{value}">' for name, value in settings.items()]
    atomic_write(web / LANGUAGE_FILE, language_script(language))
    for file in page_files():
        text = file.read_text(encoding="utf-8")
        if file.name == "index.html":
            assert MARK in text
            text = text.replace(MARK, "\n  ".join(head))
        atomic_write(web / file.name, text)


def _named(folder: Path) -> dict[str, Any]:
    """Return a package's package.json; empty where there is none."""
    file = folder / "package.json"
    return read_json(file) if file.is_file() else {}
