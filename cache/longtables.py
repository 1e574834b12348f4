"""The long tables of the index: all results' per-token rows of one kind, one below the other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cache.errors import DamagedError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MAX_ROWS = 200_000
MAX_COLUMNS = 200
_NAME_LENGTH = 80


def quoted(name: str) -> str:
    """Write a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def with_key(key: str, table: pa.Table) -> pa.Table:
    """Prepare a result's table for its long table: the key in front, types DuckDB knows.

    Columns that cannot be queried (nulls only, doubled names, types DuckDB has no match for) are
    left out; the result file has them still.
    """
    import pyarrow as pa

    rows = table.slice(0, MAX_ROWS)
    names = ["key"]
    columns = [pa.repeat(pa.scalar(key, pa.string()), rows.num_rows)]
    seen = {"key"}
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        plain = _plain(column)
        if plain is None or not name or name.lower() in seen or len(names) > MAX_COLUMNS:
            continue
        seen.add(name.lower())
        names.append(name)
        columns.append(plain)
    return pa.table(columns, names=names)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if _is_foreign(kind):
        return None
    return column


def _is_foreign(kind: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    foreign = (types.is_null, types.is_float16, types.is_union)
    if any(test(kind) for test in (*foreign, types.is_decimal256, types.is_interval)):
        return True
    return any(_is_foreign(kind.field(number).type) for number in range(kind.num_fields))


class LongTables:
    """Which long table takes the rows of which analysis, and how it grows.

    The table is named by analysis and table (`statistics_tokens`). A new column is added to it; a
    column that changes its type starts a second table (`statistics_tokens_2`), so that no value is
    bent to fit. The list is kept in the table `longtables`.

    Args:
        connection: Where to read what there is.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.names: dict[tuple[str, str], list[str]] = {}
        self._columns: dict[str, dict[str, tuple[str, str]]] = {}
        self._fitting: dict[tuple[str, str, pa.Schema], str] = {}
        listed = connection.execute(
            "SELECT analysis, source, name FROM longtables ORDER BY generation"
        ).fetchall()
        for analysis, source, name in listed:
            self.names.setdefault((analysis, source), []).append(name)
            self._columns[name] = {}
        columns = connection.execute(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal"
        ).fetchall()
        for name, column, kind in columns:
            if name in self._columns:
                self._columns[name][column.lower()] = (column, kind)
        if any(not known for known in self._columns.values()):
            raise DamagedError("The index lists tables that it does not have.")

    def all(self) -> list[str]:
        """Return the name of every long table."""
        return [name for names in self.names.values() for name in names]

    def insert(
        self, cursor: duckdb.DuckDBPyConnection, analysis: str, source: str, rows: pa.Table
    ) -> str:
        """Insert rows made by `with_key`, inside the caller's transaction; return the table."""
        cursor.register("incoming", rows)
        try:
            kind = (analysis, source, rows.schema)
            name = self._fitting.get(kind)
            if name is None:
                described = cursor.execute("DESCRIBE SELECT * FROM incoming").fetchall()
                columns = {column: data_type for column, data_type, *_ in described}
                name = self._fit(cursor, analysis, source, columns)
                self._fitting[kind] = name
            into = quoted(name)
            cursor.execute(f"INSERT INTO {into} BY NAME SELECT * FROM incoming")  # noqa: S608
        finally:
            cursor.unregister("incoming")
        return name

    def _fit(
        self,
        cursor: duckdb.DuckDBPyConnection,
        analysis: str,
        source: str,
        columns: dict[str, str],
    ) -> str:
        names = self.names.setdefault((analysis, source), [])
        for name in names:
            known = self._columns[name]
            clash = any(
                column.lower() in known and known[column.lower()][1] != kind
                for column, kind in columns.items()
            )
            if clash:
                continue
            for column, kind in columns.items():
                if column.lower() not in known:
                    cursor.execute(f"ALTER TABLE {quoted(name)} ADD COLUMN {quoted(column)} {kind}")
                    known[column.lower()] = (column, kind)
            return name
        name = self._free_name(analysis, source)
        listed = ", ".join(f"{quoted(column)} {kind}" for column, kind in columns.items())
        cursor.execute(f"CREATE TABLE {quoted(name)} ({listed})")
        cursor.execute(
            "INSERT INTO longtables VALUES (?, ?, ?, ?)", [name, analysis, source, len(names) + 1]
        )
        names.append(name)
        self._columns[name] = {column.lower(): (column, kind) for column, kind in columns.items()}
        return name

    def _free_name(self, analysis: str, source: str) -> str:
        stem = re.sub(r"[^a-z0-9_]+", "_", f"{analysis}_{source}".lower())[:_NAME_LENGTH]
        name, number = stem, 1
        while name in self._columns:
            number += 1
            name = f"{stem}_{number}"
        return name
