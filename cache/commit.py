"""Group commit: writers who come at the same time share one flush of the file system."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

from cache.files import TEMPORARY, durable, make_folder

SHARED_FROM = 3
"""Fewer files are flushed one by one: flushing a whole file system also waits for strangers."""


_numbers = itertools.count()


class _Item:
    """One file to be written, and what became of it."""

    def __init__(self, path: Path, data: bytes | memoryview) -> None:
        self.path = path
        self.data = data
        # Looked up here, not by the leader, for whom everybody waits.
        self.final = str(path)
        self.beside = f"{path.parent}{os.sep}.{path.name}.{os.getpid()}-{next(_numbers)}{TEMPORARY}"
        self.replaces = path.exists()
        # Until it is on the disk: a leader who dies must not leave anyone believing it was.
        self.error: OSError | None = OSError(errno.EIO, "The file was not written", str(path))
        self.finished = False
        self.turn = threading.Event()


class GroupCommit:
    """Writes files of one file system; the first who comes writes for all who come meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Item] = []
        self._leading = False

    def write(self, path: Path, data: bytes | memoryview) -> None:
        """Write a file; when this returns, it is complete and on the disk.

        A file that appears but was not acknowledged may be incomplete after a crash: its reader
        must check it, as the reader of results does by the zip's check sums.

        Raises:
            OSError: The disk or folder refuses it; nothing is left behind.
        """
        item = _Item(path, data)
        with self._lock:
            self._waiting.append(item)
            lead = not self._leading
            self._leading = True
        if not lead:
            item.turn.wait()
        if not item.finished:
            self._lead()
        if item.error is not None:
            raise item.error

    def _lead(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting, []
        try:
            _write_all(batch)
        finally:
            with self._lock:
                # The next leader is one of those who came meanwhile: nobody leads for ever.
                following = self._waiting[0] if self._waiting else None
                self._leading = following is not None
            for item in batch:
                item.finished = True
                item.turn.set()
            if following is not None:
                following.turn.set()


def _write_all(batch: list[_Item]) -> None:
    flush = _flush_file_system()
    # A file that is replaced was acknowledged once: it must not be lost to a crash in between.
    alone = [item for item in batch if flush is None or item.replaces]
    shared = [item for item in batch if item not in alone]
    if len(shared) < SHARED_FROM:
        alone, shared = batch, []
    for item in alone:
        try:
            with durable(item.path) as file:
                file.write(item.data)
            item.error = None
        except OSError as error:
            item.error = error
    written: list[_Item] = []
    for item in shared:
        try:
            _write_unflushed(item)
            written.append(item)
        except OSError as error:
            item.error = error
    if written and flush is not None:
        failed: OSError | None = None
        try:
            flush(written[0].path.parent)
        except OSError as error:
            failed = error
        for item in written:
            item.error = failed
            if failed is not None:
                with contextlib.suppress(OSError):
                    item.path.unlink()


def _write_unflushed(item: _Item) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(item.beside, flags, 0o600)
    except FileNotFoundError:
        make_folder(item.path.parent)
        descriptor = os.open(item.beside, flags, 0o600)
    try:
        try:
            rest = memoryview(item.data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)
        os.replace(item.beside, item.final)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(item.beside)
        raise


@cache
def _flush_file_system() -> Callable[[Path], None] | None:
    """``syncfs``, which Python does not offer, or None where the system has none."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "syncfs"):
        return None

    def flush(folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            if library.syncfs(descriptor) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(folder))
        finally:
            os.close(descriptor)

    return flush


_commits: dict[str, GroupCommit] = {}
_commits_lock = threading.Lock()


def group_for(folder: Path) -> GroupCommit:
    """The group of all who write below a store's folder of results."""
    with _commits_lock:
        return _commits.setdefault(str(folder), GroupCommit())


def _after_fork() -> None:
    """A child must not wait for a leader who stayed in the parent."""
    global _commits_lock
    _commits_lock = threading.Lock()
    _commits.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
