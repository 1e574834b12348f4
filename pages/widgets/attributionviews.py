"""What the Attribution page draws of its results, built once and shared by all visitors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import streamlit as st

import engine
from engine import Result, Trace
from engine.render.signals import Signal
from engine.render.strip import payload
from engine.render.text import number, one_line
from engine.schema import Column
from pages.widgets import state

CHANNEL = "attribution"
TOWARDS, ONWARDS = "contribution", "influence"
LEAST = 0.01
"""Of the largest score; what is smaller is not named."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Scores of one result as a table of targets and sources.

    Attributes:
        key: of the result.
        targets: start, end and text of each target, in order of position.
        sources: the same of each source.
        scores: [targets, sources], NaN where there is none.
    """

    key: str
    targets: tuple[tuple[int, int, str], ...]
    sources: tuple[tuple[int, int, str], ...]
    scores: Floats

    def rows(self, first: int, last: int) -> npt.NDArray[np.bool_]:
        """Which targets lie in the selected tokens."""
        return np.array([a <= last and b > first for a, b, _ in self.targets])

    def columns(self, first: int, last: int) -> npt.NDArray[np.bool_]:
        """Which sources lie in the selected tokens."""
        return np.array([a <= last and b > first for a, b, _ in self.sources], bool)


def matrix(result: Result) -> Matrix:
    """The scores of a result of one of the methods."""
    return _matrix(f"{result.key}{result.status}", result)


@st.cache_resource(max_entries=32, show_spinner=False)
def _matrix(key: str, _result: Result) -> Matrix:
    table = _result.table("attribution")
    ends = []
    places = []
    for name in ("target", "source"):
        starts = table[f"{name}_position"].to_numpy()
        unique, first, inverse = np.unique(starts, return_index=True, return_inverse=True)
        at = pa.array(first)
        stops = table[f"{name}_end"].take(at).to_pylist()
        texts = table[name].take(at).to_pylist()
        ends.append(tuple(zip(unique.tolist(), stops, texts, strict=True)))
        places.append(inverse)
    scores = np.full((len(ends[0]), len(ends[1])), np.nan)
    scores[places[0], places[1]] = table["score"].to_numpy(zero_copy_only=False)
    return Matrix(key, ends[0], ends[1], scores)


def towards(found: Matrix, first: int, last: int, length: int) -> Floats | None:
    """What each token adds to the selected targets, [T]; None when none is selected.

    Tokens at and after the targets add exactly nothing; a source's score is shown on each of its
    tokens, special tokens that were not scored are NaN.
    """
    rows = found.rows(first, last)
    if not rows.any():
        return None
    values = np.full(length, np.nan)
    start = min(found.targets[int(i)][0] for i in np.flatnonzero(rows))
    values[start:] = 0.0
    sums = _sums(found.scores[rows])
    for (a, b, _), score in zip(found.sources, sums, strict=True):
        if a < start or np.isfinite(score):
            values[a:b] = score
    return values


def onwards(found: Matrix, first: int, last: int, length: int) -> Floats | None:
    """What the selected sources add to each target, [T]; None when none is selected."""
    columns = found.columns(first, last)
    if not columns.any():
        return None
    values = np.zeros(length)
    sums = _sums(found.scores[:, columns].T)
    for (a, b, _), score in zip(found.targets, sums, strict=True):
        values[a:b] = score if np.isfinite(score) else 0.0
    return values


def _sums(scores: Floats) -> Floats:
    """Sum over rows where there is a value; NaN where there is none."""
    known = np.isfinite(scores)
    return np.where(known.any(0), np.where(known, scores, 0.0).sum(0), np.nan)


def strongest(found: Matrix, first: int, last: int, count: int = 6) -> list[dict[str, Any]]:
    """The sources that add most to the selected targets, or take most away, strongest first."""
    rows = found.rows(first, last)
    if not rows.any():
        return []
    return _top(found.sources, _sums(found.scores[rows]), count)


def reached(found: Matrix, first: int, last: int, count: int = 6) -> list[dict[str, Any]]:
    """The targets to which the selected sources add most, strongest first."""
    columns = found.columns(first, last)
    if not columns.any():
        return []
    return _top(found.targets, _sums(found.scores[:, columns].T), count)


def _top(
    parts: tuple[tuple[int, int, str], ...], scores: Floats, count: int
) -> list[dict[str, Any]]:
    size = np.abs(np.nan_to_num(scores))
    order = np.argsort(-size, kind="stable")[:count]
    least = LEAST * size.max(initial=0.0)
    return [
        {"position": parts[int(i)][0], "token": quoted(parts[int(i)][2]), "score": float(scores[i])}
        for i in order
        if size[i] > least
    ]


@dataclass(frozen=True, slots=True)
class Shown:
    """The strip as it is coloured for one selection."""

    strip: dict[str, Any]
    signals: dict[str, Signal]


def shown(
    stats: Result, trace: Trace, found: Matrix | None, span: tuple[int, int], unit: str
) -> Shown:
    """The strip with contribution and influence of the selected tokens, and surprisal."""
    key = "|".join([stats.key, state.name_of(trace), found.key if found else "", repr(span), unit])
    return _shown(key, stats, trace, found, span, unit)


@st.cache_resource(max_entries=64, show_spinner=False)
def _shown(
    key: str,
    _stats: Result,
    _trace: Trace,
    _found: Matrix | None,
    span: tuple[int, int],
    unit: str,
) -> Shown:
    tokens = _stats.table("tokens")
    base = [n for n in tokens.column_names if n not in declared_of(_stats)]
    table = tokens.select([*base, "surprisal", "logprob"])
    extra: dict[str, tuple[Any, Any]] = {}
    if _found is not None:
        to = towards(_found, *span, len(_trace))
        on = onwards(_found, *span, len(_trace))
        if to is not None:
            doc = "What each token adds to the selected one; below 0 it speaks against it."
            extra[TOWARDS] = (to, Column(pa.float64(), doc, unit, "adds to it"))
        if on is not None:
            doc = "What the selected token adds to each later one."
            extra[ONWARDS] = (on, Column(pa.float64(), doc, unit, "what it adds to"))
    strip = payload(
        {**_stats.tables, "tokens": table},
        channel=CHANNEL,
        columns=declared_of(_stats),
        text=state.name_of(_trace),
        extra=extra,
    )
    known = {s["name"]: Signal(**s) for s in strip["signals"]}
    for name in extra:
        known[name] = _signed(known[name])
    ordered = {n: known[n] for n in (TOWARDS, ONWARDS, "surprisal") if n in known}
    return Shown({**strip, "signals": [s.json() for s in ordered.values()]}, ordered)


def _signed(signal: Signal) -> Signal:
    """One map for all selections: 0 is the background also where nothing is negative."""
    if signal.map == "diverging":
        return signal
    top = max(abs(signal.low), abs(signal.high)) or 1.0
    ends = (f"−{number(top)}", number(top))
    return Signal(signal.name, signal.title, signal.unit, signal.doc, "diverging", -top, top, ends)


def declared_of(result: Result) -> Mapping[str, Column]:
    """Declared columns of a result's per-token table."""
    return engine.analyses()[result.analysis].tables["tokens"].columns


def start_of(trace: Trace) -> int:
    """The token selected when nobody chose one: the answer's first, else the last."""
    answer = trace.spans.get("answer")
    if answer is not None and len(answer):
        return answer.start
    return max(0, len(trace) - 1)


def sentence(found: Matrix | None, span: tuple[int, int], said: str, unit: str) -> str:
    """The page's finding for the selected tokens, in one sentence."""
    if found is None:
        return "Which tokens before it made the model say this one?"
    top = strongest(found, *span, count=3)
    if not top:
        ahead = reached(found, *span, count=1)
        if ahead:
            more = ahead[0]
            return (
                f"{said} stands in the prompt: of what follows it matters most to "
                f"{more['token']} at position {more['position']:,} "
                f"({signed(more['score'])} {unit})."
            )
        return f"No score leads to {said}: choose a token of the response."
    causes = ", ".join(
        f"{row['token']} at {row['position']:,} ({signed(row['score'])})" for row in top
    )
    return f"What made the model say {said}: {causes}{', in ' + unit if unit else ''}."


def signed(value: float) -> str:
    """A score with its sign."""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{number(abs(value))}"


def quoted(token: str) -> str:
    """A token as it is quoted in a sentence."""
    bare = token.strip()
    return f"“{one_line(bare)}”" if bare else f"“{token.replace(' ', '·').replace(chr(10), '⏎')}”"
