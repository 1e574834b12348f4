"""Values beside the statistics: found in the store, never computed, never confused."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

import engine
from engine import Result, Trace
from engine.registry import find
from engine.result import Request
from engine.schema import Column
from pages.widgets import signals, state
from pages.widgets.signals import Band, widen

STATISTICS = find("statistics").tables["tokens"].columns
VALUE = {"value": [None, 1.0, 0.25], "low": [None, 0.8, 0.1], "high": [None, 1.0, 0.5]}


def trace(**more: Any) -> Trace:
    given = {
        "ids": (1, 2, 3),
        "pieces": ("a", "b", "c"),
        "ids_origin": "encoded",
        "response_start": 1,
        "turns": ({"start": 0, "end": 3, "role": "text"},),
        **more,
    }
    return Trace.model_validate(given)


def tokens() -> pa.Table:
    return pa.table({"position": [0, 1, 2], "surprisal": pa.array([None, 1, 2], pa.float32())})


def value_result(**columns: list[float | None]) -> Result:
    table = pa.table({"position": [0, 1, 2], **(columns or VALUE), "samples": [0, 32, 32]})
    return Result("v" * 64, "critical.value", "complete", "cache", {"tokens": table}, None, {})


def test_a_stored_value_curve_becomes_a_signal_with_its_interval():
    wide = widen(tokens(), STATISTICS, trace(), [value_result()])
    assert wide.tokens["value"].to_pylist() == [None, 1.0, 0.25]
    assert wide.columns["value"].label == "chance of a right answer"
    assert wide.bands["value"] == Band("value_low", "value_high", "95 % interval")
    assert wide.tokens["value_low"].to_pylist() == VALUE["low"]
    assert wide.tokens["value_high"].to_pylist() == VALUE["high"]
    # Bounds and counts are no signals of their own.
    assert not {"value_low", "value_high", "low", "high", "samples"} & set(wide.columns)
    assert wide.tokens["surprisal"].to_pylist() == [None, 1, 2]


def test_a_table_of_other_length_is_left_out():
    longer = value_result()
    wide = widen(tokens().slice(0, 2), STATISTICS, trace(), [longer])
    assert "value" not in wide.tokens.column_names


def test_what_a_log_brought_stands_beside_the_models_numbers():
    text = trace(signals={"surprisal": (None, 5.0, 6.0), "low": (0.0, 0.5, None)})
    wide = widen(tokens(), STATISTICS, text, [])
    assert wide.tokens["surprisal"].to_pylist() == [None, 1, 2]
    assert wide.tokens["logged_surprisal"].to_pylist() == [None, 5, 6]
    assert wide.columns["logged_low"].label == "low, logged"
    # The log's own statistics do not say the same twice.
    assert "logged_surprisal" not in widen(tokens(), STATISTICS, text, [], logged=True).columns


def test_bounds_belong_together():
    columns = {n: Column(pa.float32(), n) for n in ("entropy_low", "entropy_high", "kept_low")}
    wide = widen(tokens(), columns, trace(), [])
    both = Band("entropy_low", "entropy_high", "bounds")
    assert wide.bands == {"entropy": both, "entropy_low": both, "entropy_high": both}


def test_the_store_is_asked_and_nothing_is_computed(monkeypatch: pytest.MonkeyPatch):
    asked: list[Request] = []

    class Store:
        def lookup(self, request: Request) -> Result | None:
            asked.append(request)
            return value_result()

    monkeypatch.setattr(state, "workspace", Store)
    monkeypatch.setattr(state, "expected_answer", lambda: "42")
    (found,) = signals.stored(trace(), "demo")
    assert found.analysis == "critical.value"
    assert asked[0].params["answer"] == "42"
    monkeypatch.setattr(state, "expected_answer", lambda: None)
    assert signals.stored(trace(), "demo") == []
    unknown = trace(ids=(-1, -1, -1))
    monkeypatch.setattr(state, "expected_answer", lambda: "42")
    assert signals.stored(unknown, "demo") == []
    assert len(asked) == 1


def test_a_request_that_is_refused_is_no_signal(monkeypatch: pytest.MonkeyPatch):
    class Store:
        def lookup(self, request: Request) -> Result | None:
            raise engine.UserError("too long")

    monkeypatch.setattr(state, "workspace", Store)
    monkeypatch.setattr(state, "expected_answer", lambda: "42")
    assert signals.stored(trace(), "demo") == []
