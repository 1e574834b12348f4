"""Every tab of every page, with what the gallery holds and with what its buttons compute."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.pages.navigation import open_page
from tests.pages.test_tokens_page import idle, texts, until

PAGES = {
    "critical": "critical-tabs",
    "rewards": "reward-tabs",
    "attribution": "attribution-tabs",
    "flow": "flow-tabs",
    "tokenizer": "tokenizer-tabs",
}


def opened(name: str) -> AppTest:
    app = open_page(name)
    app.session_state["tokenscope.drawn"] = True
    return until(app.run(), idle)


def healthy(app: AppTest, where: str) -> None:
    assert not app.exception, where
    assert "wrong inside" not in " ".join(texts(app)), where


@pytest.mark.parametrize("name", PAGES)
def test_every_tab_and_every_button_that_computes(empty_home: Path, name: str) -> None:
    """Press whatever offers to compute, one after the other, as long as there is more."""
    app = opened(name)
    labels = [tab.label for tab in app.tabs]
    assert len(labels) >= 3
    pressed: set[str] = set()
    for label in labels:
        app.session_state[PAGES[name]] = label
        until(app.run(), idle)
        healthy(app, f"{name}: {label}")
        while offers := [b for b in app.button if _computes(b.key) and b.key not in pressed]:
            pressed.add(str(offers[0].key))
            until(offers[0].click().run(), idle)
            healthy(app, f"{name}: {label}: {offers[0].key}")


def _computes(key: str | None) -> bool:
    return key is not None and key.startswith("go-")
