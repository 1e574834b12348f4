"""The first minute of a stranger in a real browser: guess, curve, branch, chips, link, own text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import engine
from tests.browser.themes import THEMES
from tests.pages.hostile import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
MOST = 25_000_000 // 4
"""Bytes a field takes: a quarter of what Streamlit's server takes in one message."""
FILL = """(field, n) => {
  const { set } = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value");
  set.call(field, "é".repeat(n));
  field.dispatchEvent(new Event("input", { bubbles: true }));
}"""
CULPRIT = next(item for item in engine.gallery() if item.name == "start").culprit


@pytest.fixture
def visit(watched: Callable[..., Page]) -> Callable[..., Page]:
    """Open a page and wait for its tokens."""

    def open_page(path: str = "/", **how: Any) -> Page:
        page = watched(path, height=900, **how)
        page.wait_for_selector(".t")
        return page

    return open_page


def settled(page: Page) -> None:
    """Streamlit has run whatever was asked of it."""
    page.wait_for_selector("[data-test-script-state='notRunning']")


def answered(page: Page) -> None:
    page.wait_for_selector(".ts-curve")
    page.wait_for_selector(".ts-details .others li")
    settled(page)


@pytest.mark.parametrize(("scheme", "width"), THEMES)
def test_guess_curve_branch_chips_and_link(
    visit: Callable[..., Page], server: str, tmp_path: Path, scheme: str, width: int
) -> None:
    assert CULPRIT is not None
    page = visit(scheme=scheme, width=width)
    assert page.locator("h1").inner_text() == "Which token broke it?"
    assert page.locator(".ts-curve").count() == 0
    page.screenshot(path=tmp_path / f"start-asked-{scheme}.png")
    page.locator(".t").nth(CULPRIT.position + 3).click()
    answered(page)
    # The culprit is outlined with its fall, the guess beside it, and the curve falls there.
    fall = f"{CULPRIT.before:.2f} → {CULPRIT.after:.2f}"
    page.get_by_text(fall).first.wait_for()
    page.get_by_text("your guess").first.wait_for()
    page.locator(".ts-details dd", has_text=f"{CULPRIT.position} of").wait_for()
    page.screenshot(path=tmp_path / f"start-answered-{scheme}.png")
    page.get_by_role("button", name="Make it say").click()
    page.locator(".ts-stream .verdict.right").wait_for()
    page.get_by_role("button", name="Now try it yourself").wait_for()
    page.screenshot(path=tmp_path / f"start-branch-{scheme}.png", full_page=True)
    # The link gives the same view to somebody else.
    page.get_by_role("button", name="Copy link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    assert "text=start" in link
    assert f"select={CULPRIT.position}" in link
    page.get_by_role("button", name="Copy as Python").click()
    code = page.evaluate("navigator.clipboard.readText()")
    compile(code, "copied", "exec")
    # The chips take the token along.
    page.get_by_role("button", name="What did it think?").click()
    page.get_by_role("heading", name="What did the model think of every token?").wait_for()
    page.locator(".ts-details dd", has_text=f"{CULPRIT.position} of").wait_for()
    parts = urlsplit(link)
    other = visit(f"/tokens?{parts.query}")
    other.locator(".ts-details dd", has_text=f"{CULPRIT.position} of").wait_for()


@pytest.mark.slow
def test_a_guess_by_keyboard(visit: Callable[..., Page]) -> None:
    page = visit()
    page.locator(".tokens").focus()
    for key in ("End", "ArrowLeft"):
        page.keyboard.press(key)
    answered(page)
    page.get_by_text("your guess").first.wait_for()


def test_a_log_full_of_hostile_tokens(visit: Callable[..., Page], tmp_path: Path) -> None:
    """Brought through the drop zone, looked at on every page that takes a trace."""
    content = [
        {
            "token": token,
            "bytes": list(token.encode("utf-8")),
            "logprob": -0.5,
            "top_logprobs": [
                {"token": other, "bytes": list(other.encode("utf-8")), "logprob": -1.5 - k}
                for k, other in enumerate((token, HOSTILE[(i + 1) % len(HOSTILE)]))
            ],
        }
        for i, token in enumerate(t for t in HOSTILE if t)
    ]
    log = {
        "object": "chat.completion",
        "model": "<b>model</b>",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "".join(HOSTILE)},
                "logprobs": {"content": content},
            }
        ],
    }
    file = tmp_path / "![x](javascript:alert(1)) <b>.json"
    file.write_text(json.dumps(log))
    page = visit()
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_role("button", name="Look at its").click()
    page.wait_for_selector(".t:nth-child(5)")
    settled(page)
    for token in page.locator(".t").all()[:6]:
        token.hover()
    page.locator(".t").nth(2).click()
    settled(page)
    page.screenshot(path=tmp_path / "hostile-log.png", full_page=True)
    page.get_by_role("link", name="Library").click()
    page.get_by_role("heading", name="What has been computed?").wait_for()
    settled(page)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\x00\x01 broken", marks=pytest.mark.slow),
        pytest.param('{"messages": [', marks=pytest.mark.slow),
        "x" * 400_000,
    ],
    ids=["signs", "broken", "long"],
)
def test_odd_input_keeps_the_page_alive(visit: Callable[..., Page], text: str) -> None:
    page = visit()
    area = page.locator("textarea").last
    area.fill(text)
    area.press("Control+Enter")
    settled(page)
    assert page.get_by_text("Something went wrong inside").count() == 0
    assert page.locator("h1").inner_text() == "Which token broke it?"


@pytest.mark.parametrize("path", ["/start", pytest.param("/start/", marks=pytest.mark.slow)])
def test_the_start_page_has_an_address_too(
    visit: Callable[..., Page], server: str, path: str
) -> None:
    page = visit(f"{path}?text=wrong-sum&model=demo")
    assert page.url.startswith(f"{server}/?")
    assert "text=wrong-sum" in page.url
    assert page.locator("h1").inner_text() == "Which token broke it?"
    title = next(i.title for i in engine.gallery() if i.name == "wrong-sum")
    assert page.locator(".st-key-text input").first.input_value() == title


def test_a_paste_and_a_file_beyond_the_limit_are_one_sentence(
    visit: Callable[..., Page], tmp_path: Path
) -> None:
    """Above its limit the server hangs up: what is too large must not be sent at all."""
    page = visit()
    closed: list[str] = []
    page.on("websocket", lambda ws: closed.append(ws.url))  # it would connect anew
    area = page.locator(".st-key-drop-text textarea")
    toast = page.locator("[data-testid=stToast]")

    def paste(words: int) -> None:
        page.evaluate("n => navigator.clipboard.writeText('word '.repeat(n))", words)
        area.press("Control+a")
        area.press("Control+v")

    paste(200_000)
    area.press("Control+Enter")
    page.get_by_text("Plain text, 1,000,000 characters").wait_for()
    assert toast.count() == 0
    paste(2_000_000)
    toast.get_by_text("The text has 10.0 MB, and a field takes at most").wait_for()
    assert len(area.input_value()) == 1_000_000, "the field stays as it was"
    # Just above the limit, set by a program and not by a paste.
    area.evaluate(FILL, MOST // 2 + 1)
    toast.get_by_text("The text has 6.3 MB").wait_for()
    assert len(area.input_value()) == 1_000_000
    file = tmp_path / "large.txt"
    file.write_bytes(b"x" * ((25 << 20) + 1))
    page.locator(".st-key-drop-file input[type=file]").set_input_files(file)
    page.locator(".st-key-drop-file", has_text="must be 25.0MB or smaller").wait_for()
    settled(page)
    assert page.get_by_text("Something went wrong inside").count() == 0
    assert closed == []


@pytest.mark.slow
def test_the_largest_paste_arrives(visit: Callable[..., Page]) -> None:
    page = visit()
    closed: list[str] = []
    page.on("websocket", lambda ws: closed.append(ws.url))
    area = page.locator(".st-key-drop-text textarea")
    area.evaluate(FILL, MOST // 2)
    area.press("Control+Enter")
    page.get_by_text(f"Plain text, {MOST // 2:,} characters").wait_for()
    settled(page)
    assert closed == []
