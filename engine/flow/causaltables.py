"""Settings and tables of ``flow.causal``, and its counts with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from engine.critical.curve import Point, clopper_pearson, difference
from engine.limits.caps import DRAWS, NEW_TOKENS
from engine.registry import Params
from engine.schema import Column, Table

CONDITIONS_IN_ORDER = ("none", "top", "random", "bottom")
"""Nothing hidden, then the tokens of most throughput, any, and those of least."""


MASKING = {
    "later": "Attention to a hidden token is cut in all layers and heads for every later position, "
    "also inside the reasoning; its text stays. The answer is then made anew.",
    "answer": "Attention to a hidden token is cut in all layers and heads from the position on "
    "that predicts the answer's first token; the reasoning before it is read as it was. The answer "
    "is then made anew.",
}


class CausalParams(Params):
    """Settings of ``flow.causal``."""

    share: float = Field(
        0.2, gt=0, le=1, title="Share hidden", description="Share of the reasoning's tokens."
    )
    mask: Literal["later", "answer"] = Field(
        "later",
        title="Hidden from",
        description="every later position, or only from where the answer is predicted.",
    )
    draws: int = Field(
        3,
        ge=1,
        le=100,
        title="Random choices",
        description="Choices of random tokens per trace.",
        json_schema_extra=DRAWS,
    )
    n: int = Field(
        1,
        ge=1,
        le=256,
        title="Answers",
        description="Answers per choice of tokens; more than one needs a temperature.",
        json_schema_extra=DRAWS,
    )
    temperature: float = Field(
        0.0, ge=0, le=100, title="Temperature", description="0 takes the most probable token."
    )
    max_new_tokens: int = Field(
        32,
        ge=1,
        le=512,
        title="At most tokens",
        description="Longest answer.",
        json_schema_extra=NEW_TOKENS,
    )
    answer: str | None = Field(
        None,
        title="Right answer",
        description="Says which answers are right; empty takes what came with the rollouts.",
        coerce_numbers_to_str=True,
    )
    checker: str = Field("answer", title="Checker", description="How an answer is judged.")
    most: int = Field(
        200, ge=1, le=100_000, title="Most traces", description="Only the first ones are tried."
    )
    seed: int = Field(0, ge=0, lt=2**63, title="Seed")


def _share(label: str, doc: str) -> Column:
    return Column(pa.float64(), doc, "share", label)


CONDITIONS = Table(
    doc="One row per condition: how often the answer changed when these tokens were hidden.",
    columns={
        "condition": Column(
            pa.string(), "Hidden: none; the top, random or bottom share of reasoning tokens."
        ),
        "traces": Column(pa.int64(), "Traces that were tried.", "", "traces"),
        "cases": Column(pa.int64(), "Answers that were made anew.", "", "cases"),
        "masked": Column(pa.float64(), "Tokens hidden, on average.", "tokens", "hidden"),
        "changed": Column(
            pa.int64(), "Answers that differ from the greedy one with nothing hidden."
        ),
        "rate": _share("changed", "Share of answers that differ."),
        "low": _share("low", "Lower end of the exact 95 % interval, counting traces."),
        "high": _share("high", "Upper end."),
        "judged": Column(pa.int64(), "Cases whose right answer is known.", "", "judged"),
        "flipped": Column(pa.int64(), "Of them, right became wrong or wrong became right."),
        "broken": Column(pa.int64(), "Of them, right became wrong."),
        "flip_rate": _share("flipped", "Share of the judged cases that flipped."),
        "flip_low": _share("low", "Lower end of its exact 95 % interval, counting traces."),
        "flip_high": _share("high", "Upper end."),
        "minus_random": _share("against random", "rate less the rate of random tokens."),
        "minus_random_low": _share("low", "Lower end of its 95 % interval (Newcombe)."),
        "minus_random_high": _share("high", "Upper end."),
    },
)

CASES = Table(
    doc="One row per answer that was made anew.",
    columns={
        "rollout": Column(pa.int64(), "Number of the rollout, from 0.", "", "rollout"),
        "condition": Column(pa.string(), "Which tokens were hidden."),
        "draw": Column(pa.int64(), "Number of the random choice of tokens, from 0.", "", "draw"),
        "sample": Column(pa.int64(), "Number of the answer drawn, from 0.", "", "sample"),
        "masked": Column(pa.list_(pa.int64()), "Positions that were hidden."),
        "answer": Column(pa.string(), "What was answered."),
        "greedy_answer": Column(pa.string(), "Greedy answer with nothing hidden: the measure."),
        "trace_answer": Column(pa.string(), "What the trace itself answered."),
        "changed": Column(pa.bool_(), "Whether it differs from the greedy answer.", "", "changed"),
        "right": Column(pa.bool_(), "Whether it is right; empty where nobody knows."),
        "flipped": Column(pa.bool_(), "Whether right and wrong changed places."),
        "generated": Column(pa.string(), "All that was said after the reasoning."),
    },
)

SUMMARY = Table(
    doc="One row: what was done.",
    columns={
        "masking": Column(pa.string(), "What hiding a token means here."),
        "share": _share("share hidden", "Share of the reasoning tokens that are hidden."),
        "traces": Column(pa.int64(), "Traces that were tried.", "", "traces"),
        "skipped": Column(pa.int64(), "Traces that could not be.", "", "skipped"),
        "reproduced": Column(
            pa.int64(), "Traces whose own answer is the greedy one with nothing hidden."
        ),
        "known": Column(pa.int64(), "Traces whose right answer is known.", "", "known"),
        "draws": Column(pa.int64(), "Random choices of tokens per trace."),
        "samples": Column(pa.int64(), "Answers per choice of tokens."),
        "temperature": Column(pa.float64(), "Of the answers; 0 is greedy."),
        "seed": Column(pa.int64(), "Of everything that is drawn."),
    },
)


@dataclass(frozen=True, slots=True)
class Case:
    """One answer that was made anew; see the table ``cases``."""

    rollout: int
    condition: str
    draw: int
    sample: int
    masked: tuple[int, ...]
    answer: str
    greedy_answer: str
    trace_answer: str | None
    changed: bool
    right: bool | None
    flipped: bool | None
    generated: str


def condition_rows(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Rows of ``conditions``, in order."""
    rows: list[dict[str, Any]] = []
    points: dict[str, Point | None] = {}
    for condition in CONDITIONS_IN_ORDER:
        inside = [case for case in cases if case.condition == condition]
        if not inside:
            continue
        judged = [case for case in inside if case.flipped is not None]
        changed = rate_of(inside, [case.changed for case in inside])
        flips = rate_of(judged, [bool(case.flipped) for case in judged])
        points[condition] = changed
        rows.append(
            {
                "condition": condition,
                "traces": len({case.rollout for case in inside}),
                "cases": len(inside),
                "masked": sum(len(case.masked) for case in inside) / len(inside),
                "changed": sum(case.changed for case in inside),
                **_ends("rate", "low", "high", changed),
                "judged": len(judged),
                "flipped": sum(bool(case.flipped) for case in judged),
                "broken": sum(bool(case.flipped) and not case.right for case in judged),
                **_ends("flip_rate", "flip_low", "flip_high", flips),
            }
        )
    for row in rows:
        point, random = points[row["condition"]], points.get("random")
        if row["condition"] in ("top", "bottom") and point and random:
            low, high = difference(point, random)
            row["minus_random"] = point.value - random.value
            row |= {"minus_random_low": low, "minus_random_high": high}
    return rows


def rate_of(cases: Sequence[Case], marks: Sequence[bool]) -> Point | None:
    """Share of marked cases; None without cases.

    Several cases of one trace are not independent: the interval is that of as many trials as there
    are traces, a share of a trial rounded away from the rate.
    """
    if not cases:
        return None
    share = sum(marks) / len(marks)
    traces = len({case.rollout for case in cases})
    trials = round(share * traces, 9)
    low, _ = clopper_pearson(floor(trials), traces)
    _, high = clopper_pearson(ceil(trials), traces)
    return Point(traces, sum(marks), 0, share, float(low), float(high))


def _ends(rate: str, low: str, high: str, point: Point | None) -> dict[str, float | None]:
    if point is None:
        return {rate: None, low: None, high: None}
    return {rate: point.value, low: point.low, high: point.high}


def case_table(cases: Sequence[Case]) -> pa.Table:
    """The table ``cases``."""
    columns = {name: [getattr(case, name) for case in cases] for name in CASES.columns}
    return pa.table(columns, schema=CASES.schema())
