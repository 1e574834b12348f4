"""What every page has around it: browser title, style, the name in the corner."""

from __future__ import annotations

from collections.abc import Mapping
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

_FRAME = st.components.v2.component("tokenscope.frame", html="<span></span>", js=asset("frame.js"))
_FIELDS = 4
"""Fields full to the brim that one message must have room for: a page sends all of them at once."""
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
    _watch_fields()


def _watch_fields() -> None:
    """Say what became of a text that cannot be sent as it is."""
    most = largest_field()
    with st.container(key="hidden-frame"):
        found = _FRAME(
            key="frame",
            data={"most": most},
            on_mended_change=_nothing,
            on_refused_change=_nothing,
        )
    if found.get("mended"):
        remember("input.error", MENDED)
    refused = found.get("refused")
    if isinstance(refused, Mapping):
        # Beside whatever field it was, on any page: a corner of the window is near all of them.
        st.toast(too_large(refused.get("size"), most), duration="long")


def largest_field() -> int:
    """Bytes of text a field may hold; the server hangs up on a message above its own limit."""
    return int(st.get_option("server.maxWidgetStateSize")) * 1_000_000 // _FIELDS


def too_large(size: object, most: int) -> str:
    """What is said of a text that was kept out; ``size`` comes from the browser."""
    has = (
        f"has {size / 1e6:,.1f} MB" if isinstance(size, int | float) and size > most else "is long"
    )
    return (
        f"The text {has}, and a field takes at most {most / 1e6:.1f} MB: nothing was changed. "
        "Bring it as a file on the Start page, or paste a part of it."
    )


def _nothing() -> None:
    """A trigger needs a callback to be sent at all."""


@cache
def _style() -> str:
    return (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
