"""Every page opened once in a process that has loaded nothing, for the tests of what that needs.

``python -m tests.pages.cold`` prints, page by page, what is seen and whether torch was loaded by
then; the Library comes first, while the store is empty.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from streamlit.testing.v1 import AppTest

import engine
from pages.widgets import attributiontabs, flowtabs
from tests.pages.navigation import arrive, open_page

Cold = dict[str, dict[str, Any]]


def seen(app: AppTest, **more: Any) -> dict[str, Any]:
    """What the page shows now."""
    return {
        "torch": "torch" in sys.modules,
        "transformers": "transformers" in sys.modules,
        "title": [t.value for t in app.title],
        "text": [t.value for t in app.text],
        "buttons": [b.label for b in app.button],
        "tables": [list(d.value.columns) for d in app.dataframe],
        "rows": [len(d.value) for d in app.dataframe],
        "exceptions": len(app.exception),
        **more,
    }


def waited(app: AppTest) -> AppTest:
    """The page once no work goes on."""
    end = time.monotonic() + 60
    while any(b.label == "Cancel" for b in app.button) and time.monotonic() < end:
        time.sleep(0.1)
        app.run()
    return app


def drawn(name: str) -> AppTest:
    """The page after the browser said that its first view is painted."""
    app = open_page(name)
    app.session_state["tokenscope.drawn"] = True
    return waited(app.run())


def walked(app: AppTest, key: str, tabs: tuple[str, ...]) -> dict[str, Any]:
    """What the page shows in all these tabs."""
    buttons, tables, text = [], [], []
    for tab in tabs:
        app.session_state[key] = tab
        waited(app.run())
        text += [t.value for t in app.text]
        buttons += [b.label for b in app.button]
        tables += [list(d.value.columns) for d in app.dataframe]
    return seen(app, text=text, buttons=buttons, tables=tables)


def pages() -> Cold:
    """What each page shows to its first visitor."""
    library = seen(open_page("library"))
    start = seen(arrive().button(key="give-up").click().run())
    app = open_page("tokens")
    tokens = seen(app, selection=app.session_state["tokenscope.selection"].first)
    critical = drawn("critical")
    first = [list(d.value.columns) for d in critical.dataframe]
    scores = walked(critical, "critical-tabs", ("By sentence", "Do the scores find it?"))
    scores["tables"] += first
    return {
        "library": library,
        "start": start,
        "tokens": tokens,
        "branches": seen(open_page("branches")),
        "summary": seen(waited(open_page("summary"))),
        "critical": scores,
        "rewards": walked(
            drawn("rewards"), "reward-tabs", ("Answers", "Real step", "Do signals agree?")
        ),
        "attribution": walked(
            drawn("attribution"),
            "attribution-tabs",
            tuple(attributiontabs.TABS[name] for name in ("verdict", "causes", "reliance")),
        ),
        "tokenizer": walked(
            drawn("tokenizer"),
            "tokenizer-tabs",
            ("Spellings", "Ids", "Vocabulary", "Next byte", "Probe"),
        ),
        "flow": walked(
            drawn("flow"),
            "flow-tabs",
            tuple(flowtabs.TABS[name] for name in ("hubs", "layers", "causal")),
        ),
    }


if __name__ == "__main__":
    print(json.dumps(pages()))
    engine.default_workspace().close()
