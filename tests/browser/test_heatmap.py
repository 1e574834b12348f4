"""The heatmap in a real browser: pixels, mouse, keys, scrolling, in the app and without."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engine.render import palette
from engine.render.heatmap import HEATMAP_HTML, heatmap_css, heatmap_js
from tests.browser.demo import demo_app
from tests.browser.harness import document, mounted, mounter, plain
from tests.pages.test_heatmap import heat

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

HARNESS = document(heatmap_css(), HEATMAP_HTML, heatmap_js() + mounter("heatmap", ".ts-heat"))


@pytest.fixture
def visit(lone: Callable[..., Page]) -> Callable[..., Page]:
    def open_page(payload: dict[str, Any], width: int = 1080, **options: Any) -> Page:
        page = lone(HARNESS, width=width, height=900, **options)
        return mounted(page, plain(payload, "columns", "cells"))

    return open_page


def spot(page: Page, row: int, column: int) -> tuple[float, float]:
    """The middle of a cell on the screen; −1 for the labels."""
    return tuple(
        page.evaluate(
            """([row, column]) => {
              const box = one.grid.getBoundingClientRect();
              const into = one.beside - one.scroller.scrollLeft;
              const x = column < 0 ? 20 : into + (column + 0.5) * one.wide;
              return [box.left + x, box.top + one.top + (row < 0 ? -20 : (row + 0.5) * 20)];
            }""",
            [row, column],
        )
    )


def pixel(page: Page, row: int, column: int) -> str:
    """The colour of the middle of a cell, empty where nothing is drawn."""
    return page.evaluate(
        """([row, column]) => {
          const x = (column + 0.5) * one.wide - one.scroller.scrollLeft, y = one.top + row * 20;
          const [r, g, b, a] = one.canvas.getContext("2d").getImageData(x, y + 10, 1, 1).data;
          const hex = [r, g, b].map((v) => v.toString(16).padStart(2, "0")).join("");
          return a === 255 ? `#${hex}` : "";
        }""",
        [row, column],
    )


def test_cells_have_their_colour_and_tell_their_numbers(visit):
    values = np.zeros((3, 30))
    values[0, 2], values[1, 7], values[2, 29], values[2, 0] = 4.0, -4.0, 1.2345, math.nan
    page = visit(heat(values, name="score"))
    ramp = palette.diverging("light")
    assert pixel(page, 0, 2) == ramp[-1]
    assert pixel(page, 1, 7) == ramp[0]
    assert pixel(page, 2, 29) == ramp[round((1.2345 / 4 + 1) / 2 * (len(ramp) - 1))]
    assert pixel(page, 0, 7) == pixel(page, 1, 2) == ""  # 0 is the page itself

    page.mouse.move(*spot(page, 2, 29))
    tip = page.evaluate("one.tip.innerText")
    assert all(part in tip for part in ("target, position 42", "source, position 29", "1.23 nats"))
    assert page.evaluate("heard.at(-1)") == ["hover", {"channel": "tokens", "position": 29}]
    page.mouse.move(*spot(page, 2, 0))
    assert "–" in page.evaluate("one.tip.innerText")
    page.mouse.move(*spot(page, 0, 1))
    assert "<script>alert(1)</script>" in page.evaluate("one.tip.innerText")
    assert page.evaluate("one.root.querySelectorAll('img, script').length") == 0

    page.mouse.click(*spot(page, 1, 7))
    page.wait_for_timeout(30)
    (first, cell), (second, told) = page.evaluate("reports")
    assert (first, second) == ("cell", "selection")
    assert (cell["row"], cell["column"], cell["signature"]) == (1, 7, "t" * 24)
    assert (told["first"], told["last"]) == (7, 7)
    detail = next(d for kind, d in page.evaluate("heard") if kind == "select")
    assert (detail["source"], detail["channel"]) == ("heatmap", "tokens")
    page.mouse.click(*spot(page, 1, -1))  # a row's label selects its own token
    page.wait_for_timeout(30)
    assert page.evaluate("reports.at(-1)[1].first") == 41
    page.mouse.click(*spot(page, -1, 3))
    page.wait_for_timeout(30)
    assert page.evaluate("reports.length") == 4
    assert page.evaluate("reports.at(-1)[1].first") == 3

    page.evaluate(
        "(detail) => dispatchEvent(new CustomEvent('tokenscope:view', { detail }))",
        {"channel": "tokens", "signature": "t" * 24, "selection": [41, 42], "stamp": 2e15},
    )
    assert page.evaluate("[...one.lines().rows]") == [1, 2]

    page.evaluate("one.cell = null")
    page.locator(".grid").focus()
    for key in ("ArrowDown", "ArrowDown", "End", "ArrowRight", "ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.evaluate("one.cell") == [0, 28]
    assert "score 0 nats" in page.locator(".said").inner_text()
    page.keyboard.press("Enter")
    page.wait_for_timeout(30)
    assert page.evaluate("reports.findLast(([name]) => name === 'cell')[1].column") == 28


@pytest.mark.slow
def test_the_largest_one_scrolls_under_its_rows(visit):
    values = np.random.default_rng(0).random((64, 2000))
    values[5, 1500] = 2.0
    page = visit(heat(values), width=1600, color_scheme="dark")
    ramp = palette.sequential("dark")
    assert not page.evaluate("one.labelled")
    page.locator(".fit").click()
    assert page.evaluate("one.labelled")
    page.evaluate("one.cell = [5, 0]; one.reveal(1500)")
    assert page.evaluate("one.scroller.scrollLeft") > 10_000
    assert pixel(page, 5, 1500) == ramp[-1]
    page.mouse.click(*spot(page, 5, 1500))
    page.wait_for_timeout(30)
    assert page.evaluate("reports.map(([, v]) => v.column ?? v.first)") == [1500, 1500]
    assert "of 2,000" in page.locator(".part").inner_text()
    took = page.evaluate(
        """() => Array.from({ length: 15 }, (_, k) => {
          one.scroller.scrollLeft = k * 500;
          const start = performance.now();
          one.paint();
          return performance.now() - start;
        }).sort((a, b) => a - b)[7]"""
    )
    assert took < 50
    size = page.evaluate("[one.canvas.width, document.documentElement.scrollWidth]")
    assert max(size) <= 1600


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1920)])
def test_it_works_in_the_app(browser: Browser, tmp_path: Path, scheme: str, width: int):
    app = """
        import numpy as np
        from pages.widgets.heatmap import heatmap
        from tests.pages.test_heatmap import heat
        values = np.where(np.arange(30) < 25, np.linspace(-1, 1, 90).reshape(3, 30), np.nan)
        selection, cell = heatmap(heat(values), key="heat")
        st.text(f"selected {(selection or {}).get('first')} cell {cell}")
    """
    with demo_app(browser, app, tmp_path, scheme=scheme, width=width) as page:
        page.get_by_text("selected None cell None").wait_for()
        grid = page.locator(".ts-heat .grid")
        grid.focus()
        for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Enter"):
            page.keyboard.press(key)
        page.get_by_text("selected 1 cell (1, 1)").wait_for()
        assert page.locator(".ts-heat").get_attribute("data-theme") == scheme
