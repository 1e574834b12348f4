"""The Attribution page without a browser: what it says, asks, refuses and offers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest

import engine
from engine import Request
from pages.widgets import attributionforms, attributionviews
from pages.widgets.attributionviews import Matrix
from tests.pages.cold import Cold
from tests.pages.navigation import open_page
from tests.pages.test_tokens_page import idle, texts, until


def test_it_opens_on_stored_results_without_torch(cold: Cold) -> None:
    seen = cold["attribution"]
    assert seen["title"] == ["Which tokens made the model say this?"]
    assert (seen["torch"], seen["transformers"], seen["exceptions"]) == (False, False, 0)
    assert any(t.startswith("What made the model say “6”") for t in seen["text"])
    for column in ("Soft-NS", "insertion", "precision", "hit", "from_context"):
        assert any(column in columns for columns in seen["tables"]), column


@pytest.fixture
def app(app_home: Path) -> AppTest:
    opened = open_page("attribution")
    opened.session_state["tokenscope.drawn"] = True
    return healthy(until(opened.run(), idle))


def healthy(app: AppTest) -> AppTest:
    assert not app.exception
    assert "wrong inside" not in " ".join(texts(app))
    return app


def test_the_numbers_are_those_of_the_analysis(app: AppTest) -> None:
    item = engine.gallery()[0]
    (result,) = engine.run(
        Request("attribution.occlusion", item.trace, item.model, {"targets": "response"})
    )
    answer = item.trace.spans["answer"].start
    rows = [r for r in result.table().to_pylist() if r["target_position"] == answer]
    best = max(rows, key=lambda r: abs(r["score"]))
    made = next(d.value for d in app.dataframe if "score" in d.value.columns)
    assert made["position"].iloc[0] == best["source_position"]
    assert made["score"].iloc[0] == pytest.approx(best["score"])
    labels = {b.label for b in app.get("download_button")}
    assert labels == {"CSV", "Parquet", "Arrow", "JSON", "JSONL", "XLSX"}


def test_what_it_cannot_do_is_one_sentence(app: AppTest) -> None:
    app.text_input(key="attribution-contrast").set_value("64").run()
    until(app, idle)
    assert "The contrast says the same as the target: give another continuation." in texts(app)
    app.text_input(key="attribution-contrast").set_value("").run()
    healthy(until(app, idle))


def test_a_long_text_is_explained_when_asked(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes minutes has a button; what takes seconds, or is stored, has none."""
    assert attributionforms.eager(engine.gallery()[0].trace)
    assert not attributionforms.eager(next(i.trace for i in engine.gallery() if i.name == "long"))
    monkeypatch.setattr(attributionforms, "EAGER", 0)
    app.run()
    assert "Trace back" not in [b.label for b in app.button], "the gallery has it"
    app.selectbox(key="attribution-method").set_value("value_zeroing").run()
    healthy(until(app, idle))
    next(b for b in app.button if b.label == "Trace back").click().run()
    healthy(until(app, idle))
    assert "Trace back" not in [b.label for b in app.button]
    assert any("What made the model say" in t for t in texts(app))


SCORES = pa.table(
    {
        "target": ["c", "c", "d", "d", "d"],
        "target_position": [3, 3, 4, 4, 4],
        "target_end": [4, 4, 5, 5, 5],
        "source": ["a", "b", "a", "b", "c"],
        "source_position": [1, 2, 1, 2, 3],
        "source_end": [2, 3, 2, 3, 4],
        "score": pa.array([1.0, -2.0, 0.5, None, 4.0], pa.float64()),
    }
)


@pytest.fixture
def found() -> Matrix:
    scores = np.array([[1.0, -2.0, np.nan], [0.5, np.nan, 4.0]])
    targets, sources = ((3, 4, "c"), (4, 5, "d")), ((1, 2, "a"), (2, 3, "b"), (3, 4, "c"))
    return Matrix("k", targets, sources, scores)


def test_a_row_of_the_matrix_colours_the_strip(found: Matrix) -> None:
    one = attributionviews.towards(found, 3, 3, 6)
    assert one is not None
    # Position 0 was not scored; the target and what follows it add exactly nothing.
    np.testing.assert_array_equal(one, [np.nan, 1.0, -2.0, 0.0, 0.0, 0.0])
    both = attributionviews.towards(found, 3, 4, 6)
    assert both is not None
    np.testing.assert_array_equal(both[1:4], [1.5, -2.0, 4.0])
    assert attributionviews.towards(found, 1, 2, 6) is None


def test_a_column_says_what_a_token_led_to(found: Matrix) -> None:
    onwards = attributionviews.onwards(found, 1, 1, 6)
    assert onwards is not None
    np.testing.assert_array_equal(onwards, [0, 0, 0, 1.0, 0.5, 0])
    named = [(r["position"], r["score"]) for r in attributionviews.reached(found, 1, 1)]
    assert named == [(3, 1.0), (4, 0.5)]
    named = [(r["position"], r["score"]) for r in attributionviews.strongest(found, 3, 4)]
    assert named == [(3, 4.0), (2, -2.0), (1, 1.5)]


def test_the_matrix_is_read_from_the_table(found: Matrix) -> None:
    class Stored:
        key, status = "0", "complete"

        @staticmethod
        def table(_: str) -> pa.Table:
            return SCORES

    read = attributionviews.matrix(Stored())  # type: ignore[arg-type]
    assert (read.targets, read.sources) == (found.targets, found.sources)
    np.testing.assert_array_equal(read.scores, found.scores)
