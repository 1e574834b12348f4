"""Moving into a folder: made if it can be, and owned if nobody else owns it."""

from __future__ import annotations

import contextlib
import logging

from cache.errors import StoreError, explain
from cache.files import Layout, flush_folder, make_folder
from cache.locks import ProcessLock

logger = logging.getLogger(__name__)


def prepare(layout: Layout, *, required: bool) -> bool:
    """Make the store's folder; return whether it is there.

    Raises:
        StoreError: Something else stands in its place, or it is `required` and cannot be made.
    """
    home = layout.home
    if home.exists() and not home.is_dir():
        raise StoreError(f"{home} is a file, not a folder: set TOKENSCOPE_HOME to a folder.")
    try:
        make_folder(home)
    except OSError as error:
        if required or isinstance(error, NotADirectoryError):
            raise explain(error, home) from error
        logger.warning("%s", explain(error, home))
        return False
    _make_shards(layout)
    return True


def _make_shards(layout: Layout) -> None:
    """Make a new store's folders of results at once: later each would cost a flush of its own."""
    if layout.results.exists():
        return
    with contextlib.suppress(OSError):  # what is missing is made when it is needed
        make_folder(layout.results)
        for shard in range(256):
            (layout.results / f"{shard:02x}").mkdir(mode=0o700, exist_ok=True)
        flush_folder(layout.results)


def acquire(lock: ProcessLock, layout: Layout, *, required: bool) -> None:
    """Try to become the owner of the folder.

    Raises:
        StoreError: It is `required` and another process owns it, or the folder is read-only.
    """
    try:
        owned = lock.try_acquire()
    except OSError as error:
        if required:
            raise explain(error, layout.home) from error
        return
    if required and not owned:
        raise StoreError(f"Another process owns the store in {layout.home}: end it first.")
