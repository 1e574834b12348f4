"""What every page has around it: browser title, style, the name in the corner."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import streamlit as st

from engine.render.strip import asset
from pages.widgets.state import remember

# A drawing, not a glyph: an icon by name would be fetched from another server.
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    '<rect width="32" height="32" rx="5" fill="#15171a"/>'
    '<rect x="5" y="11" width="6" height="10" rx="1" fill="#402820"/>'
    '<rect x="13" y="11" width="6" height="10" rx="1" fill="#d67838"/>'
    '<rect x="21" y="11" width="6" height="10" rx="1" fill="#fce2b0"/></svg>'
)

_WELL_FORMED = st.components.v2.component(
    "tokenscope.wellformed", html="<span></span>", js=asset("wellformed.js")
)
MENDED = (
    "The text held half a surrogate pair, which is no character: it was replaced by U+FFFD. "
    "Mend it, or go on with it as it is."
)


def frame() -> None:
    """Configure the page; called once per run, before anything is drawn."""
    st.set_page_config("TokenScope", _ICON, layout="wide", initial_sidebar_state=236)
    st.html(f"<style>{_style()}</style>")
    with st.sidebar, st.container(key="brand"):
        st.text("TokenScope")
    with st.container(key="hidden-wellformed"):
        if _WELL_FORMED(key="wellformed", on_mended_change=_nothing).get("mended"):
            remember("input.error", MENDED)


def _nothing() -> None:
    """A trigger needs a callback to be sent at all."""


@cache
def _style() -> str:
    return (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
