"""A lock between processes that the operating system drops when its holder dies."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from cache.errors import StoreError

# `filelock` does the same, but importing it costs more time than the whole of this package.
if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class ProcessLock:
    """An exclusive lock on a file, also between two locks of the same process.

    The file stays when the lock is released: removing it would let two holders lock two files of
    the same name.

    Args:
        path: The lock file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def try_acquire(self) -> bool:
        """Take the lock if it is free.

        Raises:
            OSError: The lock file cannot be made or the file system knows no locks.
        """
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def acquire(self, timeout: float) -> None:
        """Wait for the lock.

        Raises:
            StoreError: Another process kept it for longer than `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        pause = 0.001
        while not self.try_acquire():
            if time.monotonic() > deadline:
                raise StoreError(f"Another process keeps {self._path} locked: try again later.")
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def release(self) -> None:
        """Give the lock back; without effect when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        """Wait up to ten seconds for the lock."""
        self.acquire(timeout=10.0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the lock back."""
        self.release()
