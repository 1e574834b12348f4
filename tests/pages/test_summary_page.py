"""The Summary page without a browser: what it says, draws and offers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest

import engine
from engine import Group, Request, Result, Trace
from engine.errors import Cancelled
from engine.render.axes import Quantity
from engine.render.bars import bars_css, bars_data
from engine.subjects import simple_turns
from pages.widgets import state, summaryviews
from tests.pages.cold import Cold
from tests.pages.hostile import HOSTILE
from tests.pages.navigation import ROOT
from tests.pages.test_tokens_page import idle, texts, until


@pytest.fixture
def app(app_home: Path) -> AppTest:
    opened = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    opened.switch_page("pages/summary.py").run()
    return until(opened, idle)


def healthy(app: AppTest) -> AppTest:
    assert not app.exception
    assert "wrong inside" not in " ".join(texts(app))
    return app


def show(app: AppTest, trace: Trace) -> AppTest:
    """Show a text of the visitor's own."""
    app.session_state["text"] = state.OWN
    app.session_state["tokenscope.trace"] = trace
    return healthy(until(app.run(), idle))


def test_it_opens_on_a_gallery_result_without_torch(cold: Cold):
    seen = cold["summary"]
    assert seen["title"] == ["How did the model read this text as a whole?"]
    assert not seen["torch"]
    assert not seen["transformers"]
    assert any(t.startswith("Each token of the response") for t in seen["text"])
    assert len(seen["tables"]) == 3


def test_the_numbers_are_those_of_the_analysis(app: AppTest):
    item = engine.gallery()[0]
    (result,) = engine.run(Request("summary", item.trace, item.model))
    parts = app.dataframe[0].value.set_index("segment")
    expected = result.to_pandas("summary").set_index("segment")
    np.testing.assert_allclose(parts.perplexity, expected.perplexity)
    sentence = next(t for t in texts(app) if t.startswith("Each"))
    assert f"{expected.perplexity['response']:.3g}" in sentence
    labels = {b.label for b in app.get("download_button")}
    assert labels == {"CSV", "Parquet", "Arrow", "JSON", "JSONL", "XLSX"}
    levels = app.dataframe[1].value.set_index("part")
    assert levels.loc["response"].is_monotonic_increasing


def test_every_value_and_every_way_to_group(app: AppTest):
    for signal in ("surprisal", "rank", "max_prob", "self_certainty"):
        app.selectbox(key="signal").set_value(signal).run()
        healthy(app)
    for by in summaryviews.WAYS:
        app.selectbox(key="by").set_value(by).run()
        healthy(app)
        assert len(app.dataframe) == 3
    for part in ("prompt", "all", "response"):
        app.selectbox(key="part").set_value(part).run()
        healthy(app)
    app.number_input(key="window").set_value(4).run()
    healthy(app)


def logged(*pieces: str, start: int = 1, **signals: tuple[float | None, ...]) -> Trace:
    """A trace as a log brings it: no ids, so no model is needed."""
    return Trace(
        ids=(-1,) * len(pieces),
        pieces=tuple(p.encode() for p in pieces),
        ids_origin="logged",
        response_start=start,
        turns=simple_turns(len(pieces), start),
        signals=signals,
    )


def test_a_text_without_a_response_is_summed_up_whole(app: AppTest):
    show(app, logged("Q: ", "a", " cat", start=3, logprob=(None, -1.0, -2.0)))
    assert any(t.startswith("Each token of the text") for t in texts(app))
    assert app.selectbox(key="part").options == ["whole text"]
    assert app.dataframe[0].value.segment.tolist() == ["all"]


def test_a_log_that_says_nothing_gets_one_sentence(app: AppTest):
    show(app, logged("Ann"))
    assert any("carries no log-probabilities" in t for t in texts(app))


def test_all_responses_of_a_group_can_be_grouped_together(app: AppTest):
    traces = tuple(logged("Q: ", "a", " cat", logprob=(None, v, v)) for v in (-1.0, -2.0, -3.0))
    app.session_state["tokenscope.group"] = Group(rollouts=traces)
    show(app, traces[1])
    assert any(t.startswith("2 tokens of one text.") for t in texts(app))
    app.toggle(key="together").set_value(True).run()
    healthy(until(app, idle))
    assert any(t.startswith("6 tokens of 3 responses.") for t in texts(app))
    groups = app.dataframe[2].value.set_index("group")
    assert groups["mean"].to_dict() == {"function": 2.0, "content": 2.0}


def test_a_log_without_a_model_is_summed_up_too(app: AppTest):
    trace = logged(
        *("Q: ", "the", " cat", " the"),
        logprob=(None, -1.0, -4.0, -3.0),
        advantage=(None, 0.5, None, 1.5),
    )
    show(app, trace)
    assert any("a draw from 14.4 equally" in t for t in texts(app))  # exp(8/3)
    assert "advantage, logged" in app.selectbox(key="signal").options
    app.selectbox(key="signal").set_value("log:advantage").run()
    healthy(app)
    groups = app.dataframe[2].value.set_index("group")
    assert groups["mean"].to_dict() == {"function": 1.0}


def test_a_cancelled_sum_can_be_started_again(app: AppTest, monkeypatch: pytest.MonkeyPatch):
    real = state.answer

    def cancelled(slot: str, request: Request) -> Result | state.Job | None:
        if slot == "grouped":
            raise Cancelled
        return real(slot, request)

    monkeypatch.setattr(state, "answer", cancelled)
    app.run()
    healthy(app)
    assert "Cancelled." in texts(app)
    assert len(app.dataframe) == 2
    monkeypatch.undo()
    app.button(key="again-grouped").click().run()
    assert "Cancelled." not in texts(app)
    assert len(healthy(app).dataframe) == 3


# -- what is drawn ---------------------------------------------------------------------------


def groups(*rows: dict) -> pa.Table:
    schema = engine.analyses()["grouped"].tables["groups"].schema()
    full = {
        "detail": "", "token_id": None, "token_bytes": None, "traces": 1, "median": 1.0,
        "q25": 0.5, "q75": 2.0, "share": 0.5, "sum_share": None,
    }  # fmt: skip
    return pa.Table.from_pylist([full | row for row in rows], schema)


def test_bars_hold_their_whiskers():
    table = groups(
        {"group": "a", "count": 3, "mean": 1.0, "low": -0.5, "high": 2.5},
        {"group": "b", "count": 1, "mean": 2.0, "low": None, "high": None},
    )
    data = bars_data(table, Quantity("entropy", "nats"), title="Mean entropy")
    assert data["axis"]["low"] <= -0.5
    assert data["axis"]["high"] >= 2.5
    assert [row["low"] for row in data["rows"]] == [-0.5, None]
    assert ["95 % interval", "–"] in data["rows"][1]["facts"]
    assert ["mean", "1.00 nats"] in data["rows"][0]["facts"]
    positive = bars_data(table.slice(1), Quantity("rank"), title="")
    assert positive["axis"]["low"] == 0


def test_of_many_groups_the_first_are_drawn_and_the_rest_is_counted():
    rows = [
        {"group": str(i), "count": 1, "mean": 1.0 * i, "low": None, "high": None} for i in range(40)
    ]
    data = bars_data(groups(*rows), Quantity("x"), title="", longest=24)
    assert len(data["rows"]) == 24
    assert data["more"] == 16


def test_hostile_tokens_are_drawn_marked_and_named_plainly():
    rows = [
        {"group": t, "token_bytes": t.encode(), "count": 1, "mean": 1.0, "low": None, "high": None}
        for t in HOSTILE
    ]
    data = bars_data(groups(*rows), Quantity("x"), title="")
    drawn = "".join(row["piece"] for row in data["rows"])
    assert not set("\u202e\u2066\x1b\u200b\r\n") & set(drawn)
    assert json.loads(json.dumps(data)) == data


def test_another_content_has_another_signature():
    one = groups({"group": "a", "count": 3, "mean": 1.0, "low": 0.5, "high": 2.5})
    two = groups({"group": "a", "count": 3, "mean": 1.0, "low": 0.5, "high": 2.6})
    made = [bars_data(t, Quantity("x"), title="")["signature"] for t in (one, two, one)]
    assert made[0] == made[2] != made[1]
    assert "http" not in bars_css()
