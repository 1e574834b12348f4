"""Per-token values beside the statistics: what the store has for this text, what its log brought.

Nothing is computed here: a value that was never asked for is not offered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

import engine
from engine import Request, Result, Trace, UserError
from engine.critical.value import value_request
from engine.schema import Column
from pages.widgets import state

Builder = Callable[[Trace, str], Request | None]

_BOUNDS = ("low", "high")


@dataclass(frozen=True, slots=True)
class Band:
    """Columns of a value's lower and upper bound, and what the bounds are."""

    low: str
    high: str
    title: str


@dataclass(frozen=True, slots=True)
class Widened:
    """A per-token table with further columns.

    Attributes:
        tokens: the table.
        columns: what each column means, common ones left out.
        bands: by value, where it is known to lie.
    """

    tokens: pa.Table
    columns: Mapping[str, Column]
    bands: Mapping[str, Band] = field(default_factory=dict)


def _value(trace: Trace, model: str) -> Request | None:
    answer = state.expected_answer()
    return None if answer is None else value_request(trace, model, answer)


BUILDERS: tuple[Builder, ...] = (_value,)
"""Requests as their own pages make them, so that what is stored is found; None where not apt."""


def stored(trace: Trace, model: str) -> list[Result]:
    """Results of other per-token analyses of this trace that are stored already."""
    found = []
    for build in BUILDERS if trace.has_ids else ():
        try:
            request = build(trace, model)
            result = None if request is None else state.workspace().lookup(request)
        except UserError:  # not possible for this text or model: nothing to show
            continue
        if result is not None:
            found.append(result)
    return found


def widen(
    tokens: pa.Table,
    columns: Mapping[str, Column],
    trace: Trace,
    others: Sequence[Result],
    *,
    logged: bool = False,
) -> Widened:
    """Add the values of other results and of the trace's log as columns.

    Args:
        tokens: per-token table of the text.
        columns: its declared columns.
        trace: the text.
        others: results with a per-token table of the same text.
        logged: the table itself says what the log says: it is not said twice.
    """
    table, known = tokens, dict(columns)
    bands: dict[str, Band] = {}
    for name in columns:
        stem = name.removesuffix("_low")
        if name != stem and f"{stem}_high" in columns:
            ends = (name, f"{stem}_high")
            bands |= dict.fromkeys((stem, *ends), Band(*ends, "bounds"))
    for result in others:
        more = result.tables.get("tokens")
        if more is None or more.num_rows != tokens.num_rows:
            continue
        declared = engine.analyses()[result.analysis].tables["tokens"].columns
        numbers = [n for n in declared if n in more.column_names and _is_float(more[n])]
        fresh = [n for n in numbers if n not in (*_BOUNDS, *table.column_names)]
        for name in fresh:
            table = table.append_column(name, more[name])
            known[name] = declared[name]
        if fresh and all(end in numbers for end in _BOUNDS):
            ends = (f"{fresh[0]}_low", f"{fresh[0]}_high")
            for end, source in zip(ends, _BOUNDS, strict=True):
                table = table.append_column(end, more[source])
            bands[fresh[0]] = Band(*ends, "95 % interval")
    for name, values in trace.signals.items():
        own = f"logged_{name}"
        if not (logged and name in columns) and own not in table.column_names:
            table = table.append_column(own, pa.array(values, pa.float32()))
            label = f"{name.replace('_', ' ')}, logged"
            known[own] = Column(pa.float32(), "As the log gave it.", "", label)
    return Widened(table, known, bands)


def _is_float(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_floating(column.type))
