"""The Branches page in a real browser: force an alternative, go on, see who is right, compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from engine.branching.branchfile import loads

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)>![](http://evil.example/a) $x$ \u202eabc"


@pytest.fixture
def visit(watched: Callable[..., Page]) -> Callable[..., Page]:
    """Open the page and wait for its first picture."""

    def open_page(**how: Any) -> Page:
        page = watched("/branches", **how)
        page.wait_for_selector(".ts-choices .row")
        page.wait_for_selector(".ts-strip .t.selected")
        return page

    return open_page


def fill(page: Page, name: str, value: str) -> None:
    page.locator(f".st-key-branch-{name} input").fill(value)
    page.keyboard.press("Enter")


def grow(page: Page) -> None:
    rows = page.locator(".ts-tree .row").count()
    page.locator(".st-key-branch-continue button").click()
    # torch is imported only now
    page.locator(".ts-tree .row").nth(max(rows, 1)).wait_for(timeout=120_000)


def settle(page: Page) -> None:
    """Wait until nothing is drawn any more: links to files are made anew with every drawing."""
    page.wait_for_timeout(100)
    page.locator("[data-testid='stApp'][data-test-script-state='notRunning']").wait_for()


def shown(page: Page) -> str:
    return page.locator(".ts-tree .chip[aria-pressed='true']").get_attribute("data-place") or ""


def test_force_an_alternative_and_compare(visit, watched, tmp_path: Path):
    page = visit()
    assert page.locator("h1").inner_text() == "What if it had said something else?"
    # Another token is chosen in the strip; its alternatives follow.
    tokens = page.locator(".ts-strip .t")
    at = tokens.count() - 3
    tokens.nth(at).click()
    page.locator(".ts-choices .where", has_text=f"position {at}").wait_for()
    # Keys choose what to say instead.
    page.locator(".ts-choices .list").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.locator(".ts-choices .row[aria-selected='true'] .rank").wait_for()
    chosen = page.locator(".ts-choices .row[aria-selected='true'] .token").inner_text()
    word = chosen.replace(" said", "").replace("·", " ").strip()
    page.locator(".st-key-branch-continue button", has_text=word).wait_for()
    fill(page, "longest", "12")
    stored = page.locator(".ts-tree .row").count()
    grow(page)
    row = page.locator(".ts-tree .row").last
    chips = row.locator(".chip")
    assert chips.count() == 4
    assert "of 4 right" in row.locator(".facts").inner_text()
    assert "log p" in row.locator(".facts").inner_text()
    marks = page.eval_on_selector_all(
        ".ts-tree .row:last-child .chip", "cs => cs.map(c => c.className)"
    )
    assert all(any(m in c for m in ("right", "wrong", "none")) for c in marks)
    # The first draw is shown, what it grew from stands beside it, and what differs is ringed.
    assert shown(page).endswith(" 0")
    assert page.locator(".ts-tree .chip.beside").get_attribute("data-place") == "root 0"
    assert page.locator(".ts-aligned .changed, .ts-aligned .only_b, .ts-aligned .only_a").count()
    # Walk by keys, then put the third draw beside the first.
    chips.nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.locator(".ts-tree .chip[aria-pressed='true'][data-place$=' 1']").wait_for()
    row.locator(".chip").nth(2).click(modifiers=["Shift"])
    page.locator(".ts-tree .chip.beside[data-place$=' 2']").wait_for()
    assert shown(page).endswith(" 1")
    page.locator(".ts-aligned .key .b", has_text="no. 3").wait_for()
    # What would be cut is said beside the plain probabilities.
    fill(page, "top-k", "1")
    page.locator(".ts-choices .two .cut").first.wait_for()
    assert page.locator(".ts-choices .two .row:not(.cut):not(.again)").count() == 1
    page.screenshot(path=tmp_path / "branches-light.png")
    # The tree goes home as a file.
    settle(page)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="All as one tree (JSON)").click()
    waiting.value.save_as(tmp_path / "tree.json")
    tree = loads((tmp_path / "tree.json").read_bytes())
    assert len(tree.branches) == max(stored - 1, 0) + 1
    assert len(tree.branches[-1].traces) == 4
    page.get_by_role("button", name="Remove this branch").click()
    page.get_by_role("button", name="Remove this branch").wait_for(state="detached")
    # And comes back to another visitor, by its content and not by its name.
    other = watched("/start")
    kept = (tmp_path / "tree.json").rename(tmp_path / "notes.txt")
    other.locator(".st-key-drop-file input[type=file]").set_input_files(kept)
    other.locator(".st-key-drop-found", has_text="TokenScope branches").wait_for()
    other.screenshot(path=tmp_path / "branches-dropped.png", full_page=True)
    other.get_by_role("button", name="Open its branches").click()
    other.get_by_role("heading", name="What if it had said something else?").wait_for()
    other.locator(".ts-tree .row").nth(len(tree.branches)).wait_for()
    assert other.locator(".ts-tree .row").last.locator(".chip").count() == 4
    settle(other)
    with other.expect_download() as waiting:
        other.get_by_role("button", name="All as one tree (JSON)").click()
    waiting.value.save_as(tmp_path / "again.json")
    assert loads((tmp_path / "again.json").read_bytes()) == tree


def test_hostile_text_in_the_dark(visit, tmp_path: Path):
    page = visit(scheme="dark", width=1920)
    for name, value in (("longest", "3"), ("n", "2"), ("typed", HOSTILE)):
        fill(page, name, value)
    page.locator(".st-key-branch-continue button", has_text="<img").wait_for()
    grow(page)
    forced = page.locator(".ts-tree .row code.forced").last.inner_text()
    assert "<img" in forced.replace("·", "") or "<" in forced
    assert "\u202e" not in page.locator("body").inner_text()
    page.locator(".st-key-branch-beside").click()
    page.wait_for_timeout(200)
    assert page.locator("img[src='x']").count() == 0
    assert page.locator(".ts-tree").get_attribute("data-theme") == "dark"
    assert page.evaluate("document.documentElement.scrollWidth") <= 1920
    page.keyboard.press("Escape")
    page.screenshot(path=tmp_path / "branches-dark.png")
    settle(page)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="rollouts (JSONL)").click()
    waiting.value.save_as(tmp_path / "branch.jsonl")
    lines = (tmp_path / "branch.jsonl").read_bytes().splitlines()
    assert len(lines) == 2
    assert HOSTILE in orjson.loads(lines[0])["response"] + orjson.loads(lines[0])["prompt"]
