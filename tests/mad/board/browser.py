"""A page in a headless browser, and what it says, does wrong or asks the network for."""

from __future__ import annotations

import importlib.resources
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@dataclass
class Opened:
    """A page, and what it complained of."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def quiet(self) -> bool:
        """Whether it has said nothing and asked for nothing but itself."""
        assert not self.said, self.said
        assert not self.asked, self.asked
        return True

    def settled(self) -> None:
        """Wait until all is drawn that the last choice changes."""
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def text(self, where: str) -> list[str]:
        return [text.strip() for text in self.page.locator(where).all_inner_texts()]

    def widths(self) -> tuple[int, int]:
        """Of the content and of the window."""
        wide, window = self.page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        return wide, window

    def violations(self) -> list[str]:
        """What axe finds, as the rule and the first element that breaks it."""
        axe = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
        # The page's policy lets no script in but its own; the debugger is not bound by it.
        self.page.evaluate(axe)
        found: dict[str, Any] = self.page.evaluate(
            "rules => axe.run(document, {runOnly: {type: 'tag', values: rules}})", RULES
        )
        return [
            f"{one['id']}: {one['nodes'][0]['html'][:160]} ({len(one['nodes'])})"
            for one in found["violations"]
        ]


def find_browser() -> str:
    """The browser of this machine; without one the test is skipped, or fails where one is needed."""
    pytest.importorskip("playwright")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        assert "MAD_BROWSER" not in os.environ, "a browser is needed, and none is there"
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    return path


@contextmanager
def browsing() -> Iterator[Browser]:
    path = find_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        # Inside a container the sandbox of the browser has no rights; the pages are our own.
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(
    browser: Browser, file: Path, *, width: int = 1280, height: int = 900, dark: bool = False, hash: str = ""
) -> Opened:
    """The page of a file, from the disk."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    )
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.said.append(message.text))
    found.page.on("pageerror", lambda error: found.said.append(str(error)))
    found.page.on(
        "request",
        lambda asked: None if asked.url.startswith(("file:", "data:")) else found.asked.append(asked.url),
    )
    found.page.goto(f"{file.as_uri()}{hash}")
    found.settled()
    return found
