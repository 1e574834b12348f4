"""Slow work: what is being done, how long it may take, and a way to stop it."""

from __future__ import annotations

import streamlit as st

from pages.widgets.notice import guarded
from pages.widgets.state import Job


def waiting(job: Job, *, key: str, doing: str) -> None:
    """Show a running job until it ends, then draw the page again."""

    @st.fragment(run_every=0.5)
    @guarded
    def look() -> None:
        if job.handle.done:
            st.rerun()
        progress = job.handle.progress
        text = progress.message if progress else _place(job.handle.ahead)
        if progress and progress.eta is not None and progress.eta >= 1:
            text += f" · about {_span(progress.eta)} left"
        with st.container(key=f"waiting-{key}", horizontal=True, vertical_alignment="center"):
            with st.container(width=420):
                st.text(f"{doing}: {text[:1].lower()}{text[1:]}")
                st.progress(min(max((progress and progress.fraction) or 0.0, 0.0), 1.0))
            st.button("Cancel", key=f"cancel-{key}", on_click=job.handle.cancel)

    look()


def _place(ahead: int | None) -> str:
    """Where a computation stands that has not begun."""
    if not ahead:
        return "Waiting for the worker" if ahead is None else "Next in line"
    return f"{ahead} {'other' if ahead == 1 else 'others'} before you"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
