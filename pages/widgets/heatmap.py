"""The heatmap as a Streamlit component, linked with the strip of the same text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from engine.render.heatmap import HEATMAP_HTML, heatmap_css, heatmap_js

# Registered once; nothing a person typed ever enters html, css or js.
_HEATMAP = st.components.v2.component(
    "tokenscope.heatmap", html=HEATMAP_HTML, css=heatmap_css(), js=heatmap_js()
)


def heatmap(payload: Mapping[str, Any], *, key: str) -> tuple[Any, tuple[int, int] | None]:
    """Draw the heatmap (``engine.render.heatmap.heatmap_payload``).

    Returns:
        The last selection a person made in it (a cell selects the token of its column, a label its
        own), for ``next_selection``, None before the first; and row and column of the cell that
        was clicked last, from 0, None before the first.
    """
    state = _HEATMAP(
        key=key, data=dict(payload), on_selection_change=_nothing, on_cell_change=_nothing
    )
    return state.get("selection"), clicked_cell(state.get("cell"), payload)


def clicked_cell(event: Any, payload: Mapping[str, Any]) -> tuple[int, int] | None:
    """Row and column of a reported cell; None for another text's or anything malformed."""
    if not isinstance(event, Mapping) or event.get("signature") != payload["text"]:
        return None
    row, column = event.get("row"), event.get("column")
    if not (type(row) is type(column) is int):
        return None
    inside = 0 <= row < len(payload["rows"]) and 0 <= column < len(payload["labels"])
    return (row, column) if inside else None


def _nothing() -> None:
    """A state value needs a callback to be sent at all."""
