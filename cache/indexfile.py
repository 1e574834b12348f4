"""The index as a file: opened, set aside when it is damaged, made anew when it is mostly dead."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path

from cache.errors import DamagedError
from cache.files import Layout
from cache.index import Index

logger = logging.getLogger(__name__)
COMPACT_BYTES = 64 << 20
COMPACT_SHARE = 2 / 3
_MAX_DEATHS = 5


def open_index(layout: Layout) -> Index:
    """Open the index of a store, by whatever means: it can always be made from the results.

    Raises:
        NewerFormatError: A newer version wrote it.
        UnavailableError: Another program has it open, or the disk or folder refuses it.
    """
    mark = layout.home / "index.opening"
    if _deaths(mark) >= _MAX_DEATHS:
        logger.warning(
            "Opening the store's index ended this program again and again: it is set aside."
        )
        set_aside(layout)
    with contextlib.suppress(OSError), open(mark, "ab") as file:
        file.write(b"x")
    try:
        index = Index(layout.index)
        index.known()
    except DamagedError as error:
        logger.warning("%s It is set aside and made anew from the files.", error)
        set_aside(layout)
        index = Index(layout.index)
    finally:
        with contextlib.suppress(OSError):
            mark.unlink()
    # DuckDB never gives space back for deleted rows, so a mostly dead file is replaced.
    if layout.index.stat().st_size > COMPACT_BYTES and index.dead_share() > COMPACT_SHARE:
        index.close()
        remove_index(layout)
        index = Index(layout.index)
    return index


def set_aside(layout: Layout) -> None:
    """Rename the index so that a new one can be made; only the last damaged one is kept."""
    for old in layout.home.glob("index.duckdb.damaged-*"):
        _remove(old)
    name = f"{layout.index}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
    for path in _files(layout):
        ending = path.name.removeprefix(layout.index.name)
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, name + ending)


def remove_index(layout: Layout) -> None:
    """Remove the index, which can be made from the results."""
    for path in _files(layout):
        _remove(path)


def _files(layout: Layout) -> tuple[Path, Path]:
    # The log goes first: a log without its file is ignored, a file may not meet a foreign log.
    return layout.index.with_name(f"{layout.index.name}.wal"), layout.index


def _deaths(mark: Path) -> int:
    """How often a process died between opening the index and having opened it."""
    try:
        return mark.stat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
