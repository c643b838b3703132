"""The page of `keylm serve`: fixed files at fixed addresses, open to everyone who can connect to this machine.

Invariant: the page loads nothing but these files and connects to nothing but this server (its Content-Security-Policy
enforces it). It needs no API key, as it holds nothing secret; its requests do, and it prompts the user for the key.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from keylm.languages.language import ENGLISH, Language
from keylm.page import PAGE_POLICY, PAGE_TYPES, page_files
from keylm.page.language import LANGUAGE_FILE, language_script

HEADERS = {
    "Content-Security-Policy": f"{PAGE_POLICY}; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
BROWSER_ONLY = ("channel.js", "chat_tokens.js", "correct.js", "runner.js", "spelling.js", "words.js", "worker.js")
"""Files that only a static folder needs (export/web.py)."""
Handler = Callable[[Request], Awaitable[Response]]


def page_routes(guarded: Callable[[str, Handler], Handler], language: Language = ENGLISH) -> list[Route]:
    """Return a route for each of the page's files; `guarded` wraps their handlers, all under the name "/"."""
    handlers = {file.name: _file(file) for file in page_files() if file.name not in BROWSER_ONLY}
    handlers[LANGUAGE_FILE] = _language(language)
    return [
        Route("/" if name == "index.html" else f"/{name}", guarded("/", handler), methods=["GET"])
        for name, handler in handlers.items()
    ]


def _file(file: Path) -> Handler:
    async def respond(request: Request) -> Response:
        return FileResponse(file, headers=HEADERS, media_type=PAGE_TYPES[file.suffix])

    return respond


def _language(language: Language) -> Handler:
    content = language_script(language)

    async def respond(request: Request) -> Response:
        return Response(content, headers=HEADERS, media_type=PAGE_TYPES[".js"])

    return respond
