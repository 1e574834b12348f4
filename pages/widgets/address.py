"""Choices that stand in the page's address, by names that do not change with their labels.

Streamlit's own ``bind="query-params"`` writes what a widget shows; a link would break with the next
better word for it. So these choices are read from the address and written to it here.
"""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from pages.widgets import state


def take(key: str, names: Mapping[str, str], first: str, *, param: str, old: str = "") -> None:
    """Set a widget to what the address says; call it before the widget is drawn.

    Args:
        key: of the widget, whose value is one of ``names`` afterwards.
        names: by stable name what is shown; links of earlier versions carry the latter.
        first: chosen while nothing else is.
        param: of the address.
        old: what ``param`` was called in earlier versions.
    """
    given = st.query_params.get(param) or (st.query_params.get(old) if old else None)
    # What this page wrote itself is no news: else the address would hold the widget fast.
    if given is not None and given != state.recall(f"address.{key}"):
        state.remember(f"address.{key}", given)
        name = _named(given, names)
        if name is not None:
            st.session_state[key] = name
    if st.session_state.get(key) not in names:
        st.session_state[key] = first


def _named(given: str, names: Mapping[str, str]) -> str | None:
    if given in names:
        return given
    return next((name for name, label in names.items() if label == given), None)


def put(key: str, chosen: str, first: str, *, param: str, old: str = "") -> None:
    """Write a choice to the address; the first one needs no word there."""
    wanted = None if chosen == first else chosen
    state.remember(f"address.{key}", wanted)
    if old and old in st.query_params:
        del st.query_params[old]
    if wanted is None:
        if param in st.query_params:
            del st.query_params[param]
    elif st.query_params.get(param) != wanted:
        st.query_params[param] = wanted
