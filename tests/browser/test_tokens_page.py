"""The Tokens page in a real browser: what a visitor sees, clicks and takes home."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

import engine
from pages.widgets.places import PLACES
from tests.browser.themes import THEMES

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)> ![](http://evil.example/a) \u202eabc"
)
# The page that opens first has no name of its own in the address.
TOKENS = "/" if PLACES[0].name == "tokens" else "/tokens"


@pytest.fixture
def visit(watched: Callable[..., Page]) -> Callable[..., Page]:
    """Open the page and wait for its first picture."""

    def open_page(path: str = TOKENS, **how: Any) -> Page:
        page = watched(path, height=900, **how)
        page.wait_for_selector(".t")
        page.wait_for_selector(".ts-details .facts")
        return page

    return open_page


def selected(page: Page) -> list[int]:
    return page.eval_on_selector_all(".t.selected", "ts => ts.map(t => Number(t.dataset.i))")


def detail(page: Page, label: str) -> str:
    return page.locator(f".ts-details dt:text-is('{label}') + dd").first.inner_text()


def position_is(page: Page, position: int) -> None:
    page.locator(".ts-details dd", has_text=f"{position} of").wait_for()


@pytest.mark.parametrize(("scheme", "width"), THEMES)
def test_first_picture_and_its_table_taken_home(visit, tmp_path: Path, scheme: str, width: int):
    page = visit(scheme=scheme, width=width)
    assert page.locator("h1").inner_text() == "What did the model think of every token?"
    shown = page.locator(".legend", has_text="surprisal")
    shown.wait_for()
    legend = shown.inner_text()
    assert "nats" in legend
    assert page.locator(".ts-strip").get_attribute("data-theme") == scheme
    assert len(selected(page)) == 1
    # Nothing runs out of the window sideways.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / f"tokens-{scheme}-{width}.png", full_page=True)
    with page.expect_download() as waiting:
        page.locator(".st-key-download-tokens-csv button").click()
    file = tmp_path / "tokens.csv"
    waiting.value.save_as(file)
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    assert len(rows) == page.locator(".t").count()
    assert rows[0]["surprisal"] == ""
    assert float(rows[1]["surprisal"]) > 0
    assert waiting.value.suggested_filename.endswith(".csv")


def test_hover_click_and_keys(visit):
    page = visit()
    count = page.locator(".t").count()
    token = page.locator(".t").nth(count - 4)
    token.hover()
    tip = page.locator(".ts-strip .tip")
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
    # An alternative is forced on the page of branches.
    token.click()
    position_is(page, count - 4)
    row = page.locator(".ts-details .open-to").nth(1)
    row.focus()
    page.keyboard.press("Enter")
    offer = page.locator(".ts-details .offer button")
    offer.wait_for()
    assert offer.inner_text().startswith("Force ")
    assert row.get_attribute("aria-expanded") == "true"
    page.keyboard.press("Enter")
    offer.wait_for(state="detached")
    row.click()
    offer.click()
    page.wait_for_url("**/branches**")


# What each view says is selected; they must come to agree, in whatever time the machine needs.
AGREED = """(position) => {
  const within = (name) =>
    [...document.querySelectorAll("*")].map((e) => e.shadowRoot?.querySelector(name)).find(Boolean);
  const strip = within(".ts-strip")?.strip;
  const views = [strip, within(".ts-curve")?.view, within(".ts-scatter")?.view];
  const panel = within(".ts-details")?.querySelector("dd")?.textContent ?? "";
  const row = document.querySelector(".st-key-table tr[aria-selected=true] td")?.textContent;
  return (
    views.every((view) => view?.selection?.[0] === position && view.selection[1] === position) &&
    panel.startsWith(`${position} of`) && Number(row) === position
  );
}"""


def agreed(page: Page, position: int) -> None:
    page.wait_for_function(AGREED, arg=position)


def test_every_view_moves_all_the_others(visit):
    page = visit()
    page.locator(".st-key-table .dvn-scroller").wait_for()
    count = page.locator(".t").count()
    strip, curve = page.locator(".ts-strip"), page.locator(".ts-curve")
    strip.locator(".t").nth(count - 9).click()
    agreed(page, count - 9)

    # The curve's cells are as wide as its 44 and 10 pixels of margin leave them.
    inner = curve.evaluate("(root) => root.view.inner")
    for position in (3, count - 5):
        x = 44 + (position + 0.5) * inner / count
        curve.locator(".plot").click(position={"x": x, "y": 60})
        agreed(page, position)
    curve.locator(".plot").hover(position={"x": x, "y": 60})
    tip = curve.locator(".tip")
    tip.wait_for()
    assert f"position {count - 5}" in tip.inner_text()
    page.keyboard.press("ArrowRight")
    agreed(page, count - 4)
    page.keyboard.press("Home")
    agreed(page, 0)

    scatter = page.locator(".ts-scatter")
    point = """(root) => {
      const { xs, ys, columns } = root.view;
      const far = (i, j) => Math.hypot(xs[i] - xs[j], ys[i] - ys[j]);
      const all = Array.from({ length: columns.length - 1 }, (_, k) => k + 1);
      const i = all.find((i) => all.every((j) => i === j || far(i, j) > 2));
      return [i, xs[i], ys[i]];
    }"""
    position, x, y = scatter.evaluate(point)
    scatter.locator(".plot").click(position={"x": x, "y": y})
    agreed(page, position)

    # A row whose own box is ticked: the first one fully in sight that is not selected.
    scroller = page.locator(".st-key-table .dvn-scroller")
    scroller.evaluate("(box) => { box.scrollTop = 28 * 10; }")
    page.wait_for_function("document.querySelector('.st-key-table tbody td')?.textContent >= 9")
    place = {"x": 15, "y": 33 + 28 * 2 + 14}
    page.locator(".st-key-table canvas").first.click(position=place, force=True)
    agreed(page, 12)
    page.get_by_role("radio", name="entropy", exact=True).click()
    page.locator(".ts-curve .name:text-is('Entropy, nats')").wait_for()
    agreed(page, 12)


def test_a_link_selects_in_every_view(visit):
    name = engine.gallery()[0].name
    page = visit(f"{TOKENS}?text={name}&select=3-5")
    page.locator(".ts-details dd:text-is('3–5')").wait_for()
    page.locator(".ts-scatter").wait_for()
    for kind in ("curve", "scatter"):
        page.wait_for_function(
            """(name) => {
              const roots = [...document.querySelectorAll("*")].map((e) => e.shadowRoot);
              const found = roots.map((root) => root?.querySelector(name)).find(Boolean);
              return String(found?.view?.selection) === "3,5";
            }""",
            arg=f".ts-{kind}",
        )
    assert selected(page) == [3, 4, 5]


def test_another_statistic_colours_anew_and_stays_in_the_link(visit):
    page = visit()
    before = page.eval_on_selector_all(".t", "ts => ts.map(t => t.style.background)")
    page.get_by_role("radio", name="entropy", exact=True).click()
    page.locator(".legend .name:text-is('entropy')").wait_for()
    after = page.eval_on_selector_all(".t", "ts => ts.map(t => t.style.background)")
    assert before != after
    page.locator(".ts-curve .name:text-is('Entropy, nats')").wait_for()
    page.wait_for_url("**/*signal=entropy*")
    page.get_by_role("radio", name="rank", exact=True).click()
    page.locator(".legend .bucket").first.wait_for()
    assert page.locator(".legend .bucket").count() == 5
    page.wait_for_url("**/*signal=rank*")


@pytest.mark.slow
def test_links_name_a_value_by_its_column(visit):
    """What is shown may be worded better one day; links, old ones too, open all the same."""
    columns = engine.analyses()["statistics"].tables["tokens"].columns
    label = columns["max_prob"].label
    assert label not in ("", "max_prob"), "a value whose label differs from its name"
    page = visit()
    page_address = page.url.partition("?")[0]
    page.get_by_role("radio", name=label, exact=True).click()
    page.wait_for_url("**/*signal=max_prob*")
    assert "statistic=" not in page.url
    query = page.url.partition("?")[2]
    chosen = page.locator("[role=radio][aria-checked=true]")
    for link in (query, f"statistic={quote(label)}"):
        page.goto("about:blank")
        page.goto(f"{page_address}?{link}")
        chosen.filter(has_text=label).wait_for()
        page.wait_for_url("**/*signal=max_prob*")
        assert "statistic=" not in page.url
    # The value every text opens on needs no word, and an unknown one does no harm.
    page.get_by_role("radio", name="surprisal", exact=True).click()
    page.wait_for_function("!location.search.includes('signal')")
    page.goto(f"{page_address}?signal=<img src=x>")
    chosen.filter(has_text="surprisal").wait_for()


def test_generate_and_hostile_text(visit, tmp_path: Path):
    page = visit()
    page.locator(".st-key-own button").click()
    prompt = page.locator(".st-key-prompt textarea")
    # Half a surrogate pair is mended, and said.
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
    # The same tokens in the tooltips of the pictures.
    page.locator(".ts-scatter").wait_for()
    seen = set()
    for x in range(60, 300, 6):
        page.locator(".ts-curve .plot").hover(position={"x": x, "y": 60})
        seen.update(page.locator(".ts-curve .tip .what").inner_text())
    assert {"<", ">"} & seen
    page.locator(".st-key-answer button", has_text="2").click()
    page.wait_for_timeout(300)
    assert page.locator("img[src='x']").count() == 0
    page.screenshot(path=tmp_path / "own-text.png", full_page=True)
    prompt.fill("")
    page.locator(".st-key-read button").click()
    page.locator("[class*=st-key-problem]").wait_for()
    assert "no text" in page.locator("[class*=st-key-problem]").inner_text()
    assert page.locator(".t").count() > 0
