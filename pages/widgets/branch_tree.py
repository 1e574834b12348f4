"""What could be said instead, the tree of branches, and two traces side by side, as components."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from engine.render.branching import ALIGNED_HTML, CHOICES_HTML, TREE_HTML
from engine.render.strip import asset

# Registered once; nothing a person typed ever enters html, css or js.
_CHOICES = st.components.v2.component(
    "tokenscope.choices", html=CHOICES_HTML, css=asset("branching.css"), js=asset("choices.js")
)
_TREE = st.components.v2.component(
    "tokenscope.tree", html=TREE_HTML, css=asset("branching.css"), js=asset("tree.js")
)
_ALIGNED = st.components.v2.component(
    "tokenscope.aligned", html=ALIGNED_HTML, css=asset("branching.css"), js=asset("aligned.js")
)


def choices(data: Mapping[str, Any], *, key: str) -> Any:
    """Draw what else could be said (``engine.render.branching.choices_data``).

    Returns:
        The last choice a person made: ``text``, ``position``, ``id`` (−1 for nothing), ``stamp``.
    """
    return _CHOICES(key=key, data=dict(data), on_choice_change=_nothing).get("choice")


def tree_view(data: Mapping[str, Any], *, key: str, on_place: Callable[[Any], None]) -> None:
    """Draw the tree (``tree_data``).

    Args:
        data: what to draw.
        key: name of the place in the page.
        on_place: told ``branch``, ``sample`` and ``beside`` before the page is drawn again.
    """

    def told() -> None:
        on_place((st.session_state.get(key) or {}).get("place"))

    _TREE(key=key, data=dict(data), on_place_change=told)


def aligned(data: Mapping[str, Any], *, key: str) -> None:
    """Draw two traces above each other (``aligned_data``)."""
    _ALIGNED(key=key, data=dict(data))


def _nothing() -> None:
    """A state value needs a callback to be sent at all."""
