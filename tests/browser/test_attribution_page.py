"""The Attribution page in a real browser: clicked, compared, carried over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import engine
from engine import Request
from tests.browser.test_first_minute import settled
from tests.browser.themes import THEMES

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
ITEM = next(item for item in engine.gallery() if item.name == "start")


def strongest(position: int) -> int:
    """The source that adds most to a token, by the analysis itself."""
    request = Request("attribution.occlusion", ITEM.trace, ITEM.model, {"targets": "response"})
    stored = engine.default_workspace().lookup(request)
    assert stored is not None
    rows = [r for r in stored.table().to_pylist() if r["target_position"] == position]
    return int(max(rows, key=lambda r: r["score"] or 0.0)["source_position"])


@pytest.mark.parametrize(("scheme", "width"), THEMES)
def test_a_click_explains_another_token(
    watched: Callable[..., Page], tmp_path: Path, scheme: str, width: int
) -> None:
    page = watched("/attribution", scheme=scheme, width=width)
    page.locator(".t.selected").first.wait_for()
    lede = page.locator(".st-key-lede")
    lede.get_by_text("What made the model say “6”").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("tab", name="Targets × sources").wait_for()
    page.locator(".ts-heat canvas").first.wait_for()
    settled(page)
    page.screenshot(path=tmp_path / f"attribution-{scheme}.png", full_page=True)
    # Another token has another row, and its strongest source is named and outlined.
    answer = ITEM.trace.spans["answer"].start
    page.locator(".t").nth(answer + 1).click()
    best = strongest(answer + 1)
    lede.get_by_text(f"at {best} (+").wait_for()
    # A token of the prompt made others: the sentence turns round.
    page.locator(".t").nth(9).click()
    lede.get_by_text("stands in the prompt").or_(lede.get_by_text("No score leads")).wait_for()


@pytest.mark.slow
def test_all_methods_and_the_verdict(watched: Callable[..., Page]) -> None:
    page = watched("/attribution")
    page.locator(".t.selected").first.wait_for()
    page.get_by_role("tab", name="Which method may I believe here?").click()
    page.get_by_text("Better than its own scores shuffled").first.wait_for()
    page.get_by_role("tab", name="Do they find the true causes?").click()
    page.get_by_text("generator knows which tokens").wait_for()
    page.get_by_role("tab", name="All methods").click()
    page.get_by_role("button", name="Compare all methods").click()
    page.get_by_text("Not computed for this token yet").wait_for(state="detached", timeout=120_000)
