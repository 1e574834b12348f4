"""What the Tokens page draws of one result, built once and shared by all visitors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import streamlit as st

import engine
from engine import Result, Trace
from engine.errors import UserError
from engine.render.signals import Signal, signals_of, values_of
from engine.render.strip import most_striking, names, payload, pieces
from engine.render.views import curve_data, scatter_data
from engine.schema import PER_TOKEN, Column
from pages.widgets import state
from pages.widgets.signals import Widened, stored, widen

CHANNEL = "tokens"
ACROSS, UP = "entropy", "varentropy"


@dataclass(frozen=True, slots=True)
class Parts:
    """What is kept of a text: its per-token values and the strip's payload, no alternatives.

    Attributes:
        wide: the per-token table with whatever else is stored for the text.
        strip: the strip's payload.
        signals: what can be shown, in order.
        pieces: every token as the JavaScript draws it.
        names: every token as readable plain text.
        start: the token selected when nobody chose one.
    """

    wide: Widened
    strip: dict[str, Any]
    signals: dict[str, Signal]
    pieces: pa.Array
    names: list[str]
    start: int


@dataclass(frozen=True, slots=True)
class Shown:
    """One text with its numbers.

    Attributes:
        result: the statistics.
        trace: the text.
        key: names both and all that is stored beside them.
        parts: what is drawn of them.
    """

    result: Result
    trace: Trace
    key: str
    parts: Parts

    @property
    def text(self) -> str:
        """What selections call this text."""
        return state.name_of(self.trace)

    @property
    def tables(self) -> dict[str, pa.Table]:
        """The result's tables, per-token values widened."""
        return {**self.result.tables, "tokens": self.parts.wide.tokens}

    @property
    def signals(self) -> dict[str, Signal]:
        """What can be shown, in order."""
        return self.parts.signals

    @property
    def columns(self) -> Mapping[str, Column]:
        """All per-token columns and what they mean."""
        return {**PER_TOKEN, **self.parts.wide.columns}

    def curve(self, name: str) -> dict[str, Any]:
        """The curve of one signal."""
        return _curve(f"{self.key}|{name}", self.parts, self.trace, name)

    def scatter(self) -> dict[str, Any] | None:
        """Entropy and varentropy of every token; None where either is unknown."""
        if ACROSS not in self.signals or UP not in self.signals:
            return None
        return _scatter(self.key, self.parts, self.trace)


def shown(result: Result, trace: Trace) -> Shown:
    """Everything the page draws of a result."""
    try:
        others = stored(trace, state.chosen_model())
    except UserError:  # a model that is gone: the text's own numbers are still there
        others = []
    keys = [result.key, result.status, state.name_of(trace)]
    key = "|".join([*keys, *(f"{r.key}{r.status}" for r in others)])
    return Shown(result, trace, key, _parts(key, result, trace, others))


@st.cache_resource(max_entries=16, show_spinner=False)
def _parts(key: str, _result: Result, _trace: Trace, _others: list[Result]) -> Parts:
    declared = engine.analyses()[_result.analysis]
    wide = widen(
        _result.tables["tokens"],
        declared.tables["tokens"].columns,
        _trace,
        _others,
        logged=not declared.models,
    )
    drawn = _with_values(wide)
    strip = payload(
        {**_result.tables, "tokens": drawn},
        channel=CHANNEL,
        columns=wide.columns,
        text=state.name_of(_trace),
    )
    signals = {s["name"]: Signal(**s) for s in strip["signals"]}
    first = "surprisal" if "surprisal" in signals else next(iter(signals), None)
    return Parts(
        wide=wide,
        strip=strip,
        signals=signals,
        pieces=pa.array(pieces({"tokens": drawn}), pa.string()),
        names=names({"tokens": drawn}),
        start=most_striking(drawn, first) if first else 0,
    )


def _with_values(wide: Widened) -> pa.Table:
    """The table without signals that have no value anywhere; with all if none has any."""
    signals = signals_of(wide.tokens, wide.columns)
    empty = [s.name for s in signals if not np.isfinite(values_of(wide.tokens, s.name)).any()]
    if len(empty) == len(signals):
        return wide.tokens
    return wide.tokens.drop_columns([n for n in empty if n in wide.tokens.column_names])


@st.cache_resource(max_entries=64, show_spinner=False)
def _curve(key: str, _parts: Parts, _trace: Trace, _name: str) -> dict[str, Any]:
    tokens = _parts.wide.tokens
    band = _parts.wide.bands.get(_name)
    bounds: dict[str, Any] = {}
    if band is not None:
        low, high = values_of(tokens, band.low), values_of(tokens, band.high)
        if np.isfinite(low).any() and np.isfinite(high).any():
            bounds = {"low": low, "high": high, "band": band.title}
    values = values_of(tokens, _name)
    return curve_data(
        values, signal=_parts.signals[_name], height=170, **_common(_parts, _trace), **bounds
    )


@st.cache_resource(max_entries=16, show_spinner=False)
def _scatter(key: str, _parts: Parts, _trace: Trace) -> dict[str, Any]:
    tokens, signals = _parts.wide.tokens, _parts.signals
    return scatter_data(
        values_of(tokens, ACROSS),
        values_of(tokens, UP),
        x=signals[ACROSS],
        y=signals[UP],
        height=216,
        **_common(_parts, _trace),
    )


def _common(parts: Parts, trace: Trace) -> dict[str, Any]:
    start = trace.response_start
    return {
        "pieces": parts.pieces,
        "start": start if start < len(trace) else 0,
        "text": state.name_of(trace),
        "channel": CHANNEL,
    }
