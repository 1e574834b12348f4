"""Which value colours the tokens: words in a row, and the choice in the address."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from engine.render.signals import Signal
from pages.widgets import address


def choose_signal(signals: Mapping[str, Signal], *, key: str, param: str) -> str:
    """Let a reader choose a value; the first one stands for nothing in the address.

    Args:
        signals: what can be shown, by name, in order.
        key: of the widget.
        param: of the address.
    """
    titles = {name: signal.title for name, signal in signals.items()}
    first = next(iter(titles))
    address.take(key, titles, first, param=param)
    with st.container(key="controls", horizontal=True, vertical_alignment="center"):
        name = st.pills(
            "Colour",
            list(titles),
            key=key,
            required=True,
            format_func=titles.__getitem__,
            label_visibility="collapsed",
            persist_state="session",
            wrap=True,
        )
    address.put(key, name or first, first, param=param)
    return name or first
