"""Token strip and group view when they are long: painted, scrolled, selected; headless Chromium."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench_app import FLAGS

LONG = 32_000
FRAMES = 120
GROUPS = ((16, 300), (64, 1_000))
"""Rollouts, and tokens in each."""

# Each returns milliseconds up to the frame in which the change is on the screen.
_TIMED = """
const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
const timed = async (act) => {
  const start = performance.now();
  await act();
  await painted();
  return performance.now() - start;
};
const host = document.querySelector("#host");
const data = JSON.parse(document.querySelector("#data").textContent);
// The longest of 100 frames, `step` px each, after 20 quiet ones.
const scrolled = async (box, step) => {
  box.scrollTop = step < 0 ? box.scrollHeight : 0;
  for (let k = 0; k < 20; k += 1) await painted();
  let longest = 0, last = performance.now();
  for (let k = 0; k < 100; k += 1) {
    box.scrollTop += step;
    await new Promise((done) => requestAnimationFrame(done));
    const now = performance.now();
    longest = Math.max(longest, now - last);
    last = now;
  }
  return longest;
};
"""
_START = """
const one = () => host.querySelector(".ts-strip").strip;
const type = (kind, text) => {
  const field = host.querySelector(`.${kind}`);
  field.value = text;
  field.dispatchEvent(new Event("input"));
};
window.measures = {
  paint: () => timed(() => strip({ data, parentElement: host })),
  recolour: () => timed(() => one().paint(one().signal.name === "entropy" ? "surprisal" : "entropy", true)),
  select: () => {
    const tokens = [...host.querySelectorAll(".t")].slice(0, 200);
    const token = tokens[Math.floor(Math.random() * tokens.length)];
    return timed(() => token.click());
  },
  far: () => timed(() => one().choose(...Array(2).fill(Math.floor(Math.random() * data.columns.word.length)), 0, { follow: true })),
  find: () => timed(() => type("find", Math.random() < 0.5 ? "ing" : " the")),
  jump: () => timed(() => type("jump", `rank > ${2 + Math.floor(Math.random() * 9)} and entropy > 1`)),
  scroll: (step) => scrolled(one().box, step),
};
"""  # noqa: E501
_GROUP = """
const one = () => host.querySelector(".ts-group").group;
const other = { ...data, values: "other", signal: { ...data.signal, low: -1, high: 1 } };
window.measures = {
  paint: () => timed(() => group({ data, parentElement: host })),
  scroll: (step) => scrolled(one().box, step),
  select: () => timed(() => host.querySelectorAll(".t")[100].click()),
  far: () => timed(() => one().choose(Math.floor(Math.random() * one().length), 0, { follow: true })),
  recolour: () => timed(() => group({ data: other, parentElement: host })),
  fold: () => timed(() => one().parts.foldAll(true)),
};
"""  # noqa: E501


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows of ``part``, ``what``, ``target``, ``measured``; medians of several."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return [_row("everything", "Chromium installed", "not installed")]
    repeats = 2 if quick else 7
    page_text, seconds = _page(repeats)
    rows = [_row(f"data of {LONG:,} tokens made", "< 0.5 s", f"{seconds:.2f} s")]
    found: dict[str, list[float]] = {}
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "strip.html"
        file.write_text(page_text, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for _ in range(repeats):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(file.as_uri())
            page.wait_for_function("() => window.measures !== undefined")
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            for name, argument in (
                ("paint", 0),
                ("select", 0),
                ("scroll", 120),
                ("scroll", 600),
                ("far", 0),
                ("recolour", 0),
                ("find", 0),
                ("jump", 0),
            ):
                before = _busy(session)
                took = page.evaluate("([name, a]) => measures[name](a)", [name, argument])
                found.setdefault(f"{name} {argument or ''}".strip(), []).append(took)
                work = (_busy(session) - before) * 1000 / FRAMES
                found.setdefault(f"work {name} {argument}", []).append(work)
            drawn = page.locator(".t").count()
            page.close()
        grouped = _group_rows(browser, Path(folder), repeats)
        browser.close()
    for name, what, target in (
        ("paint", f"{LONG:,} tokens painted", "<= 1,000 ms"),
        ("scroll 120", "longest frame, scrolling 120 px a frame", "<= 50 ms"),
        ("scroll 600", "longest frame, scrolling 600 px a frame", ""),
        ("work scroll 120", "mean processor time of a frame, 120 px", "<= 16 ms"),
        ("work scroll 600", "mean processor time of a frame, 600 px", ""),
        ("select", "click to highlight", "<= 100 ms"),
        ("far", "selection far away, scrolled to", "<= 100 ms"),
        ("recolour", "recoloured by another signal", "<= 200 ms"),
        ("find", "text typed to matches ringed", "<= 100 ms"),
        ("jump", "condition typed to matches ringed", "<= 100 ms"),
    ):
        rows.append(_row(what, target, f"{statistics.median(found[name]):.0f} ms"))
    rows.append(_row("tokens in the page at the end", "< 6,000", f"{drawn:,}"))
    return rows + grouped


def _group_rows(browser: Any, folder: Path, repeats: int) -> list[dict[str, Any]]:
    """The group view at two sizes; the last is the one that must not stall."""
    rows = []
    for rollouts, length in GROUPS:
        text, seconds = _group_page(rollouts, length)
        file = folder / "group.html"
        file.write_text(text, encoding="utf-8")
        found: dict[str, list[float]] = {}
        for _ in range(repeats):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(file.as_uri())
            page.wait_for_function("() => window.measures !== undefined")
            for name, argument in (("paint", 0), ("select", 0), ("scroll", 120), ("far", 0),
                                   ("recolour", 0), ("fold", 0)):  # fmt: skip
                took = page.evaluate("([name, a]) => measures[name](a)", [name, argument])
                found.setdefault(name, []).append(took)
            page.close()
        size = f"{rollouts} x {length:,}"
        rows.append(_row(f"group {size}: data made", "< 0.5 s", f"{seconds:.2f} s"))
        for name, what, target in (
            ("paint", "painted", "<= 200 ms" if rollouts * length < 5_000 else "<= 500 ms"),
            ("scroll", "longest frame, scrolling 120 px a frame", "<= 50 ms"),
            ("select", "click to highlight", "<= 100 ms"),
            ("far", "selection far away, scrolled to", "<= 100 ms"),
            ("recolour", "recoloured by another value", "<= 200 ms"),
            ("fold", "all folded", "<= 200 ms"),
        ):
            rows.append(
                _row(f"group {size}: {what}", target, f"{statistics.median(found[name]):.0f} ms")
            )
    return rows


def _group_page(rollouts: int, length: int) -> tuple[str, float]:
    """A page with a group of random words and values; seconds to make its data."""
    import json

    import numpy as np

    from engine.render.group import GROUP_HTML, RolloutRow, group_css, group_data
    from engine.render.signals import Signal
    from engine.render.strip import asset

    rng = np.random.default_rng(0)
    kinds = [b" the", b" of", b" 4", b"ing", b".\n", b" tokens"]
    kinds += [b" word%d" % k for k in range(4000)]
    given = [
        RolloutRow(
            number=n,
            label=f"Answer {n + 1}",
            right=n % 2 == 0,
            reward=1.0,
            advantage=0.5,
            facts=(),
            pieces=[
                kinds[k] for k in np.minimum(rng.zipf(1.3, length) - 1, len(kinds) - 1).tolist()
            ],
            special=[False] * length,
            start=20,
            values=rng.normal(size=length),
        )
        for n in range(rollouts)
    ]
    signal = Signal("influence", "influence", "", "", "diverging", -3, 3, ("−3", "3"))
    begun = time.perf_counter()
    data = group_data(given, signal, text="group", channel="bench")
    seconds = time.perf_counter() - begun
    table = data["columns"]
    data["columns"] = {name: table[name].to_pylist() for name in table.column_names}
    page = (
        f'<!doctype html><meta charset="utf-8"><style>{group_css()}</style>'
        f'<div id="host" style="max-width: 900px">{GROUP_HTML}</div>'
        f'<script id="data" type="application/json">{json.dumps(data)}</script>'
        f'<script type="module">{asset("group.js")}\n{_TIMED}{_GROUP}</script>'
    )
    return page, seconds


def _busy(session: Any) -> float:
    """Processor seconds of the page's main thread so far: other programs do not count."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(m["value"] for m in metrics if m["name"] == "TaskDuration")


def _row(what: str, target: str, measured: str) -> dict[str, Any]:
    return {"part": "strip", "what": what, "target": target, "measured": measured}


def _page(repeats: int) -> tuple[str, float]:
    """A page that holds the data and draws when it is asked to; seconds to make the data."""
    import re

    import numpy as np
    import pyarrow as pa

    from engine.registry import find
    from engine.render.strip import STRIP_HTML, asset, html, payload

    rng = np.random.default_rng(0)
    kinds = [b" the", b" of", b" 4", b"ing", b".\n", b" tokens", "é".encode(), b"\xf0\x9f"]
    kinds += [b" word%d" % k for k in range(4000)]
    words = np.array(kinds, dtype=object)
    surprisal = rng.exponential(1.0, LONG).astype(np.float32)
    drawn = rng.integers(0, len(kinds), LONG) * (rng.random(LONG) < 0.5) + rng.integers(0, 8, LONG)
    columns = find("statistics").tables["tokens"].columns
    others = [c for c in columns if c not in ("logprob", "surprisal", "rank", "ties")]
    tables = {
        "tokens": pa.table(
            {
                "token_bytes": pa.array(words[np.minimum(drawn, len(kinds) - 1)], pa.binary()),
                "special": pa.array([False] * LONG),
                "segment": pa.array(["prompt"] * 500 + ["response"] * (LONG - 500)),
                "surprisal": pa.array(surprisal),
                "logprob": pa.array(-surprisal),
                "rank": pa.array(np.exp(surprisal).astype(np.int64)),
                **{c: pa.array(rng.random(LONG).astype(np.float32) * 3) for c in others},
            }
        ),
        "alternatives": pa.table(
            {
                "position": np.repeat(np.arange(LONG), 20),
                "alternative_rank": np.tile(np.arange(1, 21), LONG),
                "alternative_bytes": pa.array(
                    words[rng.integers(0, len(kinds), LONG * 20)], pa.binary()
                ),
                "logprob": pa.array(-np.tile(np.arange(1, 21), LONG).astype(np.float32)),
            }
        ),
    }
    took = []
    for _ in range(repeats):
        begun = time.perf_counter()
        payload(tables, columns=columns)
        took.append(time.perf_counter() - begun)
    data = re.search(
        r"<script type=\"application/json\">(.*?)</script>", html(tables, columns=columns)
    )
    assert data is not None
    page = (
        f'<!doctype html><meta charset="utf-8"><style>{asset("strip.css")}</style>'
        f'<div id="host" style="max-width: 900px">{STRIP_HTML}</div>'
        f'<script id="data" type="application/json">{data[1]}</script>'
        f'<script type="module">{asset("strip.js")}\n{_TIMED}{_START}</script>'
    )
    return page, statistics.median(took)


if __name__ == "__main__":
    for row in run("--quick" in sys.argv):
        print(f"{row['what']:50} {row['target']:12} {row['measured']}")
