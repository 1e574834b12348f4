"""What the Critical page draws of its results, built once and shared by all visitors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

import engine
from engine import Result, Trace
from engine.render.signals import Signal
from engine.render.strip import most_striking, names, payload, pieces
from engine.render.text import number, one_line, plain
from engine.render.views import Mark, curve_data
from engine.schema import PER_TOKEN, Column
from pages.widgets import state
from pages.widgets.signals import Widened, widen

CHANNEL = "critical"
PATHS = "path_value"
"""The value of a prefix by the rollouts of its group alone."""

SHOWN = ("fall", "value", PATHS, "second", "contrast", "log_ratio", "reward", "weight")
BASELINES = ("surprisal", "entropy")


@dataclass(frozen=True, slots=True)
class Drawn:
    """One text with the values measured and the scores given.

    Attributes:
        key: names the results it is made of.
        wide: statistics, values and scores as one per-token table.
        strip: the strip's payload.
        signals: what can be shown, in order.
        pieces: every token as the JavaScript draws it.
        names: every token as readable plain text.
        start: the token selected when nobody chose one.
    """

    key: str
    wide: Widened
    strip: dict[str, Any]
    signals: dict[str, Signal]
    pieces: pa.Array
    names: list[str]
    start: int

    @property
    def columns(self) -> Mapping[str, Column]:
        """All per-token columns and what they mean."""
        return {**PER_TOKEN, **self.wide.columns}


def drawn(
    trace: Trace,
    stats: Result,
    others: Sequence[Result],
    paths: tuple[Result, int] | None = None,
) -> Drawn:
    """Statistics, values and scores of a text as one.

    Args:
        trace: the text.
        stats: its statistics.
        others: values and scores, best first.
        paths: values by the rollouts of a group alone, and the text's number among them.
    """
    named = [f"{r.key}{r.status}" for r in others]
    if paths is not None:
        named.append(f"{paths[0].key}{paths[1]}")
    key = "|".join([stats.key, state.name_of(trace), *named])
    return _drawn(key, trace, stats, list(others), paths)


@st.cache_resource(max_entries=32, show_spinner=False)
def _drawn(
    key: str,
    _trace: Trace,
    _stats: Result,
    _others: list[Result],
    _paths: tuple[Result, int] | None,
) -> Drawn:
    declared = engine.analyses()[_stats.analysis].tables["tokens"].columns
    wide = widen(_stats.table("tokens"), declared, _trace, _others)
    if _paths is not None:
        wide = _with_paths(wide, *_paths)
    drawn_names = {n for n in (*SHOWN, *BASELINES) if _known(wide.tokens, n)}
    kept = [n for n in wide.tokens.column_names if n in PER_TOKEN or n in drawn_names]
    table = wide.tokens.select([*kept, "logprob"])
    strip = payload(
        {**_stats.tables, "tokens": table},
        channel=CHANNEL,
        columns=wide.columns,
        text=state.name_of(_trace),
    )
    known = {s["name"]: Signal(**s) for s in strip["signals"]}
    signals = {n: known[n] for n in (*SHOWN, *BASELINES) if n in known}
    return Drawn(
        key=key,
        wide=wide,
        strip={**strip, "signals": [s.json() for s in signals.values()]},
        signals=signals,
        pieces=pa.array(pieces({"tokens": table}), pa.string()),
        names=names({"tokens": table}),
        start=_start(_trace, table, _others),
    )


def _with_paths(wide: Widened, paths: Result, rollout: int) -> Widened:
    """The table with what the group's own rollouts say of each prefix."""
    rows = paths.table("tokens")
    own = rows.filter(pc.equal(rows["rollout"], rollout))
    if own.num_rows != wide.tokens.num_rows:
        return wide
    column = Column(
        pa.float64(),
        "Share of right ones among the samples of this prompt that begin like this; no model.",
        "probability",
        "chance by the samples alone",
    )
    tokens = wide.tokens.append_column(PATHS, own["value"])
    return Widened(tokens, {**wide.columns, PATHS: column}, wide.bands)


def _known(table: pa.Table, name: str) -> bool:
    """Whether a column is there and has a value anywhere."""
    return name in table.column_names and table[name].null_count < table.num_rows


def _start(trace: Trace, table: pa.Table, others: list[Result]) -> int:
    for result in others:
        if result.analysis == "critical.value":
            (row,) = result.table("summary").to_pylist()
            if row["position"] is not None:
                return int(row["position"])
    return most_striking(table, "surprisal")


def curve_of(view: Drawn, trace: Trace, name: str, measured: Result | None) -> dict[str, Any]:
    """The curve under the strip: the value where it was measured, else the chosen score."""
    with_value = measured is not None and name in ("fall", "value")
    return _curve(view.key, "value" if with_value else name, view, trace, measured)


@st.cache_resource(max_entries=64, show_spinner=False)
def _curve(
    key: str, name: str, _view: Drawn, _trace: Trace, _measured: Result | None
) -> dict[str, Any]:
    start = _trace.response_start if _trace.response_start < len(_trace) else 0
    tokens = _view.wide.tokens
    band: dict[str, Any] = {}
    marks: list[Mark] = []
    title = ""
    if name == "value" and _measured is not None:
        table = _measured.table("tokens")
        band = {"low": table["low"][start:], "high": table["high"][start:]}
        title = "Chance of a right answer after each token"
        marks = _marks(_measured)
    return curve_data(
        tokens[name].combine_chunks()[start:],
        pieces=_view.pieces[start:],
        signal=_view.signals[name],
        start=start,
        offset=start,
        text=state.name_of(_trace),
        channel=CHANNEL,
        title=title,
        marks=marks,
        height=170,
        **band,
    )


def partial_curve(trace: Trace, table: pa.Table) -> dict[str, Any]:
    """The values measured so far, while more are being drawn."""
    start = trace.response_start if trace.response_start < len(trace) else 0
    shares = Signal("value", "chance of a right answer", "", "", "sequential", 0, 1, ("0", "1"))
    return curve_data(
        table["value"][start:],
        pieces=pieces({"tokens": table})[start:],
        signal=shares,
        start=start,
        offset=start,
        text=state.name_of(trace),
        channel=f"{CHANNEL}-so-far",
        title="Chance of a right answer, as far as it is measured",
        low=table["low"][start:],
        high=table["high"][start:],
        height=170,
    )


def _marks(measured: Result) -> list[Mark]:
    (row,) = measured.table("summary").to_pylist()
    if row["position"] is None:
        return []
    note = f"95 % intervals {_interval(row, 'before')} → {_interval(row, 'after')}"
    said = f"“{word(row['token'])}”: {row['before']:.2f} → {row['after']:.2f}"
    return [Mark(row["position"], said, note, before=True)]


def marks_of(measured: Result | None) -> list[dict[str, Any]]:
    """What is outlined in the strip."""
    if measured is None:
        return []
    (row,) = measured.table("summary").to_pylist()
    if row["position"] is None:
        return []
    text = f"{row['before']:.2f} → {row['after']:.2f}"
    return [{"position": row["position"], "kind": "culprit", "text": text}]


def sentence(measured: Result | None, right: bool | None) -> str:
    """The page's finding in one or two sentences."""
    if measured is None:
        if right is True:
            return (
                "This answer is right. Measure how likely that was after each token, or look at "
                "what the scores suspect."
            )
        return (
            "Which token broke it? Colours show what cheap scores suspect; press Measure to have "
            "the model finish the answer from every token and count what comes out right."
        )
    (row,) = measured.table("summary").to_pylist()
    if row["position"] is None:
        return "The chance of a right answer falls nowhere: no token broke this one."
    before, after = (f"{100 * row[n]:.0f} %" for n in ("before", "after"))
    if row["from_position"] < row["position"] - 1:
        return (
            f"Between positions {row['from_position']:,} and {row['position']:,} the chance of a "
            f"right answer falls from {before} to {after}: continue after every token there to "
            "see which one did it."
        )
    said = (
        f"Before “{word(row['token'])}” {before} of the continuations came out right, "
        f"after it {after} (95 % intervals {_interval(row, 'before')} and "
        f"{_interval(row, 'after')})"
    )
    if row["fall_low"] is not None and row["fall_low"] <= 0:
        return f"{said}: the largest fall here may be chance."
    if right:
        return f"{said}: the largest fall, in an answer that came out right all the same."
    said += ": that token broke it."
    if row["critical_position"] is not None and row["critical_position"] != row["position"]:
        said += f" After position {row['critical_position']:,} nothing saves it any more."
    return said


def _interval(row: Mapping[str, Any], name: str) -> str:
    return f"{row[f'{name}_low']:.2f}–{row[f'{name}_high']:.2f}"


def word(token: str) -> str:
    """A token as it is quoted in a sentence."""
    return one_line(token.strip() or token)


def at_token(measured: Result | None, position: int) -> list[str]:
    """What was measured at one token, in words."""
    if measured is None:
        return []
    row = measured.table("tokens").slice(position, 1).to_pylist()[0]
    if row["value"] is None:
        return ["Nothing was measured after this token."]
    rows = [f"Right after it: {_share(row)}"]
    if row["samples"] == 0:
        rows = [f"The response has ended: its answer is {'right' if row['value'] else 'wrong'}."]
    if row["since"] is not None:
        before = measured.table("tokens").slice(row["since"], 1).to_pylist()[0]
        rows.insert(0, f"Right before it: {_share(before)}")
        way = "fell" if row["fall"] >= 0 else "rose"
        change = f"The chance {way} by {number(abs(row['fall']))}"
        sure = f" (at least {row['fall_low']:.2f})" if row["fall_low"] > 0 else ""
        chance = "" if row["fall_low"] > 0 or row["fall_high"] < 0 else ", which may be chance"
        rows.append(f"{change}{sure}{chance}.")
    return rows


def _share(row: Mapping[str, Any]) -> str:
    return (
        f"{row['correct']:,} of {row['samples']:,}, {row['value']:.2f} "
        f"({row['low']:.2f}–{row['high']:.2f})"
    )


def tried_rows(tried: Result) -> pa.Table:
    """What else was put in the token's place, as a table for a person."""
    rows = []
    for row in tried.table("alternatives").to_pylist():
        said = " (said)" if row["said"] else ""
        rows.append(
            {
                "token": plain(row["alternative_bytes"]) + said,
                "p": row["probability"],
                "right": f"{row['correct']:,} of {row['samples']:,}",
                "chance": row["value"],
                "interval": f"{row['low']:.2f}–{row['high']:.2f}",
            }
        )
    return pa.Table.from_pylist(rows)


def conditions(tried: Result, said: str) -> str:
    """Success with and without the token, and what several attempts would reach."""
    found = {row["condition"]: row for row in tried.table("conditions").to_pylist()}
    one, other = found["with"], found["without"]
    text = (
        f"With “{word(said)}” {one['correct']:,} of {one['samples']:,} come out right; drawn anew "
        f"without it {other['correct']:,} of {other['samples']:,}."
    )
    chances = tried.table("pass_at_k").to_pylist()
    picked = [row for row in chances if row["k"] in (1, 4, 16, 64) or row["k"] == len(chances)]
    if picked:
        several = ", ".join(
            f"{row['k']}: {_two(row['with'])} / {_two(row['without'])}" for row in picked
        )
        text += f" Pass@k with / without it: {several}."
    return text


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
