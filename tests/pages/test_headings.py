"""Headings are Markdown for Streamlit: a token in one must stay a token."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import engine
from engine import Text
from pages.widgets.selection import Selection
from tests.pages.navigation import open_page
from tests.pages.test_tokens_page import idle, texts, until

HOSTILE = Text(
    prompt="Question: ![a](http://b.example/c.png) <script>2</script>?\n",
    response="Solution: **x** [d](http://e.example)\nAnswer: ![7](http://f.example)",
)


@pytest.mark.parametrize("page", ["attribution", "flow", "tokenizer", "critical"])
def test_a_token_is_no_markup_in_a_heading(app_home: Path, page: str) -> None:
    trace = engine.encode(HOSTILE, "demo", engine.default_workspace())
    app = open_page(page)
    app.session_state["text"] = "own"
    app.session_state["tokenscope.trace"] = trace
    app.session_state["tokenscope.drawn"] = True
    # Up to a token that is a mark itself, so that several stand together.
    mark = max(i for i, piece in enumerate(trace.pieces) if set(piece) & set(b"[]*!"))
    chosen = Selection(trace.digest[:24], trace.response_start, mark, 1, "link")
    app.session_state["tokenscope.selection"] = chosen
    until(app.run(), idle)
    assert not app.exception
    assert "wrong inside" not in " ".join(texts(app))
    for heading in app.subheader:
        bare = re.sub(r"\\[!-/:-@\[-`{-~]", "", heading.value)
        assert not re.search(r"[\[\]<>*_`!]", bare), heading.value
