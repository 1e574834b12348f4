"""The Summary page in a real browser: bars, curve, controls, link and download."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

import engine
from engine.render.axes import Quantity
from engine.render.bars import BARS_HTML, bars_css, bars_data
from engine.render.strip import asset
from tests.pages.hostile import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, WebSocketRoute

pytestmark = pytest.mark.browser


@pytest.fixture
def visit(watched: Callable[..., Page]) -> Callable[..., Page]:
    """Open the page and wait for its first picture."""

    def open_page(query: str = "", ready: Callable[[], bool] = lambda: True, **how: Any) -> Page:
        if not query:  # as a visitor gets here
            page = watched("", height=1150, **how)
            link = page.get_by_role("link", name="Summary")
            link.wait_for()
            while not ready():
                page.wait_for_timeout(20)
            link.click()
        else:
            page = watched(f"/summary{query}", height=1150, **how)
        page.locator(".ts-bars tbody tr").first.wait_for()
        page.locator(".ts-curve svg .mark").first.wait_for()
        return page

    return open_page


def names(page: Page) -> list[str]:
    return page.locator(".ts-bars tbody th").all_inner_texts()


def test_a_view_that_reports_while_its_page_is_left(visit: Callable[..., Page]) -> None:
    """Its report arrives right after the click: what is drawn is the page that was asked for."""
    from streamlit.proto.BackMsg_pb2 import BackMsg

    held: list[bytes] = []
    steps: list[str] = []

    def route(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def sent(message: str | bytes) -> None:
            assert isinstance(message, bytes)
            if BackMsg.FromString(message).rerun_script.fragment_id and not steps:
                held.append(message)  # the strip has been drawn
                return
            if held and not steps:
                steps.append("left")
            server.send(message)

        def received(message: str | bytes) -> None:
            socket.send(message)
            if steps == ["left"]:  # the new page is being made
                steps.append("reported")
                server.send(held[0])

        socket.on_message(sent)
        server.on_message(received)

    page = visit(route=route, ready=lambda: bool(held))
    assert steps == ["left", "reported"]
    assert page.locator("h1").inner_text() == "How did the model read this text as a whole?"


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option, exact=True).click()


def test_what_a_visitor_sees_changes_and_takes_along(visit, tmp_path: Path):
    page = visit()
    assert page.locator("h1").inner_text() == "How did the model read this text as a whole?"
    assert "the perplexity" in page.locator(".st-key-lede").inner_text()
    assert {"function", "content", "number", "punctuation"} <= set(names(page))
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    # Bars are as long as their means, whiskers hold them.
    bars = page.locator(".ts-bars .bar").evaluate_all(
        "bs => bs.map(b => parseFloat(b.style.width))"
    )
    means = [float(t) for t in page.locator(".ts-bars .mean").all_inner_texts()]
    longest = max(range(len(means)), key=means.__getitem__)
    for bar, mean in zip(bars, means, strict=True):
        assert abs(bar / bars[longest] - mean / means[longest]) < 0.02
    page.locator(".ts-bars tbody tr").first.hover()
    tip = page.locator(".ts-bars .tip")
    tip.wait_for()
    for word in ("95 % interval", "median", "share of the sum"):
        assert word in tip.inner_text()

    # A click in the curve selects, here and on the next page.
    box = page.locator(".ts-curve .plot").bounding_box()
    page.mouse.click(box["x"] + 0.7 * box["width"], box["y"] + box["height"] / 2)
    position = page.locator(".ts-curve").get_attribute("aria-valuenow")
    page.locator(".st-key-selected", has_text=f"position {position},").wait_for()
    assert "entropy" in page.locator(".st-key-selected").inner_text()

    choose(page, "Grouped by", "token")
    page.locator(".ts-bars .token").first.wait_for()
    choose(page, "Value", "surprisal")
    page.locator(".ts-bars .name", has_text="Mean surprisal by token").wait_for()
    assert "by=token" in page.url
    assert "signal=surprisal" in page.url
    query = "?" + page.url.partition("?")[2]
    page.screenshot(path=tmp_path / "summary-light.png", full_page=True)

    with page.expect_download() as waiting:
        page.locator(".st-key-download-groups-csv button").click()
    file = tmp_path / "groups.csv"
    waiting.value.save_as(file)
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    assert sum(int(row["count"]) for row in rows) > len(rows) > 5

    again = visit(query, scheme="dark", width=1920)
    assert names(again) == names(page)
    assert again.locator(".ts-bars .name").inner_text().startswith("Mean surprisal by token")
    assert again.locator(".ts-bars").get_attribute("data-theme") == "dark"
    again.screenshot(path=tmp_path / "summary-dark.png", full_page=True)
    again.get_by_role("link", name="Tokens", exact=True).click()
    again.locator(".t").first.wait_for()


def test_hostile_tokens_are_only_text(browser: Browser):
    schema = engine.analyses()["grouped"].tables["groups"].schema()
    rows = [
        {
            "group": token, "detail": token, "token_bytes": token.encode() if i % 2 else None,
            "count": 1, "traces": 1, "mean": 1.0 - i / 10, "low": -2.0, "high": 1.5, "median": 1.0,
            "q25": 1.0, "q75": 1.0, "share": 0.5, "sum_share": None,
        }
        for i, token in enumerate(HOSTILE)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema)
    data = bars_data(table, Quantity("<b>x</b>", "<i>"), title="<img src=x>", longest=99)
    page = browser.new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda e: trouble.append(str(e)))
    page.on("dialog", lambda d: (trouble.append(d.message), d.dismiss()))
    page.on("request", lambda r: None if r.url.startswith("blob:") else trouble.append(r.url))
    page.evaluate(
        """async ([script, html, style, data]) => {
          const file = new Blob([script], { type: "text/javascript" });
          const draw = (await import(URL.createObjectURL(file))).default;
          document.body.innerHTML = `<style>${style}</style>${html}`;
          draw({ data: JSON.parse(data), parentElement: document.body });
        }""",
        [asset("bars.js"), BARS_HTML, bars_css(), json.dumps(data)],
    )
    lines = page.locator(".ts-bars tbody tr")
    assert lines.count() == len(HOSTILE)
    for n in range(lines.count()):
        lines.nth(n).hover()
    inside = page.locator(".ts-bars")
    assert inside.locator("img, script, a, style").count() == 0
    assert "<img src=x onerror=alert(1)>" in inside.inner_text()
    # The smallest mean lies left of zero, the largest right of it.
    zero = page.locator(".zero").first.bounding_box()["x"]
    first, last = (
        page.locator(".bar").first.bounding_box(),
        page.locator(".bar").last.bounding_box(),
    )
    assert abs(first["x"] - zero) < 2
    assert abs(last["x"] + last["width"] - zero) < 2
    page.close()
    assert not trouble
