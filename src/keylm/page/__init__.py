"""The page: static files that `keylm serve` serves and `keylm export --to web` copies, and the language they read."""

from pathlib import Path

PAGE = Path(__file__).parent
PAGE_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
"""Media types by suffix; a system's own table may call JavaScript text/plain, which browsers refuse to run."""
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'"
)
"""The page's Content-Security-Policy: it loads only its own files and connects only to its origin."""


def page_files() -> list[Path]:
    """Return the page's static files, in alphabetical order; language_table.js is not among them (see language.py)."""
    return [file for file in sorted(PAGE.iterdir()) if file.suffix in PAGE_TYPES]
