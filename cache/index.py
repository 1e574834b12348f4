"""The index of the store: one DuckDB file, written by one thread of one process."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.errors import DamagedError, NewerFormatError, StoreError
from cache.longtables import LongTables, quoted, with_key
from cache.migrations import MIGRATIONS
from cache.results import Stored

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

# Readable by every DuckDB from 1.4 on, where 2.0's own default is not.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "storage_compatibility_version": "v1.4.0"
}
_BUSY = ("could not set lock", "conflicting lock", "being used by another process")
_NEWER = ("with version number", "newer version")
_SPACE = ("no space left", "not enough space", "disk is full", "disk quota")
_CLOSED_DOOR = ("permission denied", "read-only file system", "cannot open file", "file too large")
_DAMAGE = ("corrupt", "checksum", "not a valid duckdb", "has been invalidated", "deserializ")


class UnavailableError(StoreError):
    """The index cannot be used just now, though nothing is wrong with what it holds."""


@contextlib.contextmanager
def translated(opening: bool = False) -> Iterator[None]:
    """Sort DuckDB's errors: damaged, newer, unavailable; anything else passes as it is.

    Args:
        opening: Whether the file is being opened, where an unknown error counts as damage.
    """
    import duckdb

    try:
        yield
    except (duckdb.Error, RuntimeError, UnicodeDecodeError) as error:
        text = str(error).lower()
        if any(sign in text for sign in _BUSY):
            raise UnavailableError("Another program has the store's index open.") from error
        if opening and any(sign in text for sign in _NEWER):
            raise NewerFormatError("The store's index was written by a newer DuckDB.") from error
        if any(sign in text for sign in (*_SPACE, *_CLOSED_DOOR)):
            raise UnavailableError(f"The store's index cannot be written: {error}") from error
        fatal = isinstance(error, (duckdb.FatalException, duckdb.InternalException))
        if opening or fatal or any(sign in text for sign in _DAMAGE):
            raise DamagedError(f"The store's index is damaged: {error}") from error
        raise


class Index:
    """An open index.

    Only one thread may call the methods that write. `frame` may be called by any thread.

    Args:
        path: The DuckDB file; made when it is missing.
        migrations: The steps to the current schema, for tests.

    Raises:
        NewerFormatError: A newer version wrote the file; it was left alone.
        DamagedError: The file cannot be read.
        UnavailableError: Another program has it open, or the disk or folder refuses it.
    """

    def __init__(self, path: Path, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
        import duckdb

        self._gate = threading.Condition()
        self._readers = 0
        self._closed = False
        with translated(opening=True):
            self._connection = duckdb.connect(str(path), config=_CONFIG)
        try:
            with translated(opening=True):
                self._migrate(migrations)
                self._long = LongTables(self._connection)
        except BaseException:
            self._connection.close()
            raise

    def _migrate(self, migrations: Sequence[Sequence[str]]) -> None:
        run = self._connection.execute
        with self._transaction():
            run(
                "CREATE TABLE IF NOT EXISTS meta "
                "(schema_version BIGINT NOT NULL, dropped BIGINT NOT NULL)"
            )
            found = run("SELECT max(schema_version) FROM meta").fetchone()
            version = found[0] if found and found[0] is not None else None
            if version is None:
                run("INSERT INTO meta VALUES (0, 0)")
                version = 0
            if version > len(migrations):
                raise NewerFormatError("The store's index was written by a newer TokenScope.")
            for step in migrations[version:]:
                for statement in step:
                    run(statement)
            run("UPDATE meta SET schema_version = ?", [len(migrations)])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        self._connection.execute("BEGIN TRANSACTION")
        try:
            yield self._connection
        except BaseException:
            with contextlib.suppress(Exception):
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def known(self) -> dict[str, tuple[int, bool]]:
        """Return, for every key, the size of its file and whether the result is complete."""
        with translated():
            rows = self._connection.execute(
                "SELECT key, bytes, status IS DISTINCT FROM 'partial' FROM results"
            ).fetchall()
        return {key: (size, complete) for key, size, complete in rows}

    def ingest(self, batch: Sequence[tuple[Stored, int]]) -> None:
        """Take results in, each with the size of its file; older rows of their keys go."""
        self.drop([stored.key for stored, _ in batch])
        try:
            with translated(), self._transaction() as connection:
                self._insert(connection, batch)
        except BaseException:
            # What was created inside the transaction is gone: forget it here too.
            with contextlib.suppress(Exception):
                self._long = LongTables(self._connection)
            raise

    def _insert(
        self, connection: duckdb.DuckDBPyConnection, batch: Sequence[tuple[Stored, int]]
    ) -> None:
        import pyarrow as pa

        groups: dict[tuple[str, str, pa.Schema], list[pa.Table]] = {}
        contents = []
        for stored, _ in batch:
            analysis = _text(stored.meta.get("analysis")) or "unknown"
            for source, table in sorted(stored.tables.items()):
                content = {"key": stored.key, "source": source, "rows": table.num_rows}
                contents.append(content | {"indexed": 0, "longtable": None})
                if stored.indexed and table.num_rows and "position" in table.column_names:
                    rows = with_key(stored.key, table)
                    contents[-1]["indexed"] = rows.num_rows
                    contents[-1]["longtable"] = (analysis, source, rows.schema)
                    groups.setdefault((analysis, source, rows.schema), []).append(rows)
        names = {
            kind: self._long.insert(connection, kind[0], kind[1], pa.concat_tables(tables))
            for kind, tables in groups.items()
        }
        for content in contents:
            content["longtable"] = names.get(content["longtable"])
        results = [_row(stored, size) for stored, size in batch]
        _append(connection, "results", results)
        _append(connection, "contents", contents)

    def drop(self, keys: Sequence[str]) -> None:
        """Remove what the index has of these keys."""
        with translated():
            listed = self._connection.execute(
                "SELECT key FROM results WHERE key IN (SELECT unnest(?::VARCHAR[]))", [list(keys)]
            ).fetchall()
            if not listed:
                return
            gone = [key for (key,) in listed]
            within = "WHERE key IN (SELECT unnest(?::VARCHAR[]))"
            with self._transaction() as connection:
                touched = connection.execute(
                    f"SELECT longtable, sum(indexed) FROM contents {within} "  # noqa: S608
                    "AND longtable IS NOT NULL GROUP BY longtable",
                    [gone],
                ).fetchall()
                for name in [*(quoted(name) for name, _ in touched), "contents", "results"]:
                    connection.execute(f"DELETE FROM {name} {within}", [gone])  # noqa: S608
                dropped = sum(rows for _, rows in touched)
                connection.execute("UPDATE meta SET dropped = dropped + ?", [dropped])

    def dead_share(self) -> float:
        """Return which part of all rows ever inserted were dropped since the index was built."""
        with translated():
            row = self._connection.execute(
                "SELECT (SELECT max(dropped) FROM meta), (SELECT sum(indexed) FROM contents)"
            ).fetchone()
        dropped, live = (float(value or 0) for value in row or (0, 0))
        return dropped / (dropped + live) if dropped else 0.0

    def frame(self, query: str, params: Sequence[Any] | dict[str, Any] | None = None) -> pa.Table:
        """Run one of our own queries on a cursor of its own, unable to write; for any thread."""
        with translated(), self._reading() as cursor:
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            relation = cursor.sql(query, params=params) if params else cursor.sql(query)
            if relation is None:
                raise StoreError("The query returns no rows.")
            return relation.to_arrow_table()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._gate:
            if self._closed:
                raise UnavailableError("The store's index is closed or being rebuilt.")
            cursor = self._connection.cursor()
            self._readers += 1
        try:
            yield cursor
        finally:
            with self._gate:
                cursor.close()
                self._readers -= 1
                self._gate.notify_all()

    def close(self) -> None:
        """Close the file once the last reader is done; DuckDB writes its log into it."""
        with self._gate:
            self._closed = True
            self._gate.wait_for(lambda: self._readers == 0, timeout=10.0)
        with contextlib.suppress(Exception):
            self._connection.close()


def _append(
    connection: duckdb.DuckDBPyConnection, name: str, rows: Sequence[dict[str, Any]]
) -> None:
    import pyarrow as pa

    if rows:
        connection.register("incoming", pa.Table.from_pylist(list(rows)))
        try:
            connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM incoming")  # noqa: S608
        finally:
            connection.unregister("incoming")


def _row(stored: Stored, size: int) -> dict[str, Any]:
    meta = stored.meta
    version = meta.get("version")
    return {
        "key": stored.key,
        "analysis": _text(meta.get("analysis")),
        "version": version if type(version) is int and abs(version) < 1 << 63 else None,
        "subject": _text(meta.get("subject")),
        "status": _text(meta.get("status")),
        "title": _text(meta.get("title")),
        "created": _text(meta.get("created")),
        "bytes": size,
        "meta": json.dumps(meta, sort_keys=True),
    }


def _text(value: object) -> str | None:
    """Return text that DuckDB takes: JSON may hold halves of characters, UTF-8 may not."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None
