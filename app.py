"""TokenScope's router: one page per question, model and text in the sidebar."""

from __future__ import annotations

import streamlit as st

from pages.widgets import links, places
from pages.widgets.frame import frame
from pages.widgets.notice import guarded
from pages.widgets.subject import sidebar


@guarded
def main() -> None:
    """Draw the frame, then the page that was asked for (``pages/widgets/places.py`` lists them)."""
    page = st.navigation(places.pages())
    frame()
    links.arrive()
    sidebar()
    page.run()


main()
