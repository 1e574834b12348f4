"""The group view in a real browser, without a server: mouse, keys, folds, colours, long groups."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engine.render.group import GROUP_HTML, RolloutRow, group_css, group_data
from engine.render.signals import Signal
from engine.render.strip import asset
from engine.render.text import markup
from tests.browser.harness import document, mounted
from tests.pages.hostile import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

INFLUENCE = Signal(
    "influence", "influence on the answer", "nats", "", "diverging", -2, 2, ("−2", "2 or more")
)
ENTROPY = Signal("entropy", "entropy", "nats", "", "sequential", 0, 3, ("0", "3"))
MOUNT = """
window.reports = [];
window.mount = (data, place = "#host") => {
  const setStateValue = (name, value) => name === "token" && reports.push([name, value]);
  const parentElement = document.querySelector(place);
  window.unmount = group({ data, parentElement, setStateValue });
  window.one = parentElement.querySelector(".ts-group").group;
};
window.tell = (detail) => window.dispatchEvent(new CustomEvent("tokenscope:view", { detail }));
"""
HARNESS = document(group_css(), GROUP_HTML, asset("group.js") + MOUNT)


@pytest.fixture
def visit(lone: Callable[..., Page]) -> Callable[..., Page]:
    def open_page(data: dict[str, Any], width: int = 1000, **options: Any) -> Page:
        return mounted(lone(HARNESS, width=width, **options), data)

    return open_page


def row(number: int, length: int = 40, **changes: Any) -> RolloutRow:
    """Every token says its rollout and offset; tokens start at position 7."""
    given = RolloutRow(
        number=number,
        label=f"Answer {number + 1}",
        right=(True, False, None)[number % 3],
        reward=float(number % 2),
        advantage=(-1.0) ** number * 0.5,
        facts=(),
        pieces=[b" r%d.%d" % (number, k) for k in range(length)],
        special=[False] * length,
        start=7,
        values=[(k % 9 - 4) / 2 for k in range(length)],
        shaded=None,
    )
    return dataclasses.replace(given, **changes)


def data_of(*rows: RolloutRow, signal: Signal = INFLUENCE, **options: Any) -> dict[str, Any]:
    data = group_data(rows, signal, **{"text": "group", "channel": "rewards", **options})
    table = data["columns"]
    return {**data, "columns": {name: table[name].to_pylist() for name in table.column_names}}


def chosen(page: Page) -> tuple[int, int] | None:
    """Rollout and position of the token that is outlined."""
    assert page.locator(".t.selected").count() <= 1
    found = page.evaluate(
        """() => {
          const token = one.box.querySelector(".t.selected");
          const active = one.box.getAttribute("aria-activedescendant");
          return token && [token.textContent, token.id, active];
        }"""
    )
    if found is None:
        return None
    text, own, active = found
    assert own == active
    rollout, offset = text.removeprefix("·r").split(".")
    return int(rollout), int(offset) + 7


def reported(page: Page) -> list[tuple[int, int]]:
    sent = page.evaluate("reports.map(([name, value]) => [name, value])")
    assert all(name == "token" for name, _ in sent)
    assert all(set(value) == {"rollout", "position", "stamp"} for _, value in sent)
    stamps = [value["stamp"] for _, value in sent]
    assert stamps == sorted(set(stamps))
    return [(value["rollout"], value["position"]) for _, value in sent]


def token(page: Page, rollout: int, offset: int) -> Any:
    return page.locator(".t", has_text=f"r{rollout}.{offset}").first


def settle(page: Page) -> None:
    page.evaluate("() => new Promise((d) => requestAnimationFrame(() => setTimeout(d)))")


def test_a_click_selects_and_reports(visit):
    page = visit(data_of(row(0), row(5), row(2)))
    assert chosen(page) is None
    token(page, 5, 3).click()
    assert chosen(page) == (5, 10)
    page.wait_for_function("reports.length === 1")
    token(page, 2, 39).click()
    page.wait_for_function("reports.length === 2")
    assert reported(page) == [(5, 10), (2, 46)]
    label = page.locator(".t.selected").get_attribute("aria-label")
    assert label == "·r2.39, Answer 3, influence on the answer −0.500"


def test_keys(visit):
    page = visit(data_of(row(4), row(0, 3), row(9, 0), row(1)))
    page.locator(".tokens").focus()
    for key, expected in (
        ("ArrowRight", (4, 7)),  # nothing was selected: the first token
        ("ArrowRight", (4, 8)),
        ("ArrowLeft", (4, 7)),
        ("ArrowLeft", (4, 7)),
        ("End", (4, 46)),
        ("ArrowRight", (4, 46)),  # stays within the rollout
        ("ArrowDown", (0, 9)),  # the shorter one's last token
        ("ArrowDown", (1, 46)),  # past the one without tokens; the offset is kept
        ("ArrowDown", (1, 46)),
        ("ArrowUp", (0, 9)),
        ("ArrowLeft", (0, 8)),
        ("ArrowUp", (4, 8)),
        ("Home", (4, 7)),
    ):
        page.keyboard.press(key)
        assert chosen(page) == expected, key
    page.wait_for_timeout(200)
    # Keys that repeat are reported once; Enter at once and anew.
    assert reported(page)[-1] == (4, 7)
    count = len(reported(page))
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(200)
    assert reported(page)[count:] == [(4, 13)]
    page.keyboard.press("Enter")
    page.wait_for_function("(n) => reports.length === n", arg=count + 2)
    assert reported(page)[-1] == (4, 13)
    ring = page.locator(".tokens").evaluate("(box) => getComputedStyle(box).boxShadow")
    assert ring != "none"


def test_roles_name_rows_and_cells(visit):
    page = visit(data_of(row(0), row(1)))
    grid = page.get_by_role("grid")
    assert grid.get_attribute("aria-rowcount") == "2"
    assert page.get_by_role("row").count() == 2
    head = page.get_by_role("rowheader").all_inner_texts()[1]
    assert " ".join(head.split()) == "Answer 2 wrong reward 1.00 advantage −0.500 tokens 40"
    assert page.get_by_role("gridcell").count() == 80
    token(page, 1, 4).click()
    cell = page.locator("[aria-selected=true]")
    assert (cell.count(), cell.get_attribute("aria-colindex")) == (1, "5")


def test_folding_shows_the_first_line_only(visit):
    long = [row(n, 300) for n in range(16)]
    page = visit(data_of(*long), width=800)
    folds = page.locator(".fold")

    def heights() -> list[float]:
        return page.evaluate("() => one.parts.sections.map((s) => s.body.offsetHeight)")

    page.evaluate("one.blocks.list.slice(0, 4).forEach((b) => one.blocks.fill(b))")
    before = heights()
    folds.nth(0).click()
    assert folds.nth(0).get_attribute("aria-expanded") == "false"
    after = heights()
    assert 20 < after[0] < 40 < before[0]
    assert after[1] == before[1]
    page.locator(".all").click()
    assert page.locator(".all").inner_text() == "Unfold all"
    assert all(20 < h < 40 for h in heights())
    settle(page)
    # What is hidden is not drawn either.
    page.wait_for_timeout(300)
    assert page.evaluate("one.blocks.list.filter((b) => b.folded).length") == 16
    # A token that is seen does not unfold its rollout, one that is not does.
    token(page, 3, 2).click()
    assert page.evaluate("one.parts.folded.size") == 16
    page.keyboard.press("End")
    assert chosen(page) == (3, 306)
    assert page.evaluate("[...one.parts.folded].sort((a, b) => a - b)") == [
        n for n in range(16) if n != 3
    ]
    page.keyboard.press("f")
    assert page.evaluate("one.parts.folded.size") == 16
    # Folds stay when the tokens are sent in another order.
    page.evaluate("data => mount(data)", data_of(*reversed(long)))
    assert page.evaluate("one.parts.folded.size") == 16
    assert chosen(page) == (3, 306)
    page.locator(".all").click()
    assert page.evaluate("one.parts.folded.size") == 0
    assert all(h > 60 for h in heights())


def test_the_head_stays_and_folds_from_where_one_reads(visit):
    page = visit(data_of(*(row(n, 900) for n in range(8)), height=400))
    # A place in the middle of the third rollout.
    page.evaluate(
        "() => { const [a, b] = one.parts.sections.slice(2).map((s) => s.node.offsetTop);"
        " one.box.scrollTop = (a + b) / 2; }"
    )
    page.wait_for_timeout(250)
    top = page.evaluate("one.box.getBoundingClientRect().top")
    head = page.locator(".facts").nth(2)
    assert abs(head.bounding_box()["y"] - top) < 3
    head.locator(".fold").click()
    settle(page)
    assert abs(head.bounding_box()["y"] - top) < 6
    assert page.locator(".rollout").nth(2).bounding_box()["height"] < 80


def colours(page: Page) -> dict[str, tuple[str, str]]:
    found = page.eval_on_selector_all(
        ".t", "ts => ts.map((t) => [t.textContent, t.style.backgroundColor, t.style.color])"
    )
    return {text: (background, ink) for text, background, ink in found}


def rgb(color: str) -> str:
    return f"rgb({int(color[1:3], 16)}, {int(color[3:5], 16)}, {int(color[5:7], 16)})"


def test_another_value_colours_anew_and_keeps_the_rest(visit):
    values = [2.0, -2.0, 0.0, None, 1.0, 9.0]
    shaded = [False, False, False, False, True, False]
    one = row(0, 6, values=values, shaded=shaded)
    data = data_of(one, row(1))
    page = visit(data, color_scheme="light")
    full, dimmed = data["maps"]["light"], data["maps"]["light"]["dimmed"]
    seen = colours(page)
    n = len(full["colors"])
    three_quarters = round(0.75 * (n - 1))
    for offset, step, kind in (
        (0, n - 1, full),
        (1, 0, full),
        (4, three_quarters, dimmed),
        (5, n - 1, full),
    ):
        assert seen[f"·r0.{offset}"] == (rgb(kind["colors"][step]), rgb(kind["inks"][step]))
    assert seen["·r0.2"] == seen["·r0.3"] == ("", "")
    assert page.locator(".t.missing").all_inner_texts() == ["·r0.3"]
    assert page.locator(".t.shaded").all_inner_texts() == ["·r0.4"]
    legend = page.locator(".legend").inner_text().split("\n")
    assert legend[0] == "influence on the answer"
    assert {"−2", "0", "2 or more", "nats"} <= set(legend)
    assert "hatched: no value · dimmed, dotted: outside the loss" in legend[-1]
    token(page, 0, 1).click()
    page.evaluate("() => { one.box.querySelectorAll('.t').forEach((t) => { t.old = true; }); }")
    again = dataclasses.replace(one, values=[0.0] * 5 + [3.0], reward=None, right=False)
    page.evaluate("data => mount(data)", data_of(again, row(1), signal=ENTROPY))
    assert page.evaluate("[...one.box.querySelectorAll('.t')].every((t) => t.old)")
    assert chosen(page) == (0, 8)
    seen = colours(page)
    strongest = data_of(one, signal=ENTROPY)["maps"]["light"]
    assert seen["·r0.5"][0] == rgb(strongest["colors"][-1])
    assert seen["·r0.0"] == ("", "")
    assert page.locator(".t.missing").count() == 0
    assert page.locator(".legend .name").inner_text() == "entropy"
    assert page.locator(".legend .zero").count() == 0
    assert "wrong" in page.locator(".facts").first.inner_text()
    # A rollout more: tokens are new, the selection is the same.
    page.evaluate("data => mount(data)", data_of(row(3), row(1), one))
    assert not page.evaluate("[...one.box.querySelectorAll('.t')].some((t) => t.old)")
    assert chosen(page) == (0, 8)
    # Another group starts afresh, and the first one is as it was left.
    page.evaluate("data => mount(data)", data_of(row(1), row(0), text="another"))
    assert chosen(page) is None
    page.evaluate("data => mount(data)", data_of(row(1), row(0)))
    assert chosen(page) == (0, 8)


def test_python_selects_over_the_bus(visit):
    page = visit(data_of(*(row(n, 900) for n in range(6)), height=400))

    def tell(**message: Any) -> tuple[int, int] | None:
        page.evaluate("detail => tell(detail)", {"channel": "rewards", **message})
        return chosen(page)

    assert tell(signal="entropy") is None
    assert tell(rollout=2, position=3) is None  # before the first token
    assert tell(rollout=77, position=7) is None
    assert tell(rollout=2, position=7, channel="other") is None
    assert tell(rollout=2, position=7, signature="other") is None
    assert tell(rollout=1, position=9) == (1, 9)
    assert page.evaluate("one.box.scrollTop") == 0  # nobody chose it
    token(page, 0, 5).click()
    page.wait_for_function("reports.length === 1")
    stamp = page.evaluate("reports[0][1].stamp")
    assert tell(rollout=1, position=9) == (0, 12)  # an echo older than the click
    assert tell(rollout=4, position=500, stamp=stamp + 1, signature="group") == (4, 500)
    view, cell = (page.locator(s).bounding_box() for s in (".tokens", ".t.selected"))
    assert view["y"] < cell["y"] < view["y"] + view["height"] - 20
    assert len(reported(page)) == 1  # Python is not told what it said


def test_two_views_of_a_channel_follow_each_other(visit):
    data = data_of(row(0), row(1))
    page = visit(data)
    page.evaluate(
        """data => {
          const other = document.querySelector("#host").cloneNode(true);
          other.id = "other";
          other.querySelector(".tokens").replaceChildren();
          document.body.append(other);
          mount(data, "#other");
        }""",
        data,
    )
    selected = (
        "(place) => [...document.querySelectorAll(`${place} .selected`)].map((t) => t.textContent)"
    )
    page.locator("#host [data-i='41']").click()
    assert page.evaluate(selected, "#other") == page.evaluate(selected, "#host") == ["·r1.1"]
    page.locator("#other [data-i='2']").click()
    assert page.evaluate(selected, "#other") == page.evaluate(selected, "#host") == ["·r0.2"]
    page.wait_for_function("reports.length === 2")
    assert reported(page) == [(1, 8), (0, 9)]
    # One that was taken away hears no more, and comes back as it was.
    page.evaluate("unmount()")
    page.locator("#host [data-i='5']").click()
    assert page.evaluate(selected, "#other") == ["·r0.2"]
    page.evaluate("data => mount(data, '#other')", data)
    assert page.evaluate(selected, "#other") == ["·r0.5"]


def test_hovering_tells_token_value_and_rollout(visit):
    values = [1.25, None, *[0.0] * 38]
    marked = row(1, values=values, shaded=[False, True] + [False] * 38)
    page = visit(data_of(row(0), marked, marks={(1, 8): "flipped", (1, 60): "no such"}))
    token(page, 1, 0).hover()
    tip = page.locator(".tip")
    assert tip.inner_text().split("\n") == [
        "·r1.0",
        "Answer 2 · position 7",
        "influence on the answer",
        "1.25 nats",
    ]
    token(page, 1, 1).hover()
    assert tip.inner_text().split("\n")[2:] == [
        "influence on the answer",
        "–",
        "outside the loss",
        "flipped",
    ]
    assert page.locator("[data-flag]").all_inner_texts() == ["·r1.1"]
    page.mouse.move(1, 1)
    assert tip.is_hidden()
    page.evaluate("data => mount(data)", data_of(row(0), marked, marks={(0, 9): "other"}))
    assert page.locator("[data-flag]").all_inner_texts() == ["·r0.2"]


def test_hostile_tokens_are_text(visit):
    pieces = [t.encode() for t in HOSTILE]
    n = len(pieces)
    evil = "</script><img src=x onerror=alert(1)>\u202e"
    given = row(0, n, pieces=pieces, special=[k % 2 == 0 for k in range(n)], values=[None] * n,
                label=evil, facts=((evil, evil),))  # fmt: skip
    page = visit(data_of(given, prompt=evil, marks={(0, 9): evil}))
    drawn = page.eval_on_selector_all(".t", "ts => ts.map((t) => t.textContent)")
    signs = dict.fromkeys((1, 2, 3))
    assert drawn == [
        markup(p, special=k % 2 == 0, longest=2000).translate(signs) for k, p in enumerate(pieces)
    ]
    assert page.locator(".ts-group :is(img, a, script, style)").count() == 0
    text = page.locator(".ts-group").evaluate("(e) => e.textContent")
    assert not set(text) & {"\u202e", "\u2066", "\u200b", "\x1b"}
    assert page.locator(".fold").inner_text() == evil.replace("\u202e", "U+202E")
    for k in range(n):
        page.locator(f"[data-i='{k}']").dispatch_event("mouseover")
        assert page.locator(".tip .what").evaluate("(e) => e.textContent") == drawn[k]
    # The prompt is one line until it is asked for.
    prompt = page.locator(".prompt")
    assert prompt.get_attribute("aria-expanded") == "false"
    prompt.click()
    assert prompt.get_attribute("aria-expanded") == "true"


def test_a_group_without_tokens(visit):
    page = visit(data_of())
    assert page.locator(".nothing").inner_text() == "There are no rollouts to show."
    assert page.locator(".all").is_hidden()
    page.evaluate("data => mount(data)", data_of(row(0, 0), text="empty"))
    assert page.locator(".nothing").inner_text() == "no tokens"
    page.locator(".fold").click()
    page.locator(".tokens").focus()
    page.keyboard.press("ArrowDown")
    assert chosen(page) is None


@pytest.mark.parametrize(
    ("rollouts", "length"), [(16, 1000), pytest.param(64, 1000, marks=pytest.mark.slow)]
)
def test_long_groups(visit, rollouts: int, length: int, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(0)
    rows = [row(n, length, values=rng.normal(size=length)) for n in range(rollouts)]
    started = time.perf_counter()
    data = data_of(*rows)
    made = time.perf_counter() - started
    page = visit(data_of(row(0, 5), text="small"))
    took = page.evaluate(
        """async (text) => {
          const data = JSON.parse(text);
          const start = performance.now();
          mount(data);
          await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
          return performance.now() - start;
        }""",
        json.dumps(data),
    )
    with capsys.disabled():
        print(f" {rollouts} x {length:,}: data {made * 1000:.0f} ms, painted {took:.0f} ms")
    assert page.locator(".rollout").count() == rollouts
    for share in (0.2, 0.7, 1.0, 0.4, 0.0):
        page.evaluate("(s) => { one.box.scrollTop = s * one.box.scrollHeight; }", share)
        page.wait_for_timeout(40)
        seen = shown(page)
        assert len(seen) > 50
        assert seen == list(range(seen[0], seen[-1] + 1)), "a hole in the view"
        assert page.locator(".t").count() < 9_000
    page.locator(".tokens").focus()
    page.keyboard.press("Home")
    for _ in range(rollouts):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    assert chosen(page) == (rollouts - 1, length + 6)
    assert rollouts * length - 1 in shown(page)


def shown(page: Page) -> list[int]:
    """Tokens that lie inside the view."""
    return page.evaluate(
        """() => {
          const view = one.box.getBoundingClientRect();
          return [...one.box.querySelectorAll(".t")].filter((t) => {
            const { top, bottom } = t.getBoundingClientRect();
            return top >= view.top && bottom <= view.bottom;
          }).map((t) => Number(t.dataset.i));
        }"""
    )
