"""What the Summary page says and draws of its results; payloads are built once per result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import streamlit as st

import engine
from engine import Result, Trace
from engine.render.axes import Quantity
from engine.render.bars import bars_data
from engine.render.signals import signals_of
from engine.render.strip import pieces
from engine.render.text import number, plain
from engine.render.views import Mark, curve_data
from engine.schema import Column
from pages.widgets import state

CHANNEL = "summary"
LOG = "log:"
WAYS = {
    "class": "kind of token",
    "token": "token",
    "frequency_decile": "frequency",
    "position": "position",
    "position_decile": "tenth of the text",
    "role": "speaker",
    "segment": "part",
}
DOTS = 60
"""Forks drawn on the curve at most."""
LINES = 16
"""Groups drawn at most."""
NAMED = 3
"""The strongest forks, named on the curve."""
_QUIET = {"logprob", "ties"}


def values_at_hand(stats: Result, trace: Trace) -> dict[str, Column]:
    """Values that can be asked for, with what they mean: statistics, and what a log brought."""
    table = stats.table("tokens")
    declared = engine.analyses()[stats.analysis].tables["tokens"].columns
    found = {
        name: column
        for name, column in declared.items()
        if name not in _QUIET and _numeric(column.type) and table[name].null_count < table.num_rows
    }
    logged = {
        LOG + name: Column(pa.float64(), "As the log gave it.", "", f"{name}, logged")
        for name in trace.signals
    }
    return found | logged


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def sentence(whole: Result) -> str:
    """The text in one or two sentences."""
    rows = {row["segment"]: row for row in whole.table("summary").to_pylist()}
    name = "response" if "response" in rows else "all"
    row, what = rows[name], "response" if name == "response" else "text"
    if row["perplexity"] is None:
        return "No token of this text has a probability: there is nothing to sum up."
    bits = f"{number(row['bits_per_token'])} bits per token"
    if row["bits_per_byte"] is not None:
        bits += f", {number(row['bits_per_byte'])} per byte"
    said = (
        f"Each token of the {what} surprised the model as much as a draw from "
        f"{number(row['perplexity'])} equally likely ones, on average (the perplexity): {bits}."
    )
    if row["first_choice"] is not None:
        said += f" {_percent(row['first_choice'])} of its tokens were the model's first choice."
    return said


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def curve_of(
    whole: Result,
    stats: Result,
    trace: Trace,
    columns: Mapping[str, Column],
    *,
    signal: str,
    part: str,
    window: int,
) -> dict[str, Any]:
    """The value along the tokens of a part, with its rolling mean and the forks."""
    key = f"{whole.key}/{state.name_of(trace)}/{signal}/{part}"
    return _curve(key, whole, stats, trace, columns, signal, part, window)


@st.cache_resource(max_entries=64, show_spinner=False)
def _curve(
    key: str,
    _whole: Result,
    _stats: Result,
    _trace: Trace,
    _columns: Mapping[str, Column],
    _signal: str,
    _part: str,
    _window: int,
) -> dict[str, Any]:
    tokens, table = _whole.table("tokens"), _stats.table("tokens")
    cut = _trace.response_start
    begin, end = {"prompt": (0, cut), "response": (cut, len(_trace))}.get(_part, (0, len(_trace)))

    def inside(values: Any) -> Any:
        return values[begin:end]

    rolling = f"rolling_{_signal}"
    second = None
    notes = []
    if rolling in tokens.column_names:
        second = (inside(tokens[rolling]), f"mean of {_window}")
        notes.append(f"thick: rolling mean of {_window} tokens")
    values = _trace.signals[_signal[len(LOG) :]] if _signal.startswith(LOG) else table[_signal]
    quantity = quantity_of(_signal, table, _columns)
    return curve_data(
        inside(values),
        pieces=inside(pieces({"tokens": table})),
        signal=quantity,
        start=cut if cut < len(_trace) else 0,
        text=state.name_of(_trace),
        channel=CHANNEL,
        second=second,
        marks=_marks(tokens),
        title=_titled(quantity),
        note="; ".join([*notes, *_fork_note(_whole)]),
        offset=begin,
        height=230,
    )


def quantity_of(name: str, table: pa.Table, columns: Mapping[str, Column]) -> Quantity:
    """Title, unit and range of a value, as the strip has it where it knows it."""
    known = {signal.name: signal for signal in signals_of(table, columns)}
    if name in known:
        quantity = Quantity.of(known[name])
        # Nats have no end of their own: the axis fits the part that is drawn.
        return replace(quantity, high=None) if quantity.unit else quantity
    return Quantity(columns[name].label or name, columns[name].unit)


def _titled(quantity: Quantity) -> str:
    title = quantity.title[:1].upper() + quantity.title[1:]
    return f"{title}, {quantity.unit}" if quantity.unit else title


def strongest(whole: Result) -> list[int]:
    """Positions of the forks, those of the highest entropy first."""
    tokens = whole.table("tokens")
    forks = tokens.filter(tokens["fork"]).select(["position", "entropy"])
    found: list[int] = forks.sort_by([("entropy", "descending")])["position"].to_pylist()
    return found


def _marks(tokens: pa.Table) -> list[Mark]:
    forks = tokens.filter(tokens["fork"]).sort_by([("entropy", "descending")]).slice(0, DOTS)
    rows = forks.select(["position", "token_bytes"]).to_pylist()
    named = {row["position"] for row in rows[:NAMED]}
    return [
        Mark(row["position"], plain(row["token_bytes"]) if row["position"] in named else "")
        for row in sorted(rows, key=lambda row: row["position"])
    ]


def _fork_note(whole: Result) -> list[str]:
    (row,) = whole.table("forks").to_pylist()
    if not row["forks"]:
        return []
    drawn = f"the {DOTS} strongest of " if row["forks"] > DOTS else ""
    share = _percent(row["share"])
    chosen = f"dots: {drawn}{row['forks']:,} forks, the {share} of highest entropy"
    return [f"{chosen} ({number(row['threshold'])} nats or more)"]


def said_of(
    whole: Result,
    stats: Result,
    columns: Mapping[str, Column],
    signal: str,
    position: int,
) -> str:
    """One line on the selected token."""
    row = whole.table("tokens").slice(position, 1).to_pylist()[0]
    facts = [f"position {position:,}", f"{row['token_class']} token"]
    if not signal.startswith(LOG):
        value = stats.table("tokens")[signal][position].as_py()
        column = columns[signal]
        unit = f" {column.unit}" if column.unit and column.unit != "probability" else ""
        facts.append(f"{column.label or signal} {number(value)}{unit if value is not None else ''}")
    if row["fork"]:
        facts.append("a fork")
    return f"{plain(row['token_bytes'], special=row['special'])}  ·  {', '.join(facts)}"


def bars_of(grouped: Result, column: Column, name: str, by: str) -> dict[str, Any]:
    """The groups as bars."""
    unit = "" if column.unit == "probability" else column.unit
    quantity = Quantity(column.label or name, unit)
    title = f"Mean {quantity.title} by {WAYS[by]}" + (f", {unit}" if unit else "")
    groups, note = grouped.table("groups"), ""
    if by == "token" and not groups["sum_share"].null_count:
        groups = groups.sort_by([("sum_share", "descending"), ("count", "descending")])
        note = f"first the tokens that hold most of all {quantity.title}"
    named = "detail" if by == "frequency_decile" else "group"
    return bars_data(groups, quantity, title=title, note=note, named=named, longest=LINES)


def basis(grouped: Result) -> str:
    """What the means and intervals stand on."""
    (row,) = grouped.table("population").to_pylist()
    tokens = f"{row['tokens'] - row['missing']:,} tokens"
    if row["interval"] == "traces":
        return (
            f"{tokens} of {row['traces']:,} responses. The lines are 95 % intervals of the mean: "
            "whole responses were drawn anew."
        )
    return (
        f"{tokens} of one text. The lines are 95 % intervals of the mean; they take its tokens as "
        "independent, which they are not."
    )


def levels(whole: Result) -> pa.Table:
    """Cascade quantiles: one row per part, one column per level."""
    rows: dict[str, dict[str, Any]] = {}
    for row in whole.table("quantiles").to_pylist():
        part = rows.setdefault(row["segment"], {"part": row["segment"]})
        part[f"α = {row['alpha']:g}"] = row["logprob"]
    return pa.Table.from_pylist(list(rows.values()))
