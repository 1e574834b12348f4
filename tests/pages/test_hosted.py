"""Pages in the hosted profile: a visitor is held to the limits, and told so in one sentence."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import engine
from engine.limits.profile import BUNDLED, Profile
from engine.limits.rates import Visitor
from engine.schema import Progress
from engine.workspace import Workspace
from tests.pages.navigation import ROOT
from tests.pages.test_tokens_page import texts

TOKENS = "pages/tokens.py"


@pytest.fixture
def hosted(app_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """The process's workspace in the hosted profile, with one computation at a time."""
    monkeypatch.setenv("TOKENSCOPE_PROFILE", "hosted")
    profile = replace(Profile.from_env(), running=1)
    with Workspace(tmp_path / "hosted", profile=profile) as made:
        monkeypatch.setattr(engine, "default_workspace", lambda: made)
        yield made


@pytest.fixture
def app(hosted: Workspace) -> AppTest:
    return AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()


@pytest.fixture
def own(app: AppTest) -> AppTest:
    if not any(b.key == "own" for b in app.button):
        app.switch_page(TOKENS).run()
    return app.button(key="own").click().run()


def read(app: AppTest, prompt: str) -> AppTest:
    app.text_area(key="prompt").set_value(prompt)
    return app.button(key="read").click().run()


def test_limits_are_said_where_they_are_met(own: AppTest):
    read(own, "word " * 3000)
    assert any("at most 2,048" in text for text in texts(own))
    own.text_area(key="prompt").set_value("Question: Ann has 3 pens.\n")
    own.number_input(key="n").set_value(65)
    own.button(key="generate").click().run()
    assert any("set n to 64 or less" in text for text in texts(own))
    own.number_input(key="n").set_value(1)
    own.number_input(key="longest").set_value(257)
    own.button(key="generate").click().run()
    assert any("set max_new_tokens to 256 or less" in text for text in texts(own))
    assert not own.exception


def test_only_the_bundled_models_are_offered(app: AppTest):
    offered = app.selectbox(key="model").options
    assert "demo" in offered
    assert set(offered) <= set(BUNDLED)


def test_a_model_is_not_named_in_other_ways(own: AppTest, monkeypatch: pytest.MonkeyPatch):
    from pages.widgets import state

    for name in ("/etc", "org/name", str(ROOT / "demo/models/demo")):
        monkeypatch.setattr(state, "chosen_model", lambda name=name: name)
        read(own, "Ann has 3 pens.")
        assert any("is not offered here: choose one of demo" in text for text in texts(own)), name
    assert not own.exception


def test_a_visitor_is_told_who_comes_first(own: AppTest, hosted: Workspace):
    gate = threading.Event()

    def long() -> Generator[Progress, None, None]:
        yield Progress(None, "")
        assert gate.wait(60)

    handle = hosted.runner.submit("long", long, who="somebody else")
    try:
        read(own, "Ann has 3 pens and buys 4 more.")
        assert any("1 other before you" in text for text in texts(own)), texts(own)
        next(b for b in own.button if b.label == "Cancel").click().run()
        assert any(text.startswith("Cancelled") for text in texts(own)), texts(own)
    finally:
        gate.set()
    handle.result(60)


def test_too_many_computations_are_one_sentence(
    own: AppTest, hosted: Workspace, monkeypatch: pytest.MonkeyPatch
):
    def refuse(visitor: Visitor) -> None:
        assert visitor.session
        raise engine.UserError("Too many computations were started in a short time: wait.")

    monkeypatch.setattr(hosted._limiter, "admit", refuse)
    read(own, "Ann has 3 pens and buys 5 more.")
    assert any("Too many computations" in text for text in texts(own)), texts(own)
    assert not own.exception


def test_the_server_is_held_whatever_its_own_settings_say():
    code = (
        "import asyncio, os, asgi\n"
        "from streamlit import config\n"
        "asyncio.run(asgi.lifespan(asgi.app).__aenter__())\n"
        "names = ('client.showErrorDetails', 'client.toolbarMode', 'browser.gatherUsageStats',\n"
        "         'server.enableXsrfProtection', 'server.maxUploadSize')\n"
        "print([config.get_option(n) for n in names], os.environ['HF_HUB_OFFLINE'])"
    )
    loose = {
        "STREAMLIT_CLIENT_SHOW_ERROR_DETAILS": "full",
        "STREAMLIT_CLIENT_TOOLBAR_MODE": "developer",
        "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "true",
        "STREAMLIT_SERVER_ENABLE_XSRF_PROTECTION": "false",
        "STREAMLIT_SERVER_MAX_UPLOAD_SIZE": "500",
        "TOKENSCOPE_PROFILE": "hosted",
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **loose},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['none', 'minimal', False, True, 2] 1"


def test_no_page_forgets_who_asks():
    for path in [ROOT / "app.py", *(ROOT / "pages").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            place = f"{path.name}:{node.lineno}"
            if node.func.attr in ("submit", "submit_plan"):
                named = {k.arg for k in node.keywords}
                assert len(node.args) > 1 or "visitor" in named, f"{place}: give the visitor"
            if node.func.attr == "run" and isinstance(node.func.value, ast.Name):
                # It waits for the result, and nobody in particular asks.
                assert node.func.value.id != "engine", f"{place}: use state.answer"
