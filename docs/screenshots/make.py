"""Take the README's pictures anew: ``python -m docs.screenshots.make`` (needs Chromium)."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.bench_app import FLAGS, served

HERE = Path(__file__).parent
PAGES = {
    "start": "",
    "tokens": "tokens",
    "critical": "critical",
    "rewards": "rewards?text=group",
    "attribution": "attribution",
    "flow": "flow",
    "tokenizer": "tokenizer",
    "branches": "branches",
    "summary": "summary",
}

DARK = ("start", "critical", "rewards", "attribution", "flow")


def main() -> None:
    """Pages in the light theme, some in the dark one too, 1280 pixels wide."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as home:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        with served(home) as (address, _, _):
            for name, path in PAGES.items():
                for scheme in ("light", "dark") if name in DARK else ("light",):
                    _take(browser, f"{address}/{path}", scheme, HERE / f"{name}-{scheme}-1280.png")
        browser.close()


def _take(browser: Any, address: str, scheme: str, file: Path) -> None:
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme=scheme, device_scale_factor=1
    )
    page = context.new_page()
    page.goto(address)
    page.locator(".t, .ts-curve").first.wait_for()
    if file.name.startswith("start"):
        page.get_by_role("button", name="I give up").click()
    page.wait_for_timeout(6000)
    page.screenshot(path=file)
    context.close()


if __name__ == "__main__":
    main()
