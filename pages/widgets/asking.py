"""A result that is stored, or computed when somebody asks for it."""

from __future__ import annotations

import streamlit as st

from engine import Request, Result, UserError
from engine.errors import Cancelled
from pages.widgets import state
from pages.widgets.notice import problem
from pages.widgets.waiting import waiting


def ask(
    slot: str, request: Request, label: str, *, auto: bool = False, doing: str = "Computing"
) -> Result | None:
    """The result if it is stored; else a button that starts it, then its progress.

    Args:
        slot: the place in the page that waits.
        request: what is wanted.
        label: of the button.
        auto: start without a button.
        doing: said while it runs.
    """
    try:
        found = state.answer(slot, request, start=auto)
        if found is None:
            if not st.button(label, key=f"go-{slot}"):
                return None
            found = state.answer(slot, request)
    except UserError as error:
        problem(error, key=slot)
        return None
    except Cancelled as error:
        with st.container(key=f"hint-{slot}", horizontal=True, vertical_alignment="center"):
            st.text(str(error) or "Cancelled.")
            st.button("Start again", key=f"again-{slot}", on_click=state.give_up, args=(slot,))
        return None
    if isinstance(found, state.Job):
        waiting(found, key=slot, doing=doing)
        return None
    return found
