"""All rollouts of one prompt under each other, as a Streamlit component."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from engine.render.group import GROUP_HTML, group_css
from engine.render.strip import asset

# Registered once; nothing a person typed ever enters html, css or js.
_GROUP = st.components.v2.component(
    "tokenscope.group", html=GROUP_HTML, css=group_css(), js=asset("group.js")
)


def group_view(data: Mapping[str, Any], *, key: str) -> tuple[dict[str, int] | None, bool]:
    """Draw the rollouts (``engine.render.group.group_data``).

    What Python selects goes over the bus of the channel: ``rollout``, ``position`` and a ``stamp``
    above the last one returned here (``stamp + 1``); a smaller one counts as an echo. ``signature``
    may name the group (its ``text``).

    Returns:
        The token a person chose last: ``rollout``, ``position`` in its trace and ``stamp`` (browser
        milliseconds); None before the first. It stays there between runs and may belong to an
        earlier group: check it against what is shown. And whether the rollouts have been painted.
    """
    state = _GROUP(key=key, data=dict(data), on_token_change=_nothing, on_drawn_change=_nothing)
    drawn = bool(state.get("drawn"))
    chosen = state.get("token")
    if not isinstance(chosen, Mapping):
        return None, drawn
    found = {name: chosen.get(name) for name in ("rollout", "position", "stamp")}
    whole = {name: value for name, value in found.items() if type(value) is int}
    return (whole if len(whole) == len(found) else None), drawn


def _nothing() -> None:
    """A state value needs a callback to be sent at all."""
