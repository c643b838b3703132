"""A headless Chromium for the tests of the page, as fixtures to import; skipped, with the reason, without one."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE = {"viewport": {"width": 360, "height": 720}, "has_touch": True, "is_mobile": True}
DESK = {"viewport": {"width": 1200, "height": 760}}


def chromium() -> str | None:
    """Return the browser's path: that of KEYLM_CHROMIUM, else the first that is installed."""
    return os.environ.get("KEYLM_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")  # not session: while playwright runs, other tests' event loops cannot
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'keylm[dev]'")
    path = chromium()
    if path is None:
        pytest.skip("needs a Chromium: apt-get install chromium, or its path in KEYLM_CHROMIUM")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open pages: `opened(address, **context)`. At the end no script has failed, and nobody else was asked."""
    faults: list[str] = []

    def heard(said: Any) -> None:
        # Answers of 400 and more are told on the console too; those are the tests' own business.
        if said.type == "error" and "Failed to load resource" not in said.text:
            faults.append(said.text)

    with contextlib.ExitStack() as stack:

        def open_page(
            address: str, allowed: str = "", prepare: Callable[[Any], None] = lambda page: None, **context: Any
        ) -> Any:
            made = stack.enter_context(contextlib.closing(browser.new_context(**context)))
            made.set_default_timeout(20_000)
            page = made.new_page()
            page.on("pageerror", lambda error: faults.append(f"error: {error}"))
            page.on("console", heard)
            home = address.split("/", 3)[:3]

            def asked(request: Any) -> None:
                known = request.url.split("/", 3)[:3] == home or request.url.startswith(("data:", "blob:"))
                if not known and not (allowed and request.url.startswith(allowed)):
                    faults.append(f"asked {request.url}")

            made.on("request", asked)
            prepare(page)
            page.goto(address)
            return page

        yield open_page
        assert faults == []
