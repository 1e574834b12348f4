"""The Tokenizer page in a real browser: typed, clicked, counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.test_first_minute import settled
from tests.browser.themes import THEMES

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("scheme", "width"), THEMES)
def test_a_typed_text_is_cut_and_explained(
    watched: Callable[..., Page], tmp_path: Path, scheme: str, width: int
) -> None:
    page = watched("/tokenizer", scheme=scheme, width=width)
    page.locator(".t.selected").first.wait_for()
    page.locator(".st-key-lede", has_text="bytes in").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    settled(page)
    page.screenshot(path=tmp_path / f"tokenizer-{scheme}.png", full_page=True)
    field = page.get_by_label("Text", exact=True).last
    field.fill("<marquee>x</marquee> 🎈")
    field.press("Control+Enter")
    page.locator(".st-key-lede", has_text="25 bytes in").wait_for()
    assert page.locator(".ts-strip marquee").count() == 0, "a text is never markup"
    box = page.locator(".st-key-details-box")
    page.locator(".ts-strip .t").last.click()
    box.get_by_text("Why was it cut here").wait_for()
    box.get_by_text("id ").first.wait_for()
