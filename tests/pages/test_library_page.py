"""The Library page without a browser: what it opens on, and what each button does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import engine
from engine.limits.profile import Profile
from engine.shelves.library import Library
from pages.widgets import importbox, sqlbox
from tests.engine.elsewhere import bundle, result_file
from tests.pages.cold import Cold
from tests.pages.navigation import open_page


def texts(app: AppTest) -> str:
    return "\n".join(t.value for t in app.text)


def buttons(app: AppTest) -> dict[str, Any]:
    return {b.key: b for b in app.button}


def mark(app: AppTest, *titles: str) -> AppTest:
    """Mark the rows with these titles, as a click on their boxes does."""
    table = app.dataframe[0]
    rows = [list(table.value["title"]).index(title) for title in titles]
    app.session_state[table.key] = {"selection": {"rows": rows, "columns": [], "cells": []}}
    return app.run()


@pytest.fixture
def library(app_home: Path) -> Iterator[Library]:
    """The app's store with two results; empty again afterwards."""
    found = Library(engine.default_workspace())
    found.bring("x", bundle({"a.zip": result_file(31, "Alpha"), "b.zip": result_file(32, "Beta")}))
    yield found
    found.delete([row.key for row in found.rows().rows if row.origin != "example"])


@pytest.fixture
def app(library: Library) -> AppTest:
    return open_page("library")


def titles(app: AppTest) -> list[str]:
    return list(app.dataframe[0].value["title"])


def test_an_empty_store_lists_the_examples_and_says_what_is_next(cold: Cold):
    seen = cold["library"]
    assert seen["title"] == ["What has been computed?"]
    assert not seen["torch"]
    assert not seen["transformers"]
    assert seen["rows"][0] > 0
    assert seen["exceptions"] == 0
    assert any("Nothing of your own" in text for text in seen["text"])


def test_search_order_and_analysis(app: AppTest):
    assert {"Alpha", "Beta"} <= set(titles(app)[:2])
    app.text_input(key="library-search").set_value("alp").run()
    assert titles(app) == ["Alpha"]
    app.text_input(key="library-search").set_value("nothing like it").run()
    assert not app.dataframe
    assert "No result fits" in texts(app)
    app.text_input(key="library-search").set_value("").run()
    app.selectbox(key="library-order").set_value("bytes").run()
    app.selectbox(key="library-analysis").set_value("statistics").run()
    assert set(app.dataframe[0].value["analysis"]) == {"statistics"}
    assert not app.exception


def test_nothing_marked_nothing_to_press(app: AppTest):
    assert buttons(app)["library-open"].disabled
    assert buttons(app)["library-pin"].disabled
    assert "Mark results" in texts(app)


def test_pin_and_delete(app: AppTest, library: Library):
    mark(app, "Alpha", "Beta")
    app.button(key="library-pin").click().run()
    assert "Pinned" in texts(app)
    assert {r.title for r in library.rows().rows if r.pinned} == {"Alpha", "Beta"}
    mark(app, "Beta")
    assert buttons(app)["library-pin"].label == "Unpin"
    app.button(key="library-delete-sure").click().run()
    assert "1 result deleted." in texts(app)
    assert "Beta" not in titles(app)
    # A list of other results has no marks.
    assert buttons(app)["library-open"].disabled


def test_rename(app: AppTest, library: Library):
    mark(app, "Alpha")
    key = next(row.key for row in library.rows().rows if row.title == "Alpha")
    app.text_input(key=f"library-new-title-{key}").set_value("Renamed <b>")
    app.button(key="library-rename-save").click().run()
    assert "Renamed <b>" in titles(app)
    assert not app.exception


def test_examples_cannot_be_changed_but_opened_and_exported(app: AppTest):
    item = engine.gallery()[0]
    mark(app, "Alpha", item.title)
    assert buttons(app)["library-pin"].disabled
    assert "library-delete-sure" not in buttons(app)
    assert "stay as they are" in texts(app)
    app.selectbox(key="library-format").set_value("csv")
    app.button(key="library-make").click().run()
    assert any(b.label.startswith("Download (") for b in app.get("download_button"))
    assert not app.exception


def test_open_turns_to_the_page_that_shows_it(app: AppTest):
    mark(app, "Alpha")
    app.button(key="library-open").click().run()
    assert app.title[0].value != "What has been computed?"
    assert app.session_state["text"] == "own"
    assert not app.exception


def test_open_what_is_gone_gets_one_sentence(app: AppTest, library: Library):
    mark(app, "Alpha")
    library.delete([row.key for row in library.rows().rows if row.title == "Alpha"])
    app.button(key="library-open").click().run()
    assert not app.exception
    assert "wrong inside" not in texts(app)


class Upload:
    def __init__(self, name: str, data: bytes) -> None:
        self.name, self._data = name, data

    def getvalue(self) -> bytes:
        return self._data


def test_what_becomes_of_uploads_is_said(library: Library):
    files = [
        Upload("good.zip", result_file(33, "Gamma")),
        Upload("again.zip", result_file(31)),
        Upload("<script>.zip", b"x" * 100),
    ]
    lines = importbox.reports(library, files)
    assert lines[0] == ("Imported 1 result: Gamma.", False)
    assert lines[1] == ("Here already: Alpha.", False)
    assert lines[2][0].startswith("<script>.zip: The file is")
    assert lines[2][1]
    assert importbox.reports(library, [])[0][1]


def test_sql_opens_asks_and_refuses(app: AppTest, monkeypatch: pytest.MonkeyPatch):
    app.session_state["sql-box"] = True
    app.run()
    assert "statistics_tokens" in app.text_area(key="sql").value
    app.text_area(key="sql").set_value("SELECT title FROM results WHERE origin = 'imported'")
    app.button(key="sql-ask").click().run()
    answer = app.dataframe[-1].value
    assert sorted(answer["title"]) == ["Alpha", "Beta"]
    app.text_area(key="sql").set_value("SELECT getenv('HOME')")
    app.button(key="sql-ask").click().run()
    assert "The function 'getenv' is not available here." in texts(app)
    assert not app.exception


def test_cells_are_drawn_readably():
    import pyarrow as pa

    table = pa.table({"a": ["x\u202ey", "z" * 1000, None], "b": [b"\x00\xff", None, b""]})
    shown = sqlbox.readable(table).to_pylist()
    assert shown[0] == {"a": "xU+202Ey", "b": "00ff"}
    assert len(shown[1]["a"]) <= sqlbox.LONGEST + 1
    assert shown[2]["a"] is None


def test_visitors_of_a_shared_server_see_no_others_and_change_nothing(
    app: AppTest, library: Library, monkeypatch: pytest.MonkeyPatch
):
    rows = {row.title: row.key for row in library.rows().rows}
    monkeypatch.setattr(engine.default_workspace(), "profile", Profile(name="hosted"))
    app.run()
    assert not {"Alpha", "Beta"} & set(titles(app))
    app.session_state["tokenscope.keys"] = {rows["Alpha"]}
    app.run()
    assert {"Alpha", "Beta"} & set(titles(app)) == {"Alpha"}
    assert not {"library-pin", "library-delete-sure", "library-import-go"} & buttons(app).keys()
    assert "Import" not in [b.label for b in app.button]
    assert "sql-box" not in app.session_state
    assert not app.exception
