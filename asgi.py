"""The app as one process: ``streamlit run asgi.py`` serves it and closes the store at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import streamlit as st


@asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[None]:
    """Close the workspace when the server stops, so that nothing queued is lost."""
    yield
    from engine import default_workspace

    if default_workspace.cache_info().currsize:
        default_workspace().close()


def on_script_error(error: Exception) -> bool:
    """The last net under pages and callbacks: a sentence instead of a traceback."""
    from pages.widgets.notice import broken

    broken(error)
    return True


app = st.App("app.py", lifespan=lifespan, on_script_error=on_script_error)
