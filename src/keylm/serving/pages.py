"""The page that `keylm serve` gives: fixed files at fixed addresses, open to whoever may ask this machine at all.

Invariant: the page loads nothing but these files and asks nobody but this server (its Content-Security-Policy says so
to the browser). It needs no key, as it holds nothing secret; what it asks for does, and it asks the reader for the key.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from keylm.page import PAGE, PAGE_POLICY

HEADERS = {
    "Content-Security-Policy": f"{PAGE_POLICY}; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
"""Said here, as a system's table may call JavaScript text/plain, which browsers then refuse to run."""
BROWSER_ONLY = ("correct.js", "runner.js", "words.js", "worker.js")
"""What only a static folder needs (release/web_folder.py)."""
Handler = Callable[[Request], Awaitable[Response]]


def page_routes(guarded: Callable[[str, Handler], Handler]) -> list[Route]:
    """Return a route for each of the page's files; `guarded` wraps their handlers, all under the name "/"."""
    files = [file for file in sorted(PAGE.iterdir()) if file.suffix in TYPES and file.name not in BROWSER_ONLY]
    return [
        Route("/" if file.name == "index.html" else f"/{file.name}", guarded("/", _giving(file)), methods=["GET"])
        for file in files
    ]


def _giving(file: Path) -> Handler:
    async def give(request: Request) -> Response:
        return FileResponse(file, headers=HEADERS, media_type=TYPES[file.suffix])

    return give
