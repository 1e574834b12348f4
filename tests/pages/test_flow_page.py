"""The Flow page without a browser: what it says, asks, refuses and offers."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import engine
from engine import Request
from tests.pages.cold import Cold
from tests.pages.navigation import open_page
from tests.pages.test_tokens_page import idle, texts, until


def test_it_opens_on_stored_results_without_torch(cold: Cold) -> None:
    seen = cold["flow"]
    assert seen["title"] == ["By which way did the information travel?"]
    assert (seen["torch"], seen["transformers"], seen["exceptions"]) == (False, False, 0)
    assert any("of the flow over every cut runs along" in t for t in seen["text"])
    for column in ("way", "changed", "more than random"):
        assert any(column in columns for columns in seen["tables"]), column


@pytest.fixture
def app(app_home: Path) -> AppTest:
    opened = open_page("flow")
    opened.session_state["tokenscope.drawn"] = True
    return healthy(until(opened.run(), idle))


def healthy(app: AppTest) -> AppTest:
    assert not app.exception
    assert "wrong inside" not in " ".join(texts(app))
    return app


def test_the_numbers_are_those_of_the_analysis(app: AppTest) -> None:
    item = engine.gallery()[0]
    (result,) = engine.run(Request("flow.backbone", item.trace, item.model, {"share": 0.5}))
    (summary,) = result.table("summary").to_pylist()
    said = " ".join(texts(app))
    assert f"along {summary['backbone_edges']:,} of {summary['edges']:,} edges" in said
    hub = next(r for r in result.table("nodes").to_pylist() if r["hub"] == 1)
    assert f"inflow   {hub['inflow']:.3g}" in said
    into = next(d.value for d in app.dataframe if "flow" in d.value.columns)
    best = max(
        (e for e in result.table("edges").to_pylist() if e["target_position"] == hub["position"]),
        key=lambda e: e["flow"],
    )
    assert into["position"].iloc[0] == best["source_position"]
    assert into["flow"].iloc[0] == pytest.approx(best["flow"])
    labels = {b.label for b in app.get("download_button")}
    assert {"CSV", "Parquet", "Arrow", "JSON", "JSONL", "XLSX", "GraphML", "SVG"} == labels


def test_spans_are_corrected_from_the_selection(app: AppTest) -> None:
    app.session_state["tokenscope.selection"] = None
    before = [t for t in texts(app) if t.startswith("answer ")]
    app.button(key="flow-mark-answer").click().run()
    until(app, idle)
    after = [t for t in texts(healthy(app)) if t.startswith("answer ")]
    assert before != after
    app.button(key="flow-reset").click().run()
    until(app, idle)
    assert [t for t in texts(healthy(app)) if t.startswith("answer ")] == before


def test_an_answer_before_the_question_is_one_sentence(app: AppTest) -> None:
    digest = engine.gallery()[0].trace.digest
    app.session_state["tokenscope.flow.span"] = (digest, {"answer": "1:3"})
    app.run()
    until(app, idle)
    assert any("question" in t and "answer" in t and t.endswith(".") for t in texts(app))
    assert app.button(key="flow-mark-answer")
    healthy(app)
