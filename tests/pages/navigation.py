"""AppTest that goes through ``app.py`` on every page, as the served app does.

AppTest looks for a folder ``pages`` anew before each run and would then run a page's file by
itself, without sidebar, link and navigation.
"""

from __future__ import annotations

from pathlib import Path

from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import AppTest, app_test

ROOT = Path(__file__).parents[2]


class _Navigated(PagesManager):
    """What AppTest resets on this class leaves the one that Streamlit asks as it is."""


def arrive(**params: str) -> AppTest:
    """The app as a visitor meets it who follows a link with these parameters."""
    app_test.PagesManager = _Navigated  # type: ignore[misc]
    PagesManager.uses_pages_directory = False
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    for name, value in params.items():
        app.query_params[name] = value
    return app.run()


def open_page(name: str) -> AppTest:
    """The app on the page ``pages/<name>.py``."""
    return turn_to(arrive(), name)


def turn_to(app: AppTest, name: str) -> AppTest:
    """Turn to another page."""
    return app.switch_page(f"pages/{name}.py").run()
