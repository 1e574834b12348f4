"""Signals by name: ``entropy``, ``summary:fork``, ``log:advantage``, and where their values are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.context import Context
from engine.errors import UserError
from engine.plan import iter_rollouts
from engine.registry import find
from engine.result import Request
from engine.schema import Column
from engine.subjects import Group, Trace

Floats = npt.NDArray[np.float64]
LOGGED = "statistics.logged"
"""Stands in for ``statistics`` where there is no model: what the trace's log brought along."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a signal comes from.

    Attributes:
        analysis: its name, empty for a log's own signal.
        version: of the analysis; with it in the key, a new version makes new results.
        table: the per-token table.
        column: name of the column, or of the log's signal.
    """

    analysis: str
    version: int
    table: str
    column: str

    @classmethod
    def parse(cls, name: str) -> Source:
        """Read ``column``, ``analysis:column`` or ``log:name``.

        Raises:
            ValueError: with a sentence, when there is no such signal.
        """
        left, colon, column = name.rpartition(":")
        left = left.partition("@")[0] if colon else "statistics"
        if left == "log":
            return cls("", 0, "", column)
        try:
            declared = find(left)
        except UserError as error:
            raise ValueError(str(error).rstrip(".")) from None
        columns = per_token_columns(left)
        if not {Trace, Group} & set(declared.subjects) or not columns:
            raise ValueError(f"{left} has no values per token")
        if column not in columns:
            raise ValueError(f"{left} has no signal {column!r}; it has: {', '.join(columns)}")
        return cls(left, declared.version, columns[column], column)

    def __str__(self) -> str:
        if not self.analysis:
            return f"log:{self.column}"
        return f"{self.analysis}@{self.version}:{self.column}"

    def values(self, ctx: Context) -> Iterator[tuple[Trace, Floats]]:
        """Every trace of the subject with its signal [T], NaN where it is missing."""
        if isinstance(ctx.subject, Group) and self.analysis:
            # One request for all: this is how the results of a group are kept.
            table = nested(ctx, ctx.subject, self.analysis, self.table)
            values, rollout = floats(table, self.column), table["rollout"].to_numpy()
            for index, trace in enumerate(ctx.subject.rollouts):
                yield trace, values[rollout == index]
            return
        single = isinstance(ctx.subject, Trace)
        for _, trace in [(None, ctx.subject)] if single else iter_rollouts(ctx.subject):
            if self.analysis:
                yield trace, floats(nested(ctx, trace, self.analysis, self.table), self.column)
            else:
                given = trace.signals.get(self.column, (None,) * len(trace))
                yield trace, np.array([math.nan if v is None else v for v in given], float)


def nested(ctx: Context, subject: Trace | Group, analysis: str, table: str) -> pa.Table:
    """A table of another analysis of the subject, with its default params and the same model."""
    if ctx.plan.models:
        models = {"model": ctx.plan.models["model"].ref} if find(analysis).models else None
    else:
        models, analysis = None, LOGGED if analysis == "statistics" else analysis
    return ctx.run(Request(analysis, subject, models)).table(table)


def floats(table: pa.Table, column: str) -> Floats:
    """A numeric column, NaN for null; all NaN where the table lacks it."""
    if column not in table.column_names:
        return np.full(table.num_rows, np.nan)
    values = table[column].combine_chunks().cast(pa.float64())
    return np.asarray(values.to_numpy(zero_copy_only=False))


def per_token_columns(name: str) -> dict[str, str]:
    """Numeric columns of an analysis's per-token tables, with the table of each."""
    return {
        column: table_name
        for table_name, table in find(name).tables.items()
        if table.per_token
        for column, declared in table.columns.items()
        if _is_number(declared.type)
    }


def signal_column(name: str) -> Column:
    """Label, unit and definition of a signal.

    Raises:
        ValueError: as ``Source.parse``.
    """
    source = Source.parse(name)
    if not source.analysis:
        return Column(pa.float64(), "As the log gave it.", "", source.column.replace("_", " "))
    return find(source.analysis).tables[source.table].columns[source.column]


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind))
