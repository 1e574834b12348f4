"""The app's promises: first picture, torch left alone until needed, a click, long strips."""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LONG = 5_000
FIRST = {
    "": ".t",
    "tokens": ".t.selected",
    "branches": ".t.selected",
    "summary": ".ts-bars tbody tr",
    "critical": ".t.selected",
    "rewards": ".ts-group .t",
    "attribution": ".t.selected",
    "flow": ".ts-flow svg",
    "tokenizer": ".t.selected",
    "library": "[data-testid=stDataFrame]",
}
"""Address of a page, and what is on its first picture."""


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows of ``part``, ``what``, ``target``, ``measured``; times in seconds."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return [_row("everything", "Chromium installed", "not installed")]
    if not (ROOT / "demo" / "gallery" / "items.jsonl").is_file():
        return [_row("everything", "gallery shipped", "missing: run make gallery")]
    rows = []
    repeats = 2 if quick else 5
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        with tempfile.TemporaryDirectory() as home, served(home) as (address, pid, started):
            rows.append(_row("server answers", "", f"{started:.2f} s"))
            cold = _first_picture(browser, address, "")
            rows.append(_row("first picture, first visitor", "", f"{cold:.2f} s"))
            for name in FIRST:
                if name and not (ROOT / "pages" / f"{name}.py").is_file():
                    continue
                warm = [_first_picture(browser, address, name) for _ in range(repeats)]
                median = f"{statistics.median(warm):.2f} s (best {min(warm):.2f} s)"
                what = f"first picture of {name or 'start'}, warm server"
                rows.append(_row(what, "< 2 s", median))
            loaded = "libtorch" in Path(f"/proc/{pid}/maps").read_text()
            rows.append(_row("torch in the process", "no", "yes" if loaded else "no"))
            clicks = _clicks(browser, address, repeats * 2)
            rows.append(
                _row("click to details", "< 0.5 s", f"{statistics.median(clicks):.2f} s (median)")
            )
        built, recoloured = _long_strip(browser)
        rows.append(_row(f"strip of {LONG:,} tokens drawn", "< 0.5 s", f"{built:.3f} s"))
        rows.append(_row(f"strip of {LONG:,} tokens recoloured", "< 0.2 s", f"{recoloured:.3f} s"))
        browser.close()
    return rows


def _row(what: str, target: str, measured: str) -> dict[str, Any]:
    return {"part": "app", "what": what, "target": target, "measured": measured}


@contextmanager
def served(home: str) -> Iterator[tuple[str, int, float]]:
    """The app over the store in ``home``: its address, process and seconds until it answered."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "streamlit", "run", "asgi.py"]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--server.port", str(port), "--server.address", "127.0.0.1"],
        cwd=ROOT,
        env={**os.environ, "TOKENSCOPE_HOME": home},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2):
                    break
            except OSError:
                if process.poll() is not None or time.perf_counter() - begun > 60:
                    raise RuntimeError("the app did not start: try make app") from None
                time.sleep(0.05)
        yield address, process.pid, time.perf_counter() - begun
    finally:
        process.terminate()
        process.wait(20)


def _first_picture(browser: Any, address: str, name: str) -> float:
    """From goto until a page's tokens are on the screen, with an empty browser cache.

    The browser itself takes the time, at the frame after the one that shows them: it is asked when
    it has nothing else to do.
    """
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.add_init_script(_WATCH % json.dumps(FIRST[name]))
    begun = time.time()
    page.goto(f"{address}/{name}", wait_until="commit")
    page.wait_for_function("window.painted", timeout=60_000)
    took = float(page.evaluate("window.painted")) / 1000 - begun
    page.context.close()
    return took


_WATCH = """
const roots = [document], attach = Element.prototype.attachShadow;
Element.prototype.attachShadow = function (options) {
  const root = attach.call(this, options);
  roots.push(root);
  return root;
};
const now = () => { window.painted = performance.timeOrigin + performance.now(); };
const look = () =>
  requestAnimationFrame(roots.some((root) => root.querySelector(%s)) ? now : look);
look();
"""


def _clicks(browser: Any, address: str, count: int) -> list[float]:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(f"{address}/tokens")
    page.wait_for_selector(".ts-details .others li", timeout=60_000)
    page.wait_for_timeout(1000)
    took = []
    for k in range(count):
        position = 3 + 2 * k
        begun = time.perf_counter()
        page.locator(".t").nth(position).click()
        page.locator(".ts-details dd", has_text=f"{position} of").first.wait_for()
        took.append(time.perf_counter() - begun)
    page.context.close()
    return took


def _long_strip(browser: Any) -> tuple[float, float]:
    """Script time to draw and to recolour; the same file draws in the app and in a notebook."""
    import numpy as np
    import pyarrow as pa

    from engine.render.strip import html

    rng = np.random.default_rng(0)
    words = [b" the", b" of", b" 4", b"ing", b".\n", b" tokens", "é".encode(), b"\xf0\x9f"]
    surprisal = rng.exponential(1.0, LONG).astype(np.float32)
    tokens = pa.table(
        {
            "token_bytes": pa.array([words[i] for i in rng.integers(0, len(words), LONG)]),
            "special": pa.array([False] * LONG),
            "segment": pa.array(["prompt"] * 500 + ["response"] * (LONG - 500)),
            "surprisal": pa.array(surprisal),
            "logprob": pa.array(-surprisal),
            "entropy": pa.array(surprisal / 2),
        }
    )
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    begun = time.perf_counter()
    page.set_content(html({"tokens": tokens}))
    page.wait_for_selector(".t.selected", state="attached")
    built = time.perf_counter() - begun
    recoloured = page.evaluate(
        """() => new Promise((done) => {
          const place = [...document.querySelectorAll("div")].find((d) => d.shadowRoot);
          const strip = place.shadowRoot.querySelector(".ts-strip").strip;
          const start = performance.now();
          strip.paint("entropy", true);
          requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
        })"""
    )
    page.close()
    return built, recoloured / 1000


if __name__ == "__main__":
    for row in run("--quick" in sys.argv):
        print(f"{row['what']:40} {row['target']:10} {row['measured']}")
