"""SQL over what is stored: which tables there are, what to ask first, and asking."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.csv

from cache import Store, StoreError
from cache.sql import LIMITS
from cache.sqltables import MAX_FILES
from engine.errors import UserError
from engine.export import defuse, export_table
from engine.keys import digest
from engine.registry import analyses
from engine.result import Result
from engine.schema import NOTES, PER_TOKEN, Column
from engine.shelves.rows import Row
from engine.version import __version__

RESULTS = "results"
ANSWER_FORMATS = ("csv", "parquet", "arrow", "xlsx")

_MOMENT = pa.timestamp("us")
RESULT_COLUMNS: Mapping[str, Column] = {
    "key": Column(pa.string(), "Names the result; joins all tables."),
    "title": Column(pa.string(), "Title, or the first words of the text."),
    "analysis": Column(pa.string(), "The analysis."),
    "model": Column(pa.string(), "The model, or the models with their roles."),
    "tokens": Column(pa.int64(), "Tokens of what it looked at.", "tokens"),
    "status": Column(pa.string(), "complete or partial."),
    "created": Column(_MOMENT, "When it was computed, UTC."),
    "last_used": Column(_MOMENT, "When it was last read, UTC; empty for examples."),
    "bytes": Column(pa.int64(), "Size of its file.", "bytes"),
    "pinned": Column(pa.bool_(), "Whether it is kept when the store is full."),
    "origin": Column(pa.string(), "computed, imported or example."),
    "params": Column(pa.string(), "Its params as JSON."),
}
_MORE: Mapping[str, Column] = {
    "key": RESULT_COLUMNS["key"],
    "rollout": Column(pa.int64(), "Number of the rollout in its group, from 0."),
    "group": Column(pa.string(), "Name of the prompt."),
}
_NOTES: Mapping[str, Column] = {
    "table": Column(pa.string(), "The table with the empty value."),
    "column": Column(pa.string(), "Its column; empty for the whole table."),
    "position": Column(pa.int64(), "The token; empty for all."),
    "reason": Column(pa.string(), "Why it is empty."),
}


@dataclass(frozen=True, slots=True)
class SchemaColumn:
    """A column that SQL may read: name, DuckDB's type, one-line definition, unit."""

    name: str
    type: str
    doc: str
    unit: str


@dataclass(frozen=True, slots=True)
class SchemaTable:
    """A table that SQL may read; ``doc`` says what a row is."""

    name: str
    rows: int
    doc: str
    columns: tuple[SchemaColumn, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A query to begin with."""

    title: str
    query: str
    tables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer.

    Attributes:
        query: what was asked.
        table: the rows.
        remarks: what a reader must know: rows that were cut, tables that were not read whole.
        seconds: how long it took.
    """

    query: str
    table: pa.Table
    remarks: tuple[str, ...]
    seconds: float


EXAMPLES = (
    Example(
        "How sure the model was, text by text",
        """SELECT r.title, r.model, count(*) AS tokens,
       avg(t.surprisal) AS mean_surprisal, exp(avg(t.surprisal)) AS perplexity
FROM statistics_tokens t JOIN results r USING (key)
WHERE t.segment <> 'prompt'
GROUP BY ALL
ORDER BY perplexity DESC""",
        (RESULTS, "statistics_tokens"),
    ),
    Example(
        "The most surprising tokens of all responses",
        """SELECT r.title, t.position, t.token, t.surprisal, t.rank
FROM statistics_tokens t JOIN results r USING (key)
WHERE t.segment <> 'prompt'
ORDER BY t.surprisal DESC NULLS LAST
LIMIT 20""",
        (RESULTS, "statistics_tokens"),
    ),
    Example(
        "What the model would rather have said",
        """SELECT r.title, t.position, t.token, a.alternative AS first_choice,
       exp(t.logprob) AS p_token, exp(a.logprob) AS p_first
FROM statistics_tokens t
JOIN statistics_alternatives a
  ON a.key = t.key AND a.position = t.position AND a.alternative_rank = 1
JOIN results r ON r.key = t.key
WHERE t.rank > 1 AND t.segment <> 'prompt'
ORDER BY p_token
LIMIT 20""",
        (RESULTS, "statistics_tokens", "statistics_alternatives"),
    ),
    Example(
        "What is stored",
        """SELECT analysis, model, origin, count(*) AS results, sum(bytes) AS bytes
FROM results
GROUP BY ALL
ORDER BY results DESC""",
        (RESULTS,),
    ),
)


class Asking:
    """SQL over a store.

    Args:
        store: the store.
        rows: gives the list of results, which is the table ``results``.
        count: gives its length.
    """

    def __init__(
        self, store: Store, rows: Callable[[], Sequence[Row]], count: Callable[[], int]
    ) -> None:
        self._store = store
        self._rows = rows
        self._count = count

    def schema(self) -> list[SchemaTable]:
        """The tables that can be asked, ``results`` first.

        Raises:
            UserError: when the store cannot be asked now.
        """
        try:
            found = self._store.sql.tables()
        except StoreError as error:
            raise UserError(str(error)) from error
        kinds = {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.bool_(): "BOOLEAN"}
        tables = [
            SchemaTable(
                RESULTS,
                self._count(),
                "One row per result.",
                tuple(
                    SchemaColumn(name, kinds.get(c.type, "TIMESTAMP"), c.doc, c.unit)
                    for name, c in RESULT_COLUMNS.items()
                ),
            )
        ]
        for table in found:
            docs, doc = _documented(table.analysis, table.source)
            columns = []
            for name, kind in table.columns:
                known = docs.get(name)
                columns.append(
                    SchemaColumn(
                        name, kind, known.doc if known else "", known.unit if known else ""
                    )
                )
            tables.append(SchemaTable(table.name, table.rows, doc, tuple(columns)))
        return tables

    def examples(self, schema: Sequence[SchemaTable]) -> list[Example]:
        """Queries to begin with, of those that the tables can answer."""
        there = {table.name for table in schema}
        return [example for example in EXAMPLES if there.issuperset(example.tables)]

    def ask(self, query: str) -> Asked:
        """Answer one SELECT.

        Raises:
            UserError: it is no single SELECT, asks for anything but the tables, or takes too long
                or too much memory.
        """
        # What was computed a moment ago is asked too.
        if self._store.is_owner:
            self._store.flush(5.0)
        try:
            answer = self._store.sql.ask(query, {RESULTS: lambda: results_table(self._rows())})
            cut = {
                table.name: table.rows
                for table in self._store.sql.tables()
                if table.name in answer.tables and table.rows > LIMITS.table_rows
            }
            partial = bool(answer.tables) and self._store.sql.partial
        except StoreError as error:
            raise UserError(str(error)) from error
        shown = answer.table.num_rows
        remarks = []
        if answer.total > shown:
            of = f"{answer.total:,}" if answer.counted else f"more than {answer.total:,}"
            remarks.append(f"Of {of} rows the first {shown:,} are shown and downloaded.")
        for name, rows in cut.items():
            remarks.append(
                f"{name} has {rows:,} rows: the query read the latest {LIMITS.table_rows:,}."
            )
        if partial:
            remarks.append(
                f"The index is not at hand (another process has it, or it is being made): the "
                f"query read the {MAX_FILES} results used last."
            )
        return Asked(query, answer.table, tuple(remarks), answer.seconds)


def results_table(rows: Sequence[Row]) -> pa.Table:
    """The table ``results`` of the SQL page."""
    columns: dict[str, list[Any]] = {name: [] for name in RESULT_COLUMNS}
    for row in rows:
        for name, values in columns.items():
            value = getattr(row, name)
            if isinstance(value, datetime):
                value = value.astimezone(UTC).replace(tzinfo=None)
            values.append(value)
    kinds = {name: column.type for name, column in RESULT_COLUMNS.items()}
    return pa.table({name: pa.array(values, kinds[name]) for name, values in columns.items()})


def _documented(analysis: str, source: str) -> tuple[dict[str, Column], str]:
    """What is declared about a result's table: its columns, and what a row is."""
    if source == "notes":
        return {**_MORE, **_NOTES}, f"Why values of {analysis} are empty."
    declared = analyses().get(analysis)
    table = declared.tables.get(source) if declared is not None else None
    if table is None:
        return dict(_MORE), ""
    common = PER_TOKEN if table.per_token else {}
    doc = table.doc or ("One row per token." if table.per_token else "")
    return {**_MORE, **common, **table.columns}, doc


def answer_file(asked: Asked, fmt: str) -> bytes:
    """An answer in one of ``ANSWER_FORMATS``; all but CSV carry the query.

    Raises:
        UserError: for an unknown format, or more rows than a spreadsheet has.
    """
    if fmt not in ANSWER_FORMATS:
        raise UserError(f"There is no format {fmt!r}; use one of {', '.join(ANSWER_FORMATS)}.")
    if fmt == "csv":
        return _csv(asked.table)
    key = digest({"query": asked.query})
    provenance = {
        "key": key,
        "analysis": "sql",
        "version": 1,
        "status": "complete",
        "subject": {"kind": "store", "digest": None, "title": None},
        "models": {},
        "params": {"query": asked.query},
        "code_version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    tables, notes = {"answer": asked.table}, NOTES.empty_table()
    result = Result(key, "sql", "complete", "computed", tables, notes, provenance)
    return export_table(result, "answer", fmt)


def _csv(table: pa.Table) -> bytes:
    """Only the answer's own columns: they may be called as those of a provenance are."""
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            column = pa.array([defuse(text) for text in column.to_pylist()], pa.string())
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            values = [None if value is None else value.hex() for value in column.to_pylist()]
            column = pa.array(values, pa.string())
        elif pa.types.is_nested(kind):
            values = [None if value is None else str(value) for value in column.to_pylist()]
            column = pa.array(values, pa.string())
        columns[defuse(name) or name] = column
    sink = io.BytesIO()
    pyarrow.csv.write_csv(pa.table(columns), sink)
    return sink.getvalue()
