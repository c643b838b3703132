"""The page: static files that `keylm serve` gives and `keylm export --to web` copies."""

from pathlib import Path

PAGE = Path(__file__).parent
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'"
)
"""The page's Content-Security-Policy: it loads nothing but its own files and asks nobody but where it came from."""
