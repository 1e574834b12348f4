"""Rows of a Parquet file with their places, a few hundred at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.readers.dropped import Unreadable

MAGIC = b"PAR1"
_ROWS = 256
_MOST_COLUMNS = 2_000
_SMALL = 64 << 20


def read_rows(file: Path) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """Row group, number of the row in the file from 0, and the row.

    Raises:
        Unreadable: when the file is no whole Parquet file.
    """
    with _open(file) as source:
        row = 0
        for group in range(source.num_row_groups):
            for record in _records(source, group):
                yield group, row, record
                row += 1


def read_row(file: Path, group: int, row: int) -> Mapping[str, Any]:
    """One row by its row group and its number in the file.

    Raises:
        Unreadable: when it is not there.
    """
    with _open(file) as source:
        known = 0 <= group < source.num_row_groups
        before = sum(source.metadata.row_group(g).num_rows for g in range(group)) if known else 0
        if not known or not 0 <= row - before < source.metadata.row_group(group).num_rows:
            raise Unreadable("", "the file has changed")
        if source.metadata.row_group(group).total_byte_size <= _SMALL:
            table = _group(file, file.stat().st_mtime_ns, group)
            return table.slice(row - before, 1).to_pylist()[0]
        at = before
        for batch in _batches(source, group):
            if row < at + batch.num_rows:
                return batch.slice(row - at, 1).to_pylist()[0]
            at += batch.num_rows
    raise Unreadable("", "the file has changed")


@lru_cache(maxsize=2)
def _group(file: Path, mtime: int, group: int) -> pa.Table:
    """A small row group, kept for a while: neighbours are asked for one after another."""
    del mtime  # part of the cache's key only
    with _open(file) as source:
        return pa.Table.from_batches(list(_batches(source, group)), schema=source.schema_arrow)


def _open(file: Path) -> pq.ParquetFile:
    try:
        source = pq.ParquetFile(file)
    except (pa.ArrowException, OSError, ValueError):
        raise Unreadable("", "no whole Parquet file: it may still be written") from None
    if source.metadata.num_columns > _MOST_COLUMNS:
        source.close()
        raise Unreadable("", f"more than {_MOST_COLUMNS:,} columns: this is no log of rollouts")
    return source


def _batches(source: pq.ParquetFile, group: int) -> Iterator[pa.RecordBatch]:
    try:
        yield from source.iter_batches(batch_size=_ROWS, row_groups=[group])
    except (pa.ArrowException, OSError, ValueError):
        raise Unreadable("", "a part of the Parquet file cannot be read") from None


def _records(source: pq.ParquetFile, group: int) -> Iterator[Mapping[str, Any]]:
    for batch in _batches(source, group):
        yield from batch.to_pylist()
