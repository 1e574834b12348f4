"""A small app of one script, run by the real server, and a page that looks at it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser.conftest import _wait
from tests.pages.navigation import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@contextmanager
def demo_app(
    browser: Browser, script: str, folder: Path, *, scheme: str = "light", width: int = 1280
) -> Iterator[Page]:
    """Serve ``script`` (it has ``st``) and open it; afterwards nothing may have complained."""
    file = folder / "demo.py"
    path = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport streamlit as st\n"
    file.write_text(path + textwrap.dedent(script), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "log.txt"
    command = [sys.executable, "-m", "streamlit", "run", str(file), "--server.port", str(port)]
    env = {**os.environ, "TOKENSCOPE_HOME": str(folder / "home")}
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--server.address", "127.0.0.1"], cwd=ROOT, env=env, stdout=out, stderr=out
        )
    trouble: list[str] = []
    context = browser.new_context(
        viewport={"width": width, "height": 1000}, color_scheme=scheme, accept_downloads=True
    )
    try:
        _wait(process, f"http://127.0.0.1:{port}", log)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda e: trouble.append(str(e)))
        page.on("dialog", lambda d: (trouble.append(d.message), d.dismiss()))
        page.goto(f"http://127.0.0.1:{port}")
        yield page
    finally:
        context.close()
        process.terminate()
        process.wait(20)
    assert not trouble, trouble
    assert "Traceback" not in log.read_text(), log.read_text()
