"""*Copy link* and *Copy as Python*: the view a visitor has, for a colleague or a notebook."""

from __future__ import annotations

import streamlit as st

from engine import Request, Trace
from engine.render.strip import asset
from pages.widgets import links, state

_SHARE = st.components.v2.component(
    "tokenscope.share",
    html='<div class="ts-share"></div>',
    css=asset("share.css"),
    js=asset("share.js"),
)


def share(request: Request, trace: Trace, *, key: str = "share") -> None:
    """Draw the two links.

    Args:
        request: what the page computed.
        trace: what it shows.
        key: name of the place in the page.
    """
    selection = state.recall("selection")
    here = selection is not None and selection.signature == state.name_of(trace)
    data = {
        "link": links.address(trace, selection),
        "python": links.python(request, trace, selection.first if here else None),
        "note": "",
    }
    if not data["link"]:
        data["note"] = "A link needs a stored result; this one could not be kept."
    _SHARE(key=key, data=data)
