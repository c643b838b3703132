"""A model behind HTTP: OpenAI's protocol, suggestions for keyboards, and a page.

What the served page and its copy for static hosts (release/web_folder.py) share stands here, as it needs no package.
"""

from pathlib import Path

PAGE = Path(__file__).parent / "page"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'"
)
"""The page's Content-Security-Policy: it loads nothing but its own files and asks nobody but where it came from."""
