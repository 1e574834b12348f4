"""The Flow page in a real browser: drawn, clicked, cut."""

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
def test_a_click_says_what_a_token_draws_from(
    watched: Callable[..., Page], tmp_path: Path, scheme: str, width: int
) -> None:
    page = watched("/flow", scheme=scheme, width=width)
    page.locator(".ts-flow svg").first.wait_for()
    page.locator(".st-key-lede", has_text="of the flow over every cut runs along").wait_for()
    page.locator(".t.selected").first.wait_for()
    page.get_by_role("tab", name="Hubs and ways").wait_for()
    page.get_by_text("The heaviest ways").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    settled(page)
    page.screenshot(path=tmp_path / f"flow-{scheme}.png", full_page=True)
    box = page.locator(".st-key-details-box")
    page.locator(".ts-strip .t").nth(87).click()
    box.get_by_text("position 87").wait_for()
    box.get_by_text("Draws from").wait_for()


@pytest.mark.slow
def test_a_token_is_cut_off(watched: Callable[..., Page]) -> None:
    page = watched("/flow?text=start&select=91")
    page.locator(".ts-flow svg").first.wait_for()
    page.get_by_role("button", name="Cut this token off").click()
    page.get_by_text("the answer's log-probability goes from").wait_for()
    page.get_by_role("tab", name="Layer by layer").click()
    page.get_by_text("what each layer would say there").wait_for()
    page.get_by_role("tab", name="Does cutting change the answer?").click()
    page.get_by_text("Over the gallery's right answers").wait_for()
