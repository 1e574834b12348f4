"""The Critical page without a browser: what it says, asks, refuses and offers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import engine
from engine import Request
from engine.critical.value import value_request
from pages.widgets import state
from tests.pages.cold import Cold
from tests.pages.navigation import open_page
from tests.pages.test_tokens_page import idle, texts, until


@pytest.fixture
def app(app_home: Path) -> AppTest:
    opened = open_page("critical")
    opened.session_state["tokenscope.drawn"] = True
    return healthy(until(opened.run(), idle))


def healthy(app: AppTest) -> AppTest:
    assert not app.exception
    assert "wrong inside" not in " ".join(texts(app))
    return app


def said(app: AppTest) -> str:
    return " ".join(texts(app))


def test_it_opens_on_stored_results_without_torch(cold: Cold) -> None:
    seen = cold["critical"]
    assert seen["title"] == ["Which token broke the reasoning?"]
    assert (seen["torch"], seen["transformers"]) == (False, False)
    text = " ".join(seen["text"])
    assert "that token broke it" in text
    assert "come out right; drawn anew without it" in text, "what if, stored too"
    assert re.search(r"Over 1\d wrong answers of demo, taken as they came", text)
    assert "Measure" not in seen["buttons"]
    assert any("fall" in columns for columns in seen["tables"])
    assert any("ROC area" in columns for columns in seen["tables"])


def test_the_numbers_are_those_of_the_analyses(app: AppTest) -> None:
    item = engine.gallery()[0]
    assert item.expected is not None
    (value,) = engine.run(value_request(item.trace, item.model, item.expected))
    (row,) = value.table("summary").to_pylist()
    sentence = next(t for t in texts(app) if t.startswith("Before “"))
    assert f"{100 * row['before']:.0f} % of the continuations" in sentence
    assert f"{row['before_low']:.2f}–{row['before_high']:.2f}" in sentence
    before = value.table("tokens").slice(row["from_position"], 1).to_pylist()[0]
    assert f"Right before it: {before['correct']} of {before['samples']}" in said(app)
    numbers = next(d.value for d in app.dataframe if "fall" in d.value.columns)
    assert len(numbers) == len(item.trace) - item.trace.response_start
    assert numbers["fall"].max() == pytest.approx(row["fall"])
    (pair,) = engine.run(Request("critical.contrast", item.trace, item.model))
    scores = pair.table("tokens")["contrast"].to_pylist()[item.trace.response_start :]
    assert numbers["contrast"].tolist() == pytest.approx(scores)
    labels = {b.label for b in app.get("download_button")}
    assert labels == {"CSV", "Parquet", "Arrow", "JSON", "JSONL", "XLSX"}


def test_without_a_right_answer_nothing_is_counted(app: AppTest) -> None:
    field = next(t for t in app.text_input if t.label == "Right answer")
    field.set_value("").run()
    assert "Give the right answer above" in said(healthy(app))
    assert "Measure" not in [b.label for b in app.button]
    field.set_value("81").run()
    assert "Measure" in [b.label for b in healthy(app).button]
    assert "prefixes, 64 continuations each" in said(app)


def test_another_way_of_measuring_has_to_be_asked_for(app: AppTest) -> None:
    app.selectbox(key="critical-where").set_value("search").run()
    app.number_input(key="critical-n").set_value(4).run()
    app.selectbox(key="critical-pair").set_value("none").run()
    assert "Measure" in [b.label for b in healthy(app).button]
    next(b for b in app.button if b.label == "Measure").click().run()
    healthy(until(app, idle))
    item = engine.gallery()[0]
    assert item.expected is not None
    request = value_request(item.trace, item.model, item.expected, where="search", n=4)
    stored = state_lookup(request)
    (row,) = stored.table("summary").to_pylist()
    assert row["drawn"] < row["full"]
    assert any(word(row["token"]) in t for t in texts(app) if t.startswith(("Before", "Between")))


def test_pairs_and_what_they_lack(app: AppTest) -> None:
    app.selectbox(key="critical-pair").set_value("models").run()
    assert "Name both models of the pair" in said(healthy(app))
    app.text_input(key="critical-positive").set_value("demo-positive").run()
    app.text_input(key="critical-negative").set_value("demo-multidigit").run()
    healthy(until(app, idle))
    assert "one tokenizer" in said(app)
    app.text_input(key="critical-negative").set_value("no-such-model").run()
    healthy(until(app, idle))
    assert "no-such-model" in said(app)
    app.selectbox(key="critical-pair").set_value("prompts").run()
    app.text_area(key="critical-better").set_value("{prompt}").run()
    healthy(until(app, idle))
    assert "change one of them" in said(app)
    app.text_area(key="critical-better").set_value("{prompt}The answer is 80.\n").run()
    healthy(until(app, idle))
    numbers = next(d.value for d in app.dataframe if "fall" in d.value.columns)
    assert {"contrast", "log_ratio", "reward", "weight"} <= set(numbers.columns)


def test_a_checker_that_cannot_read_what_is_right(app: AppTest) -> None:
    app.selectbox(key="critical-checker").set_value("regex").run()
    field = next(t for t in app.text_input if t.label == "Right answer")
    field.set_value("(8").run()
    next(b for b in app.button if b.label == "Measure").click().run()
    healthy(until(app, idle))
    assert "pattern" in said(app)


def test_a_program_is_typed_never_brought(app: AppTest) -> None:
    """What the answer field holds may come from a file: as a program it is not taken."""
    app.selectbox(key="critical-checker").set_value("python").run()
    field = next(t for t in app.text_input if t.label == "Expression over response")
    assert not field.value
    assert "Give the right answer above" in said(healthy(app))
    assert "Measure" not in [b.label for b in app.button]
    field.set_value("'80' in response").run()
    assert "Measure" in [b.label for b in healthy(app).button]


def test_a_text_that_has_no_ids_or_no_response(app: AppTest) -> None:
    from tests.pages.test_summary_page import logged

    app.session_state["text"] = state.OWN
    app.session_state["tokenscope.trace"] = logged("Q", " a", " b")
    app.run()
    assert "no token ids" in said(healthy(app))
    bare = engine.encode(engine.Text(prompt="Only a question?"))
    app.session_state["tokenscope.trace"] = bare
    app.run()
    healthy(until(app, idle))


def state_lookup(request: Request) -> engine.Result:
    found = engine.default_workspace().lookup(request)
    assert found is not None
    return found


def word(token: str) -> str:
    return token.strip() or token
