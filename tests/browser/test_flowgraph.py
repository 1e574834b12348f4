"""The flow graph in a real browser: mouse, keys, slider, folding, files, in the app and without."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from engine.render.flowgraph import (
    FLOWGRAPH_HTML,
    flowgraph_css,
    flowgraph_js,
    flowgraph_svg,
)
from tests.browser.demo import demo_app
from tests.browser.harness import document, mounted, mounter, plain
from tests.pages.test_flowgraph import graph

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

SCRIPT = flowgraph_js() + mounter("flowgraph", ".ts-flow") + "window.tools = { fileOf, pngOf };\n"
HARNESS = document(flowgraph_css(), FLOWGRAPH_HTML, SCRIPT)


@pytest.fixture
def visit(lone: Callable[..., Page]) -> Callable[..., Page]:
    def open_page(payload: dict[str, Any], width: int = 1080, **options: Any) -> Page:
        page = lone(HARNESS, width=width, height=1000, **options)
        return mounted(page, plain(payload, "columns", "edges"))

    return open_page


def spot(page: Page, position: int) -> tuple[float, float]:
    """Where the dot of a token is on the screen."""
    return tuple(
        page.evaluate(
            """(position) => {
              const { x, y } = one.layout.items[one.itemAt(position)];
              const box = one.plot.getBoundingClientRect();
              return [box.left + x, box.top + y];
            }""",
            position,
        )
    )


def test_tokens_edges_and_slider_tell_the_numbers_of_the_tables(visit):
    payload = graph(40, question=12, answer=2)
    page = visit(payload)
    rows = payload["edges"].to_pylist()
    drawn = [r for r in rows if r["needed"] < 0.8]
    assert page.evaluate("[one.kept.count, one.ribbons.length]") == [len(drawn)] * 2

    page.mouse.move(*spot(page, 30))
    assert page.evaluate("heard.at(-1)") == ["hover", {"channel": "tokens", "position": 30}]
    assert "position 30" in page.evaluate("one.tip.innerText")
    page.mouse.click(*spot(page, 30))
    page.wait_for_timeout(30)
    name, told = page.evaluate("reports.at(-1)")
    assert (name, told["first"], told["last"], told["signature"]) == ("selection", 30, 30, "t" * 24)
    detail = next(d for kind, d in page.evaluate("heard") if kind == "select")
    assert (detail["source"], detail["first"], detail["channel"]) == ("flow", 30, "tokens")
    said = page.locator(".readout").inner_text()
    for mine, title in (("target", "draws from"), ("source", "feeds")):
        found = [r["flow"] for r in drawn if r[mine] == 30]
        assert f"{title} ({len(found)} drawn edge" in said
        assert f"{sum(found):.3g} in all" in said
    # The first entry is the heaviest edge from the token; it is told to Python, not selected.
    heaviest = max((r for r in drawn if r["source"] == 30), key=lambda r: r["flow"])
    page.locator(".side >> nth=1").locator(".entry >> nth=0").click()
    name, told = page.evaluate("reports.at(-1)")
    assert (name, told["edge"]) == ("edge", [30, heaviest["target"]])
    assert f"attention {heaviest['weight']:.3g}" in page.locator(".readout").inner_text()

    # An edge under the pointer: the middle of the heaviest, which is drawn on top.
    top = max(drawn, key=lambda r: r["flow"])
    page.keyboard.press("Escape")
    x, y = page.evaluate(
        """() => {
          const { curve } = one.ribbons.at(-1), box = one.plot.getBoundingClientRect();
          const middle = (k) => (curve[k] + 3 * curve[k + 2] + 3 * curve[k + 4] + curve[k + 6]) / 8;
          return [box.left + middle(0), box.top + middle(1)];
        }"""
    )
    page.evaluate("one.nodes.style.pointerEvents = 'none'")
    page.mouse.click(x, y)
    assert page.evaluate("reports.at(-1)[1].edge") == [top["source"], top["target"]]
    assert f"flow {top['flow']:.3g}" in page.evaluate("one.tip.innerText").replace("\n", " ")
    page.evaluate("one.nodes.style.pointerEvents = ''")

    for share in ("0.31", "1"):
        page.locator(".share").fill(share)
        expected = sum(r["needed"] < float(share) for r in rows)
        assert page.evaluate("one.ribbons.length") == expected
        assert page.locator(".drawn").inner_text() == f"{expected} of {len(rows)} edges"
    assert page.evaluate("one.root.querySelectorAll('img, script').length") == 0

    # The strip's choice is shown, unless it is older or of another text; a page's own is outlined.
    tell = """(d) => dispatchEvent(
      new CustomEvent("tokenscope:view", { detail: { channel: "tokens", ...d } }))"""
    page.evaluate(tell, {"signature": "x", "selection": [3, 3], "stamp": 2e15})
    page.evaluate(tell, {"signature": "t" * 24, "selection": [3, 3], "stamp": 5})
    assert page.evaluate("one.selection") == [30, 30]
    page.evaluate(tell, {"signature": "t" * 24, "selection": [3, 4], "stamp": 2e15})
    chosen = "[...one.nodes.querySelectorAll('.chosen')].map((g) => one.layout.items[g.dataset.n])"
    assert [item["first"] for item in page.evaluate(chosen)] == [3, 4]


def test_both_writers_of_the_file_agree(visit):
    payload = graph(150, question=50, answer=6, most_nodes=60, note="mean & max", share=0.4)
    page = visit(payload)
    width = page.evaluate("one.width")
    ours = list(ET.fromstring(flowgraph_svg(payload, 0.4, "light", width)).iter())
    theirs = list(ET.fromstring(page.evaluate("tools.fileOf(one)").encode()).iter())
    assert len(ours) == len(theirs) > 300
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.tag, mine.text or "") == (other.tag, other.text or "")
        assert mine.keys() == other.keys() or set(mine.keys()) == set(other.keys())
        for name, value in mine.items():
            assert alike(value, other.get(name, "")), (mine.tag, name, value, other.get(name))
    png = base64.b64decode(
        page.evaluate(
            """async () => {
              const blob = await tools.pngOf(one);
              const head = new Uint8Array(await blob.slice(0, 24).arrayBuffer());
              return btoa(String.fromCharCode(...head));
            }"""
        )
    )
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20]) == 3 * round(float(ours[0].get("width", "0")))


def alike(one: str, other: str) -> bool:
    """The same text, numbers to a tenth of a pixel; neighbours on the colour map are the same."""
    if one.startswith("#") and other.startswith("#"):
        return all(abs(int(one[k : k + 2], 16) - int(other[k : k + 2], 16)) < 12 for k in (1, 3, 5))
    split = re.compile(r"(-?\d+(?:\.\d+)?)")
    pairs = list(zip(split.split(one), split.split(other), strict=False))
    return len(split.split(one)) == len(split.split(other)) and all(
        a == b or abs(float(a) - float(b)) < 0.11 for a, b in pairs
    )


@pytest.mark.slow
def test_keys_walk_and_folded_runs_open(visit):
    payload = graph(300, question=100, answer=4, most_nodes=12)
    page = visit(payload, color_scheme="dark", width=1600)
    assert page.evaluate("one.root.dataset.theme") == "dark"
    items = page.evaluate("one.layout.items.map((i) => [i.first, i.last, i.folded])")
    assert len(items) <= 12
    assert [i[0] for i in items[1:]] == [i[1] + 1 for i in items[:-1]]
    page.locator(".node[tabindex='0']").focus()
    for key in ("End", "Home", "ArrowDown", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    assert page.evaluate("one.here") == 1
    page.keyboard.press("ArrowRight")
    assert page.evaluate("one.layout.items[one.here].column") == 1
    folded = next(n for n, item in enumerate(items) if item[2] and item[1] - item[0] > 50)
    page.evaluate("(n) => one.focusOn(n)", folded)
    page.keyboard.press("Enter")
    after = page.evaluate("one.layout.items.map((i) => [i.first, i.last])")
    assert 20 <= len(after) - len(items) <= 41
    assert [i[0] for i in after[1:]] == [i[1] + 1 for i in after[:-1]]
    assert page.evaluate("one.here") == folded
    single = page.evaluate("one.layout.items.findIndex((i) => !i.folded)")
    page.evaluate("(n) => one.focusOn(n)", single)
    page.keyboard.press("Enter")
    page.wait_for_timeout(30)
    assert page.evaluate("reports.at(-1)[1].first") == after[single][0]
    page.keyboard.press("Tab")  # out of the tokens, to what it draws from and feeds
    assert "entry" in page.evaluate("document.activeElement.className")
    page.locator(".refold").click()
    assert page.evaluate("one.layout.items.length") == len(items)


@pytest.mark.slow
def test_the_slider_is_quick(visit):
    payload = graph(200, question=80, answer=3, most_edges=2_000, share=0.2)
    page = visit(payload, width=1280)
    took = page.evaluate(
        """() => Array.from({ length: 15 }, () => {
          one.keep(0.02);
          const start = performance.now();
          one.keep(one.data.most_share);
          return performance.now() - start;
        }).sort((a, b) => a - b)[7]"""
    )
    assert took < 50


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1920)])
def test_it_works_in_the_app(browser: Browser, tmp_path: Path, scheme: str, width: int):
    app = """
        from pages.widgets.flowgraph import flowgraph
        from tests.pages.test_flowgraph import graph
        selection, edge = flowgraph(graph(40, question=12, answer=2), key="flow")
        st.text(f"selected {(selection or {}).get('first')} edge {edge}")
    """
    with demo_app(browser, app, tmp_path, scheme=scheme, width=width) as page:
        page.get_by_text("selected None edge None").wait_for()
        page.locator(".ts-flow .node").nth(4).click()
        page.get_by_text("selected 5 edge None").wait_for()
        page.locator(".ts-flow .entry").first.click()
        page.get_by_text(re.compile(r"selected 5 edge \(\d+, \d+\)")).wait_for()
        with page.expect_download() as got:
            page.locator(".save-svg").click()
        assert ET.parse(got.value.path()).getroot().tag.endswith("svg")
        assert page.locator(".ts-flow").get_attribute("data-theme") == scheme
