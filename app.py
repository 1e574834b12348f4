"""TokenScope's router: one page per question, model and text in the sidebar."""

from __future__ import annotations

import streamlit as st

from pages.widgets.frame import frame
from pages.widgets.notice import guarded
from pages.widgets.subject import sidebar


@guarded
def main() -> None:
    """Draw the frame, then the page that was asked for."""
    page = st.navigation(
        [st.Page("pages/tokens.py", title="Tokens", url_path="tokens", default=True)]
    )
    frame()
    sidebar()
    page.run()


main()
