"""Means of groups as bars with intervals, as a Streamlit component."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from engine.render.bars import BARS_HTML, bars_css
from engine.render.strip import asset

# Registered once; nothing a person typed ever enters html, css or js.
_BARS = st.components.v2.component(
    "tokenscope.bars", html=BARS_HTML, css=bars_css(), js=asset("bars.js")
)


def bars(data: Mapping[str, Any], *, key: str) -> None:
    """Draw the groups (``engine.render.bars.bars_data``)."""
    _BARS(key=key, data=dict(data))
