"""The tables that a user's SQL may read: the long tables of the index, and the layers' beside them.

Where there is no index (another process has it, or it is just being made) the results used last
take its place: they are read from their files into an index of the same kind, in memory.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cache.errors import StoreError
from cache.files import Found, Layout, list_results
from cache.index import Index
from cache.listing import layer_keys
from cache.longtables import quoted
from cache.shelf import load, load_from_layer
from cache.sql import LIMITS, Answer, SqlLimits, run_query

if TYPE_CHECKING:
    import pyarrow as pa

    from cache.results import Stored

logger = logging.getLogger(__name__)
MAX_FILES = 200
"""How many results stand in for an index that is not there."""

_BATCH = 32


@dataclass(frozen=True)
class SqlTable:
    """A table that SQL may read.

    Args:
        name: Its name in SQL.
        analysis: The analysis whose results it holds.
        source: What the table is called in a result.
        columns: Names and DuckDB's types, the result's key first.
        rows: How many rows it has.
    """

    name: str
    analysis: str
    source: str
    columns: tuple[tuple[str, str], ...]
    rows: int


class SqlTables:
    """What there is to ask, and asking it.

    Args:
        layout: The store's folder.
        layers: Read-only folders of results.
        index: Gives the index when it is complete, else None.
    """

    def __init__(
        self, layout: Layout, layers: Sequence[Path], index: Callable[[], Index | None]
    ) -> None:
        self._layout = layout
        self._layers = tuple(layers)
        self._index = index
        self._lock = threading.RLock()
        self._of_layers: tuple[tuple[str, ...], Index] | None = None
        self._of_files: tuple[tuple[tuple[str, int], ...], Index] | None = None

    @property
    def partial(self) -> bool:
        """Whether only the results used last can be asked, because there is no index."""
        return self._index() is None and len(self._found()) > MAX_FILES

    def tables(self) -> list[SqlTable]:
        """What can be asked, by name."""
        listed: dict[str, SqlTable] = {}
        for source in self._sources():
            for table in _described(source):
                known = listed.get(table.name)
                if known is None:
                    listed[table.name] = table
                    continue
                new = [c for c in table.columns if c[0] not in dict(known.columns)]
                columns, rows = (*known.columns, *new), known.rows + table.rows
                listed[table.name] = SqlTable(
                    known.name, known.analysis, known.source, columns, rows
                )
        return sorted(listed.values(), key=lambda table: table.name)

    def ask(
        self,
        query: str,
        more: Mapping[str, Callable[[], pa.Table]] | None = None,
        *,
        limits: SqlLimits = LIMITS,
    ) -> Answer:
        """Answer a SELECT over the listed tables and over those given.

        Args:
            query: The SELECT.
            more: Further tables by name, and how to get each.
            limits: What it may take.

        Raises:
            QueryError: It is no single SELECT, asks for anything else, or takes too much.
            StoreError: The index is damaged (it is then made anew).
        """
        own = {
            table.name: partial(self._read, table.name, limits.table_rows)
            for table in self.tables()
        }
        return run_query(query, {**(more or {}), **own}, limits=limits)

    def _read(self, name: str, limit: int) -> pa.Table:
        """The rows of a table, its latest where there are too many; those of the layers last."""
        import pyarrow as pa

        parts = []
        for source in self._sources():
            rows = {table.name: table.rows for table in _described(source)}.get(name)
            if rows is not None:
                skipped = max(0, rows - limit)
                text = f"SELECT * FROM {quoted(name)} LIMIT {limit} OFFSET {skipped}"  # noqa: S608
                parts.append(source.frame(text))
        try:
            return pa.concat_tables(parts, promote_options="permissive")
        except pa.ArrowException:  # a column changed its type between their versions
            return parts[0]

    def _sources(self) -> list[Index]:
        with self._lock:
            return [self._index() or self._from_files(), self._from_layers()]

    def _from_layers(self) -> Index:
        """An index of the layers, without what the store has itself."""
        folders = {key: folder for folder in self._layers[::-1] for key in layer_keys(folder)}
        state = tuple(sorted(k for k in folders if not self._layout.result(k).is_file()))
        if self._of_layers is None or self._of_layers[0] != state:
            self._of_layers = state, _in_memory(load_from_layer(folders[k], k) for k in state)
        return self._of_layers[1]

    def _from_files(self) -> Index:
        """An index of the results used last."""
        latest = sorted(self._found(), key=lambda found: found.used, reverse=True)[:MAX_FILES]
        state = tuple(sorted((found.key, found.bytes) for found in latest))
        if self._of_files is None or self._of_files[0] != state:
            stored = (load(self._layout, found.key) for found in reversed(latest))
            self._of_files = state, _in_memory(stored)
        return self._of_files[1]

    def _found(self) -> list[Found]:
        return list(list_results(self._layout.results))


def _in_memory(results: Iterable[Stored | None]) -> Index:
    """An index in memory over a few results."""
    index = Index(Path(":memory:"))
    batch: list[tuple[Stored, int]] = []

    def take() -> None:
        try:
            index.ingest(batch)
        except StoreError:
            raise
        except Exception as error:  # one that DuckDB cannot take must not keep the others out
            logger.warning("Some results cannot be asked: %s", error)
            for one in batch:
                _try(index, one)
        batch.clear()

    for stored in results:
        if stored is not None:
            batch.append((stored, 0))
        if len(batch) == _BATCH:
            take()
    if batch:
        take()
    return index


def _try(index: Index, one: tuple[Stored, int]) -> None:
    try:
        index.ingest([one])
    except Exception as error:
        logger.info("%s cannot be asked: %s", one[0].key, error)


def _described(index: Index) -> list[SqlTable]:
    columns = index.frame(
        "SELECT l.name, l.analysis, l.source, c.column_name, c.data_type "
        "FROM longtables l JOIN duckdb_columns() c ON c.table_name = l.name "
        "WHERE NOT c.internal ORDER BY l.name, c.column_index"
    ).to_pylist()
    counts = index.frame(
        "SELECT longtable AS name, sum(indexed)::BIGINT AS rows FROM contents "
        "WHERE longtable IS NOT NULL GROUP BY longtable"
    ).to_pylist()
    rows = {row["name"]: row["rows"] for row in counts}
    tables: dict[str, list[dict[str, str]]] = {}
    for column in columns:
        tables.setdefault(column["name"], []).append(column)
    return [
        SqlTable(
            name,
            found[0]["analysis"],
            found[0]["source"],
            tuple((c["column_name"], c["data_type"]) for c in found),
            rows[name],
        )
        for name, found in tables.items()
        if rows.get(name)
    ]
