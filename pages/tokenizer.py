"""What does the tokenizer do to this text, and what can be proved about it?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

import engine
from engine import Result
from pages.widgets import places, state, tokenizerforms, tokenizertabs, tokenizerviews
from pages.widgets.about import about
from pages.widgets.asking import ask
from pages.widgets.notice import guarded, hint
from pages.widgets.selection import Selection, next_selection
from pages.widgets.strip import bus, token_strip
from pages.widgets.tokenizerforms import Asked
from pages.widgets.tokenizerviews import CHANNEL

TITLE = "What does the tokenizer do to this text?"
STRIP = "tokenizer-strip"


@guarded
def page() -> None:
    """The whole page, top to bottom."""
    head = st.container(key="head")
    head.title(TITLE, anchor=False)
    asked = tokenizerforms.controls(state.shown_trace())
    if asked is None:
        return
    if not asked.text:
        hint("Type or paste a text above.", key="empty")
        return
    cut = ask("tokenizer.text", asked.request("text"), "", auto=True, doing="Cutting the text")
    if cut is not None:
        _linked(asked, cut)


@st.fragment
@guarded
def _linked(asked: Asked, cut: Result) -> None:
    """The text in tokens, the selected one, and the tabs; a click draws only these again."""
    compared = tokenizertabs.compared(asked)
    view = tokenizerviews.shown(cut, compared)
    selection = _selection(view)
    with st.container(key="lede"):
        st.text(tokenizerviews.sentence(cut))
    left, right = st.container(key="linked").columns([2.1, 1], gap="medium")
    with left:
        _, drawn = token_strip(view.strip, key=STRIP)
        # What is beside and below the first picture does not delay it.
        below = state.painted(drawn)
        if compared is not None:
            tokenizertabs.beside(asked, compared)
        if below:
            tokenizertabs.findings(cut)
    with right, st.container(key="details-box"):
        if below:
            tokenizertabs.details(cut, view, selection.last)
        places.questions("tokenizer")
    if below:
        tokenizertabs.below(asked, cut)
        about(engine.analyses()["tokenizer.text"], view.signal, cut)
    bus(CHANNEL, {"signal": view.signal.name, "prompt": True, **selection.message()}, key="tok-bus")


def _selection(view: tokenizerviews.View) -> Selection:
    kept = st.session_state.get(STRIP)
    event: Any = kept.get("selection") if isinstance(kept, Mapping) else None
    found = next_selection(
        state.recall("tokenizer.selection"), view.name, view.length, view.start, {"strip": event}
    )
    state.remember("tokenizer.selection", found)
    return found


page()
