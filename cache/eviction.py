"""Keeping the store below its size: the least recently used goes first, pinned never."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil

from cache.files import Found, Layout, list_results, list_streams
from cache.notes import Labels

logger = logging.getLogger(__name__)
KEEP = 0.9


def total_bytes(layout: Layout) -> int:
    """Return the size of all results and samples; the index, which is derived, comes on top."""
    return sum(found.bytes for found in _all(layout))


def evict(layout: Layout, max_bytes: int) -> tuple[list[str], int]:
    """Remove what was used longest ago, when the store is larger than `max_bytes`.

    The most recently used is kept even when it alone is too large: a result that is gone before
    anyone could read it helps nobody.

    Returns:
        The keys of removed results, and the bytes that remain.
    """
    found = sorted(_all(layout), key=lambda item: item.used)
    total = sum(item.bytes for item in found)
    removed: list[str] = []
    if total <= max_bytes:
        return removed, total
    pinned = {key for key, label in Labels(layout.labels).all().items() if label.pinned}
    for item in found[:-1]:
        if total <= KEEP * max_bytes:
            break
        if item.key in pinned:
            continue
        with contextlib.suppress(OSError):
            if item.path.endswith(".zip"):
                os.unlink(item.path)
                removed.append(item.key)
            else:
                shutil.rmtree(item.path)
            total -= item.bytes
    if total > max_bytes:
        logger.warning("%s keeps %d MB, over its limit: unpin some.", layout.home, total >> 20)
    return removed, total


def _all(layout: Layout) -> list[Found]:
    return [*list_results(layout.results), *list_streams(layout.samples)]
