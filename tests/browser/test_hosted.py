"""The hosted profile as it is served: the files of the container, its command, a real browser."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import _wait, chromium
from tests.pages.navigation import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

MEGABYTE = 1 << 20


def copy_image(folder: Path) -> None:
    """What the COPY lines of the Dockerfile's last stage put beside the app."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for line in text[text.rindex("FROM ") :].splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            *sources, target = line.split()[1:]
            for source in (ROOT / name for name in sources):
                if source.is_dir():
                    shutil.copytree(source, folder / target, ignore=ignore)
                else:
                    (folder / target).mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, folder / target)


def settings() -> dict[str, str]:
    """The variables the Dockerfile sets for the running app."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    block = text[text.index("ENV HOME=") : text.index("USER ")]
    return dict(re.findall(r"([A-Z_]+)=(\S+)", block))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


class Site:
    """A running copy of the image."""

    def __init__(self, folder: Path) -> None:
        self.app, self.home = folder / "app", folder / "home" / "tokenscope"
        self.tmp, self.log = folder / "tmp", folder / "log.txt"
        self.tmp.mkdir()
        copy_image(self.app)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        env = {
            **settings(),
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "TMPDIR": str(self.tmp),
            "TOKENSCOPE_HOME": str(self.home),
            "PORT": str(port),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
        command = re.search(r'^CMD \["sh", "-c", "(.*)"\]$', text, re.MULTILINE)
        assert command is not None
        script = command[1].replace('\\"', '"').replace("exec python", f"exec {sys.executable}")
        self.before = files(self.app)
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                ["sh", "-c", script], cwd=self.app, env=env, stdout=out, stderr=out
            )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    chromium()
    made = Site(tmp_path_factory.mktemp("image"))
    try:
        _wait(made.process, made.address, made.log)
        yield made
    finally:
        made.process.terminate()
        made.process.wait(20)
    assert "Traceback" not in made.log.read_text(), made.log.read_text()
    assert files(made.app) == made.before, "the sources stay as they are"
    assert files(made.tmp) == set()
    assert (made.home / "owner.lock").exists()


@pytest.fixture
def page(site: Site, browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(40_000)
    elsewhere: list[str] = []
    near = (site.address, site.address.replace("http", "ws"), "data:", "blob:")
    opened.on("request", lambda r: None if r.url.startswith(near) else elsewhere.append(r.url))
    yield opened
    context.close()
    assert elsewhere == []


def session(page: Page) -> list[str]:
    """Ids of the sessions a page has had; the server says them in a binary message."""
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    found: list[str] = []

    def read(payload: str | bytes) -> None:
        if isinstance(payload, bytes):
            message = ForwardMsg()
            message.ParseFromString(payload)
            if message.WhichOneof("type") == "new_session":
                assert not message.new_session.config.gather_usage_stats
                found.append(message.new_session.initialize.session_id)

    page.on("websocket", lambda ws: ws.on("framereceived", read))
    return found


def test_the_first_visitor_of_all_may_come_by_a_link(site: Site, page: Page):
    page.goto(f"{site.address}/branches?model=/etc")
    page.locator(".st-key-side-model").wait_for()
    assert page.locator(".st-key-model input").input_value() == "demo"
    assert page.locator("[data-testid=stException]").count() == 0


def test_limits_are_sentences_and_uploads_are_capped(site: Site, page: Page):
    sessions = session(page)
    page.goto(site.address)
    page.locator(".st-key-side-text").wait_for()
    page.goto(f"{site.address}/{'tokens' if (site.app / 'pages/start.py').exists() else ''}")
    page.locator(".st-key-own button").click()
    prompt = page.locator(".st-key-prompt textarea")
    problem = page.locator("[class*=st-key-problem]")
    prompt.fill("word " * 3000)
    page.locator(".st-key-read button").click()
    problem.filter(has_text="at most 2,048").wait_for()
    prompt.fill("Question: Ann has 3 pens.\n")
    page.locator(".st-key-n input").fill("65")
    page.locator(".st-key-generate button").click()
    problem.filter(has_text="set n to 64 or less").wait_for()
    cookie = next(c for c in page.context.cookies() if "xsrf" in c["name"])

    def upload(size: int, token: str = cookie["value"]) -> int:
        return page.request.put(
            f"{site.address}/_stcore/upload_file/{sessions[-1]}/f",
            multipart={"f": {"name": "a.txt", "mimeType": "text/plain", "buffer": b"x" * size}},
            headers={"X-Xsrftoken": token},
        ).status

    assert upload(2 * MEGABYTE - 1024) == 204
    assert upload(2 * MEGABYTE) == 413
    assert upload(10, token="other") == 403


def test_odd_requests_tell_nothing(site: Site, page: Page):
    for path in ("_stcore/upload_file/x/y", "_stcore/none", "component/x/%2e%2e/y", "media/%00"):
        for method in ("GET", "PUT", "POST", "DELETE"):
            answer = page.request.fetch(f"{site.address}/{path}", method=method)
            assert answer.status < 500
            assert "Traceback" not in answer.text()
    assert page.request.get(f"{site.address}/_stcore/health").text() == "ok"
