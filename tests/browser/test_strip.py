"""The token strip in a real browser, without a server: long texts, keys, find, jump, marks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from engine.render.strip import STRIP_HTML, asset, html
from tests.pages.hostile import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

LONG = 32_000
HARNESS = f"""<!doctype html><meta charset="utf-8"><style>{asset("strip.css")}</style>
<div id="host" style="max-width: 700px">{STRIP_HTML}</div>
<script type="module">{asset("strip.js")}
window.parse = condition;
window.mount = (data) => {{
  window.data = data;
  window.reports = [];
  const setStateValue = (name, value) => reports.push([name, value]);
  window.unmount = strip({{ data, parentElement: document.querySelector("#host"), setStateValue }});
  window.one = document.querySelector(".ts-strip").strip;
}};</script>"""


def tables(
    words: Sequence[str | bytes], values: Sequence[float] | None = None, prompt: int = 0
) -> dict[str, pa.Table]:
    pieces = [w if isinstance(w, bytes) else w.encode() for w in words]
    n = len(pieces)
    surprisal = np.asarray(values if values is not None else np.arange(n) % 7, np.float32)
    return {
        "tokens": pa.table(
            {
                "token_bytes": pa.array(pieces, pa.binary()),
                "special": pa.array([False] * n, pa.bool_()),
                "segment": pa.array(["prompt"] * prompt + ["response"] * (n - prompt), pa.string()),
                "surprisal": pa.array(surprisal, from_pandas=True),
                "logprob": pa.array(-surprisal, from_pandas=True),
                "entropy": pa.array(np.arange(n) % 3, pa.float32()),
                "rank": pa.array(np.arange(n) % 50 + 1, pa.int64()),
            }
        )
    }


def long_text(n: int = LONG) -> dict[str, pa.Table]:
    """Every token says its own position; lines of all lengths, some very long."""
    words = [f" w{i}" + ("\n" if i % 97 == 0 or i % 1009 < 3 else "") for i in range(n)]
    return tables(words, np.where(np.arange(n) == 20_000, 9, 0.5))


@pytest.fixture(scope="module")
def parser(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    page.set_content(HARNESS)
    page.wait_for_function("() => window.parse !== undefined")
    yield page
    page.close()


@pytest.fixture
def mounted(lone: Callable[..., Page]) -> Callable[..., Page]:
    def mount(*args: Any, marks: Sequence[dict[str, Any]] = (), **options: Any) -> Page:
        page = lone(HARNESS, **options)
        page.evaluate("data => mount(data)", data_of(tables(*args), marks=marks))
        return page

    return mount


def data_of(given: dict[str, pa.Table], **options: Any) -> dict[str, Any]:
    found = re.search(r"<script type=\"application/json\">(.*?)</script>", html(given, **options))
    return json.loads(found[1])


def selection(page: Page) -> list[int]:
    return page.evaluate("one.selection")


def shown(page: Page) -> list[int]:
    """Positions whose tokens lie inside the view."""
    return page.evaluate(
        """() => {
          const view = one.box.getBoundingClientRect();
          return [...one.box.querySelectorAll(".t")].filter((t) => {
            const { top, bottom } = t.getBoundingClientRect();
            return top >= view.top && bottom <= view.bottom;
          }).map((t) => Number(t.dataset.i));
        }"""
    )


def take(page: Page) -> None:
    """Call the first strip of a page, as a notebook holds it, ``one``."""
    page.evaluate(
        """() => {
          const place = [...document.querySelectorAll("div")].find((d) => d.shadowRoot);
          window.one = place.shadowRoot.querySelector(".ts-strip").strip;
        }"""
    )


def test_32000_tokens_of_which_few_are_in_the_page(lone, tmp_path: Path):
    page = lone(html(long_text()))
    page.locator(".t.selected").wait_for(state="attached")
    take(page)
    # The selected token is there for screen readers, though it lies far below.
    assert page.locator(".t.selected").get_attribute("data-i") == "20000"
    assert shown(page)[0] == 0
    for share in (0.2, 0.7, 0.71, 1.0, 0.4, 0.0):
        page.evaluate("(s) => { one.box.scrollTop = s * one.box.scrollHeight; }", share)
        page.evaluate("() => new Promise((d) => requestAnimationFrame(() => setTimeout(d)))")
        seen = shown(page)
        assert len(seen) > 100
        assert seen == list(range(seen[0], seen[-1] + 1)), "a hole in the view"
        assert page.locator(".t").count() < 6000
    # Nothing moves while what lies around is filled and emptied.
    page.evaluate("() => { one.box.scrollTop = 0.5 * one.box.scrollHeight; }")
    page.evaluate("() => new Promise((d) => requestAnimationFrame(() => setTimeout(d)))")
    first = shown(page)[0]
    page.wait_for_timeout(250)
    assert shown(page)[0] == first
    # A narrower window: the same token at the top.
    page.set_viewport_size({"width": 600, "height": 800})
    page.wait_for_timeout(250)
    assert abs(shown(page)[0] - first) <= 12
    page.locator(".jump").fill("surprisal > 8")
    page.locator(".jump").press("Enter")
    assert selection(page) == [20_000, 20_000]
    assert 20_000 in shown(page)
    assert page.locator(".count").inner_text() == "1 of 1"
    page.locator(".find").fill("W31999")
    page.locator(".find").press("Enter")
    assert selection(page) == [31_999, 31_999]
    assert 31_999 in shown(page)
    page.locator(".tokens").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    assert selection(page)[0] in shown(page)
    assert 0 < selection(page)[0] < 40
    page.keyboard.press("Shift+End")
    assert page.evaluate("one.selection[1]") == 31_999
    assert 31_999 in shown(page)
    copied = copy(page)
    assert copied.startswith(f" w{selection(page)[0]}")
    assert copied.endswith(" w31998 w31999")
    page.screenshot(path=tmp_path / "long.png")


def copy(page: Page) -> str:
    return page.evaluate(
        """() => {
          const clipboardData = new DataTransfer();
          one.box.dispatchEvent(new ClipboardEvent("copy", { clipboardData, bubbles: true }));
          return clipboardData.getData("text/plain");
        }"""
    )


def test_arrows_cross_blocks_that_are_not_drawn_yet(lone):
    page = lone(html(long_text(4000)))
    page.locator(".t.selected").wait_for(state="attached")
    take(page)
    page.locator(".tokens").focus()
    page.keyboard.press("End")
    before = 3999
    for _ in range(30):
        page.keyboard.press("ArrowUp")
        now = selection(page)[0]
        assert 0 < before - now < 40
        assert now in shown(page)
        before = now
    page.keyboard.press("ArrowLeft")
    assert selection(page) == [before - 1, before - 1]


def test_find_reads_the_text_across_tokens(mounted):
    smile = "😀".encode()
    page = mounted([" Num", "ber", " ONE.", "\n", smile[:2], smile[2:], " number", " on", b"\xff"])
    find, count = page.locator(".find"), page.locator(".count")
    find.fill("bEr on")
    assert count.inner_text() == "2 found"
    ringed = page.eval_on_selector_all(".t.hit", "ts => ts.map((t) => Number(t.dataset.i))")
    assert ringed == [1, 2, 6, 7]
    page.evaluate("one.select(0, 0)")
    find.press("Enter")
    assert (selection(page), count.inner_text()) == ([1, 2], "1 of 2")
    find.press("Enter")
    assert selection(page) == [6, 7]
    find.press("Enter")
    assert selection(page) == [1, 2]
    find.press("Shift+Enter")
    assert (selection(page), count.inner_text()) == ([6, 7], "2 of 2")
    for text, first, last in (("😀", 4, 5), (".", 2, 2), (".⏎", 2, 3), (r"\xff", 8, 8)):
        find.fill(text)
        assert page.evaluate("[one.tools.matches.first, one.tools.matches.last]") == [
            [first],
            [last],
        ]
    find.fill("no such text")
    assert count.inner_text() == "no match"
    find.press("Enter")
    assert selection(page) == [6, 7]


def test_copy_is_the_text_as_written(mounted):
    smile = "😀".encode()
    page = mounted([" a", "·b\n", smile[:2], smile[2:], "\u202e", b"\xff"])
    for first, last, text in (
        (0, 1, " a·b\n"),
        (5, 0, " a·b\n😀\u202e\\xff"),
        (2, 2, r"\xf0\x9f"),
        (3, 4, "\\x98\\x80\u202e"),
        (1, 2, "·b\n\\xf0\\x9f"),
    ):
        page.evaluate("([a, b]) => one.select(a, b)", [first, last])
        assert copy(page) == text


def test_keys(mounted):
    page = mounted([f" w{i}" for i in range(200)])
    box = page.locator(".tokens")
    box.focus()
    for key, expected in (
        ("Home", [0, 0]),
        ("ArrowRight", [1, 1]),
        ("Shift+ArrowRight", [1, 2]),
        ("Shift+ArrowRight", [1, 3]),
        ("Escape", [3, 3]),
        ("ArrowLeft", [2, 2]),
        ("ArrowLeft", [1, 1]),
        ("Shift+Home", [1, 0]),
        ("End", [199, 199]),
        ("Control+a", [0, 199]),
    ):
        page.keyboard.press(key)
        assert selection(page) == expected, key
        assert box.get_attribute("aria-activedescendant") == f"t{expected[1]}"
        assert page.locator(f"#t{expected[1]}").get_attribute("aria-posinset") == str(
            expected[1] + 1
        )
    page.keyboard.press("Home")
    page.keyboard.press("/")
    page.keyboard.type("w19")
    assert page.locator(".count").inner_text() == "11 found"
    page.keyboard.press("Escape")
    assert selection(page) == [0, 0]
    for key, expected in (("n", 19), ("n", 190), ("n", 191), ("p", 190)):
        page.keyboard.press(key)
        assert selection(page) == [expected, expected]
    assert page.locator(".count").inner_text() == "2 of 11"
    assert page.locator(".keys").is_hidden()
    page.keyboard.press("?")
    assert page.locator(".keys").is_visible()
    # Keys that repeat are reported once.
    page.evaluate("() => { reports.length = 0; }")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("reports.length > 0")
    sent = page.evaluate("reports.filter(([name]) => name === 'selection').map(([, v]) => v)")
    assert [(v["first"], v["last"]) for v in sent] == [(195, 195)]
    assert sent[0]["signature"] == page.evaluate("data.text")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("rank > 2 and entropy > 1", [3]),
        ("not rank > 2", [1]),  # of a missing value nothing is claimed, nor its opposite
        ("1 < rank <= 5", [2, 3]),
        ("rank != 5 or position = 0", [0, 1, 2, 4]),
        ("-(rank - 1) * 2 / 4 < -1 && !prompt", [3, 4]),
        ("RANK ≥ 5 || prompt", [0, 1, 3, 4]),
        ("value = 0.3", [2]),
        (".5e1 == rank", [3]),
    ],
)
def test_conditions(parser, text: str, found: list[int]):
    assert parser.evaluate(RUN, text) == found


# Of five tokens the first two are the prompt; the first one has no rank.
RUN = """(text) => {
  const columns = { rank: [NaN, 1, 3, 5, 40], entropy: [2, 2, 0, 2, 1], value: [0, 1, 0.3, 1, 1].map(Math.fround) };
  const known = new Map(Object.entries(columns).map(([name, v]) => [name, (i) => v[i]]));
  known.set("position", (i) => i);
  known.set("prompt", { truth: (i) => i < 2 });
  try {
    const meets = parse(text, known);
    return [0, 1, 2, 3, 4].filter((i) => meets(i) === true);
  } catch (error) {
    return error.constructor.name === "Refusal" ? error.message : `bug: ${error}`;
  }
}"""  # noqa: E501


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ranke > 1", "“ranke” is not known: use rank, entropy, value, position, prompt."),
        ("constructor > 1", "“constructor” is not known"),
        ("rank", "“rank” is a number: compare it, as in rank > 10."),
        ("rank and entropy > 1", "“rank” is a number"),
        ("rank >", "A number or a name is missing after “>”."),
        ("(rank > 1", "A closing bracket is missing after “1”."),
        ("rank > 1 5", "“5” is not expected after “1”"),
        ("alert('x')", "“'” has no place in a condition"),
        ("rank > 1; x", "“;” has no place"),
        ("prompt > 1", "“prompt” as it is"),
        ("(rank > 1) + 1 > 2", "it is no number"),
        (") > 1", "A number or a name is missing before “)”."),
        (" ", "Write a condition"),
        ("(" * 301, "at most 300 characters"),
        ("(" * 300, "A number or a name is missing"),
        ("rank > 1 😀", "“😀” has no place"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_sentence(parser, text: str, said: str):
    answer = parser.evaluate(RUN, text)
    assert said in answer
    assert answer.endswith(".")


def test_a_wrong_condition_is_said_and_mended(mounted):
    page = mounted([f" w{i}" for i in range(60)])
    jump, refusal = page.locator(".jump"), page.locator(".refusal")
    assert "rank > 10 and entropy > 2" in jump.get_attribute("placeholder")
    jump.fill("rnk > 40")
    assert refusal.inner_text().startswith("“rnk” is not known: use position, surprisal")
    jump.fill("rank > 40")
    assert refusal.is_hidden()
    assert page.locator(".count").inner_text() == "10 found"
    page.locator(".next").click()
    assert selection(page) == [40, 40]
    page.locator(".previous").click()
    assert selection(page) == [49, 49]


def test_views_select_each_other_at_once(mounted):
    page = mounted([f" w{i}\n" for i in range(300)])
    page.evaluate(
        """() => {
          window.heard = [];
          for (const name of ["select", "hover"]) {
            addEventListener(`tokenscope:${name}`, (e) => heard.push([name, e.detail]));
          }
          window.tell = (detail, name = "select") => dispatchEvent(new CustomEvent(
            `tokenscope:${name}`, { detail: { channel: data.channel, signature: data.text, ...detail } }));
        }"""  # noqa: E501
    )
    page.locator(".t").nth(3).click()
    page.locator(".t").nth(5).click(modifiers=["Shift"])
    chosen = [detail for name, detail in page.evaluate("heard") if name == "select"]
    assert [(c["first"], c["last"], c["source"]) for c in chosen] == [
        (3, 3, "strip"),
        (3, 5, "strip"),
    ]
    assert chosen[1]["signature"] == page.evaluate("data.text")
    assert chosen[1]["stamp"] > chosen[0]["stamp"]
    stamp = chosen[1]["stamp"]
    page.wait_for_timeout(200)
    page.evaluate("() => { reports.length = 0; }")
    # Another view's choice is shown and scrolled to, and not reported again.
    page.evaluate("(stamp) => tell({ first: 250, last: 251, stamp })", stamp + 1)
    assert selection(page) == [250, 251]
    assert 250 in shown(page)
    # What is older, of another text or of another channel is not for this strip.
    for other in ({"stamp": stamp}, {"signature": "x"}, {"channel": "x"}):
        page.evaluate("(d) => tell(d)", {"first": 1, "last": 1, "stamp": stamp + 5, **other})
        assert selection(page) == [250, 251]
    page.evaluate("(d) => tell(d, 'view')", {"selection": [7, 7], "stamp": stamp + 9})
    assert selection(page) == [7, 7]
    page.wait_for_timeout(200)
    assert page.evaluate("reports.filter(([name]) => name === 'selection')") == []
    page.evaluate("tell({ position: 8 }, 'hover')")
    assert page.locator(".t.pointed").get_attribute("data-i") == "8"
    # A choice of the page itself, made by nobody, moves nothing.
    page.evaluate("() => { one.stamp = 0; one.box.scrollTop = 0; }")
    page.evaluate("tell({ selection: [280, 280], stamp: 0 }, 'view')")
    assert selection(page) == [280, 280]
    assert shown(page)[0] == 0
    page.evaluate("tell({ selection: [290, 290], stamp: 0, reveal: true }, 'view')")
    assert 290 in shown(page)


def test_dragging_draws_out_a_stretch(mounted):
    page = mounted([f" w{i}" for i in range(30)])
    page.locator(".t").nth(4).hover()
    page.mouse.down()
    page.locator(".t").nth(9).hover()
    page.mouse.up()
    assert selection(page) == [4, 9]
    page.locator(".t").nth(12).hover()
    assert selection(page) == [4, 9]
    assert page.evaluate("String(getSelection())") == ""


def test_marks_come_with_the_data_and_over_the_bus(mounted):
    culprit = {"position": 4, "kind": "culprit", "text": "0.83 → 0.02"}
    page = mounted([f" w{i}" for i in range(30)], marks=[culprit])
    assert page.locator(".t.culprit").get_attribute("data-flag") == "0.83 → 0.02"
    flag = "getComputedStyle(one.blocks.nodes[4], '::after').content"
    assert page.evaluate(flag) == '"0.83 → 0.02"'
    page.evaluate(
        """(marks) => dispatchEvent(new CustomEvent("tokenscope:view", { detail:
          { channel: data.channel, signature: data.text, signal: "surprisal", marks } }))""",
        [{"position": 6, "kind": "guess", "text": "<img src=x onerror=alert(1)>"}],
    )
    assert page.locator(".t.culprit").count() == 0
    guess = page.locator(".t.guess")
    assert guess.get_attribute("data-i") == "6"
    assert guess.evaluate("(t) => getComputedStyle(t).outlineStyle") == "dashed"
    assert "dashed" not in page.locator(".t").nth(4).evaluate("t => getComputedStyle(t).outline")
    page.evaluate("one.select(8, 8)")
    assert guess.evaluate("(t) => getComputedStyle(t).outlineStyle") == "dashed"
    page.evaluate("one.select(6, 6)")
    assert "onerror" in page.locator("#t6").get_attribute("aria-label")


def test_new_numbers_only_recolour(mounted):
    words = [f" w{i}" for i in range(40)]
    page = mounted(words)
    page.evaluate("() => { one.blocks.nodes[3].mine = true; one.select(5, 6); }")
    before = page.locator(".t").nth(4).evaluate("(t) => t.style.background")
    again = data_of(tables(words, [5.0] * 40))
    assert again["signature"] == page.evaluate("data.signature")
    again["channel"] = page.evaluate("data.channel")
    page.evaluate("(data) => mount(data)", {**again, "view": {}})
    assert page.evaluate("one.blocks.nodes[3].mine") is True
    assert page.locator(".t").nth(4).evaluate("(t) => t.style.background") != before
    assert selection(page) == [5, 6]
    other = data_of(tables([*words[:-1], " x"]))
    page.evaluate("(data) => mount(data)", other)
    assert page.evaluate("one.blocks.nodes[3].mine") is None


def test_a_reader_comes_back_to_the_same_place(mounted):
    page = mounted([f" w{i}\n" for i in range(400)])
    page.locator(".find").fill("w3")
    page.locator(".jump").fill("rank > 48")
    page.evaluate("() => { one.choose(20, 20, 0); one.box.scrollTop = 5000; }")
    page.wait_for_timeout(300)
    first = shown(page)[0]
    page.evaluate(
        """(blank) => {
          const { selection, stamp } = one;
          unmount();
          document.querySelector("#host").innerHTML = blank;
          data.view = { ...data.view, selection, stamp };
          mount(data);
        }""",
        STRIP_HTML,
    )
    assert shown(page)[0] == first
    assert selection(page) == [20, 20]
    assert page.locator(".find").input_value() == "w3"
    assert page.locator(".jump").input_value() == "rank > 48"
    assert page.locator(".count").inner_text() == "16 found"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_tokens_are_only_shown(lone, tmp_path: Path, scheme: str):
    given = tables(HOSTILE, prompt=2)
    marks = [{"position": 3, "kind": "culprit", "text": HOSTILE[2]}]
    head = '<meta name="color-scheme" content="light dark">'
    drawn = html(given, marks=marks) + html(tables(HOSTILE[::-1]))
    page = lone(head + drawn, color_scheme=scheme)
    page.locator(".t.selected").last.wait_for()
    take(page)
    assert page.locator(".ts-strip").count() == 2
    assert page.locator(".ts-strip").first.get_attribute("data-theme") == scheme
    assert page.locator(".t").count() == 2 * len(HOSTILE)
    assert page.locator(".t :is(img, a, script, style, math)").count() == 0
    drawn = page.evaluate("one.blocks.nodes.map((t) => t.textContent)")
    assert drawn[1] == "<script>alert(1)</script>"
    assert not [c for text in drawn for c in text if not c.isprintable()]
    for i in range(len(HOSTILE)):
        page.evaluate("(i) => one.hover(one.blocks.nodes[i])", i)
        assert page.evaluate("one.tip.querySelectorAll('img, a, script, style').length") == 0
    rows = page.evaluate("one.blocks.nodes.map((t) => [t.offsetHeight, t.offsetWidth])")
    assert max(height for height, _ in rows) < 30, "a token is wrapped inside"
    room = page.evaluate("one.box.clientWidth")
    assert max(width for _, width in rows) <= room
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate("one.hover(one.blocks.nodes[3])")
    page.screenshot(path=tmp_path / f"hostile-{scheme}.png")


def test_without_a_background_the_text_tells_the_theme(lone):
    """A bare file stays white where the system is dark: so does the strip's palette."""
    bare = lone(html(tables([" a"])), color_scheme="dark")
    assert bare.locator(".ts-strip").get_attribute("data-theme") == "light"
    cell = lone("<body style='color: #ddd'>" + html(tables([" a"])))
    assert cell.locator(".ts-strip").get_attribute("data-theme") == "dark"


def test_with_forced_colours_the_selection_is_still_outlined(mounted):
    page = mounted([f" w{i}" for i in range(30)], forced_colors="active")
    page.evaluate("one.select(3, 3)")
    style = page.locator(".t.selected").evaluate("(t) => getComputedStyle(t).outline")
    assert "2px" in style
    assert "solid" in style
    coloured = page.locator(".t").nth(6).evaluate("(t) => getComputedStyle(t).backgroundColor")
    plain = page.locator(".t").nth(0).evaluate("(t) => getComputedStyle(t).backgroundColor")
    assert coloured != plain


def test_the_minimap_scrolls_and_is_there_only_when_it_is_needed(mounted):
    page = mounted([f" w{i}\n" for i in range(400)])
    canvas = page.locator(".map")
    canvas.click(position={"x": 20, "y": canvas.bounding_box()["height"] * 0.75})
    seen = shown(page)
    assert 280 < seen[len(seen) // 2] < 320
    ink = """(canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
      .data.some((v) => v > 0)"""
    assert canvas.evaluate(ink)
    assert mounted([" a", " b"]).locator(".map").is_hidden()


def test_a_text_of_no_tokens_is_an_empty_strip(mounted):
    page = mounted([])
    page.locator(".tokens").focus()
    for key in ("End", "ArrowDown", "Control+a", "n"):
        page.keyboard.press(key)
    page.locator(".find").fill("a")
    assert page.locator(".count").inner_text() == "no match"
    assert page.locator(".t").count() == 0
