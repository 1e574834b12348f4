"""Append-only numbered rows, such as the samples drawn from one model after one prefix."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cache import arrow
from cache.errors import StoreError, explain
from cache.files import Layout, durable, touch
from cache.results import LIMITS

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)
_PART = re.compile(r"(\d{1,18})-(\d{1,18})\.arrow")


def append(layout: Layout, stream: str, start: int, table: pa.Table) -> None:
    """Write rows of a stream as one immutable file, durable on return.

    Args:
        layout: The store's folder.
        stream: The digest that names the stream, 64 hexadecimal characters.
        start: The number of the first row.
        table: The rows; its column `index` (int64, no nulls, from `start`) numbers them.

    Raises:
        StoreError: The rows are not numbered so, or the disk or folder refuses them.
    """
    folder = layout.stream(stream)
    _check_numbers(start, table)
    if table.num_rows == 0:
        return
    path = folder / f"{start}-{table.num_rows}.arrow"
    if path.exists():
        return
    if table.nbytes > LIMITS.table_bytes:
        raise StoreError("The samples are too large to be stored at once.")
    data = arrow.encode(table)
    try:
        with durable(path) as file:
            file.write(memoryview(data))
    except OSError as error:
        raise explain(error, layout.home) from error


def read(layout: Layout, stream: str) -> pa.Table | None:
    """Return all rows of a stream in the order of `index`, or None when there are none.

    A number that was written twice keeps the row of the file that came first.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    folder = layout.stream(stream)
    tables = []
    for path in _parts(folder):
        try:
            table = arrow.decode(
                path.read_bytes(), max_bytes=LIMITS.table_bytes, max_rows=LIMITS.table_rows
            )
            _check_numbers(0, table)
            tables.append(table)
        except OSError as error:
            logger.warning("The samples in %s cannot be read: %s", path, error)
        except StoreError as error:
            logger.warning("The samples in %s are damaged and left out: %s", path, error)
            with contextlib.suppress(OSError):
                layout.damaged.mkdir(exist_ok=True)
                path.replace(layout.damaged / f"{stream}-{path.name}")
    if not tables:
        return None
    touch(folder)
    try:
        rows = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise StoreError(f"The samples of one stream do not fit together: {error}") from error
    # The sort is stable: of equal numbers, the one that was written first stays first.
    rows = rows.take(pc.sort_indices(rows, sort_keys=[("index", "ascending")])).combine_chunks()
    numbers = rows["index"].combine_chunks()
    fresh = pc.not_equal(numbers[1:], numbers[:-1])
    return pa.concat_tables([rows[:1], rows[1:].filter(fresh)]).combine_chunks()


def _check_numbers(start: int, table: pa.Table) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = table["index"] if "index" in table.column_names else None
    if numbers is None or numbers.type != pa.int64() or numbers.null_count:
        raise StoreError("Samples need a column 'index' of type int64 without nulls.")
    if table.num_rows and pc.min(numbers).as_py() < max(start, 0):
        raise StoreError(f"The first sample should have index {start} or more.")


def _parts(folder: Path) -> list[Path]:
    """List the files of a stream in the order in which they were written."""
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(folder):
            if match := _PART.fullmatch(entry.name):
                written = entry.stat().st_mtime_ns
                found.append((written, int(match[1]), int(match[2]), Path(entry.path)))
    return [path for _, _, _, path in sorted(found)]
