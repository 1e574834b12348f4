"""The Rewards page in a real browser: a group, a token, its effects, a real step, weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from tests.browser.test_first_minute import settled
from tests.browser.themes import THEMES
from tests.pages.test_rewards_page import log_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


@pytest.fixture
def visit(watched: Callable[..., Page]) -> Callable[..., Page]:
    """Open the page and wait for its first picture."""

    def open_page(query: str = "", **how: Any) -> Page:
        page = watched(f"/rewards{query}", **how)
        page.locator(".ts-group .t.selected").first.wait_for()
        settled(page)
        return page

    return open_page


@pytest.mark.parametrize(("scheme", "width"), THEMES)
def test_what_a_visitor_sees(
    visit: Callable[..., Page], tmp_path: Path, scheme: str, width: int
) -> None:
    page = visit("?text=group", scheme=scheme, width=width)
    assert page.locator("h1").inner_text() == "What would the next RL step do to each token?"
    assert "of 16 answers are right" in page.locator(".st-key-lede").inner_text()
    page.get_by_text("Which answers does it move?").wait_for()
    page.locator(".ts-group .legend", has_text="THR").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / f"rewards-{scheme}.png", full_page=True)
    page.get_by_role("radio", name="influence").click()
    page.locator(".ts-group .legend", has_text="influence").wait_for()
    for tab in ("Real step", "Do signals agree?"):
        page.get_by_role("tab", name=tab).click()
        settled(page)
        page.screenshot(path=tmp_path / f"rewards-{tab[:4]}-{scheme}.png", full_page=True)


def test_a_click_moves_on_and_carries_over(visit: Callable[..., Page]) -> None:
    page = visit("?text=group")
    page.locator(".ts-group .t").nth(12).click()
    heading = page.get_by_role("heading", name="Answer 1, position")
    heading.wait_for()
    position = heading.inner_text().rsplit(" ", 1)[1]
    page.get_by_role("button", name="Take its effect apart").click()
    page.get_by_text("Δ log p").first.wait_for(state="attached")
    settled(page)
    page.get_by_role("button", name="Did it break it?").click()
    page.get_by_role("heading", name="Which token broke the reasoning?").wait_for()
    page.locator(".ts-details dd", has_text=f"{position} of").wait_for()
    page.get_by_role("radio", name="chance by the samples alone").first.wait_for()


def test_p_weights_and_a_log(visit: Callable[..., Page], tmp_path: Path) -> None:
    page = visit("?text=group")
    page.get_by_role("button", name="p and β of the reweighted").click()
    slider = page.get_by_role("slider", name="p: explore")
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    settled(page)
    page.keyboard.press("Escape")
    page.get_by_role("radio", name="reweighted").click()
    page.locator(".ts-group .legend", has_text="reweighted").wait_for()
    page.get_by_role("tab", name="Weights").click()
    page.get_by_role("button", name="Make the weights").click()
    with page.expect_download() as got:
        page.locator(".st-key-downloads-weights").get_by_role("button", name="Parquet").click()
    table = pq.read_table(got.value.path())
    assert {"rollout", "position", "token_id", "weight", "advantage", "mask"} <= set(
        table.column_names
    )
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    assert '"recipe"' in json.dumps(metadata).replace("\\", "")
    page.get_by_role("radio", name="a training log").click()
    page.get_by_label("File or folder on this machine").fill(str(log_of(tmp_path / "run")))
    page.keyboard.press("Enter")
    page.get_by_text("10 rollouts (verl)").wait_for()
    page.get_by_role("button", name="Compute hidden rewards").click()
    page.locator(".st-key-lede", has_text="of 4 answers are right").wait_for()
    page.screenshot(path=tmp_path / "rewards-log.png", full_page=True)
