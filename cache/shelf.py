"""Reading results by key from a folder, and moving damaged ones out of the way."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path

from cache.errors import DamagedError, StoreError
from cache.files import Layout, make_folder
from cache.results import Stored, read_result

logger = logging.getLogger(__name__)
KEEP_DAMAGED = 30 * 86400.0


def load(layout: Layout, key: str) -> Stored | None:
    """Read a result of the store's own folder; a damaged file is moved aside and counts as none."""
    path = layout.result(key)
    try:
        seen = path.stat()
        return _read_as(key, path)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        logger.warning("%s is damaged and counts as not stored: %s", path, error)
        move_aside(layout, path, seen)
    except (StoreError, OSError) as error:
        logger.warning("%s cannot be read and counts as not stored: %s", path, error)
    return None


def load_from_layer(folder: Path, key: str) -> Stored | None:
    """Read a result of a read-only folder, which may or may not be split as the store's own is."""
    for path in (folder / key[:2] / f"{key}.zip", folder / f"{key}.zip"):
        try:
            return _read_as(key, path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (StoreError, OSError) as error:
            logger.warning("%s cannot be read and counts as not stored: %s", path, error)
    return None


def move_aside(layout: Layout, path: Path, seen: os.stat_result) -> None:
    """Move the file that was `seen` to the damaged ones, unless another has taken its place."""
    with contextlib.suppress(OSError, StoreError):
        now = path.stat()
        if (now.st_ino, now.st_size) == (seen.st_ino, seen.st_size):
            make_folder(layout.damaged)
            os.replace(path, layout.damaged / f"{path.stem}-{time.time_ns()}{path.suffix}")


def remove_old_damaged(layout: Layout) -> None:
    """Remove damaged files that nobody has asked for in a month."""
    limit = time.time() - KEEP_DAMAGED
    with contextlib.suppress(OSError):
        for entry in os.scandir(layout.damaged):
            if entry.stat().st_mtime < limit:
                os.unlink(entry.path)


def _read_as(key: str, path: Path) -> Stored:
    stored = read_result(path)
    if stored.key != key:
        raise DamagedError("It holds a result of another key.")
    return stored
