"""Files that are one JSON document: an object over several lines, or a list of objects."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.readers.dropped import Unreadable
from engine.rollouts.lines import loosely

LIMIT = 64 << 20
"""Bytes read at most: a document has to be held as a whole."""


def read_document(file: Path) -> tuple[Mapping[str, Any] | None, ...]:
    """The objects of a document, None for what is none.

    Raises:
        Unreadable: when it is too large or no JSON.
    """
    found = file.stat()
    if found.st_size > LIMIT:
        raise Unreadable(
            "", f"one JSON document of more than {LIMIT >> 20} MiB: write one object a line"
        )
    return _read(file, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=2)
def _read(file: Path, mtime: int, size: int) -> tuple[Mapping[str, Any] | None, ...]:
    del mtime, size  # part of the cache's key only
    value = loosely(file.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    items = value if isinstance(value, list) else [value]
    return tuple(item if isinstance(item, dict) else None for item in items)
