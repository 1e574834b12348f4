"""Curve and scatter alone in a page: geometry, pointer, keys, hostile tokens, no server."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engine.render.axes import Quantity
from engine.render.strip import asset
from engine.render.views import (
    CURVE_HTML,
    SCATTER_HTML,
    Mark,
    curve_data,
    scatter_data,
    views_css,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

HTML = {"curve": CURVE_HTML, "scatter": SCATTER_HTML}
COMMON = {"channel": "tokens", "text": "text-1"}
HOSTILE = "</script><img src=x onerror=alert(1)> \x02U+202E\x03"
# A module of its own per picture, as Streamlit loads them, with what a test looks into.
SETUP = """async ([scripts, style]) => {
  window.heard = [];
  for (const name of ["tokenscope:select", "tokenscope:hover"]) {
    addEventListener(name, (event) => heard.push([name.slice(11), event.detail]));
  }
  window.kinds = {};
  for (const [kind, script, html] of scripts) {
    const more = kind === "curve" ? "\\nexport { decimate };" : "";
    const file = new Blob([script + more], { type: "text/javascript" });
    const module = await import(URL.createObjectURL(file));
    window.decimate ??= module.decimate;
    kinds[kind] = [module.default, html];
  }
  window.mount = (kind, data, width = 660) => {
    const place = document.createElement("div");
    place.style.width = `${width}px`;
    document.body.append(place);
    const root = place.attachShadow({ mode: "open" });
    const template = document.createElement("template");
    template.innerHTML = `<style>${style}</style>${kinds[kind][1]}`;
    root.append(template.content);
    const reports = [];
    const parts = { data, parentElement: root, setStateValue: (...told) => reports.push(told) };
    kinds[kind][0](parts);
    const view = root.querySelector(".ts-view").view;
    return (window.last = Object.assign(view, { reports, parts, kind }));
  };
  window.tell = (first, last, stamp, signature = "text-1") =>
    dispatchEvent(new CustomEvent("tokenscope:view", {
      detail: { channel: "tokens", signature, selection: [first, last], stamp },
    }));
}"""


def plain(data: dict[str, Any]) -> dict[str, Any]:
    """The payload as JSON can carry it."""
    table = data["columns"]
    columns = {
        name: [None if isinstance(v, float) and not math.isfinite(v) else v for v in column]
        for name, column in table.to_pydict().items()
    }
    return json.loads(json.dumps({**data, "columns": columns}))


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 900, "height": 900})
    trouble: list[str] = []
    page.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: trouble.append(str(e)))
    page.on("request", lambda r: None if r.url.startswith("blob:") else trouble.append(r.url))
    scripts = [[kind, asset(f"{kind}.js"), html] for kind, html in HTML.items()]
    page.evaluate(SETUP, [scripts, views_css()])
    yield page
    page.close()
    assert not trouble


@pytest.fixture
def mount(page: Page) -> Iterator[Callable[..., None]]:
    def put(kind: str, data: dict[str, Any], width: int = 660) -> None:
        page.evaluate("([k, d, w]) => { mount(k, d, w); }", [kind, plain(data), width])

    yield put
    page.evaluate(
        "() => { last.close(); document.body.replaceChildren(); heard.length = 0;"
        " window.tokenscopeViews?.clear(); }"
    )


def a_curve(n: int = 30, **more: Any) -> dict[str, Any]:
    values = [None, *(k / n for k in range(1, n))]
    given = {
        "pieces": [HOSTILE, *(f"t{k}" for k in range(1, n))],
        "signal": Quantity("chance", low=0, high=1),
        "start": 10,
        **COMMON,
        **more,
    }
    return curve_data(values, **given)


def at(page: Page, position: float, height: float = 0.5) -> tuple[float, float]:
    """Where a position of the last mounted curve is on the screen."""
    return tuple(
        page.evaluate(
            """([position, height]) => {
              const box = last.plot.getBoundingClientRect();
              return [box.left + 44 + last.x(position), box.top + 9 + height * last.height];
            }""",
            [position, height],
        )
    )


def told(page: Page) -> list[list[int]]:
    page.wait_for_timeout(150)  # keys are reported after a short wait
    return page.evaluate("last.reports.map(([, v]) => [v.first, v.last])")


@pytest.mark.parametrize(("n", "width"), [(32_000, 600), (2_000, 601), (1_201, 1_200), (700, 699)])
def test_decimation_keeps_every_extreme(page: Page, n: int, width: int):
    rng = np.random.default_rng(n)
    values = rng.normal(size=n).astype(np.float32)
    values[rng.random(n) < 0.2] = np.nan
    values[n // 2 : n // 2 + 8 * n // width] = np.nan  # some columns without any value
    start, unit = n // 7, width / n
    got = page.evaluate(
        """([values, start, unit]) => {
          const floats = Float32Array.from(values, (v) => v ?? NaN);
          const { first, last, low, high, left } = decimate(floats, start, floats.length, unit);
          const list = (a) => Array.from(a, (v) => (Number.isNaN(v) ? null : v));
          return { left, first: list(first), last: list(last), low: list(low), high: list(high) };
        }""",
        [[None if math.isnan(v) else float(v) for v in values], start, unit],
    )
    pixel = np.floor(np.arange(n) * unit).astype(int)
    assert got["left"] == pixel[start]
    assert len(got["low"]) == pixel[-1] - pixel[start] + 1
    for k in range(len(got["low"])):
        inside = values[start:][pixel[start:] == k + got["left"]]
        inside = inside[~np.isnan(inside)].astype(float)
        found = [got[name][k] for name in ("low", "high", "first", "last")]
        expected = (
            [inside.min(), inside.max(), inside[0], inside[-1]] if inside.size else [None] * 4
        )
        assert found == expected


def test_the_line_steps_at_its_tokens(page: Page, mount):
    mount("curve", a_curve(4, start=0), width=454)
    path = page.evaluate("last.root.querySelector('.line').getAttribute('d')")
    steps = [tuple(map(float, point.split())) for point in path.replace("M", "L").split("L")[1:]]
    # Token 0 has no value; token k covers [100 k, 100 (k + 1)] at 1 − k/4 of the height.
    heights = [119 * (1 - k / 4) for k in (1, 1, 2, 2, 3, 3)]
    assert [x for x, _ in steps] == [100, 200, 200, 300, 300, 400]
    assert [y for _, y in steps] == pytest.approx(heights, abs=0.01)


def test_click_hover_and_tip_mean_the_token_under_the_pointer(page: Page, mount):
    mount("curve", a_curve())
    for position in (0, 9, 10, 29):
        page.mouse.move(*at(page, position + 0.5))
        assert page.evaluate("heard.at(-1)") == [
            "hover",
            {"channel": "tokens", "position": position},
        ]
        tip = page.evaluate("last.tip.innerText")
        assert f"position {position}" in tip
        page.mouse.click(*at(page, position + 0.5))
        assert told(page)[-1] == [position, position]
    page.mouse.move(*at(page, 0.5))
    tip = page.evaluate("last.tip.innerText")
    assert "</script><img src=x onerror=alert(1)>" in tip
    assert "–" in tip
    assert page.evaluate("last.root.querySelectorAll('img, script').length") == 0
    select = [d for kind, d in page.evaluate("heard") if kind == "select"]
    assert {d["source"] for d in select} == {"curve"}
    assert all(d["signature"] == "text-1" and d["channel"] == "tokens" for d in select)


def test_drag_shift_and_keys_make_ranges(page: Page, mount):
    mount("curve", a_curve())
    page.mouse.move(*at(page, 5.5))
    page.mouse.down()
    page.mouse.move(*at(page, 9.2), steps=4)
    page.mouse.move(*at(page, 12.5))
    assert page.evaluate("last.selection") == [5, 12]
    assert told(page) == []  # only the finished range is told
    page.mouse.up()
    assert told(page)[-1] == [5, 12]
    page.keyboard.down("Shift")
    page.mouse.click(*at(page, 3.5))
    page.keyboard.up("Shift")
    assert told(page)[-1] == [5, 3]
    for key, expected in (
        ("ArrowRight", [4, 4]),
        ("Shift+ArrowRight", [4, 5]),
        ("End", [29, 29]),
        ("ArrowRight", [29, 29]),
        ("Home", [0, 0]),
        ("ArrowLeft", [0, 0]),
    ):
        page.keyboard.press(key)
        assert told(page)[-1] == expected
    assert page.evaluate("last.root.getAttribute('aria-valuenow')") == "0"


def test_a_crowded_curve_gives_the_peak_under_the_pointer(page: Page, mount):
    values = [0.0] * 20_000
    values[7_003] = 1.0
    data = curve_data(values, pieces=["a"] * 20_000, signal=Quantity("x"), start=0, **COMMON)
    mount("curve", data)
    page.mouse.click(*at(page, 7_010, 0.02))
    assert told(page)[-1] == [7_003, 7_003]
    assert page.evaluate("last.root.querySelectorAll('svg *').length") < 60


def test_what_others_choose_is_shown_unless_something_newer_was(page: Page, mount):
    mount("curve", a_curve())
    box = "[...'x width visibility'.split(' ').map((a) => last.selected.getAttribute(a))]"
    page.evaluate("tell(3, 4, 100)")
    left, width, shown = page.evaluate(box)
    assert (float(left), float(width)) == pytest.approx((3 * 606 / 30, 2 * 606 / 30), abs=0.1)
    assert shown == "visible"
    assert page.evaluate("last.selection") == [3, 4]
    page.evaluate("tell(9, 9, 99)")  # older
    page.evaluate("tell(8, 8, 500, 'another text')")
    assert page.evaluate("last.selection") == [3, 4]
    assert page.evaluate("last.reports") == []


def test_a_curve_of_a_part_knows_the_texts_positions(page: Page, mount):
    mount("curve", a_curve(offset=100, start=100, marks=[Mark(105, HOSTILE, "note", before=True)]))
    page.mouse.click(*at(page, 104.5))
    assert told(page)[-1] == [104, 104]
    cx = page.evaluate("Number(last.root.querySelector('.mark').getAttribute('cx'))")
    cy = page.evaluate("Number(last.root.querySelector('.mark').getAttribute('cy'))")
    # At the edge where token 105 begins, as high as the value of token 104.
    assert cx == pytest.approx(5 * 606 / 30)
    assert cy == pytest.approx(119 * (1 - 4 / 30))
    page.evaluate("tell(20, 20, Date.now() + 9999)")
    assert page.evaluate("last.selected.getAttribute('visibility')") == "hidden"


def test_reveal_ends_with_the_whole_curve_and_respects_the_wish_for_calm(page: Page, mount):
    page.emulate_media(reduced_motion="reduce")
    mount("curve", a_curve(reveal=True))
    assert page.evaluate("last.root.classList.contains('revealing')") is False
    page.emulate_media(reduced_motion="no-preference")
    page.evaluate("last.close(); document.body.replaceChildren()")
    mount("curve", a_curve(reveal=True))
    assert page.evaluate("last.root.classList.contains('revealing')") is True
    page.wait_for_function("!last.root.classList.contains('revealing')")
    assert float(page.evaluate("last.window.getAttribute('width')")) == 660
    page.evaluate("kinds.curve[0](last.parts)")  # drawn again: not revealed again
    assert page.evaluate("last.root.classList.contains('revealing')") is False


def test_the_theme_follows_the_page(page: Page, mount):
    page.emulate_media(color_scheme="dark")
    page.evaluate("document.body.style.background = '#15171a'")
    mount("curve", a_curve())
    assert page.evaluate("last.root.dataset.theme") == "dark"
    page.evaluate("document.body.style.background = '#fcfcfa'")
    page.emulate_media(color_scheme="light")
    page.wait_for_function("last.root.dataset.theme === 'light'")


def test_scatter_takes_the_nearest_point_within_reach(page: Page, mount):
    entropy = [None, 0.0, 1.0, 4.0, 4.0]
    varentropy = [0.0, 0.0, 1.0, 4.0, None]
    data = scatter_data(
        entropy,
        varentropy,
        x=Quantity("entropy", "nats"),
        y=Quantity("varentropy", "nats²"),
        pieces=[HOSTILE] * 5,
        start=2,
        **COMMON,
    )
    mount("scatter", data)
    spot = """(i) => {
      const box = last.plot.getBoundingClientRect();
      return [box.left + last.xs[i], box.top + last.ys[i]];
    }"""
    # Square-root axes: 1 of 4 is half the way.
    half = page.evaluate("(last.xs[2] - last.xs[1]) / (last.xs[3] - last.xs[1])")
    assert half == pytest.approx(0.5)
    for i in (1, 2, 3):
        x, y = page.evaluate(spot, i)
        page.mouse.click(x + 7, y - 7)
        assert told(page)[-1] == [i, i]
    count = len(told(page))
    page.mouse.click(x, y - 15)
    assert len(told(page)) == count
    assert page.evaluate("last.tip.hidden") is True
    page.mouse.move(x, y)
    assert page.evaluate("heard.at(-1)") == ["hover", {"channel": "tokens", "position": 3}]
    assert "</script><img" in page.evaluate("last.tip.innerText")
    page.keyboard.press("ArrowLeft")
    assert told(page)[-1] == [2, 2]
    page.evaluate("tell(1, 2, Date.now() + 9999)")
    assert page.evaluate("last.selection") == [1, 2]
