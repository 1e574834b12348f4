"""Tables of ``critical.value``, from points by position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from engine.context import Context
from engine.critical.curve import Point, critical_position, difference
from engine.critical.judging import Judging
from engine.critical.places import sentences
from engine.schema import Column, Table
from engine.subjects import Trace
from engine.tokenization import show


def _chance(label: str, doc: str) -> Column:
    return Column(pa.float64(), doc, "probability", label)


def _count(label: str, doc: str) -> Column:
    return Column(pa.int64(), doc, "", label)


FALLS = {
    "fall": _chance("fall", "By how much the chance of a right answer falls here."),
    "fall_low": _chance("fall, at least", "Lower end of its 95 % interval."),
    "fall_high": _chance("fall, at most", "Upper end of its 95 % interval."),
}

TOKENS = Table(
    per_token=True,
    doc="One row per token; a value is about the prefix that ends with this token.",
    columns={
        "samples": _count("samples", "Continuations judged; 0 where the response has ended."),
        "correct": _count("right", "How many of them are right."),
        "cut": _count("cut off", "How many were cut off at the limit; they count as wrong."),
        "value": _chance(
            "chance of a right answer",
            "Share of continuations that are right; unbiased also after an early stop.",
        ),
        "low": _chance("at least", "Lower end of the exact 95 % interval of the value."),
        "high": _chance("at most", "Upper end of the exact 95 % interval of the value."),
        "since": _count("since", "Position of the sampled token before, which the fall is from."),
        **FALLS,
        "second": _chance(
            "second checker", "Share of continuations that the second checker accepts."
        ),
        "critical": Column(
            pa.bool_(),
            "After this token none is right, and after no later one more than 3 in 64.",
            "",
            "critical",
        ),
    },
)

SENTENCES = Table(
    doc="One row per sentence of the response.",
    columns={
        "start_position": _count("from", "Its first token."),
        "end_position": _count("to", "Its last token."),
        "text": Column(pa.string(), "Its text; bytes that are no UTF-8 as \\xNN."),
        "before": _chance("before", "Value before its first token."),
        "after": _chance("after", "Value after its last token."),
        **FALLS,
    },
)

SUMMARY = Table(
    doc="One row: the token with the largest fall. It is a maximum over noisy falls.",
    columns={
        "position": _count("position", "The token at which the value falls most."),
        "from_position": _count("from", "The sampled token before it."),
        "token": Column(pa.string(), "Its text; bytes that are no UTF-8 as \\xNN."),
        "samples": _count("samples", "Continuations after it."),
        **FALLS,
        "before": _chance("before", "Value after the sampled token before."),
        "before_low": _chance("before, at least", "Lower end of its 95 % interval."),
        "before_high": _chance("before, at most", "Upper end of its 95 % interval."),
        "after": _chance("after", "Value after the token."),
        "after_low": _chance("after, at least", "Lower end of its 95 % interval."),
        "after_high": _chance("after, at most", "Upper end of its 95 % interval."),
        "start": _chance("at the start", "Value before the response."),
        "critical_position": _count("critical", "The source's critical token, if there is one."),
        "scanned": Column(pa.bool_(), "Whether the source's rule could be applied."),
        "said": Column(pa.string(), "The answer the response itself gives."),
        "right": Column(pa.bool_(), "Whether the response itself is right."),
        "prefixes": _count("prefixes", "How many prefixes were continued."),
        "drawn": _count("drawn", "Continuations that were judged, all prefixes together."),
        "full": _count("of", "What a scan of every prefix with all its samples judges."),
    },
)


@dataclass(frozen=True)
class Drawn:
    """Points by position and how they came about.

    Attributes:
        curve: what is known so far.
        n: samples of a prefix that was not stopped early.
        first: the last prompt token, or 0.
        end: where the response ends.
        scanned: whether the source's rule can be applied.
    """

    curve: Mapping[int, Point]
    n: int
    first: int
    end: int
    scanned: bool


def tables(ctx: Context, judging: Judging, drawn: Drawn) -> dict[str, pa.Table]:
    """All tables of what is known so far."""
    trace, curve = ctx.subject, drawn.curve
    columns: dict[str, list[Any]] = {name: [None] * len(trace) for name in TOKENS.columns}
    falls = _falls(curve)
    for position, point in curve.items():
        for name in ("samples", "correct", "cut", "value", "low", "high", "second"):
            columns[name][position] = getattr(point, name)
        for name, value in falls.get(position, {}).items():
            columns[name][position] = value
    critical = None
    if drawn.scanned:
        # The response's own tokens only: the prompt's last one broke nothing.
        own = {p: q for p, q in curve.items() if p >= trace.response_start}
        critical = critical_position(own, drawn.n)
        for position in own:
            columns["critical"][position] = position == critical
    table = ctx.per_token({})
    for name, column in TOKENS.columns.items():
        table = table.append_column(name, pa.array(columns[name], column.type))
    row = dict.fromkeys(SUMMARY.columns) | largest(trace, curve, falls)
    row |= {
        "start": _start(trace, curve),
        "critical_position": critical,
        "scanned": drawn.scanned,
        "said": judging.answer,
        "right": judging.verdict,
        "prefixes": sum(point.samples > 0 for point in curve.values()),
        "drawn": sum(point.samples for point in curve.values()),
        "full": drawn.n * max(0, drawn.end - drawn.first),
    }
    return {
        "tokens": table,
        "sentences": _sentences(trace, drawn),
        "summary": pa.Table.from_pylist([row], schema=SUMMARY.schema()),
    }


def _start(trace: Trace, curve: Mapping[int, Point]) -> float | None:
    last = trace.response_start - 1
    return curve[last].value if last in curve else None


def _falls(curve: Mapping[int, Point]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    previous: int | None = None
    for position in sorted(curve):
        if previous is not None:
            found[position] = {"since": previous, **_fall(curve[previous], curve[position])}
        previous = position
    return found


def _fall(before: Point, after: Point) -> dict[str, float]:
    low, high = difference(before, after)
    return {"fall": before.value - after.value, "fall_low": low, "fall_high": high}


def largest(
    trace: Trace, curve: Mapping[int, Point], falls: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """What the summary says of the largest fall, the first of equal ones; empty without one."""
    position = max(falls, key=lambda p: (falls[p]["fall"], -p), default=None)
    if position is None or falls[position]["fall"] <= 0:
        return {}
    row = dict(falls[position])
    previous = row.pop("since")
    before, after = curve[previous], curve[position]
    return {
        "position": position,
        "from_position": previous,
        "token": show(trace.pieces[position]),
        "samples": after.samples,
        **row,
        "before": before.value,
        "before_low": before.low,
        "before_high": before.high,
        "after": after.value,
        "after_low": after.low,
        "after_high": after.high,
    }


def _sentences(trace: Trace, drawn: Drawn) -> pa.Table:
    rows = []
    for span in sentences(trace, drawn.end):
        before, after = drawn.curve.get(span.start - 1), drawn.curve.get(span.end - 1)
        row: dict[str, Any] = dict.fromkeys(SENTENCES.columns)
        row |= {
            "start_position": span.start,
            "end_position": span.end - 1,
            "text": show(b"".join(trace.pieces[span.start : span.end])),
            "before": None if before is None else before.value,
            "after": None if after is None else after.value,
        }
        if before is not None and after is not None:
            row |= _fall(before, after)
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SENTENCES.schema())
