"""Linked views at 2,000 tokens: highlight in the browser, all views right, first picture."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bench_app import FLAGS, ROOT, served

TOKENS = 2_000
WIDE = {"width": 1280, "height": 1400}

# What the page does after a choice, timed where it happens: from the browser's own event to the
# frame in which the views in the browser agree, and to the one in which panel and table do, too.
WATCH = """() => {
  const within = (name) =>
    [...document.querySelectorAll("*")].map((e) => e.shadowRoot?.querySelector(name)).find(Boolean);
  const views = [within(".ts-strip").strip, within(".ts-curve").view, within(".ts-scatter").view];
  window.parts = { views, within };
  window.watch = (source) => {
    window.seen = { target: null, begun: null };
    const chosen = ({ detail }) => { seen.target ??= detail.first ?? detail.selection[0]; };
    const before = views.map((view) => view.selection?.[0]);
    const begin = (event) => {
      seen.begun = performance.now();
      addEventListener("tokenscope:select", chosen, { once: true });
      requestAnimationFrame(look);
    };
    const event = source === "keys" ? "keydown" : "pointerup";
    addEventListener(event, begin, { capture: true, once: true });
    const look = () => {
      const at = views.map((view) => view.selection?.[0]);
      // A row of the table is chosen through Python: its target is what the views then show.
      if (seen.target === null && source === "table" && at[0] !== before[0]) seen.target = at[0];
      const same = seen.target !== null && at.every((p) => p === seen.target);
      if (same) seen.client ??= performance.now() - seen.begun;
      const panel = within(".ts-details")?.querySelector("dd")?.textContent ?? "";
      const shown = panel.startsWith(`${seen.target?.toLocaleString("en-US")} of`);
      if (same && shown) seen.panel ??= performance.now() - seen.begun;
      const row = document.querySelector(".st-key-table tr[aria-selected=true] td");
      if (seen.panel && row && Number(row.textContent) === seen.target) {
        seen.all = performance.now() - seen.begun;
      } else requestAnimationFrame(look);
    };
  };
}"""


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows of ``part``, ``what``, ``target``, ``measured``."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return [_row("everything", "Chromium installed", "not installed")]
    if not (ROOT / "demo" / "models" / "demo" / "model.safetensors").is_file():
        return [_row("everything", "bundled model shipped", "missing: run make demo-model")]
    repeats = 4 if quick else 12
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        key = stored_text(Path(home), TOKENS)
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        with served(home) as (address, _, _):
            link = f"{address}/{_path()}?result={key[:16]}"
            first = [_first_picture(browser, link) for _ in range(1 + repeats // 2)][1:]
            what = f"first picture of {TOKENS:,} tokens, warm server"
            rows = [
                _row(what, "< 2 s", f"{statistics.median(first):.2f} s (median)"),
                _row(f"{what}, best", "", f"{min(first):.2f} s"),
            ]
            page = browser.new_page(viewport=WIDE)
            page.goto(link)
            page.wait_for_selector(".st-key-table .dvn-scroller", timeout=60_000)
            page.wait_for_timeout(2_000)
            page.evaluate(WATCH)
            for source, act in ACTS.items():
                times = [_timed(page, source, act, k) for k in range(repeats)]
                rows += _rows(source, times)
        browser.close()
    return rows


def stored_text(home: Path, tokens: int) -> str:
    """Compute the statistics of a text of so many tokens into a store; the result's key."""
    import engine

    stories = [i.trace.response_text for i in engine.gallery() if i.expected]
    with engine.Workspace(home) as workspace:
        response = "\n".join(stories * tokens)[: 4 * tokens]
        text = engine.Text(prompt=stories[0], response=response)
        whole = engine.encode(text, "demo", workspace)
        trace = whole.evolve(
            ids=whole.ids[:tokens],
            pieces=whole.pieces[:tokens],
            turns=tuple(t.evolve(end=min(t.end, tokens)) for t in whole.turns if t.start < tokens),
            spans={},
            special=tuple(p for p in whole.special if p < tokens),
            added=tuple(p for p in whole.added if p < tokens),
        )
        request = engine.Request("statistics", trace, {"model": "demo"}, {"top_k": 20})
        (result,) = engine.run(request, workspace=workspace)
    return result.key


def _path() -> str:
    from pages.widgets.places import PLACES

    return "" if PLACES[0].name == "tokens" else "tokens"


def _first_picture(browser: Any, link: str) -> float:
    """From goto to strip and curve in colour, with an empty browser cache."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    begun = time.perf_counter()
    page.goto(link, wait_until="commit")
    page.wait_for_selector(".ts-strip .t", timeout=60_000)
    page.wait_for_selector(".ts-curve .line", state="attached", timeout=60_000)
    took = time.perf_counter() - begun
    page.context.close()
    return took


def _timed(page: Any, source: str, act: Callable[[Any, int], None], k: int) -> dict[str, float]:
    page.evaluate("(source) => watch(source)", source)
    act(page, k)
    page.wait_for_function("seen.all", timeout=20_000)
    page.wait_for_timeout(250)
    return dict(page.evaluate("seen"))


def _strip(page: Any, k: int) -> None:
    page.locator(".ts-strip .t").nth(20 + 7 * k).click()


def _curve(page: Any, k: int) -> None:
    page.locator(".ts-curve .plot").click(position={"x": 90 + 41 * k, "y": 40})


def _scatter(page: Any, k: int) -> None:
    x, y = page.evaluate("(k) => [parts.views[2].xs[k], parts.views[2].ys[k]]", 400 + 97 * k)
    page.locator(".ts-scatter .plot").click(position={"x": x, "y": y})


def _keys(page: Any, k: int) -> None:
    page.locator(".ts-curve").focus()
    page.keyboard.press("ArrowRight")


def _table(page: Any, k: int) -> None:
    place = {"x": 15, "y": 33 + 28 * (1 + 2 * (k % 3)) + 14}
    page.locator(".st-key-table canvas").first.click(position=place, force=True)


ACTS: dict[str, Callable[[Any, int], None]] = {
    "strip": _strip,
    "curve": _curve,
    "scatter": _scatter,
    "keys": _keys,
    "table": _table,
}


def _rows(source: str, times: list[dict[str, float]]) -> list[dict[str, Any]]:
    name = "arrow key" if source == "keys" else f"click in the {source}"
    median = {
        part: statistics.median(t[part] for t in times) for part in ("client", "panel", "all")
    }
    rows = []
    if source != "table":  # rows are chosen through Python
        rows.append(
            _row(
                f"{name}: strip, curve, scatter", "<= 100 ms", f"{median['client']:.0f} ms (median)"
            )
        )
    else:
        rows.append(
            _row(f"{name}: strip, curve, scatter", "", f"{median['client']:.0f} ms (median)")
        )
    return [
        *rows,
        _row(f"{name}: and the panel", "<= 600 ms", f"{median['panel']:.0f} ms (median)"),
        _row(f"{name}: and the table", "<= 600 ms", f"{median['all']:.0f} ms (median)"),
    ]


def _row(what: str, target: str, measured: str) -> dict[str, Any]:
    return {"part": "views", "what": what, "target": target, "measured": measured}


if __name__ == "__main__":
    for row in run("--quick" in sys.argv):
        print(f"{row['what']:48} {row['target']:10} {row['measured']}")
