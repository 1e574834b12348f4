"""Curve and scatter as Streamlit components, linked with the strip of the same text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from engine.render.strip import asset
from engine.render.views import CURVE_HTML, SCATTER_HTML, views_css
from pages.widgets.downloads import HEAD_HEIGHT, ROW_HEIGHT

# Registered once; nothing a person typed ever enters html, css or js.
_CURVE = st.components.v2.component(
    "tokenscope.curve", html=CURVE_HTML, css=views_css(), js=asset("curve.js")
)
_SCATTER = st.components.v2.component(
    "tokenscope.scatter", html=SCATTER_HTML, css=views_css(), js=asset("scatter.js")
)

_FOLLOW = st.components.v2.component(
    "tokenscope.follow", html='<span class="ts-follow"></span>', js=asset("follow.js")
)


def curve(data: Mapping[str, Any], *, key: str) -> Any:
    """Draw a value along the tokens (``engine.render.views.curve_data``).

    Returns:
        The last selection a person made in it, for ``next_selection``; None before the first.
    """
    return _CURVE(key=key, data=dict(data), on_selection_change=_nothing).get("selection")


def scatter(data: Mapping[str, Any], *, key: str) -> Any:
    """Draw two values of every token against each other (``scatter_data``).

    Returns:
        The last selection a person made in it, for ``next_selection``; None before the first.
    """
    return _SCATTER(key=key, data=dict(data), on_selection_change=_nothing).get("selection")


def follow(channel: str, text: str, table: str, *, key: str) -> None:
    """Let a table (``table_view``) go to the row of the token that was selected elsewhere.

    Args:
        channel: of the views.
        text: name of the text whose tokens are the rows.
        table: the table's key.
        key: of this invisible element.
    """
    place = {"place": f"st-key-{table}", "row": ROW_HEIGHT, "head": HEAD_HEIGHT}
    with st.container(key=f"hidden-{key}"):
        _FOLLOW(key=key, data={"channel": channel, "text": text, **place})


def _nothing() -> None:
    """A state value needs a callback to be sent at all."""
