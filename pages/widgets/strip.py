"""The token strip and the details panel as Streamlit components, and the bus between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from engine.render.strip import DETAILS_HTML, STRIP_HTML, asset

# Registered once; nothing a person typed ever enters html, css or js.
_STRIP = st.components.v2.component(
    "tokenscope.strip", html=STRIP_HTML, css=asset("strip.css"), js=asset("strip.js")
)
_DETAILS = st.components.v2.component(
    "tokenscope.details", html=DETAILS_HTML, css=asset("details.css"), js=asset("details.js")
)
_BUS = st.components.v2.component("tokenscope.bus", html="<span></span>", js=asset("bus.js"))


def token_strip(payload: Mapping[str, Any], *, key: str) -> tuple[Any, bool]:
    """Draw the strip.

    Args:
        payload: of ``engine.render.strip``; constant for one text, or it is sent again.
        key: of the component.

    Returns:
        The last selection a person made in it, or None; and whether it has been painted.
    """
    state = _STRIP(
        key=key, data=dict(payload), on_selection_change=_nothing, on_drawn_change=_nothing
    )
    return state.get("selection"), bool(state.get("drawn"))


def token_details(data: Mapping[str, Any], *, key: str) -> tuple[int, int] | None:
    """Draw the panel of the selected token.

    Returns:
        Position and id of an alternative a person wants forced, just now; else None.
    """
    wish = _DETAILS(key=key, data=dict(data), on_force_change=_nothing).get("force")
    if not isinstance(wish, Mapping):
        return None
    position, token_id = wish.get("position"), wish.get("id")
    return (position, token_id) if type(position) is type(token_id) is int else None


def bus(channel: str, message: Mapping[str, Any], *, key: str) -> None:
    """Tell all views of a channel what is shown and selected.

    Args:
        channel: of the views.
        message: ``signal``, ``prompt`` (colour it too), a selection's ``message()``; ``marks`` in
            place of the payload's; ``reveal`` to scroll to a selection that nobody chose.
        key: of the component.
    """
    with st.container(key=f"hidden-{key}"):
        _BUS(key=key, data={"channel": channel, **message})


def _nothing() -> None:
    """A state value needs a callback to be sent at all."""
