"""The Critical page in a real browser: carried over, clicked, measured, taken home."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import engine
from tests.browser.test_first_minute import settled
from tests.browser.themes import THEMES

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
CULPRIT = next(item for item in engine.gallery() if item.name == "start").culprit


@pytest.fixture
def visit(watched: Callable[..., Page]) -> Callable[..., Page]:
    """Open the page and wait for its first picture."""

    def open_page(query: str = "", **how: Any) -> Page:
        page = watched(f"/critical{query}", **how)
        page.locator(".t.selected").first.wait_for()
        return page

    return open_page


@pytest.mark.parametrize(("scheme", "width"), THEMES)
def test_what_a_visitor_sees(
    visit: Callable[..., Page], tmp_path: Path, scheme: str, width: int
) -> None:
    assert CULPRIT is not None
    page = visit(scheme=scheme, width=width)
    assert page.locator("h1").inner_text() == "Which token broke the reasoning?"
    assert "that token broke it" in page.locator(".st-key-lede").inner_text()
    fall = f"{CULPRIT.before:.2f} → {CULPRIT.after:.2f}"
    page.get_by_text(fall).first.wait_for()
    page.locator(".ts-curve svg").first.wait_for()
    facts = page.locator(".st-key-facts")
    assert "Right before it" in facts.inner_text()
    page.get_by_text("drawn anew without it").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    settled(page)
    page.screenshot(path=tmp_path / f"critical-{scheme}.png", full_page=True)
    # Another token has other facts, and asks again before anything is drawn.
    page.locator(".t").nth(CULPRIT.position - 3).click()
    page.get_by_role("button", name="Try others in place of").wait_for()
    page.locator(".ts-details dd", has_text=f"{CULPRIT.position - 3} of").wait_for()
    # So it is by keyboard.
    page.keyboard.press("ArrowRight")
    page.locator(".ts-details dd", has_text=f"{CULPRIT.position - 2} of").wait_for()
    page.locator(".st-key-facts", has_text="The chance").wait_for()
    for score in ("contrastive score", "log-ratio", "entropy"):
        page.get_by_role("radio", name=score).click()
        page.locator(".ts-strip .legend", has_text=score).wait_for()
    page.get_by_role("tab", name="Do the scores find it?").click()
    page.get_by_text("wrong answers of demo, taken as they came").wait_for()
    settled(page)
    page.screenshot(path=tmp_path / f"critical-scores-{scheme}.png", full_page=True)


@pytest.mark.slow  # the Rewards page's chip carries a token over in the same way
def test_it_is_reached_by_the_chip_with_the_token(watched: Callable[..., Page]) -> None:
    assert CULPRIT is not None
    page = watched(f"/tokens?text=start&select={CULPRIT.position - 2}")
    page.locator(".ts-details dd", has_text=f"{CULPRIT.position - 2} of").wait_for()
    page.get_by_role("button", name="Did it break it?").click()
    page.get_by_role("heading", name="Which token broke the reasoning?").wait_for()
    page.locator(".ts-details dd", has_text=f"{CULPRIT.position - 2} of").wait_for()


def test_measured_live_and_taken_home(visit: Callable[..., Page], tmp_path: Path) -> None:
    """A search with few samples, a what-if, preference pairs as JSONL, the link."""
    assert CULPRIT is not None
    page = visit()
    page.get_by_role("spinbutton", name="Samples each").fill("12")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Measure", exact=True).wait_for()
    page.get_by_role("combobox", name="Continue after").click()
    page.get_by_role("option", name="search by halving").click()
    page.get_by_role("button", name="Measure", exact=True).click()
    page.locator(".st-key-lede", has_text="of the continuations came out right").wait_for()
    settled(page)
    page.get_by_role("button", name="Try others in place of").click()
    page.get_by_text("drawn anew without it").wait_for()
    with page.expect_download() as got:
        page.locator(".st-key-downloads-pairs").get_by_role("button", name="JSONL").click()
    lines = Path(got.value.path()).read_text().splitlines()
    pairs = [json.loads(line) for line in lines]
    assert pairs
    for pair in pairs:
        assert list(pair)[:3] == ["prompt", "chosen", "rejected"]
        assert pair["prompt"].startswith("Question:")
        assert CULPRIT.token in (pair["rejected"], pair["chosen"])
    with page.expect_download() as got:
        page.locator(".st-key-downloads-values").get_by_role("button", name="CSV").click()
    with Path(got.value.path()).open() as file:
        rows = list(csv.DictReader(file))
    assert rows[CULPRIT.position]["samples"] == "12"
    page.get_by_role("button", name="Copy link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    assert "/critical" in link
    page.get_by_role("button", name="Copy as Python").click()
    code = page.evaluate("navigator.clipboard.readText()")
    assert "critical.value" in code
    compile(code, "copied", "exec")


def test_cancelled_and_gone_on_with(visit: Callable[..., Page], tmp_path: Path) -> None:
    """Nothing that was drawn is lost; the curve grows while it is measured."""
    page = visit()
    page.get_by_role("spinbutton", name="Samples each").fill("400")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Measure", exact=True).click()
    page.get_by_role("button", name="Cancel").wait_for()
    page.get_by_text("as far as it is measured").wait_for()
    page.screenshot(path=tmp_path / "critical-measuring.png", full_page=True)
    page.get_by_role("button", name="Cancel").first.click()
    page.get_by_text("Cancelled before the end").wait_for()
    page.get_by_role("button", name="Go on").wait_for()
