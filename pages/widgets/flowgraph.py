"""The flow graph as a Streamlit component, linked with the strip of the same text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from engine.render.flowgraph import FLOWGRAPH_HTML, flowgraph_css, flowgraph_js

# Registered once; nothing a person typed ever enters html, css or js.
_FLOWGRAPH = st.components.v2.component(
    "tokenscope.flowgraph", html=FLOWGRAPH_HTML, css=flowgraph_css(), js=flowgraph_js()
)


def flowgraph(payload: Mapping[str, Any], *, key: str) -> tuple[Any, tuple[int, int] | None]:
    """Draw the graph (``engine.render.flowgraph.flowgraph_payload``).

    Returns:
        The last selection a person made in it, for ``next_selection``, None before the first; and
        source and target of the edge that was clicked last, None before the first.
    """
    state = _FLOWGRAPH(
        key=key, data=dict(payload), on_selection_change=_nothing, on_edge_change=_nothing
    )
    return state.get("selection"), clicked_edge(state.get("edge"), payload)


def clicked_edge(event: Any, payload: Mapping[str, Any]) -> tuple[int, int] | None:
    """Source and target of a reported edge; None for another text's or anything malformed."""
    if not isinstance(event, Mapping) or event.get("signature") != payload["text"]:
        return None
    edge = event.get("edge")
    if not (isinstance(edge, list | tuple) and len(edge) == 2):
        return None
    source, target = edge
    start = payload["offset"]
    if not (type(source) is type(target) is int):
        return None
    inside = start <= source < target < start + len(payload["labels"])
    return (source, target) if inside else None


def _nothing() -> None:
    """A state value needs a callback to be sent at all."""
