"""The Tokens page in a real browser: what a visitor sees, clicks and takes home."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)> ![](http://evil.example/a) \u202eabc"
)
QUIET = (
    "WebSocket",  # the page is closed while it still talks
)


@pytest.fixture
def visit(server: str, browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open the app; afterwards no page may have complained or asked another server."""
    contexts, trouble = [], []

    def note(kind: str, text: str) -> None:
        if not any(q in text for q in QUIET):
            trouble.append(f"{kind}: {text}")

    def open_page(path: str = "/", *, scheme: str = "light", width: int = 1280) -> Page:
        size = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme=scheme, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(40_000)
        page.on("console", lambda m: note("console", m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: note("page error", str(e)))
        page.on("dialog", lambda d: (note("dialog", d.message), d.dismiss()))
        page.on(
            "request",
            lambda r: (
                note("request", r.url)
                if not r.url.startswith((server, "data:", "blob:", server.replace("http", "ws")))
                else None
            ),
        )
        page.goto(server + path)
        page.wait_for_selector(".t")
        page.wait_for_selector(".ts-details .others li")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not trouble, trouble


def selected(page: Page) -> list[int]:
    return page.eval_on_selector_all(".t.selected", "ts => ts.map(t => Number(t.dataset.i))")


def detail(page: Page, label: str) -> str:
    return page.locator(f".ts-details dt:text-is('{label}') + dd").first.inner_text()


def position_is(page: Page, position: int) -> None:
    page.locator(".ts-details dd", has_text=f"{position} of").wait_for()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1920)])
def test_first_picture(visit, tmp_path: Path, scheme: str, width: int):
    page = visit(scheme=scheme, width=width)
    assert page.locator("h1").inner_text() == "What did the model think of every token?"
    legend = page.locator(".legend").inner_text()
    assert "surprisal" in legend
    assert "nats" in legend
    assert page.locator(".ts-strip").get_attribute("data-theme") == scheme
    assert len(selected(page)) == 1
    # Nothing runs out of the window sideways.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / f"tokens-{scheme}-{width}.png", full_page=True)


def test_hover_click_and_keys(visit):
    page = visit()
    count = page.locator(".t").count()
    token = page.locator(".t").nth(count - 4)
    token.hover()
    tip = page.locator(".tip")
    tip.wait_for()
    for word in ("probability", "surprisal", "entropy", "rank", "most likely here"):
        assert word in tip.inner_text()
    token.click()
    position_is(page, count - 4)
    assert page.locator(".ts-details .others li").count() >= 20
    assert selected(page) == [count - 4]
    page.locator(".t").nth(count - 2).click(modifiers=["Shift"])
    page.locator(".ts-details dt:text-is('perplexity')").wait_for()
    assert selected(page) == [count - 4, count - 3, count - 2]
    assert page.evaluate("String(getSelection())") == ""
    copied = page.locator(".tokens").evaluate(
        """(box) => {
          const data = new DataTransfer();
          box.dispatchEvent(new ClipboardEvent("copy", { clipboardData: data, bubbles: true }));
          return data.getData("text/plain");
        }"""
    )
    assert copied
    assert not set(copied) & set("·⏎\x01\x02\x03")
    token.click()
    position_is(page, count - 4)
    for key, expected in (("ArrowRight", count - 3), ("End", count - 1), ("Home", 0)):
        page.keyboard.press(key)
        position_is(page, expected)
    assert page.locator(".ts-details .note").inner_text()


def test_another_statistic_colours_anew_and_stays_in_the_link(visit):
    page = visit()
    before = page.eval_on_selector_all(".t", "ts => ts.map(t => t.style.background)")
    page.get_by_role("radio", name="entropy", exact=True).click()
    page.locator(".legend .name:text-is('entropy')").wait_for()
    after = page.eval_on_selector_all(".t", "ts => ts.map(t => t.style.background)")
    assert before != after
    assert "statistic=entropy" in page.url
    page.get_by_role("radio", name="rank", exact=True).click()
    page.locator(".legend .bucket").first.wait_for()
    assert page.locator(".legend .bucket").count() == 5
    again = visit("/?statistic=rank")
    again.locator(".legend .bucket").first.wait_for()


def test_download(visit, tmp_path: Path):
    page = visit()
    with page.expect_download() as waiting:
        page.locator(".st-key-download-tokens-csv button").click()
    file = tmp_path / "tokens.csv"
    waiting.value.save_as(file)
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    assert len(rows) == page.locator(".t").count()
    assert rows[0]["surprisal"] == ""
    assert float(rows[1]["surprisal"]) > 0
    assert waiting.value.suggested_filename.endswith(".csv")


def test_half_a_surrogate_pair_is_mended_and_said(visit):
    page = visit()
    page.locator(".st-key-own button").click()
    prompt = page.locator(".st-key-prompt textarea")
    prompt.evaluate(
        """(field) => {
          const { set } = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value");
          field.focus();
          set.call(field, "a\\ud800b");
          field.dispatchEvent(new Event("input", { bubbles: true }));
        }"""
    )
    page.locator("[class*=st-key-problem]", has_text="surrogate").wait_for()
    assert prompt.input_value() == "a\ufffdb"


def test_generate_and_hostile_text(visit, tmp_path: Path):
    page = visit()
    page.locator(".st-key-own button").click()
    prompt = page.locator(".st-key-prompt textarea")
    prompt.fill(HOSTILE)
    page.locator(".st-key-n input").fill("2")
    page.locator(".st-key-longest input").fill("6")
    page.locator(".st-key-generate button").click()
    page.locator(".st-key-answers").wait_for(timeout=120_000)  # torch is imported only now
    # Depending on the tokenizer the sign is one code or three bytes.
    page.locator(".t b", has_text=re.compile(r"U\+202E|\\xe2")).first.wait_for()
    shown = page.eval_on_selector_all(".t.prompt", "ts => ts.map(t => t.textContent).join('')")
    for part in ("<script>alert(1)</script>", "onerror=alert(1)", "http://evil.example/a"):
        assert part.replace(" ", "·") in shown
    assert "\u202e" not in shown
    page.locator(".st-key-answer button", has_text="2").click()
    page.wait_for_timeout(300)
    assert page.locator("img[src='x']").count() == 0
    page.screenshot(path=tmp_path / "own-text.png", full_page=True)
    prompt.fill("")
    page.locator(".st-key-read button").click()
    page.locator("[class*=st-key-problem]").wait_for()
    assert "no text" in page.locator("[class*=st-key-problem]").inner_text()
    assert page.locator(".t").count() > 0
