"""A running app and a Chromium looking at it, one of each for a process of tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.pages.navigation import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import (
        Browser,
        BrowserContext,
        ConsoleMessage,
        Page,
        WebSocketRoute,
    )

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str:
    """The system's Chromium; without it tests are skipped, in CI they fail."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if found is None:
        message = "Chromium is not installed: the browser tests need it (apt install chromium)."
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


class Served:
    """A running app with a store of its own."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.log = home / "log.txt"
        command = [sys.executable, "-m", "streamlit", "run", "asgi.py", "--server.port", str(port)]
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [*command, "--server.address", "127.0.0.1"],
                cwd=ROOT,
                env={**os.environ, "TOKENSCOPE_HOME": str(home)},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @contextmanager
    def watched(self) -> Iterator[str]:
        """Its address; nothing it logs meanwhile may be a fault."""
        before = self.log.stat().st_size
        yield self.address
        said = self.log.read_bytes()[before:].decode()
        # Streamlit 1.67 walks through its own widget states without a lock; seen once in many
        # runs. A script that ended so is run again by the next event.
        race = said.count("RuntimeError: dictionary changed size during iteration")
        assert said.count("Traceback") <= 2 * race, said


@contextmanager
def serve(home: Path) -> Iterator[Served]:
    """Run the app until the block ends."""
    chromium()
    made = Served(home)
    try:
        _wait(made.process, made.address, made.log)
        yield made
    finally:
        with made.watched():
            made.process.terminate()
            made.process.wait(20)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One app for every file that needs no empty store: torch is loaded once."""
    with serve(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture(scope="module")
def server(shared: Served) -> Iterator[str]:
    """The address of the app; what it complains of fails the file that made it do so."""
    with shared.watched() as address:
        yield address


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"the app did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def contexts(browser: Browser) -> Callable[..., BrowserContext]:
    """A window in light or dark for each app; Streamlit's own files are fetched once in it."""

    @cache
    def open_context(server: str, scheme: str) -> BrowserContext:
        context = browser.new_context(color_scheme=scheme, accept_downloads=True)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        return context

    return open_context


@pytest.fixture
def watched(server: str, contexts: Callable[..., BrowserContext]) -> Iterator[Callable[..., Page]]:
    """Open pages of the app; afterwards nothing may have complained or asked another server."""
    pages: list[Page] = []
    trouble: list[str] = []
    ours = (server, server.replace("http", "ws"), "data:", "blob:")

    def heard(message: ConsoleMessage) -> None:
        # Streamlit looks for itself below a page's address first; a page that is closed may talk.
        looks = "/_stcore/" in message.location["url"] or "WebSocket" in message.text
        if message.type == "error" and not looks:
            trouble.append(f"console: {message.text}")

    def open_page(
        path: str,
        *,
        scheme: str = "light",
        width: int = 1280,
        height: int = 1300,
        route: Callable[[WebSocketRoute], None] | None = None,
    ) -> Page:
        page = contexts(server, scheme).new_page()
        pages.append(page)
        if route is not None:
            page.route_web_socket("**/_stcore/stream", route)
        page.set_viewport_size({"width": width, "height": height})
        page.set_default_timeout(60_000)
        page.on("console", heard)
        page.on("pageerror", lambda e: trouble.append(f"page error: {e}"))
        page.on("dialog", lambda d: (trouble.append(f"dialog: {d.message}"), d.dismiss()))
        page.on(
            "request",
            lambda r: None if r.url.startswith(ours) else trouble.append(f"request: {r.url}"),
        )
        page.goto(server + path)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not trouble, trouble


@pytest.fixture
def lone(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Open pages from files; nothing may be fetched and nothing may complain."""
    opened: list[BrowserContext] = []
    trouble: list[str] = []

    def open_page(content: str, *, width: int = 900, height: int = 800, **options: Any) -> Page:
        file = tmp_path / f"page-{len(opened)}.html"
        file.write_text(content, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: trouble.append(str(e)))
        page.on("dialog", lambda d: (trouble.append(d.message), d.dismiss()))
        ours = (file.as_uri(), "blob:")
        page.on("request", lambda r: None if r.url.startswith(ours) else trouble.append(r.url))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in opened:
        context.close()
    assert not trouble, trouble
